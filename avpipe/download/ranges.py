"""A file on the web of which only some bytes are wanted: those that have come are kept, and never asked for again.

Nobody knows beforehand which bytes of a video ffmpeg will read to cut some seconds out of it. It asks for them here
(`avpipe.download.relay` lets it), so that an excerpt which was interrupted goes on where it stood.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from avpipe.files import write_json
from avpipe.http import Headers, content_range, retry_after, validator_of

PIECE = 1 << 20
"""Bytes that are asked for at a time, so that little is read ahead of need."""
SAMPLE = 1 << 16
"""Bytes that are asked for a second time where a server does not say which version of a file it sends."""
WAITS = (1.0, 4.0)
"""Seconds before bytes that did not come are asked for again; after the last of them they are missing."""
CONNECTIONS = 4
"""Answers that stay open although nobody reads them on: a program often comes back to where it was."""
_CHUNK = 1 << 14
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
"""Errors of this machine's disk: the server need not be asked again."""
_NO_RANGES = (400, 403, 405, 500, 501)
"""Answers of servers that do not understand what bytes are asked for; without that they may give the file."""


class Response(Protocol):
    """What a server answers; its body may have been decoded."""

    status: int
    reason: str
    headers: Headers

    def read(self, amount: int) -> bytes:
        """The next bytes of the body, b"" at its end."""

    def close(self) -> None:
        """No more is wanted."""


Wanted = tuple[int, int | None] | None
"""Bytes from the first to the last, which is included, or to the end; None: the whole file, with no word of bytes."""
Ask = Callable[[Wanted], Response]
"""Asks a server; raises whatever the network does."""


class RefusedError(OSError):
    """A server said no.

    Args:
        response: its answer.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(f"HTTP Error {response.status}: {response.reason}")
        self.code, self.wait = response.status, retry_after(response.headers.get("Retry-After"))


@dataclass(frozen=True)
class Reply:
    """What to tell a program that asked for a file or some of its bytes: an HTTP status, its headers, the body as it comes."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Generator[bytes] = field(default_factory=lambda: once(b""))


class Served:
    """A file that is served as the site's answers come; nothing is kept.

    Args:
        ask: how it is asked for.
        group: of which list it is a piece; "" = of none.

    Attributes:
        missing: numbers of bytes that did not come, nor later; and what the server said if it did not want to give them.
        given: whether some bytes were given to somebody.
        unfit: the server's answers cannot be put together, for they are of two versions, or not what was asked for.
    """

    def __init__(self, ask: Ask, group: str = "") -> None:
        self.ask, self.group = ask, group
        self.missing: dict[int, RefusedError | None] = {}
        self.given, self.unfit = False, False

    def reply(self, first: int | None = None, last: int | None = None) -> Reply:
        """To a request for the bytes from `first` to `last`, which is included, or to the end; None = for the file."""
        try:
            return self._reply(first, last)
        except Exception:  # of the library that asks: anything
            self._lacks(first or 0)
            raise

    def _reply(self, first: int | None, last: int | None) -> Reply:
        return self._passed(self.ask(None if first is None else (first, last)), first or 0)

    def _passed(self, response: Response, wanted: int) -> Reply:
        """A server's answer as it comes, to a request for the bytes from `wanted` on."""
        said, begin, end = {}, 0, None
        length = None if is_encoded(response) else response.headers.get("Content-Length")
        if length:
            said["Content-Length"], end = str(length), int(length)
        found = content_range(response.headers) if response.status == 206 else None
        if found is not None:
            said["Content-Range"] = str(response.headers.get("Content-Range"))
            begin, end = found.first, None if is_encoded(response) else found.last + 1
        if response.status >= 400 and response.status != 416:  # that is an answer, and no refusal
            self._lacks(wanted, RefusedError(response))
        return Reply(response.status, response.reason, said, self._as_it_comes(response, begin, end))

    def _as_it_comes(self, response: Response, position: int, end: int | None) -> Generator[bytes]:
        try:
            with contextlib.closing(response):
                while piece := response.read(_CHUNK):
                    if response.status < 400:
                        self._gives(position, piece)
                    position += len(piece)
                    yield piece
            if end is not None and position < end:
                raise OSError("the connection broke")
        except Exception:  # as above
            self._lacks(position)
            raise

    def _lacks(self, position: int, refusal: RefusedError | None = None) -> None:
        self.missing[position] = refusal or self.missing.get(position)

    def _gives(self, position: int, piece: bytes) -> None:
        self.given = True
        for lacking in [each for each in self.missing if position <= each < position + len(piece)]:
            del self.missing[lacking]


