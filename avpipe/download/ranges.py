"""A file on the web of which only some bytes are wanted: those that have come are kept, and never asked for again.

Nobody knows beforehand which bytes of a video ffmpeg will read to cut some seconds out of it. It asks for them here
(`avpipe.download.relay` lets it), so that an excerpt which was interrupted goes on where it stood.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avpipe.files import write_json
from avpipe.http import Headers, content_range, retry_after, validator_of

PIECE = 1 << 20
"""Bytes that are asked for at a time, so that little is read ahead of need."""
WAITS = (1.0, 4.0)
"""Seconds before a piece that did not come is asked for again; after the last of them it has failed."""
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


class Ranges:
    """One version of a file, as far as it has come.

    Bytes that came in one run lie in a file that is called as the first of them is numbered; `note.json` says which
    version they are of. A server that does not send ranges, or an error, is passed on as it is, and nothing is kept. Of a
    server that does not tell versions apart, nothing is used that came before this process.

    Args:
        folder: of this file alone; it need not exist.
        ask: how bytes are asked for.

    Attributes:
        changed: the server had another version later on.
        refusal: what it said when it did not want to give bytes.
    """

    def __init__(self, folder: Path, ask: Ask) -> None:
        self.folder, self.ask, self.changed = folder, ask, False
        self.refusal: RefusedError | None = None
        self.total: int | None = None
        self.validator, self.kind = "", ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads((folder / "note.json").read_text(encoding="utf-8"))
            if note["validator"]:
                self.total, self.validator, self.kind = (
                    int(note["total"]),
                    str(note["validator"]),
                    str(note["content_type"]),
                )

    def reply(self, first: int) -> Reply:
        """To a request for the bytes from `first` to the end."""
        response = None
        if self.total is None:
            response = self.ask(first, first + PIECE - 1)
            if response.status != 206:
                self.refusal = RefusedError(response) if response.status >= 400 else None
                length = response.headers.get("Content-Length")
                said = {"Content-Length": str(length)} if length else {}
                return Reply(response.status, response.reason, said, _body(response))
            self._begin(response)
        assert self.total is not None
        if first >= self.total:
            return Reply(416, "Range Not Satisfiable", {"Content-Range": f"bytes */{self.total}"}, _nothing())
        said = {
            "Content-Range": f"bytes {first}-{self.total - 1}/{self.total}",
            "Content-Length": str(self.total - first),
            "Accept-Ranges": "bytes",
            "Content-Type": self.kind,
        }
        return Reply(206, "Partial Content", said, self._bytes(first, response))

    def _begin(self, response: Response) -> None:
        """Note which version it is; what may lie there is of an unknown one."""
        found = content_range(response.headers)
        if found is None or found.total is None:
            response.close()
            raise OSError("the server does not say how long the file is")
        self.total, self.validator = found.total, validator_of(response.headers) or ""
        self.kind = response.headers.get("Content-Type") or "application/octet-stream"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        note = {"total": self.total, "validator": self.validator, "content_type": self.kind}
        write_json(self.folder / "note.json", note)

    def _bytes(self, position: int, response: Response | None) -> Generator[bytes]:
        """Those from `position` on: what is here, then what must be asked for, and so on. `response` begins there."""
        assert self.total is not None
        while position < self.total:
            here = self._here(position) if response is None else b""
            for piece in [here] if here else self._receive(position, response):
                position += len(piece)
                yield piece
            response = None

    def _runs(self) -> list[tuple[int, int]]:
        """First byte and number of bytes of what is here."""
        names = (path for path in self.folder.iterdir() if path.name.isdecimal())
        return sorted((int(path.name), path.stat().st_size) for path in names)

    def _here(self, position: int) -> bytes:
        """Some bytes from `position` on, if they are here."""
        for first, size in self._runs():
            if first <= position < first + size:
                with (self.folder / str(first)).open("rb") as file:
                    file.seek(position - first)
                    return file.read(_CHUNK)
        return b""

    def _receive(self, position: int, response: Response | None) -> Generator[bytes]:
        """Bytes from `position` to where others are here already, kept as they come; asked for again if they do not.

        Raises:
            OSError: they do not come, or the server has another version now: then nothing is kept.
        """
        assert self.total is not None
        runs = self._runs()
        last = min(
            first - 1 for first in (*(r for r, _ in runs if r > position), position + PIECE, self.total)
        )
        waits = [*WAITS]
        while position <= last:
            before = position
            try:
                for piece in self._attempt(position, last, response):
                    position += len(piece)
                    yield piece
            except Exception:  # of the library that asks: anything
                if self.changed or self.refusal or (position == before and not waits):
                    raise
            else:
                if position == before and not waits:
                    raise OSError("the connection broke")
            response = None
            if position > before:
                waits = [*WAITS]
            elif waits:
                time.sleep(waits.pop(0))

    def _attempt(self, position: int, last: int, response: Response | None) -> Generator[bytes]:
        """The same, asked for once; fewer if the connection breaks."""
        if response is None:
            response = self.ask(position, last)
        with contextlib.closing(response):
            self._check(response, position)
            run = next((first for first, size in self._runs() if first + size == position), position)
            path = self.folder / str(run)
            path.touch()
            # Two connections may be at the same place: they write the same bytes to it.
            with path.open("r+b", buffering=0) as file:
                if file.seek(0, os.SEEK_END) < position - run:
                    raise OSError("somebody else has begun anew")
                file.seek(position - run)
                while position <= last and (piece := response.read(min(_CHUNK, last + 1 - position))):
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[file.write(rest) or 0 :]
                    position += len(piece)
                    yield piece

    def _check(self, response: Response, position: int) -> None:
        """Raise OSError unless it brings the bytes from `position` on of the version that is known."""
        if response.status != 206:
            error = RefusedError(response)
            self.refusal = error if response.status < 500 else None
            raise error
        found = content_range(response.headers)
        validator = validator_of(response.headers) or ""
        if found is None or found.first != position:
            raise OSError("the server sent another range than it was asked for")
        if found.total != self.total or validator != self.validator:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.changed = True
            raise OSError("the connection broke: the file is another one now")


def _body(response: Response) -> Generator[bytes]:
    with contextlib.closing(response):
        while piece := response.read(_CHUNK):
            yield piece


def _nothing() -> Generator[bytes]:
    yield from ()
