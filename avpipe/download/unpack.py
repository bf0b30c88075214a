"""Unpacking an archive that nobody vouches for: zip, tar (plain or compressed), rar. All of its files come, or none."""

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import threading
import zipfile
import zlib
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO

from avpipe.clips import Status
from avpipe.files import output_errors

CHUNK = 1 << 20
"""Bytes read at once; a tar header that says it is longer is refused."""
RATIO = 200
"""How many times its size an archive may grow. Video and audio grow by less than 2; a bomb by 1,000 and more."""
SMALL = 16 << 20
"""Bytes that may come out of however little."""
DEEPEST = 50
"""Folders within each other."""
RAR_SECONDS = 7200.0
RAR_TOOL = "bsdtar"


class ArchiveError(Exception):
    """A file is no archive, is cut off, hostile, or cannot be read here; the message says what to do.

    Args:
        status: of all clips in it; none is final, because another archive may lie there another day.
    """

    def __init__(self, reason: str, status: Status = Status.MISSING) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in reason)[:500])
        self.status = status


class _Count:
    """The bytes that come out of one archive, and how many may.

    Args:
        archive: bytes of the archive.
        member: largest file in bytes.
        total: bytes of all files, at most; less if `archive` is small.
    """

    def __init__(self, archive: int, member: int, total: int) -> None:
        self.member, self.total, self.sum = member, min(total, max(SMALL, RATIO * archive)), 0

    def add(self, name: str, size: int) -> None:
        """Count a file. Raises `ArchiveError` if it is too much."""
        self.sum += size
        if name.count("/") > DEEPEST:  # Python's own rmtree fails on a thousand
            raise ArchiveError(f"{name[:200]} in it lies more than {DEEPEST} folders deep: refused")
        if size > self.member:
            raise ArchiveError(
                f"{name} in it has {size} bytes: refused; the source's `max_bytes` may be raised"
            )
        if self.sum > self.total:
            raise ArchiveError(f"it unpacks to more than {self.total} bytes: refused")


def unpack(path: Path, folder: Path, member: int, total: int, stopped: threading.Event) -> None:
    """Unpack the regular files of an archive, whatever its name is, below `folder`; links and devices are left out.

    Args:
        path: of the archive.
        folder: exists and is empty; half of the files may lie there after an error.
        member, total: bytes of one file, and of all, at most.
        stopped: ends it when it is set.

    Raises:
        ArchiveError: if it is none, is damaged, has a name that leads out of `folder`, or grows beyond the count.
        CancelledError: because of `stopped`.
        OutputError: on a full disk.
    """
    count = _Count(path.stat().st_size, member, total)
    with path.open("rb") as file:
        head = file.read(8)
    try:
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unzip(path, folder, count, stopped)
        elif head.startswith(b"Rar!\x1a\x07"):
            _unrar(path, folder, count)
        else:
            _untar(path, head, folder, count, stopped)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}", error.status) from error
    except (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        RuntimeError,  # also NotImplementedError: an unknown compression; and a zip that needs a password
        struct.error,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            with output_errors(folder):
                raise
        raise ArchiveError(f"{path} cannot be unpacked ({error}): fetch it anew") from error


def _unzip(path: Path, folder: Path, count: _Count, stopped: threading.Event) -> None:
    with zipfile.ZipFile(path) as file:
        wanted = []
        for info in file.infolist():
            _judge(info.filename)
            count.add(info.filename, info.file_size)
            if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG) and not info.is_dir():
                wanted.append(info)
        for info in wanted:
            if stopped.is_set():
                raise CancelledError
            file.extract(info, folder)  # checks size and CRC


def _judge(name: str) -> None:
    """Raise `ArchiveError` for a name that leads out of the folder, on any system."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        raise ArchiveError(f"the name {name[:200]!r} in it leads out of its folder: refused")


def _untar(path: Path, head: bytes, folder: Path, count: _Count, stopped: threading.Event) -> None:
    with _uncompressed(path, head) as file:
        stream = _Stream(file, count.total)
        with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
            while (info := tar.next()) is not None:
                if stopped.is_set():
                    raise CancelledError
                tar.members.clear()  # it would keep them all
                if info.isreg() and not info.issparse():
                    count.add(info.name, info.size)
                    tar.extract(info, folder, set_attrs=False, filter="data")
        # tarfile takes damage, and the end of the file, for the end of the archive; a whole tar ends with an empty block
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError(
                "it has no end mark where a tar must have one, so it is cut off or no tar: fetch it anew"
            )
        while stream.read(CHUNK):  # to the checksum at the end
            pass


def _uncompressed(path: Path, head: bytes) -> IO[bytes]:
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        stream: IO[bytes] = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
        return stream
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(path, "rb")
    return lzma.open(path, "rb") if head.startswith(b"\xfd7zXZ\x00") else path.open("rb")


class _Stream:
    """A tar as tarfile reads it: forwards only, little at once, and no more than a limit."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.left, self.place, self.last = file, limit + CHUNK, 0, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises `ArchiveError` for a header that is huge, or a bomb."""
        if not 0 <= size <= CHUNK:
            raise ArchiveError(f"a header of {size} bytes: refused")
        self.last = self.file.read(size)
        self.place += len(self.last)
        self.left -= len(self.last)
        if self.left < 0:
            raise ArchiveError("it unpacks to too many bytes: refused")
        return self.last

    def tell(self) -> int:
        """Bytes read so far."""
        return self.place

    def seek(self, place: int) -> None:
        """Skip to a place. Raises `ArchiveError` for one before this: such a tar would go round for ever."""
        if place < self.place:
            raise ArchiveError("its headers lead backwards: refused")
        while self.place < place and self.read(min(CHUNK, place - self.place)):
            pass


def _unrar(path: Path, folder: Path, count: _Count) -> None:
    """By bsdtar, which refuses names and links that lead out of the folder."""
    program = shutil.which(RAR_TOOL)
    if program is None:
        raise ArchiveError(f"a rar file: install {RAR_TOOL}, or pack it anew as zip or tar", Status.NO_TOOL)
    listing = _run(program, "-cf", "-", "--format=mtree", "--options=!all,size", f"@{path.absolute()}")
    for name, size in re.findall(rb"^(\S+) size=(\d+)", listing, re.MULTILINE):  # a name has \040 for a space
        count.add(name.decode("ascii", "replace"), int(size))
    _run(program, "-xf", str(path.absolute()), "-C", str(folder))


def _run(*command: str) -> bytes:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RAR_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},  # or it leaves out names that are not ASCII
        )
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"{RAR_TOOL} was not done in {RAR_SECONDS:g} s", Status.TIMED_OUT) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-200:]
        raise ArchiveError(f"{RAR_TOOL} cannot read it ({said}): fetch it anew")
    return done.stdout
