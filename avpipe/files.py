"""Files that are whole or absent: all files that avpipe writes are written here. Also reads JSON and HDF5."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py
    from filelock import AcquireReturnProxy


class OutputError(OSError):
    """An output cannot be written; the message names the file and says what to do."""


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, finished work is kept",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EACCES: "permission denied: make the folder writable or choose another one ($XDG_CACHE_HOME for a cache folder)",
    errno.EROFS: "the file system is read-only: choose another folder ($XDG_CACHE_HOME for a cache folder)",
    errno.EPERM: "not permitted: make the folder writable or choose another results folder",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable `path` into an `OutputError` that says what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno in _ADVICE:
            raise OutputError(error.errno, f"cannot write {path}: {_ADVICE[error.errno]}") from error
        raise


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit flush it to disk and rename it to `path`.

    After a kill or an error, `path` is unchanged: absent, or with its old content. The parent folder is made. Raises
    `OutputError` on a full disk or an unwritable folder.
    """
    path = Path(path)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def move_whole(part: Path, path: Path) -> None:
    """Flush the finished file `part` to disk and rename it to `path` in the same folder. Raises `OutputError` as `whole_file`."""
    with output_errors(path):
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot flush a folder; the rename is atomic all the same
        pass
    finally:
        os.close(descriptor)


class H5Error(ValueError):
    """An HDF5 file is missing or damaged, or lacks the array; the message says what was expected."""


@contextlib.contextmanager
def open_h5(path: Path, key: str) -> "Iterator[h5py.Dataset]":
    """Open the array `key` of an HDF5 file for reading, without reading it.

    Links, external storage and virtual arrays are refused: they would make HDF5 open other files.

    Raises:
        H5Error: if there is no such file, it is damaged, or has no such array of numbers.
    """
    import h5py

    if not path.is_file():
        raise H5Error(f"{path} is not a file; expected an HDF5 file with the array {key!r}")
    try:
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=1 << 26)
    except OSError as error:
        raise H5Error(f"{path} is no HDF5 file or is cut off ({error}); get it again") from error
    with file:
        link = None if "/" in key else file.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            known = ", ".join(sorted(map(repr, file))) or "nothing"
            raise H5Error(f"{path} has no array {key!r} of its own; it has {known}: set `key`")
        array = file[key]
        if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiu" or not array.shape:
            raise H5Error(f"{path}: {key!r} is not an array of numbers")
        if array.is_virtual or array.external:
            raise H5Error(f"{path}: {key!r} has its numbers in other files; copy them into this file")
        yield array


def add_member(archive: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    """Append a file to a tar, with a header that does not depend on machine or time."""
    header = tarfile.TarInfo(name)
    header.size = size
    archive.addfile(header, file)


def locked(path: Path, *, timeout: float = -1) -> "AcquireReturnProxy":
    """Hold the lock file `path` (made if absent, never removed) in a `with` block; the system frees it when a process ends.

    Args:
        path: of the lock file.
        timeout: seconds to wait for another process or thread; -1 = without limit, 0 = not at all.

    Raises:
        filelock.Timeout: if another one holds it.
        OutputError: if it cannot be made.
    """
    from filelock import FileLock

    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path).acquire(timeout=timeout)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read the JSON file `path`. Raises ValueError with the file's name if it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it, so that it is made anew") from error


@lru_cache(maxsize=256)
def sha256_of_version(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file while it has this size and modification time (ns); a long file has many clips."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
