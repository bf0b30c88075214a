"""Files from the web, whole or not at all: continued where they broke off, limited, tried again with patience.

Clips, archives and published weights come this way.
"""

import hashlib
import json
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any

from avpipe.files import move_whole, output_errors, write_json
from avpipe.http import (
    DownloadFailed,
    Failure,
    Remote,
    chunks,
    content_range,
    is_page,
    open_url,
    page_instead,
    validator_of,
)

CHUNK = 1 << 16
HEAD = 4096
"""Bytes at the beginning of a file that tell a web page."""
PROGRESS = 1 << 20
"""Bytes after which an attempt that failed did not come for nothing."""


@dataclass(frozen=True)
class Limits:
    """How much of everything one download may take.

    Args:
        largest: bytes.
        seconds: time, with all attempts and waits.
        silence: seconds without a byte after which a connection counts as failed.
        attempts: how often in a row a failure that may pass is tried without any progress.
        patience: longest wait in seconds between attempts; a server that asks for more gets its way: no more today.
    """

    largest: int = 4 << 30
    seconds: float = 1800.0
    silence: float = 30.0
    attempts: int = 4
    patience: float = 60.0


@dataclass(frozen=True)
class Arrived:
    """A whole file, still under its temporary name.

    Args:
        part: where it lies.
        size: bytes.
        sha256: of its content, hexadecimal.
        suffix: extension in its URL, with the dot, lower case; may be "".
        content_type: what the server called it.
        attempts, seconds: what it took.
    """

    part: Path
    size: int
    sha256: str
    suffix: str
    content_type: str
    attempts: int
    seconds: float

    def move_to(self, path: Path) -> None:
        """Give the file its name."""
        move_whole(self.part, path)
        forget(self.part)


def download(remote: Remote, part: Path, limits: Limits, stopped: threading.Event | None = None) -> Arrived:
    """Bring a file here, or the rest of it.

    What has come lies in `part` and stays there through failures and kills; a note beside it says which version of
    which file it is of. It is continued only if the server confirms that version (If-Range with ETag or
    Last-Modified), or if the SHA-256 of the whole is known and will be checked.

    Args:
        remote: what to fetch.
        part: the temporary name; its folder exists, and no other process uses it now.
        limits: how much it may take.
        stopped: ends it when it is set.

    Raises:
        DownloadFailed: with `attempts` and `seconds`.
        CancelledError: because of `stopped`.
        OutputError: if the file cannot be written.
    """
    stopped = stopped or threading.Event()
    started = time.monotonic()
    deadline, state = started + limits.seconds, _Part(part, remote)
    attempt = fruitless = 0
    while True:
        attempt += 1
        before = state.size()
        try:
            note = _attempt(state, limits, deadline, stopped)
            digest = _checked_digest(state, resumed=before > 0)
        except DownloadFailed as failure:
            if stopped.is_set():
                raise CancelledError from failure
            if failure.kind is Failure.NETWORK_ERROR and time.monotonic() > deadline:
                failure.kind = Failure.TIMED_OUT  # it was cut because of that
            failure.attempts, failure.seconds = attempt, round(time.monotonic() - started, 3)
            if failure.restart:
                forget(part)
            fruitless = 0 if state.size() >= before + PROGRESS else fruitless + 1
            wait = _wait(failure, fruitless)
            hopeless = not failure.kind.later or failure.kind in (Failure.TIMED_OUT, Failure.WEB_PAGE)
            too_long = wait > limits.patience or time.monotonic() + wait > deadline
            if hopeless or too_long or fruitless >= limits.attempts:
                raise
            if _pause(wait, stopped):
                raise CancelledError from failure
        else:
            seconds = round(time.monotonic() - started, 3)
            facts = str(note["suffix"]), str(note["content_type"])
            return Arrived(part, state.size(), digest, *facts, attempt, seconds)


def forget(part: Path) -> None:
    """Remove what has come of a file."""
    with output_errors(part):
        part.unlink(missing_ok=True)
        _note(part).unlink(missing_ok=True)


def keep(file: Path, part: Path, name: str, facts: dict[str, Any]) -> None:
    """Give a whole file that came in another way its temporary name, with what is to be known of it.

    Args:
        file: on the same file system as `part`; it moves.
        part: see `download`.
        name: what the file is of.
        facts: of it; JSON.
    """
    forget(part)
    write_json(_note(part), {"name": _digest(name), "facts": facts})
    move_whole(file, part)


def kept(part: Path, name: str) -> dict[str, Any] | None:
    """What `keep` was told of a file, if it is there."""
    note = _read_note(part, _digest(name))
    facts = note.get("facts")
    return facts if isinstance(facts, dict) and part.is_file() else None


def _pause(seconds: float, stopped: threading.Event) -> bool:
    """Wait; whether somebody said stop."""
    return stopped.wait(seconds)


def _wait(failure: DownloadFailed, fruitless: int) -> float:
    """Seconds before the next attempt: what the server asks for, else longer each time; scattered, because jobs differ."""
    if failure.wait is not None:
        return failure.wait + random.uniform(0, min(1.0, failure.wait))
    return random.uniform(0.5, 1) * 2 ** max(0, fruitless - 1)


def _checked_digest(state: "_Part", *, resumed: bool) -> str:
    """The SHA-256 of the whole file. Raises `DownloadFailed` if it is not the expected one."""
    with state.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = state.remote.sha256
    if expected is None or digest.startswith(expected):
        return digest
    if resumed:  # its beginning may have been of another version
        raise DownloadFailed(
            Failure.NETWORK_ERROR, "the parts of the file do not belong together", restart=True
        )
    reason = f"{state.size()} bytes with SHA-256 {digest} came, expected {expected}; nothing was kept"
    raise DownloadFailed(Failure.CORRUPT, reason, restart=True)


