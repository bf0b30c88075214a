"""A file on the web of which only some bytes are wanted: those that have come are kept, and never asked for again.

Nobody knows beforehand which bytes of a video ffmpeg will read to cut some seconds out of it. It asks for them here
(`avpipe.download.relay` lets it), so that an excerpt which was interrupted goes on where it stood.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from avpipe.files import write_json
from avpipe.http import Headers, content_range, retry_after, validator_of

PIECE = 1 << 20
"""Bytes that are asked for at a time, so that little is read ahead of need."""
SAMPLE = 1 << 16
"""Bytes that are asked for a second time where a server does not say which version of a file it sends."""
WAITS = (1.0, 4.0)
"""Seconds before a piece that did not come is asked for again; after the last of them it has failed."""
CONNECTIONS = 4
"""Answers that stay open although nobody reads them on: a program often comes back to where it was."""
_CHUNK = 1 << 14


class Response(Protocol):
    """What a server answers."""

    status: int
    reason: str
    headers: Headers

    def read(self, amount: int) -> bytes:
        """The next bytes of the body, b"" at its end."""

    def close(self) -> None:
        """No more is wanted."""


Ask = Callable[[int, int], Response]
"""Asks for the bytes from the first to the last, both included; raises whatever the network does."""


class RefusedError(OSError):
    """A server said no.

    Args:
        response: its answer.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"HTTP Error {response.status}: {response.reason}")
        self.wait = retry_after(response.headers.get("Retry-After"))


