"""Locks between the processes of one machine, let go by the system when a process ends, however it ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from avpipe.files import output_errors


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock file `path` (made if absent, never removed) and hold it."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` and give True, or give False at once if another process holds it."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
