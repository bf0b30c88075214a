"""Members of archives: found by their last parts, read whole or not at all, whatever the archive's author intended."""

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from avpipe.clips import Status
from avpipe.download import members
from avpipe.download.archive import open_archive
from avpipe.download.members import Archive, ArchiveError, MemberError, clean_name

VIDEO = random.Random(0).randbytes(40_000)
LARGEST = 1 << 30
FILES = {
    "AVE_Dataset/AVE/a.mp4": VIDEO,
    "./AVE_Dataset/AVE/b.mp4": VIDEO[::-1],
    "AVE_Dataset/readme.txt": b"x",
}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: dict[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


KINDS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": zip_of,
    "zip deflated": lambda files: zip_of(files, compression=zipfile.ZIP_DEFLATED),
    "tar": tar_of,
    "tar.gz": lambda files: gzip.compress(tar_of(files)),
    "tar.bz2": lambda files: bz2.compress(tar_of(files)),
    "tar.xz": lambda files: lzma.compress(tar_of(files)),
    "tar.zst": lambda files: zstd(tar_of(files)),
}


def opened(folder: Path, content: bytes, largest: int = LARGEST) -> Archive:
    path = folder / "archive"
    path.write_bytes(content)
    return open_archive(path, folder, largest)


def content_of(archive: Archive, wanted: str) -> bytes:
    (member,) = archive.find(wanted)
    return b"".join(archive.read(member, LARGEST))


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_found_by_the_last_parts_of_their_path(kind: str, tmp_path: Path) -> None:
    archive = opened(tmp_path, KINDS[kind](FILES))
    assert content_of(archive, "a.mp4") == VIDEO
    assert content_of(archive, "AVE/b.mp4") == VIDEO[::-1]
    assert [archive.find(name) for name in ("c.mp4", "VE/a.mp4", "mp4", "AVE", "")] == [[]] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_are_called_alike_are_all_found(kind: str, tmp_path: Path) -> None:
    archive = opened(tmp_path, KINDS[kind]({"train/a.mp4": b"1", "test/a.mp4": b"2"}))
    assert len(archive.find("a.mp4")) == 2
    assert content_of(archive, "test/a.mp4") == b"2"


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_cut_anywhere_is_not_taken_for_whole(kind: str, tmp_path: Path) -> None:
    whole = KINDS[kind](FILES)
    # a tar is filled up to 10,240 bytes with zeros that say nothing: all but the first block of them may go
    end = 512 * 5 + 512 * 2 * 79 if kind == "tar" else len(whole)
    for length in [0, 1, 100, 512, 513, 1024, 20_000, len(whole) // 2, end - 1]:
        with pytest.raises(ArchiveError, match=r"fetch it anew|no whole zip"):
            opened(tmp_path, whole[:length])
    assert not list(tmp_path.glob("unpacked*"))


def test_a_tar_is_read_through_once_and_its_places_kept_while_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    through = members._tar_members

    def noted(path: Path) -> Iterator[tuple[str, int, int]]:
        read.append(path)
        return through(path)

    monkeypatch.setattr(members, "_tar_members", noted)
    for _ in range(3):
        assert content_of(opened_again(tmp_path, tar_of(FILES)), "a.mp4") == VIDEO
    assert len(read) == 1
    (tmp_path / "index.parquet").write_bytes(b"torn")
    assert content_of(opened_again(tmp_path, tar_of(FILES)), "a.mp4") == VIDEO
    (tmp_path / "archive").unlink()
    assert content_of(opened_again(tmp_path, tar_of({"x": b"", "a.mp4": b"new"})), "a.mp4") == b"new"
    assert len(read) == 3


def opened_again(folder: Path, content: bytes) -> Archive:
    path = folder / "archive"
    if not path.exists():
        path.write_bytes(content)
    return open_archive(path, folder, LARGEST)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/a.mp4",
        "../a.mp4",
        "x/../../a.mp4",
        "x\\a.mp4",
        "C:/a.mp4",
        "x\n/a.mp4",
        "x/\x1b[2J/a.mp4",
        "x" * 5000,
    ],
)
def test_a_name_that_only_an_attacker_would_write_is_no_member(name: str, tmp_path: Path) -> None:
    assert clean_name(name) is None
    for make in (tar_of, zip_of):
        assert opened(tmp_path, make({name: b"evil"})).find("a.mp4") == []


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=40))
def test_a_cleaned_name_stays_below_any_folder(name: str) -> None:
    cleaned = clean_name(name)
    if cleaned is not None:
        assert not Path(cleaned).is_absolute()
        assert (Path("/root/folder") / cleaned).resolve().is_relative_to("/root/folder")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_links_devices_and_folders_of_a_tar_are_no_members(kind: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert opened(tmp_path, out.getvalue()).find("a.mp4") == []


def test_links_and_encrypted_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a.mp4")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(link, "/etc/passwd")
        file.writestr("b.mp4", VIDEO)
    content = bytearray(out.getvalue())
    assert opened(tmp_path, bytes(content)).find("a.mp4") == []
    second = content.rindex(
        b"PK\x01\x02"
    )  # the entry of b.mp4 in the table of contents; its flags are 8 bytes on
    content[second + 8] |= 1
    archive = opened(tmp_path, bytes(content))
    with pytest.raises(MemberError, match="encrypted") as caught:
        content_of(archive, "b.mp4")
    assert caught.value.status is Status.PRIVATE


def test_a_member_that_was_bent_does_not_come(tmp_path: Path) -> None:
    content = bytearray(zip_of({"a.mp4": VIDEO}))
    content[1000] ^= 1
    with pytest.raises(MemberError, match="CRC") as caught:
        content_of(opened(tmp_path, bytes(content)), "a.mp4")
    assert caught.value.status is Status.CORRUPT


def test_a_member_that_unpacks_to_a_multiple_of_itself_is_refused(tmp_path: Path) -> None:
    bomb = bytes(members.SMALL + 1)  # deflate makes a thousandth of it
    archive = opened(tmp_path, zip_of({"a.mp4": bomb}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(MemberError, match="refused") as caught:
        content_of(archive, "a.mp4")
    assert caught.value.status is Status.TOO_LARGE


def test_many_members_cannot_share_one_bomb(tmp_path: Path) -> None:
    part = bytes(members.SMALL // 4)
    many = zip_of({f"{n}.mp4": part for n in range(8)}, compression=zipfile.ZIP_DEFLATED)
    archive = opened(tmp_path, many)
    for number in range(4):  # 200 times the archive's 33 kB are reached by then: 4 x 4 MiB is the least limit
        content_of(archive, f"{number}.mp4")
    with pytest.raises(MemberError, match="refused"):
        content_of(archive, "4.mp4")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_packed_tar_that_grows_beyond_the_limit_leaves_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="more than 30000 bytes: refused"):
        opened(tmp_path, KINDS[kind](FILES), largest=30_000)
    bomb = KINDS[kind]({"a.mp4": bytes(members.SMALL + 1)})
    assert len(bomb) * members.RATIO < members.SMALL
    with pytest.raises(ArchiveError, match="refused"):
        opened(tmp_path, bomb)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_member_over_the_limit_is_refused(make: Any, tmp_path: Path) -> None:
    archive = opened(tmp_path, make({"a.mp4": VIDEO}))
    (member,) = archive.find("a.mp4")
    with pytest.raises(MemberError) as caught:
        list(archive.read(member, len(VIDEO) - 1))
    assert caught.value.status is Status.TOO_LARGE
    assert b"".join(archive.read(member, len(VIDEO))) == VIDEO


def negative_size(kind: bytes) -> bytes:
    """A tar whose member says it has -512 bytes, which sends tarfile round for ever (CVE-2025-8194)."""
    info = tarfile.TarInfo("a.mp4")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10_240)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_that_leads_backwards_ends(kind: bytes, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ArchiveError):
        opened(tmp_path, negative_size(kind))
    assert time.monotonic() - began < 2


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, members.LONGEST_HEADER + 1
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(members.LONGEST_HEADER + 20_000)
    with pytest.raises(ArchiveError, match="a header of"):
        opened(tmp_path, content)


BENT = st.lists(st.tuples(st.integers(0, 30_000), st.binary(min_size=1, max_size=12)), max_size=6)
SMALL_FILES = {"AVE/a.mp4": VIDEO[:9_000], "AVE/b.mp4": VIDEO[9_000:9_900], "é" * 60: b"long name"}


@pytest.mark.parametrize("kind", ["zip", "zip deflated", "tar", "tar.gz"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000)
@given(BENT, st.integers(0, 40_000))
@example([(0, b"PK\x05\x06")], 40_000)
def test_a_bent_archive_gives_the_true_bytes_or_says_so(
    kind: str, tmp_path: Path, bent: list[tuple[int, bytes]], length: int
) -> None:
    content = bytearray(KINDS[kind](SMALL_FILES))
    for place, garbage in bent:
        place %= len(content)
        content[place : place + len(garbage)] = garbage[: len(content) - place]
    for stale in tmp_path.iterdir():
        stale.unlink()
    try:
        archive = opened(tmp_path, bytes(content[:length]))
        found = archive.find("a.mp4")
        read = [b"".join(archive.read(member, 1 << 20)) for member in found]
    except (ArchiveError, MemberError):
        return
    if kind != "tar":  # which has no checksum of its content: the source's sha256 is its only guard
        assert all(content in (SMALL_FILES["AVE/a.mp4"], SMALL_FILES["AVE/b.mp4"]) for content in read)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000)
@given(st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", *members.PACKED]), st.binary(max_size=2000))
def test_arbitrary_bytes_are_no_archive(tmp_path: Path, head: bytes, rest: bytes) -> None:
    for stale in tmp_path.iterdir():
        stale.unlink()
    try:
        archive = opened(tmp_path, head + rest)
    except ArchiveError:
        return
    assert archive.find("a.mp4") == []
