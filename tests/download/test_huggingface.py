"""Files of a dataset on Hugging Face come by their plain addresses, the token goes to the hub alone."""

import math
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import Status
from avpipe.download.base import WantedClip
from avpipe.download.huggingface import huggingface_fetcher
from avpipe.plan.source import HuggingFaceSource
from tests.builders import zip_of

CLIP = WantedClip("a", "a", math.nan, math.nan)
VIDEO = bytes(range(256)) * 100


def test_a_file_a_clip_comes_from_the_revision_that_is_named(server: Any, tmp_path: Path) -> None:
    server.file("/datasets/owner/ave/resolve/refs%2Fpr%2F1/some%20videos/a.mp4", VIDEO)
    source = HuggingFaceSource(
        url=server.url,
        repo="owner/ave",
        revision="refs/pr/1",
        pattern="some videos/{source}.mp4",
    )
    outcome = huggingface_fetcher(source, server.budgets).fetch(CLIP, tmp_path / "a")
    assert outcome.status is Status.PRESENT
    assert outcome.found_in == "huggingface 127.0.0.1"


def test_an_archive_of_the_repository_is_unpacked(server: Any, tmp_path: Path) -> None:
    server.file("/datasets/owner/ave/resolve/main/videos.zip", zip_of({"videos/a.mp4": VIDEO}))
    source = HuggingFaceSource(url=server.url, repo="owner/ave", archive="videos.zip")
    outcome = huggingface_fetcher(source, server.budgets).fetch(CLIP, tmp_path / "a")
    assert Path(str(outcome.path)).read_bytes() == VIDEO


def test_the_token_is_read_where_the_study_says_and_sent(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def gated(request: Any) -> None:
        seen.append(request.headers.get("Authorization"))
        request.reply(200, VIDEO) if seen[-1] else request.reply(401)

    server.answers["/datasets/o/d/resolve/main/a.mp4"] = gated
    plain = HuggingFaceSource(url=server.url, repo="o/d")
    assert huggingface_fetcher(plain, server.budgets).fetch(CLIP, tmp_path / "a").status is Status.PRIVATE
    (tmp_path / "token").write_text("hf_file\n")
    monkeypatch.setenv("MY_TOKEN", "hf_variable")
    for name, place in (("b", str(tmp_path / "token")), ("c", "$MY_TOKEN")):
        source = plain.model_copy(update={"token": place})
        assert (
            huggingface_fetcher(source, server.budgets).fetch(CLIP, tmp_path / name).status is Status.PRESENT
        )
    assert seen == [None, "Bearer hf_file", "Bearer hf_variable"]


@pytest.mark.parametrize("place", ["$NO_SUCH_VARIABLE", "/nowhere/token"])
def test_a_missing_token_is_said_at_once(place: str) -> None:
    with pytest.raises(ValueError, match=r"huggingface: .*make one at"):
        huggingface_fetcher(HuggingFaceSource(repo="o/d", token=place), Path("/nowhere"))


def test_the_hub_itself_is_the_default() -> None:
    fetcher = huggingface_fetcher(HuggingFaceSource(repo="o/d", pattern="{clip}.mp4"), Path("/nowhere"))
    assert fetcher.key(CLIP) == "https://huggingface.co/datasets/o/d/resolve/main/a.mp4"
