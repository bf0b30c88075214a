"""A list of pieces (HLS) whose pieces are to come from elsewhere than it says.

A program that reads such a list asks for the pieces by itself. Here the list is read first, and gives its own places to the
pieces, where those that have come are kept (`avpipe.download.ranges`).
"""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Protocol

from avpipe.download.ranges import Reply, Response, Served, Wanted, once

LONGEST = 1 << 23
"""Bytes of a list: ten hours in pieces of two seconds, with URLs of 400 letters."""
TYPE = "application/vnd.apple.mpegurl"
_URI = re.compile(r'(?<=URI=")[^"\r\n]+')


class Answer(Response, Protocol):
    """What a server says, redirects followed."""

    url: str


class Playlist(Served):
    """A list, read anew whenever it is asked for.

    Args:
        ask: brings it.
        place: gives the URL at which something is served, told its own URL and whether it is a list itself.
    """

    def __init__(self, ask: Callable[[Wanted], Answer], place: Callable[[str, bool], str]) -> None:
        super().__init__(ask)
        self.ask: Callable[[Wanted], Answer] = ask
        self.place = place

    def _reply(self, first: int | None, last: int | None) -> Reply:
        """The whole list, whichever bytes of it are asked for, as a server without ranges gives it."""
        response = self.ask(None)
        if response.status != 200:
            return self._passed(response, 0)
        with contextlib.closing(response):
            text = b"".join(_limited(response)).decode("utf-8", "replace")
            body = "".join(self._lines(text, response.url)).encode()
        self._gives(0, body)
        return Reply(200, "OK", {"Content-Type": TYPE, "Content-Length": str(len(body))}, once(body))

    def _lines(self, text: str, base: str) -> Iterator[str]:
        """Those of the list, with our places for URLs."""
        is_list = False  # whether the next URL is that of a list
        for line in re.split(r"\r\n|\r|\n|\0", text):
            words = " ".join(line.strip().splitlines())  # yt-dlp ends lines at more characters than ffmpeg
            if words.startswith("#"):
                is_list = is_list or words.startswith("#EXT-X-STREAM-INF")
                within = words.startswith(("#EXT-X-MEDIA:", "#EXT-X-I-FRAME-STREAM-INF"))
                found = _URI.search(words)
                if found:
                    placed = self._placed(found[0], base, within)
                    words = f"{words[: found.start()]}{placed}{words[found.end() :]}"
                yield words + "\n"
            elif words:
                yield self._placed(words, base, is_list) + "\n"
                is_list = False

    def _placed(self, url: str, base: str, is_list: bool) -> str:
        """Our place for what a list calls `url`; as it is if that is nothing on the web: the program decides."""
        try:
            full = urllib.parse.urljoin(base, url)
        except ValueError:
            return url
        return self.place(full, is_list) if full.lower().startswith(("http://", "https://")) else url


def _limited(response: Response) -> Iterator[bytes]:
    """The body. Raises OSError if it is too long."""
    left = LONGEST
    while piece := response.read(1 << 16):
        left -= len(piece)
        if left < 0:
            raise OSError(f"a list of pieces of more than {LONGEST >> 20} MiB")
        yield piece
