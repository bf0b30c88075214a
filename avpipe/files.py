"""Files that are whole or absent: everything avpipe writes goes through here."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy


class OutputError(OSError):
    """An output could not be written; the message names the file and what to do about it."""


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, finished work is kept",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EACCES: "permission denied: make the folder writable or choose another results folder",
    errno.EROFS: "the file system is read-only: choose another results folder",
    errno.EPERM: "not permitted: make the folder writable or choose another results folder",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system refusal to write `path` into an `OutputError` that says what to do."""
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

    Killed or failed in the middle, `path` is untouched: absent if it was absent, the old content if it was
    there. The parent folder is made. Raises `OutputError` on a full disk or an unwritable folder.
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
    """Give the finished file `part` its name in the same folder: flushed to disk first, whole or not at all.

    Raises `OutputError` on a full disk or an unwritable folder.
    """
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
    except OSError:  # some network file systems cannot sync a folder; the rename itself is still atomic
        pass
    finally:
        os.close(descriptor)


def locked(path: Path, *, timeout: float = -1) -> "AcquireReturnProxy":
    """Hold the lock file `path` (made if absent, never removed) in a `with` block; the system frees it when a process ends.

    Args:
        path: of the lock file.
        timeout: seconds to wait for another process or thread; -1 = for ever, 0 = not at all.

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
    """Write `value` as readable JSON with sorted keys to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read the JSON file `path`. Raises ValueError with the file's name when it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
