"""A list of pieces (HLS) whose pieces are to come from elsewhere than it says.

A program that reads such a list asks for the pieces by itself. Here the list is read first, and gives its own places to the
pieces, where those that have come are kept (`avpipe.download.ranges`).
"""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from avpipe.download.ranges import RefusedError, Reply, Response

LONGEST = 1 << 23
"""Bytes of a list: ten hours in pieces of two seconds, with URLs of 400 letters."""
TYPE = "application/vnd.apple.mpegurl"
_URI = re.compile(r'(?<=URI=")[^"\r\n]+')


class Answer(Response, Protocol):
    """What a server says, redirects followed."""

    url: str


class Playlist:
    """A list, read anew whenever it is asked for.

    Args:
        ask: brings it.
        place: gives the URL at which something is served, told its own URL and whether it is a list itself.

    Attributes:
        changed, missing: never and nothing, for a list may change.
        refusal: what the server said when it did not want to give it.
    """

    changed, missing = False, None

    def __init__(self, ask: Callable[[], Answer], place: Callable[[str, bool], str]) -> None:
        self.ask, self.place = ask, place
        self.refusal: RefusedError | None = None

    def reply(self, first: int = 0, last: int | None = None) -> Reply:
        """The whole list, whichever bytes of it are asked for, as a server without ranges gives it."""
        response = self.ask()
        with contextlib.closing(response):
            self.refusal = RefusedError(response) if response.status >= 400 else None
            if response.status != 200:
                return Reply(response.status, response.reason, {}, _once(b""))
            text = b"".join(_limited(response)).decode("utf-8", "replace")
        body = "".join(self._lines(text, response.url)).encode()
        return Reply(200, "OK", {"Content-Type": TYPE, "Content-Length": str(len(body))}, _once(body))

    def close(self) -> None:
        """Nothing is left open."""

    def _lines(self, text: str, base: str) -> Iterator[str]:
        """Those of the list, with our places for URLs."""
        stream = False  # whether the next URL is that of a list
        for line in text.splitlines():
            if line.startswith("#"):
                stream = stream or line.startswith("#EXT-X-STREAM-INF")
                within = line.startswith(("#EXT-X-MEDIA:", "#EXT-X-I-FRAME-STREAM-INF"))
                found = _URI.search(line)
                if found:
                    placed = self._placed(found[0], base, within)
                    line = f"{line[: found.start()]}{placed}{line[found.end() :]}"
                yield line + "\n"
            elif line.strip():
                yield self._placed(line.strip(), base, stream) + "\n"
                stream = False

    def _placed(self, url: str, base: str, is_list: bool) -> str:
        """Our place for what a list calls `url`; as it is if that is nothing on the web: the program decides."""
        full = urllib.parse.urljoin(base, url)
        return self.place(full, is_list) if full.startswith(("http://", "https://")) else url


def _limited(response: Response) -> Iterator[bytes]:
    """The body. Raises OSError if it is too long."""
    left = LONGEST
    while piece := response.read(1 << 16):
        left -= len(piece)
        if left < 0:
            raise OSError(f"a list of pieces of more than {LONGEST >> 20} MiB")
        yield piece


def _once(body: bytes) -> Generator[bytes]:
    yield body