@dataclass(frozen=True)
class Reply:
    """What to tell a program that asked for the bytes from one on: an HTTP status, its headers, the body as it comes."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: Generator[bytes]


@dataclass
class _Answer:
    """What a server is sending; the number of the last byte of it."""

    response: Response
    last: int


class Ranges:
    """One version of a file, as far as it has come.

    Bytes that came in one run lie in a file that is called as the first of them is numbered; `note.json` says which
    version they are of. A server that does not send ranges, or an error, is passed on as it is, and nothing is kept. Where a
    server does not tell versions apart, what came before this process is used if the file still has the same length and type
    and the same bytes in a sample.

    Args:
        folder: of this file alone; it need not exist.
        ask: how bytes are asked for.

    Attributes:
        changed: the server had another version later on.
        refusal: what it said when it did not want to give bytes.
        missing: number of a byte that did not come, however often it was asked for; None = none, or it came later.
    """

    def __init__(self, folder: Path, ask: Ask) -> None:
        self.folder, self.ask, self.changed = folder, ask, False
        self.refusal: RefusedError | None = None
        self.missing: int | None = None
        # A program may read a file over several connections at once; they share the site's answers.
        self.lock = threading.Lock()
        self.coming: dict[int, _Answer] = {}  # by the number of their next byte
        self.total: int | None = None
        self.validator, self.kind = "", ""
        note = self._note()
        if note and note["validator"]:
            self.total, self.validator, self.kind = note["total"], note["validator"], note["content_type"]

    def reply(self, first: int = 0, last: int | None = None) -> Reply:
        """To a request for the bytes from `first` to `last`, which is included, or to the end."""
        with self.lock:
            if self.total is None:
                response = self.ask(first, first + (SAMPLE if self._note() else PIECE) - 1)
                if response.status != 206:
                    self.refusal = RefusedError(response) if response.status >= 400 else None
                    length = response.headers.get("Content-Length")
                    said = {"Content-Length": str(length)} if length else {}
                    return Reply(response.status, response.reason, said, self._whole(response, length))
                self.refusal = None
                self._begin(response, first)
        assert self.total is not None
        if first >= self.total:
            return Reply(416, "Range Not Satisfiable", {"Content-Range": f"bytes */{self.total}"}, _nothing())
        end = self.total if last is None else min(last + 1, self.total)
        said = {
            "Content-Range": f"bytes {first}-{end - 1}/{self.total}",
            "Content-Length": str(end - first),
            "Accept-Ranges": "bytes",
            "Content-Type": self.kind,
        }
        return Reply(206, "Partial Content", said, self._bytes(first, end))

    def _whole(self, response: Response, length: str | None) -> Generator[bytes]:
        """An answer without ranges, as it comes."""
        came = 0
        try:
            with contextlib.closing(response):
                while piece := response.read(_CHUNK):
                    came += len(piece)
                    yield piece
            if length and came < int(length):
                raise OSError("the connection broke")
        except Exception:  # of the library that asks: anything
            self.missing = came
            raise
        self.missing = None

    def close(self) -> None:
        """Nothing more is wanted of it."""
        with self.lock:
            while self.coming:
                self.coming.popitem()[1].response.close()

    def _note(self) -> dict[str, Any] | None:
        """Which version lies here: total, validator, content_type; None if nobody knows."""
        try:
            note = json.loads((self.folder / "note.json").read_text(encoding="utf-8"))
            return {
                "total": int(note["total"]),
                "validator": str(note["validator"] or ""),
                "content_type": str(note["content_type"]),
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _begin(self, response: Response, first: int) -> None:
        """Note which version it is, and whether what lies here is of it; the answer's bytes are still to be read."""
        found = content_range(response.headers)
        if found is None or found.total is None or not found.first == first <= found.last < found.total:
            response.close()
            raise OSError(
                "the server does not say how long the file is, or sent another range than it was asked for"
            )
        kind = response.headers.get("Content-Type") or "application/octet-stream"
        validator = validator_of(response.headers) or ""
        note = {"total": found.total, "validator": validator, "content_type": kind}
        sample = b""
        if not validator and self._note() == note:
            sample = _read(response, min(SAMPLE, found.last + 1 - first))
        if sample and sample == self._here(first, len(sample)):
            response.close()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_json(self.folder / "note.json", note)
            if sample:
                (self.folder / str(first)).write_bytes(sample)
            self._put(first + len(sample), _Answer(response, found.last))
        self.total, self.validator, self.kind = found.total, validator, kind

    def _bytes(self, position: int, end: int) -> Generator[bytes]:
        """Those from `position` up to `end`."""
        while position < end:
            piece = self._next(position, end)
            position += len(piece)
            yield piece

    def _next(self, position: int, end: int) -> bytes:
        """Some bytes from `position` on, not beyond `end`: those that are here, else such as come now and are kept.

        Raises:
            OSError: they do not come, or the server has another version now: then nothing is kept.
        """
        with self.lock:
            waits = [*WAITS]
            while not (piece := self._here(position, min(_CHUNK, end - position))):
                begun, problem = self._coming_at(position) is not None, None
                try:
                    came = self._receive(position, end)
                except Exception as error:  # of the library that asks: anything
                    came, problem = False, error
                if problem and (self.changed or self.refusal):
                    raise problem
                if came or begun:  # an answer that breaks off is continued at once
                    continue
                if not waits:
                    self.missing = position
                    raise problem or OSError("the connection broke")
                time.sleep(waits.pop(0))
            if self.missing is not None and position <= self.missing < position + len(piece):
                self.missing = None
        return piece

    def _runs(self) -> list[tuple[int, int]]:
        """First byte and number of bytes of what is here."""
        names = (path for path in self.folder.iterdir() if path.name.isdecimal())
        return sorted((int(path.name), path.stat().st_size) for path in names)

    def _here(self, position: int, most: int) -> bytes:
        """Bytes from `position` on, `most` at most, if they are here in one run."""
        for first, size in self._runs():
            if first <= position < first + size:
                with (self.folder / str(first)).open("rb") as file:
                    file.seek(position - first)
                    return file.read(most)
        return b""

    def _coming_at(self, position: int) -> int | None:
        """The next byte of an answer that will bring the one at `position` too."""
        return next((at for at, answer in self.coming.items() if at <= position <= answer.last), None)

    def _receive(self, position: int, end: int) -> bool:
        """Whether more bytes came, of an answer that brings or will bring the one at `position`; they are kept."""
        at = self._coming_at(position)
        if at is None:
            at, starts = position, [*self.coming, *(first for first, _ in self._runs())]
            later = [start for start in starts if start > position]
            answer = self._checked(self.ask(position, min(position + PIECE, end, *later) - 1), position)
        else:
            answer = self.coming.pop(at)
        piece = b""
        try:
            piece = answer.response.read(min(_CHUNK, answer.last + 1 - at))
            self._keep(at, piece)
        finally:
            if piece:
                self._put(at + len(piece), answer)
            else:
                answer.response.close()
        return bool(piece)

    def _put(self, position: int, answer: _Answer) -> None:
        """Leave an answer open whose next byte is at `position`, if there is one; close the oldest of too many."""
        if position > answer.last:
            answer.response.close()
            return
        self.coming[position] = answer
        while len(self.coming) > CONNECTIONS:
            self.coming.pop(next(iter(self.coming))).response.close()

    def _keep(self, position: int, piece: bytes) -> None:
        """Write bytes to the run that ends where they begin, or to a new one."""
        run = next((first for first, size in self._runs() if first + size == position), position)
        path = self.folder / str(run)
        path.touch()
        with path.open("r+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END) < position - run:
                raise OSError("somebody else has begun anew")
            file.seek(position - run)
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) or 0 :]

    def _checked(self, response: Response, position: int) -> _Answer:
        """An answer. Raises OSError unless it brings the bytes from `position` on of the version that is known."""
        found = content_range(response.headers)
        if (
            response.status == 206
            and found is not None
            and (found.first, found.total) == (position, self.total)
            and position <= found.last
            and (validator_of(response.headers) or "") == self.validator
        ):
            return _Answer(response, found.last)
        response.close()
        if response.status != 206:
            error = RefusedError(response)
            self.refusal = error if response.status < 500 else None
            raise error
        if found is None or not found.first == position <= found.last:
            raise OSError("the server sent another range than it was asked for")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.changed = True
        raise OSError("the connection broke: the file is another one now")


def _read(response: Response, count: int) -> bytes:
    """So many bytes. Raises OSError, and closes the answer, if fewer come."""
    got = b""
    try:
        while len(got) < count:
            piece = response.read(count - len(got))
            if not piece:
                raise OSError("the connection broke")
            got += piece
    except Exception:  # as above
        response.close()
        raise
    return got


def _nothing() -> Generator[bytes]:
    yield from ()
