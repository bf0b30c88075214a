"""A study of a folder of videos: its contents decide what is done, not the folder's place."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from .conftest import Checkout

pytestmark = pytest.mark.slow

STUDY = {
    "dataset": {"name": "videos", "kind": "folder"},
    "features": ["look"],
    "extractors": {"look": {"backbone": "resnet18", "weights": "random", "image_size": 32}},
}


@pytest.fixture
def folders(checkout: Checkout) -> tuple[Path, Path]:
    """The folders A and B with a video each, of the same name; the study is configured."""
    videos = sorted((checkout.root / "data" / "clips").glob("*.mp4"))
    for name, video in zip("AB", videos, strict=False):
        (checkout.root / name).mkdir()
        shutil.copyfile(video, checkout.root / name / "v.mp4")
    (checkout.root / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return checkout.root / "A", checkout.root / "B"


def statuses(checkout: Checkout, dataset: str = "videos") -> list[str]:
    return pd.read_parquet(checkout.root / "results" / dataset / "clips.parquet")["status"].tolist()


def test_another_spelling_or_place_of_the_folder_reruns_nothing_and_another_folder_is_refused(
    checkout, folders
):
    first, _ = folders
    checkout.run("--config", "folder=A")
    before = checkout.files("videos")
    for spelled in ("A/", "./A", str(first)):
        assert "Nothing to be done" in checkout.run("--config", f"folder={spelled}").stderr
    refused = checkout.run("--config", "folder=B", check=False)
    assert refused.returncode == 1
    assert f"has the results of another folder, {first}" in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
    assert checkout.files("videos") == before

    moved = first.rename(checkout.root / "moved")
    assert "Nothing to be done" in checkout.run("--config", f"folder={moved}").stderr
    checkout.append("avpipe/media/normalise.py", "EDITED = True")
    assert "segments/canonical/0.tar" in checkout.rerun("--config", "folder=moved", dataset="videos")
    assert statuses(checkout) == ["present"], "the moved file is found by what runs later"

    checkout.run("--config", "folder=B", "dataset={name: second}")
    assert statuses(checkout, "second") == ["present"]
    assert statuses(checkout) == ["present"]
