"""The pages about data of one's own, done as printed: files written, commands and Python run, in their order.

Left out are lines with the comment "downloads": tests have no network.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avpipe.features.store import open_features
from avpipe.files import sha256_of
from avpipe.media.ffmpeg import ffmpeg_binary

from .conftest import ROOT, sources_to

pytestmark = pytest.mark.slow

FENCE = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
SHELL = re.compile(r"(?<=\n\n)(?:    .+\n)+")


def steps(page: str) -> Iterator[tuple[str, str]]:
    """("bash" or "python", code) or (path of a file, its content): the blocks of a page in their order.

    A file is a block after a line that ends with its path, as in "The study, `mydata.yaml`:".
    """
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", lambda fence: "`" * len(fence[0]), text, flags=re.S)
    found = [*FENCE.finditer(text), *SHELL.finditer(outside)]
    for match in sorted(found, key=lambda match: match.end()):
        if match.re is SHELL:
            yield "bash", "\n".join(line for line in match[0].splitlines() if "# downloads" not in line)
        elif path := re.search(r"`([\w/.]+)`[.:]*$", match["before"]):
            yield path[1], match["text"]
        elif match["language"] == "python":
            yield "python", match["text"]


def do(page: str, root: Path) -> str:
    """Do what a page says in a checkout; returns what was printed."""
    environment = os.environ | {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(root / "cache")}
    printed = ""
    for kind, text in steps(page):
        if kind not in ("bash", "python"):
            (root / kind).parent.mkdir(parents=True, exist_ok=True)
            (root / kind).write_text(text, encoding="utf-8")
            continue
        command = ["bash", "-euc", text] if kind == "bash" else [".venv/bin/python", "-c", text]
        done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True, timeout=900)
        assert done.returncode == 0, f"{page}: {text}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def film(path: Path, seconds: int = 10) -> None:
    """A small video with sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures, sound = f"testsrc=size=32x32:rate=8:duration={seconds}", f"sine=duration={seconds}"
    inputs = ["-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound]
    subprocess.run([ffmpeg_binary(), "-v", "error", *inputs, str(path)], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A fresh checkout."""
    sources_to(tmp_path)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return tmp_path


def test_own_videos(root: Path) -> None:
    film(root / "DIR" / "talk.mp4", 12)
    film(root / "DIR2" / "other.mkv", 1)
    printed = do("own-videos.md", root)
    assert "(2, 10, 512)" in printed, "two windows of talk.mp4"
    assert "talk~mp4~w0002" in printed
    assert open_features(root / "results/second/features/vggish.zarr").valid.tolist() == [True]


def film_kettles_and_doors(root: Path) -> None:
    for number in range(1, 4):
        film(root / f"data/mydata/videos/kitchen 0{number}.mp4")
        film(root / f"data/mydata/videos/door_{number}.mp4")


def stale(root: Path) -> set[str]:
    """The rules and the experiments (their models' names) that Snakemake would run again."""
    command = [".venv/bin/snakemake", "-n", "--cores", "1", "--configfile", "mine.yaml"]
    done = subprocess.run(command, cwd=root, text=True, capture_output=True, check=True)
    return {*re.findall(r"^ *(?:rule|checkpoint) (\w+):", done.stdout, re.M)} | {
        *re.findall(r"experiment=(\w+)-", done.stdout)
    }


def test_extending(root: Path) -> None:
    film_kettles_and_doors(root)
    shutil.copytree(ROOT / "tests" / "models", root / "tests" / "models")
    shutil.copy(ROOT / "pyproject.toml", root)
    printed = do("extending.md", root)
    assert [printed.count(text) for text in ("| MyNet |", "| AVIN |")] == [2, 1]
    assert re.search(r"[1-9]\d passed, \d+ deselected", printed), "the tests of every model, of MyNet"
    features = open_features(root / "results/mine/features/look.zarr")
    assert features.array.shape == (6, 10, 8, 8, 16)
    assert features.array.attrs["weights_files"] == {"smallnet.pt": sha256_of(root / "data/smallnet.pt")}
    for table in ("mine", "mine_tags"):
        assert pd.read_csv(root / f"results/mine/tables/{table}.csv")["mean"].notna().all()

    runs = {"train", "table", "all", "MyNet"}
    for file, line, expected in (
        ("mypkg/tasks.py", "# a comment", set()),
        ("mypkg/nets.py", "EDITED = True", runs),
        ("mypkg/networks.py", "EDITED = True", runs | {"extract_sound_look", "coverage_sound_look", "avin"}),
    ):
        with (root / file).open("a") as source:
            source.write(f"\n{line}\n")
        assert stale(root) == expected, file


def test_own_annotations_and_features(root: Path) -> None:
    film_kettles_and_doors(root)
    assert do("own-annotations.md", root).count("| AVEL |") == 1
    for name, categories in (("mydata", ["Kettle", "Door"]), ("mydata_events", ["Kettle", "Door", "Speech"])):
        results = root / "results" / name
        assert pd.read_csv(results / "categories.csv")["category"].tolist() == categories
        assert pd.read_parquet(results / "clips.parquet")["status"].tolist() == ["present"] * 6
        assert len(pd.read_csv(results / "issues.csv")) == 0
        assert pd.read_csv(results / "tables" / f"{name}.csv")["mean"].notna().all()
    assert "(6, 10, 64)" in do("own-features.md", root)
    look = open_features(root / "results/myfeatures/features/look.zarr")
    written = np.load(root / "data/mydata/features/look/kitchen 02.npy")
    np.testing.assert_array_equal(look.array[1], written)
    assert pd.read_csv(root / "results/myfeatures/tables/myfeatures.csv")["mean"].notna().all()