@dataclass
class _Answer:
    """What a server is sending; the numbers of its first and last byte."""

    response: Response
    first: int
    last: int


class Ranges(Served):
    """One version of a file, as far as it has come.

    Bytes that came in one run lie in a file that is called as the first of them is numbered; `note.json` says which
    version they are of. The file of a server that does not send ranges is passed on as it comes. Where a server does not tell
    versions apart for certain, by a strong ETag, what came before this process is used if the file still has the same length,
    type and time, and the same bytes in a sample.

    Args:
        folder: of this file alone; it need not exist.
        ask: how bytes are asked for.
        group: of a piece the server is asked which version it is even if it is here: of a list that is another one now, some
            pieces may be here and some may not.
    """

    def __init__(self, folder: Path, ask: Ask, group: str = "") -> None:
        super().__init__(ask, group)
        self.folder = folder
        # A program may read a file over several connections at once; they share the site's answers.
        self.lock = threading.Lock()
        self.coming: dict[int, _Answer] = {}  # by the number of their next byte
        self.breaks = 0
        self.total: int | None = None
        self.validator, self.kind = "", ""
        note = self._note()
        if note and _certain(note["validator"]) and not group:
            self.total, self.validator, self.kind = note["total"], note["validator"], note["content_type"]

    def _reply(self, first: int | None, last: int | None) -> Reply:
        begin = first or 0
        with self.lock:
            if self.total is None:
                response = self._begun(begin, whole=first is None)
                if first is None and response is not None and response.status in _NO_RANGES:
                    response.close()
                    response = self.ask(None)
                if response is not None:
                    return self._passed(response, begin)
        assert self.total is not None
        if first is None:
            said = {"Content-Length": str(self.total), "Accept-Ranges": "bytes", "Content-Type": self.kind}
            return Reply(200, "OK", said, self._bytes(0, self.total, self.total))
        if first >= self.total:
            return Reply(416, "Range Not Satisfiable", {"Content-Range": f"bytes */{self.total}"})
        end = self.total if last is None else min(last + 1, self.total)
        said = {
            "Content-Range": f"bytes {first}-{end - 1}/{self.total}",
            "Content-Length": str(end - first),
            "Accept-Ranges": "bytes",
            "Content-Type": self.kind,
        }
        return Reply(206, "Partial Content", said, self._bytes(first, end, PIECE))

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

    def _begun(self, first: int, *, whole: bool) -> Response | None:
        """Ask for the first time: note which version it is, and whether what lies here is of it.

        Args:
            first: the first byte that is wanted.
            whole: all after it are, too.

        Returns:
            The answer if it brings no range; else it is read on when its bytes are wanted.
        """
        before = self._note()
        count = PIECE if before is None else 1 if _certain(before["validator"]) else SAMPLE
        response = self.ask((first, None if whole and before is None else first + count - 1))
        if response.status not in (206, 416):
            return response
        found = content_range(response.headers)
        if found is None or found.total is None or not _fits(response, first):
            self._is_unfit(
                response, "the server does not say how long the file is, or sent what it was not asked for"
            )
        kind = response.headers.get("Content-Type") or "application/octet-stream"
        validator = validator_of(response.headers) or ""
        note = {"total": found.total, "validator": validator, "content_type": kind}
        same, sample = before == note, b""
        if same and not _certain(validator):
            proof = min(SAMPLE, found.total - first)
            sample = _read(response, min(proof, found.last + 1 - first))
            same = len(sample) >= proof and sample == self._here(first, len(sample))
        if not same:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_json(self.folder / "note.json", note)
        if sample and not same:
            self._keep(first, sample)
        if same and self._here(first, 1):
            response.close()
        else:
            self._put(first + len(sample), _Answer(response, first, found.last))
        self.total, self.validator, self.kind = found.total, validator, kind
        return None

    def _bytes(self, position: int, end: int, most: int) -> Generator[bytes]:
        """Those from `position` up to `end`, asked for `most` at a time."""
        while position < end:
            piece = self._next(position, end, most)
            self._gives(position, piece)
            position += len(piece)
            yield piece

    def _next(self, position: int, end: int, most: int) -> bytes:
        """Some bytes from `position` on, not beyond `end`: those that are here, else such as come now and are kept.

        Raises:
            OSError: they do not come, or the server's answers do not fit together: then nothing is kept.
        """
        with self.lock:
            while not (piece := self._here(position, min(_CHUNK, end - position))):
                came, problem = False, OSError("the connection broke")
                try:
                    came = self._receive(position, min(position + most, end))
                except Exception as error:  # of the library that asks: anything
                    problem = error if isinstance(error, OSError) else OSError(str(error))
                if came:
                    continue
                refusal = problem if isinstance(problem, RefusedError) else None
                final = self.unfit or problem.errno in _OURS or (refusal and refusal.code < 500)
                if final or self.breaks == len(WAITS):
                    self.breaks = 0
                    self._lacks(position, refusal)
                    raise problem
                while self.coming:  # it may be that the site allows one connection only
                    self.coming.popitem()[1].response.close()
                time.sleep(WAITS[self.breaks])
                self.breaks += 1
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
            response = self.ask((position, min(end, *later) - 1 if later else end - 1))
            answer = _Answer(response, position, self._checked(response, position))
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
        if position > answer.last or position >= answer.first + SAMPLE:
            self.breaks = 0
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

    def _checked(self, response: Response, position: int) -> int:
        """The last byte that an answer brings. Raises OSError unless it brings those from `position` on of the known version."""
        if response.status >= 400 and response.status != 416:
            response.close()
            raise RefusedError(response)
        found = content_range(response.headers)
        if found is None or not _fits(response, position):
            self._is_unfit(response, "the server sent what it was not asked for")
        if found.total != self.total or (validator_of(response.headers) or "") != self.validator:
            self._is_unfit(response, "the connection broke: the file is another one now")
        return found.last

    def _is_unfit(self, response: Response, why: str) -> NoReturn:
        response.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.unfit = True
        raise OSError(why)


def once(body: bytes) -> Generator[bytes]:
    """A body that is here."""
    yield body


def is_encoded(response: Response) -> bool:
    """Whether the bytes of the body are others than those that the server counts."""
    return (response.headers.get("Content-Encoding") or "identity").lower() != "identity"


def _certain(validator: str) -> bool:
    """Whether it is of one version only: an ETag is, a time may be that of many."""
    return validator.startswith('"')


def _fits(response: Response, position: int) -> bool:
    """Whether an answer brings the bytes from `position` on, as they are."""
    found = content_range(response.headers)
    return (
        response.status == 206
        and found is not None
        and found.first == position <= found.last
        and (found.total is None or found.last < found.total)
        and not is_encoded(response)
    )


def _read(response: Response, count: int) -> bytes:
    """So many bytes. Raises OSError, and closes the answer, if fewer come."""
    got = b""
    try:
        while len(got) < count:
            piece = response.read(count - len(got))
            if not piece:
                raise OSError("the connection broke")
            got += piece
    except Exception:  # of the library that asks: anything
        response.close()
        raise
    return got
