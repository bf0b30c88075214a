"""One writer at a time, on whichever node of a cluster: a lock file that names its holder, and whose time is its heartbeat.

A file system that several nodes share may keep `flock` to one node. It does make a new file exactly once, and gives files
the times of one clock, the server's. Nothing else is needed here.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from avpipe.files import output_errors

PERIOD = 10.0
"""Seconds between two heartbeats."""
STALE = 9
"""Periods without a heartbeat, after which the holder is taken for dead. Network file systems may show a time a minute late."""


@contextlib.contextmanager
def sole_writer(path: Path, what: str, period: float = PERIOD) -> Iterator[bool]:
    """Hold the lock file `path` in a `with` block; wait for another holder as long as it shows that it lives.

    The lock of a dead holder is taken over: at once if its process ran on this machine, else after `STALE` periods
    without a heartbeat. A holder that was suspended for so long, and has lost its lock, ends itself with SIGTERM.

    Args:
        path: of the lock file; made, and removed in the end.
        what: is written, for messages.
        period: seconds between two heartbeats.

    Yields:
        Whether another one held the lock before, so that what is to be written may be there by now.

    Raises:
        OutputError: if the file cannot be made.
    """
    token = secrets.token_hex(8)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        waited = _acquire(path, what, token, period)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, what, token, period, done), daemon=True)
    beating.start()
    try:
        yield waited
    finally:
        done.set()
        beating.join()
        if _holder(path)[0].get("token") == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, what: str, token: str, period: float) -> bool:
    """Make the lock file, as soon as nobody holds it; whether somebody did."""
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    text = json.dumps({**mine, "machine": _machine(), "token": token})
    told, waited = "", False
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return waited
        except FileExistsError:
            holder, beat = _holder(path)
        if beat is None:  # it ended meanwhile
            waited = True
            continue
        name = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        if _has_died(holder) or _now(path) - beat > STALE * period:
            print(f"{what}: {name} has died, this one goes on", file=sys.stderr, flush=True)
            _remove(path, holder)
        elif name != told:
            print(f"{what}: waiting for {name}, which writes the same", file=sys.stderr, flush=True)
            told = name
        waited = True
        time.sleep(period / 10)


def _beat(path: Path, what: str, token: str, period: float, done: threading.Event) -> None:
    """Touch the lock file each period, until `done`; end this process if the lock is another one's."""
    while not done.wait(period):
        holder, beat = _holder(path)
        if beat is None or holder.get("token") not in (token, None):
            print(f"{what}: this process slept, and another one took its place", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        with contextlib.suppress(OSError):  # a file server that is away for a while
            os.utime(path)


def _holder(path: Path) -> tuple[dict[str, str | int], float | None]:
    """What a lock file says, {} if nothing yet, and the time of its last heartbeat; ({}, None) without a file.

    Opening it makes a network file system ask the server for its time.
    """
    try:
        with path.open(encoding="utf-8") as file:
            beat = os.fstat(file.fileno()).st_mtime
            with contextlib.suppress(json.JSONDecodeError):
                return json.load(file), beat
            return {}, beat
    except FileNotFoundError:
        return {}, None


def _now(path: Path) -> float:
    """The time by the clock that gives files beside `path` their times."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _remove(path: Path, holder: dict[str, str | int]) -> None:
    """Remove a dead holder's lock. If another one has just taken it over, its lock is put back."""
    grave = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        path.rename(grave)
        if _holder(grave)[0] == holder:
            grave.unlink()
        else:
            grave.rename(path)


def _has_died(holder: dict[str, str | int]) -> bool:
    """Whether the holder is a process of this machine that has ended; False where that cannot be known."""
    here = bool(holder) and holder["machine"] == _machine() != ""
    return here and _started(int(holder["pid"])) != holder["started"]


def _machine() -> str:
    """This machine since it was started, and its container, which counts processes by itself; "" where Linux does not say it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; "" if it has ended."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
