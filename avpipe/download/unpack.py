"""Unpacks an archive that is not trusted: zip, tar (plain or compressed), rar. Either all files are unpacked, or it fails."""

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import threading
import zipfile
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO

from avpipe.clips import Status
from avpipe.files import output_errors

CHUNK = 1 << 20
"""Bytes read at once; a tar header that says it is longer is refused."""
RATIO = 200
"""Largest ratio of unpacked to packed bytes. Video and audio have less than 2; a bomb has 1,000 and more."""
SMALL = 16 << 20
"""Unpacked bytes that are allowed whatever the ratio."""
DEEPEST = 50
"""Largest depth of folders. (Python's own rmtree fails on a thousand.)"""
RAR_SECONDS = 7200.0
RAR_TOOL = "bsdtar"


class ArchiveError(Exception):
    """A file is no archive, is incomplete or hostile, or cannot be read on this machine; the message says what to do.

    Args:
        status: of all clips in it; not final, because the archive may be replaced.
    """

    def __init__(self, reason: str, status: Status = Status.MISSING) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in reason)[:500])
        self.status = status


class _Count:
    """Counts the unpacked bytes of an archive of `archive` bytes; the limits of `unpack` apply."""

    def __init__(self, archive: int, member: int, total: int) -> None:
        self.member, self.total, self.sum = member, min(total, max(SMALL, RATIO * archive)), 0

    def add(self, name: str, size: int) -> None:
        """Count a file. Raises `ArchiveError` if it is too much."""
        self.sum += size
        if name.count("/") > DEEPEST:
            raise ArchiveError(f"{name[:200]} in it lies more than {DEEPEST} folders deep: refused")
        if size > self.member:
            raise ArchiveError(
                f"{name} in it has {size} bytes: refused; the source's `max_bytes` may be raised"
            )
        if self.sum > self.total:
            raise ArchiveError(f"it unpacks to more than {self.total} bytes: refused")


def unpack(path: Path, folder: Path, member: int, total: int, stopped: threading.Event) -> None:
    """Unpack the regular files of an archive below `folder`; links and devices are left out.

    Args:
        path: of the archive.
        folder: exists and is empty; after an error it may have some of the files.
        member, total: largest size of one file, and of all files together, in bytes.
        stopped: ends the unpacking when it is set.

    Raises:
        ArchiveError: if the file is no archive, is damaged, has a name that leads out of `folder`, or exceeds a limit.
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
    except CancelledError:
        raise
    except Exception as error:  # of a dozen classes: tarfile, zipfile and the decompressors have their own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            with output_errors(folder):
                raise
        raise ArchiveError(f"{path} cannot be unpacked ({error}): get it again") from error


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
                tar.members.clear()  # else the list of members fills the memory
                if info.isreg() and not info.issparse():
                    count.add(info.name, info.size)
                    tar.extract(info, folder, set_attrs=False, filter="data")
        # tarfile stops at damage and at the end of the file as if the archive ended there; a whole tar ends with an empty block
        if stream.last != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError("it has no end mark, so it is incomplete or no tar: get it again")
        while stream.read(CHUNK):  # to the checksum at the end
            pass


def _uncompressed(path: Path, head: bytes) -> IO[bytes]:
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(path, "rb")
    return lzma.open(path, "rb") if head.startswith(b"\xfd7zXZ\x00") else path.open("rb")


class _Stream:
    """The file object that tarfile reads: forwards only, in small pieces, and not beyond a limit."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.left, self.place, self.last = file, limit + CHUNK, 0, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises `ArchiveError` for a huge header and beyond the limit."""
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
        """Skip to a place. Raises `ArchiveError` for an earlier place, at which tarfile would loop without end."""
        if place < self.place:
            raise ArchiveError("its headers lead backwards: refused")
        while self.place < place and self.read(min(CHUNK, place - self.place)):
            pass


def _unrar(path: Path, folder: Path, count: _Count) -> None:
    """By bsdtar, which refuses names and links that lead out of the folder."""
    program = shutil.which(RAR_TOOL)
    if program is None:
        raise ArchiveError(f"a rar file: install {RAR_TOOL}, or pack it again as zip or tar", Status.NO_TOOL)
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
        raise ArchiveError(f"{RAR_TOOL} cannot read it ({said}): get it again")
    return done.stdout
