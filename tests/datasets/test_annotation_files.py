"""Annotation files come with their hash checked; a file that lies there is never overwritten."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from avpipe.datasets import DATASETS
from avpipe.datasets.annotation_files import (
    ANNOTATION_FILES,
    AnnotationFile,
    fetch_annotations,
)
from avpipe.plan.registry import UnknownNameError
from avpipe.web import PublishedFileError
from tests.download.conftest import serve

CONTENT = b"Bark&AAAAAAAAAAA&good&0&10\n" * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def url() -> Iterator[str]:
    """A web server of one file, a.txt."""
    with serve() as server:
        server.file("/a.txt", CONTENT)
        yield server.url


def table(url: str, sha256: str = SHA256, size: int = len(CONTENT)) -> dict[str, dict[str, AnnotationFile]]:
    return {"ave": {"Annotations.txt": AnnotationFile(f"{url}/a.txt", sha256, size)}}


def test_a_file_is_fetched_checked_and_kept(url, tmp_path):
    out = tmp_path / "new"
    assert fetch_annotations("ave", out, published=table(url)) == [out / "Annotations.txt"]
    assert (out / "Annotations.txt").read_bytes() == CONTENT
    nowhere = table(NOWHERE)
    assert fetch_annotations("ave", out, ["Annotations.txt"], published=nowhere) == [out / "Annotations.txt"]
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["Annotations.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": SHA256[::-1]}, f"SHA-256 {SHA256}, expected"),
        ({"size": len(CONTENT) // 20}, "limit is"),
    ],
)
def test_wrong_bytes_are_refused_and_leave_nothing(changes, message, url, tmp_path):
    with pytest.raises(PublishedFileError, match=message):
        fetch_annotations("ave", tmp_path / "out", published=table(url, **changes))
    assert not (tmp_path / "out" / "Annotations.txt").exists()


def test_without_network_the_message_names_address_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PublishedFileError, match=f"{NOWHERE}/a.txt.*{tmp_path} by hand"):
        fetch_annotations("ave", tmp_path, published=table(NOWHERE))


def test_a_wrong_file_that_lies_there_is_named_and_left_alone(url, tmp_path):
    (tmp_path / "Annotations.txt").write_bytes(b"mine")
    with pytest.raises(PublishedFileError, match="not the published file"):
        fetch_annotations("ave", tmp_path, published=table(url))
    assert (tmp_path / "Annotations.txt").read_bytes() == b"mine"


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'audioset'"):
        fetch_annotations("audiosets", tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean"):
        fetch_annotations("ucf101", tmp_path, ["classind.txt"])


def test_the_table_names_readers_and_plain_files():
    assert set(ANNOTATION_FILES) <= set(DATASETS)
    for files in ANNOTATION_FILES.values():
        for name, file in files.items():
            assert "/" not in name
            assert file.url.startswith("https://")
            assert len(file.sha256) == 64


@pytest.mark.parametrize(("kind", "folder"), [("ave", "ave"), ("llp", "llp"), ("ucf101", "ucf")])
def test_hashes_are_those_of_the_real_files(kind, folder, shared):
    for name, file in ANNOTATION_FILES[kind].items():
        content = (shared / "data" / folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.size), name
