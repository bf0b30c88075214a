"""Archives are unpacked below their folder and nowhere else, within limits, and damage is noticed."""

import io
import os
import random
import stat
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from avpipe.clips import Status
from avpipe.download.unpack import CHUNK, RATIO, SMALL, ArchiveError, unpack
from tests.builders import tar_of, zip_of
from tests.download.archives import ARCHIVES

VIDEO = random.Random(0).randbytes(40_000)
FILES = {"AVE/a.mp4": VIDEO, "./AVE/b.mp4": VIDEO[::-1], "readme.txt": b"x", "é" * 60 + ".mp4": b"long name"}


def unpacked(folder: Path, content: bytes, member: int = 1 << 30, total: int = 1 << 30) -> dict[str, bytes]:
    """The files of an archive with these bytes, by their path; nothing may lie anywhere else."""
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    (folder / "archive").write_bytes(content)
    try:
        unpack(folder / "archive", inside, member, total, threading.Event())
    finally:
        assert {path.name for path in folder.iterdir()} == {"inside", "archive"}
    return {str(p.relative_to(inside)): p.read_bytes() for p in inside.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_every_file_comes_out(kind: str, tmp_path: Path) -> None:
    expected = {name.removeprefix("./"): content for name, content in FILES.items()}
    assert unpacked(tmp_path, ARCHIVES[kind](FILES)) == expected


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_is_cut_anywhere_is_noticed(kind: str, tmp_path: Path) -> None:
    whole = ARCHIVES[kind]({"AVE/a.mp4": VIDEO})
    # a tar ends with zeros up to a multiple of 10,240 bytes; only the first block of them must be there
    end = 512 + 40_448 + 512 if kind == "tar" else len(whole)
    for length in [0, 1, 100, 512, 1024, 20_000, end - 1]:
        with pytest.raises(ArchiveError, match="get it again"):
            unpacked(tmp_path, whole[:length])


@pytest.mark.parametrize(
    "name", ["../a.mp4", "x/../../a.mp4", "/../a.mp4", "/absolute/a.mp4", "x\\a.mp4", "C:/a.mp4"]
)
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="refused"):
        unpacked(tmp_path, zip_of({name: b"evil", "b.mp4": b"b"}))
    try:  # a tar may lose the "/" at the beginning; a backslash and a colon mean nothing here
        assert ".." not in str(unpacked(tmp_path, tar_of({name: b"evil"})))
    except ArchiveError:
        assert ".." in name


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_left_out(kind: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, str(tmp_path.parent)
        tar.addfile(info)
        through = tarfile.TarInfo("link/a.mp4")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    assert unpacked(tmp_path, out.getvalue()) == {"link/a.mp4": b"evil"}
    assert not (tmp_path.parent / "a.mp4").exists()
    assert (tmp_path / "inside" / "link").is_dir()
    assert not (tmp_path / "inside" / "link").is_symlink()


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.mp4")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(link, "/etc/passwd")
        file.writestr("b.mp4", b"b")
    assert unpacked(tmp_path, out.getvalue()) == {"b.mp4": b"b"}


@pytest.mark.parametrize("kind", [kind for kind in ARCHIVES if kind != "tar"])
def test_a_bomb_is_refused(kind: str, tmp_path: Path) -> None:
    size = SMALL // 8 + 1  # eight files, each within the limit
    bomb = ARCHIVES[kind]({f"{number}.mp4": bytes(size) for number in range(8)})
    assert len(bomb) * RATIO < 8 * size
    with pytest.raises(ArchiveError, match=r"unpacks to .*refused"):
        unpacked(tmp_path, bomb)
    written = sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*.mp4"))
    assert written <= SMALL


@pytest.mark.parametrize("kind", ARCHIVES)
def test_limits_of_one_file_and_of_all_are_kept(kind: str, tmp_path: Path) -> None:
    content = ARCHIVES[kind]({"a.mp4": VIDEO, "b.mp4": VIDEO})
    with pytest.raises(ArchiveError, match="max_bytes"):
        unpacked(tmp_path, content, member=len(VIDEO) - 1)
    with pytest.raises(ArchiveError, match="refused"):
        unpacked(tmp_path, content, total=2 * len(VIDEO) - 1)
    assert len(unpacked(tmp_path, content, member=len(VIDEO), total=2 * len(VIDEO))) == 2


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_file_a_thousand_folders_deep_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="deep"):
        unpacked(tmp_path, ARCHIVES[kind]({"x/" * 1_000 + "a.mp4": b"a"}))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_that_leads_backwards_ends(kind: bytes, tmp_path: Path) -> None:
    """A member that says it has -512 bytes would send tarfile round for ever (CVE-2025-8194)."""
    info = tarfile.TarInfo("a.mp4")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    began = time.monotonic()
    with pytest.raises(ArchiveError):
        unpacked(tmp_path, bytes(header) + bytes(10_240))
    assert time.monotonic() - began < 2


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, CHUNK + 1
    with pytest.raises(ArchiveError, match="a header of"):
        unpacked(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(CHUNK + 20_000))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_unpacking_ends_when_told_to(kind: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(ARCHIVES[kind](FILES))
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(CancelledError):
        unpack(tmp_path / "archive", tmp_path, 1 << 30, 1 << 30, stopped)


BSDTAR = f"""#!{sys.executable}
import pathlib, sys
if sys.argv[1] == "-cf":
    assert sys.argv[2:5] == ["-", "--format=mtree", "--options=!all,size"] and sys.argv[5].endswith("/archive")
    print("#mtree", "./UCF-101", "./UCF-101/v_a\\\\040size=9.avi size=4", sep="\\n")
else:
    assert sys.argv[1] == "-xf" and sys.argv[3] == "-C"
    if "damaged" in pathlib.Path(sys.argv[2]).read_text("latin1"):
        sys.exit("CRC error")
    pathlib.Path(sys.argv[4], "v_a size=9.avi").write_bytes(b"abcd")
"""
RAR = b"Rar!\x1a\x07\x01\x00"


@pytest.fixture
def bsdtar(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called bsdtar, first on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "bsdtar").write_text(BSDTAR)
    (folder / "bsdtar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("bsdtar")
def test_a_rar_is_unpacked_by_bsdtar_within_the_limits(tmp_path: Path) -> None:
    assert unpacked(tmp_path, RAR, member=4) == {"v_a size=9.avi": b"abcd"}
    with pytest.raises(ArchiveError, match="max_bytes"):
        unpacked(tmp_path, RAR, member=3)


@pytest.mark.usefixtures("bsdtar")
def test_what_bsdtar_says_of_a_damaged_rar_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="CRC error"):
        unpacked(tmp_path, RAR + b"damaged")


def test_without_bsdtar_a_rar_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ArchiveError, match="install bsdtar") as caught:
        unpacked(tmp_path, RAR)
    assert caught.value.status is Status.NO_TOOL
