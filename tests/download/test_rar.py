"""Rar archives go through a program of the machine, which is told nothing that it could misunderstand."""

import os
import sys
from pathlib import Path

import pytest

from avpipe.clips import Status
from avpipe.download import rar
from avpipe.download.archive import open_archive
from avpipe.download.members import ArchiveError, MemberError

PROGRAM = f"""#!{sys.executable}
import sys
names = ["UCF-101/v_a.avi", "UCF-101/v_[b].avi", "-o/evil.avi", "@list.avi", "../v_c.avi", "UCF-101/broken.avi"]
if sys.argv[1] == "lb":
    assert sys.argv[2:4] == ["-p-", "--"] and sys.argv[4].endswith("/archive")
    print(*names, sep="\\n")
elif sys.argv[1] == "p":
    assert sys.argv[2:5] == ["-inul", "-p-", "--"]
    sys.stdout.write("content of " + sys.argv[6])
    sys.exit(3 if "broken" in sys.argv[6] else 0)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(100))
    return path


@pytest.fixture
def unrar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called unrar, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "unrar").write_text(PROGRAM)
    (folder / "unrar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("unrar")
def test_members_come_through_the_program(archive: Path, tmp_path: Path) -> None:
    opened = open_archive(archive, tmp_path, 1 << 30)
    (member,) = opened.find("v_a.avi")
    assert b"".join(opened.read(member, 1000)) == b"content of UCF-101/v_a.avi"


@pytest.mark.usefixtures("unrar")
@pytest.mark.parametrize("name", ["v_[b].avi", "evil.avi", "@list.avi", "v_c.avi"])
def test_names_that_are_patterns_options_lists_or_traversal_are_no_members(
    name: str, archive: Path, tmp_path: Path
) -> None:
    assert open_archive(archive, tmp_path, 1 << 30).find(name) == []


@pytest.mark.usefixtures("unrar")
def test_a_failure_of_the_program_and_too_much_of_it_are_told(archive: Path, tmp_path: Path) -> None:
    opened = open_archive(archive, tmp_path, 1 << 30)
    (broken,), (fine,) = opened.find("broken.avi"), opened.find("v_a.avi")
    with pytest.raises(MemberError, match=r"unrar cannot unpack .*status 3") as caught:
        list(opened.read(broken, 1000))
    assert caught.value.status is Status.CORRUPT
    with pytest.raises(MemberError) as caught:
        list(opened.read(fine, 5))
    assert caught.value.status is Status.TOO_LARGE


def test_without_a_program_the_message_names_them(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rar.shutil, "which", lambda _: None)
    with pytest.raises(
        ArchiveError, match=r"install one of unrar, bsdtar, 7zz, 7z, or pack it anew"
    ) as caught:
        open_archive(archive, tmp_path, 1 << 30)
    assert caught.value.status is Status.NO_TOOL