def _attempt(state: "_Part", limits: Limits, deadline: float, stopped: threading.Event) -> dict[str, Any]:
    """Bring the partial file to its full length, continuing where it stands. Returns its note."""
    kept = state.resumable()
    if kept and kept.size == kept.total:
        return state.note()
    headers: dict[str, str] = {"Range": f"bytes={kept.size}-"} if kept else {}
    if kept and kept.validator:
        headers["If-Range"] = kept.validator
    patience = {"silence": limits.silence, "deadline": deadline}
    with open_url(state.remote, headers, stopped=stopped, **patience) as response:
        offset = kept.size if kept and response.status == 206 else 0
        total = _total(response, offset, kept)
        body = chunks(response, CHUNK, deadline)
        head = b""
        while len(head) < HEAD and (piece := next(body, b"")):
            head += piece
        if is_page(response.headers.get_content_type(), b"" if offset else head):
            raise page_instead(head.decode("utf-8", "replace"))
        _check(response, total, limits, known=state.remote.sha256 is not None)
        if not offset:
            state.start(response, total)
        size = _receive(head, body, state, offset, limits, deadline)
    if total is not None and size != total:
        raise DownloadFailed(Failure.NETWORK_ERROR, f"the connection ended after {size} of {total} bytes")
    if size == 0:
        raise DownloadFailed(Failure.CORRUPT, "the server sent an empty file", restart=True)
    return state.complete(size)


def _total(response: HTTPResponse, offset: int, kept: "_Kept | None") -> int | None:
    """The length of the whole file in bytes, if the server says it. Raises `DownloadFailed` for another range or file."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return int(length) if length and re.fullmatch(r"[0-9]{1,18}", length) else None
    found = content_range(response.headers)
    total, known = found.total if found else None, kept.total if kept else None
    if not kept or not found or found.first != offset or (known and total and known != total):
        reason = "the server sent another range than it was asked for"
        raise DownloadFailed(Failure.NETWORK_ERROR, reason, restart=True)
    return total or known


def _check(response: HTTPResponse, total: int | None, limits: Limits, *, known: bool) -> None:
    """Raise `DownloadFailed` for an answer that cannot be the file, or of which no end could be told."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        reason = f"the server packed the file ({encoding[:40]}), which it was asked not to do"
        raise DownloadFailed(Failure.UNAVAILABLE, reason)
    if total == 0:
        raise DownloadFailed(Failure.CORRUPT, "the server sent an empty file", restart=True)
    if total is not None and total > limits.largest:
        reason = f"{total} bytes, more than the limit of {limits.largest}"
        raise DownloadFailed(Failure.TOO_LARGE, reason, restart=True)
    if total is None and not response.chunked and not known:
        reason = (
            "the server does not say how long the file is, so that its end could not be told from a break"
        )
        raise DownloadFailed(Failure.NETWORK_ERROR, reason)


def _receive(
    head: bytes, body: Iterator[bytes], state: "_Part", offset: int, limits: Limits, deadline: float
) -> int:
    """Append the body to the partial file. Returns its size."""
    size = offset
    with output_errors(state.path), state.path.open("ab" if offset else "wb") as file:
        piece = head
        while piece:
            size += len(piece)
            if size > limits.largest:
                reason = f"more than the limit of {limits.largest} bytes"
                raise DownloadFailed(Failure.TOO_LARGE, reason, restart=True)
            file.write(piece)
            if time.monotonic() > deadline:
                reason = f"not done after {limits.seconds:g} s, {size} bytes came"
                raise DownloadFailed(Failure.TIMED_OUT, reason)
            piece = next(body, b"")
    return size


@dataclass(frozen=True)
class _Kept:
    size: int
    validator: str | None
    total: int | None


class _Part:
    """A download under way: the bytes so far, and beside them which version of which file they are of."""

    def __init__(self, path: Path, remote: Remote) -> None:
        self.path, self.remote = path, remote
        self.digest = _digest(remote.name or remote.url)

    def size(self) -> int:
        """Bytes that are there."""
        with output_errors(self.path):
            try:
                return self.path.stat().st_size
            except FileNotFoundError:
                return 0

    def note(self) -> dict[str, Any]:
        """What is known of them; empty if there is nothing that can be read."""
        return _read_note(self.path, self.digest)

    def resumable(self) -> _Kept | None:
        """How far it came, if the rest of that very version can be asked for, or a wrong whole would be noticed."""
        note, size = self.note(), self.size()
        if not note or size == 0:
            return None
        validator, total = note.get("validator"), note.get("total")
        if total is not None and size > total:
            return None
        complete = size == total
        if not (complete or validator or self.remote.sha256):
            return None
        return _Kept(size, validator, total)

    def start(self, response: HTTPResponse, total: int | None) -> None:
        """Begin anew with the version that the response is of."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(response.url).path)
        forget(self.path)
        note = {
            "name": self.digest,
            "validator": validator_of(response.headers),
            "total": total,
            "suffix": PurePosixPath(path).suffix.lower(),
            "content_type": response.headers.get_content_type(),
        }
        write_json(_note(self.path), note)

    def complete(self, size: int) -> dict[str, Any]:
        """Note that all of it is there, so that a kill before it gets its name costs nothing."""
        note = self.note() | {"total": size}
        write_json(_note(self.path), note)
        return note


def _digest(name: str) -> str:
    """A name without its secrets: it may be a URL with a token."""
    return hashlib.sha256(name.encode()).hexdigest()


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path, digest: str) -> dict[str, Any]:
    """The note beside a part, if it is of what has this digest; else empty."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and note.get("name") == digest else {}
