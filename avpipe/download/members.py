"""Reading single members of an archive that nobody vouches for: zip, tar (plain or packed), rar.

No name of a member ever becomes a path, and nothing is unpacked but bytes of regular files. A plain tar has no table of
contents, so its members' places are written down once; a packed one is unpacked into a plain one first.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from avpipe.clips import Status
from avpipe.files import move_whole, output_errors, whole_file

CHUNK = 1 << 20
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""First bytes of a tar packed by gzip, bzip2, xz or zstd."""
RATIO = 200
"""How many times its packed size a member may grow. Video and sound grow by less than 2; a bomb by 1,000 and more."""
SMALL = 16 << 20
"""Bytes that may come out of however little."""
LONGEST_HEADER = 1 << 20
"""Bytes of one header of a tar; a longer name is no name."""
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What the libraries raise for damaged or hostile archives."""


class ArchiveError(Exception):
    """A file is no archive, is cut off, or cannot be read here; the message says what to do.

    Args:
        status: of all clips in it; none is final, for another archive may lie there another day.
    """

    def __init__(self, reason: str, status: Status = Status.MISSING) -> None:
        super().__init__(reason)
        self.status = status


class MemberError(Exception):
    """One member cannot be had.

    Args:
        status, reason: what to tell.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Args:
        name: its path, cleaned; never used as one.
        place: where it is, for the archive that gave it.
        size: bytes, as the archive says; None where it does not.
    """

    name: str
    place: Any
    size: int | None


class Archive(Protocol):
    """An open archive; used from several threads at once."""

    def find(self, wanted: str) -> list[Member]:
        """Regular files whose path ends with the parts of `wanted`."""
        ...

    def read(self, member: Member, largest: int) -> Iterator[bytes]:
        """The content in pieces. Raises `MemberError`; what came before is then worth nothing."""
        ...


class Contents:
    """Members by the last part of their path. Of two with the very same path the later counts, as for tar itself."""

    def __init__(self, members: Iterable[Member]) -> None:
        by_path = {member.name: member for member in members}
        self._by_last: dict[str, list[Member]] = defaultdict(list)
        for name, member in by_path.items():
            self._by_last[name.rpartition("/")[2]].append(member)

    def find(self, wanted: str) -> list[Member]:
        """As `Archive.find`."""
        parts = wanted.split("/")
        return [m for m in self._by_last.get(parts[-1], []) if m.name.split("/")[-len(parts) :] == parts]


def clean_name(name: str) -> str | None:
    """A member's path without "." parts; None for one that only somebody with bad intentions would write."""
    odd = name.startswith("/") or "\\" in name or len(name) > 4096 or re.match(r"[A-Za-z]:", name)
    if odd or not name.isprintable():
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(parts) if parts and ".." not in parts else None


def growth_limit(packed: int) -> int:
    """Bytes that may come out of `packed` bytes."""
    return max(SMALL, RATIO * packed)


