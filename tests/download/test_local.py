"""Local files are found below their folder and nowhere else, and are never copied."""

import hashlib
import math
from pathlib import Path

import pytest

from avpipe.download import Status
from avpipe.download.base import WantedClip
from avpipe.download.local import LocalFetcher
from avpipe.plan.source import LocalSource


def wanted(source: str, clip: str = "clip") -> WantedClip:
    return WantedClip(clip, source, math.nan, math.nan)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    (root / "deep").mkdir(parents=True)
    (root / "a.mp4").write_bytes(b"content of a")
    (root / "deep" / "b c.webm").write_bytes(b"content of b")
    (tmp_path / "secret.mp4").write_bytes(b"not yours")
    return root


def test_a_file_is_pointed_to_with_its_size_and_digest(folder: Path, tmp_path: Path) -> None:
    outcome = LocalFetcher(LocalSource(path=str(folder))).fetch(wanted("a"), tmp_path / "unused")
    assert outcome.status is Status.PRESENT
    assert outcome.path == str(folder / "a.mp4")
    assert outcome.bytes == len(b"content of a")
    assert outcome.sha256 == hashlib.sha256(b"content of a").hexdigest()
    assert outcome.found_in == "local"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.mp4", "videos"]


@pytest.mark.parametrize("source", ["absent.mp4", "deep", "a.mp4/inside"])
def test_what_is_no_file_is_missing_and_may_come(folder: Path, tmp_path: Path, source: str) -> None:
    outcome = LocalFetcher(LocalSource(path=str(folder), pattern="{source}")).fetch(wanted(source), tmp_path)
    assert outcome.status is Status.MISSING
    assert not outcome.status.final
    assert source in outcome.reason


def test_a_file_larger_than_the_limit_is_not_taken(folder: Path, tmp_path: Path) -> None:
    for limit, expected in ((12, Status.PRESENT), (11, Status.TOO_LARGE)):  # a.mp4 has 12 bytes
        source = LocalSource(path=str(folder), max_bytes=limit)
        outcome = LocalFetcher(source).fetch(wanted("a"), tmp_path)
        assert outcome.status is expected
    assert "12 bytes, more than 11" in outcome.reason


@pytest.mark.parametrize("source", ["../secret.mp4", "/etc/passwd", "deep/../../secret.mp4", "a\0.mp4"])
def test_an_id_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, source: str) -> None:
    outcome = LocalFetcher(LocalSource(path=str(folder), pattern="{source}")).fetch(wanted(source), tmp_path)
    assert outcome.status is Status.REFUSED_ID


def test_links_are_followed_also_to_files_on_another_disk(folder: Path, tmp_path: Path) -> None:
    (folder / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "in.mp4").symlink_to(folder / "a.mp4")
    fetcher = LocalFetcher(LocalSource(path=str(folder)))
    assert fetcher.fetch(wanted("out"), tmp_path).status is Status.PRESENT
    assert fetcher.fetch(wanted("in"), tmp_path).status is Status.PRESENT