class ZipArchive:
    """A zip file.

    Raises:
        ArchiveError: if it is none, or cut off.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
            infos = self._zip.infolist()
        except UNREADABLE as error:
            raise ArchiveError(f"{path} is no whole zip file ({error}): fetch it anew") from error
        self._left = growth_limit(path.stat().st_size)
        self._contents = Contents(
            Member(name, info, info.file_size) for info in infos if (name := self._ordinary(info))
        )

    @staticmethod
    def _ordinary(info: zipfile.ZipInfo) -> str | None:
        """The name of a regular file; none for folders, links and devices."""
        kind = stat.S_IFMT(info.external_attr >> 16)
        return clean_name(info.filename) if kind in (0, stat.S_IFREG) and not info.is_dir() else None

    def find(self, wanted: str) -> list[Member]:
        """As `Archive.find`."""
        return self._contents.find(wanted)

    def read(self, member: Member, largest: int) -> Iterator[bytes]:
        """As `Archive.read`; the checksum is checked at the end."""
        info: zipfile.ZipInfo = member.place
        if info.flag_bits & 1:
            raise MemberError(Status.PRIVATE, f"{member.name} is encrypted in the archive")
        limit = min(largest, growth_limit(info.compress_size))
        with _reading(member), self._zip.open(info) as file:
            yield from self._bounded(file, member, limit)

    def _bounded(self, file: IO[bytes], member: Member, limit: int) -> Iterator[bytes]:
        size = 0
        while chunk := file.read(CHUNK):
            size += len(chunk)
            self._left -= len(chunk)
            if size > limit or self._left < 0:
                raise MemberError(
                    Status.TOO_LARGE, f"{member.name} unpacks to more than {size} bytes: refused"
                )
            yield chunk


class TarArchive:
    """A plain tar file.

    Args:
        path: of the tar.
        index: parquet file with the members' places; written if it is not there, or is of another file.

    Raises:
        ArchiveError: if it is no tar, or cut off.
    """

    def __init__(self, path: Path, index: Path) -> None:
        self.path = path
        found = path.stat()
        stamp = f"{found.st_size} {found.st_mtime_ns}"
        rows = _read_index(index, stamp)
        if rows is None:
            rows = list(_tar_members(path))
            _write_index(index, stamp, rows)
        self._contents = Contents(Member(*row) for row in rows)

    def find(self, wanted: str) -> list[Member]:
        """As `Archive.find`."""
        return self._contents.find(wanted)

    def read(self, member: Member, largest: int) -> Iterator[bytes]:
        """As `Archive.read`."""
        left = member.size or 0
        if left > largest:
            raise MemberError(
                Status.TOO_LARGE, f"{member.name}: {left} bytes, more than the limit of {largest}"
            )
        with _reading(member), self.path.open("rb") as file:
            file.seek(member.place)
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise EOFError("the archive ends in it")
                left -= len(chunk)
                yield chunk


@contextlib.contextmanager
def _reading(member: Member) -> Iterator[None]:
    """Turn what the libraries raise for damage into a `MemberError`."""
    try:
        yield
    except UNREADABLE as error:
        raise MemberError(Status.CORRUPT, f"{member.name} cannot be unpacked: {error}") from error


class _Headers(io.BufferedReader):
    """A file of which only headers are read: tarfile would take a header that says it has 30 GB at its word."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _tar_members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of every regular file. Raises `ArchiveError`."""
    with path.open("rb", buffering=0) as raw, _Headers(raw) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield from _regular_files(tar)
                end = tar.offset
        except UNREADABLE as error:
            raise ArchiveError(f"{path} is no tar file, or damaged ({error}): fetch it anew") from error
        # tarfile takes damage, and the file's end, for the archive's end; a whole tar ends with empty blocks
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError(
                f"{path} has no end mark where a tar must have one, so it is cut off: fetch it anew"
            )


def _regular_files(tar: tarfile.TarFile) -> Iterator[tuple[str, int, int]]:
    """Name, place and size of every member with an ordinary name."""
    last = -1
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
        if info.offset <= last or info.size < 0:  # it would go round for ever
            raise tarfile.ReadError("its headers go backwards")
        last = info.offset
        name = clean_name(info.name) if info.isreg() and not info.issparse() else None
        if name:
            yield name, info.offset_data, info.size


def _read_index(index: Path, stamp: str) -> list[tuple[str, int, int]] | None:
    """The rows of an index, if it is there and of this file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not index.is_file():
        return None
    try:
        table = pq.read_table(index)
    except (pa.ArrowException, OSError):
        return None
    if (table.schema.metadata or {}).get(b"stamp") != stamp.encode():
        return None
    return list(zip(*(table[name].to_pylist() for name in ("name", "place", "size")), strict=True))


def _write_index(index: Path, stamp: str, rows: list[tuple[str, int, int]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("name", pa.string()), ("place", pa.int64()), ("size", pa.int64())]
    schema = pa.schema(columns, metadata={"stamp": stamp})
    arrays = [pa.array([row[i] for row in rows], kind) for i, (_, kind) in enumerate(columns)]
    with whole_file(index) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary)


def _unpacked(path: Path, head: bytes) -> IO[bytes]:
    """A stream of the unpacked bytes."""
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        stream: IO[bytes] = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
        return stream
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return bz2.open(path, "rb") if head.startswith(b"BZh") else lzma.open(path, "rb")


def unpack_tar(path: Path, head: bytes, out: Path, largest: int) -> None:
    """Unpack a packed tar to a plain one, whole or not at all; nobody else may do so at the same time.

    Args:
        path: of the packed tar.
        head: its first bytes, one of `PACKED`.
        out: the plain tar.
        largest: bytes that may come out.

    Raises:
        ArchiveError: if it is damaged, or grows beyond `largest` bytes or beyond belief.
    """
    limit = min(largest, growth_limit(path.stat().st_size))
    part, size = out.with_name(f"{out.name}.part"), 0
    try:
        with output_errors(part), part.open("wb") as file:
            for chunk in _pieces(path, head):
                size += len(chunk)
                if size > limit:
                    raise ArchiveError(f"{path} unpacks to more than {limit} bytes: refused")
                file.write(chunk)
        move_whole(part, out)
    finally:
        part.unlink(missing_ok=True)


def _pieces(path: Path, head: bytes) -> Iterator[bytes]:
    """The unpacked bytes. Raises `ArchiveError`."""
    try:
        with _unpacked(path, head) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except UNREADABLE as error:
        raise ArchiveError(f"{path} is cut off or damaged ({error}): fetch it anew") from error
