"""The way that yt-dlp's downloads take through our relay, so that what has come of a video is kept."""

import hashlib
import math
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avpipe.download.playlist import Playlist
from avpipe.download.ranges import Ranges, Served, Wanted

_SPECIAL = (
    "extra_param_to_segment_url",
    "extra_param_to_key_url",
    "hls_aes",
    "hls_media_playlist_data",
    "request_data",
    "impersonate",
)
"""What an extractor says of files that must be asked for in its own way; these do not go through the relay."""
_CLOSED = re.compile(r"Connection aborted|closed connection")
"""What is said when a connection that was kept open is used, and the site has closed it by now."""
_MEDIA = "m3u8|ts|mp4|m4s|m4a|m4v|aac|mp3|webm|cmfv|cmfa|vtt"
"""Suffixes of HLS pieces, of which ffmpeg wants one."""


class Detour:
    """Lets ffmpeg, and yt-dlp itself, ask the relay for a video's files, or for a list of its pieces and for these.

    A post-processor of yt-dlp's, by its methods alone: the library is not imported with this module.

    Args:
        session: yt-dlp's, which asks the site, with its cookies, headers and proxy.
        relay: URL of the relay.
        files: what the relay serves.
        kept: folder of what has come, a folder in it for each file of each format; None: nothing is kept.
    """

    def __init__(self, session: Any, relay: str, files: dict[str, Served], kept: Path | None) -> None:
        self.relay, self.files, self.kept = relay, files, kept
        self.placed: dict[tuple[str, str], str] = {}
        self.numbers: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.urlopen = session.urlopen
        session.urlopen = self._urlopen

    def _urlopen(self, asked: Any) -> Any:
        """The session's own; for the relay without a proxy."""
        if getattr(asked, "url", "").startswith(f"{self.relay}/"):
            asked.proxies = {"all": None}
        return self.urlopen(asked)

    def set_downloader(self, _: Any) -> None:
        """Nothing to set."""

    def run(self, info: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """What is to be deleted (nothing), and the video as it is to be downloaded."""
        forms = info.get("requested_formats") or [info]
        section = {name: info.get(name) for name in ("section_start", "section_end")}
        for form in forms:
            if any(map(form.get, _SPECIAL)):
                continue
            protocol = form.get("protocol")
            name, headers = str(form.get("format_id")), form.get("http_headers") or {}
            if protocol in ("http", "https"):
                form["url"] = self._file(name, headers, form["url"])
            elif protocol in ("m3u8", "m3u8_native"):
                form["url"] = self._list(name, headers, form["url"])
            elif _is_in_pieces(form):
                self._pieces(name, headers, form, section)
                continue
            options = form.get("downloader_options") or {}
            own = [*options.get("ffmpeg_args", ()), "-http_proxy", self.relay]
            form["downloader_options"] = {**options, "ffmpeg_args": own}
        if any(map(_is_in_pieces, forms)):
            # What is left is the section; told of one, yt-dlp would let ffmpeg read the manifest.
            for form in forms:
                form.update(dict.fromkeys(section) if _is_in_pieces(form) else section)
            info.update(dict.fromkeys(section))
        return [], info

    def _file(self, form: str, headers: Mapping[str, str], url: str, group: str = "") -> str:
        """Where the relay serves a file of a format, which may be a piece of a list."""
        ask = partial(self._ask, url, headers)
        last = urllib.parse.urlsplit(url).path.rpartition("/")[2] if group else ""
        return self._place(form, url, lambda: self._kept(form, ask, group, last))

    def _list(self, form: str, headers: Mapping[str, str], url: str) -> str:
        """Where it serves a list (HLS) that belongs to a format."""

        def place(part: str, is_list: bool) -> str:
            return self._list(form, headers, part) if is_list else self._file(form, headers, part, form)

        ask = partial(self._ask, url, headers)
        return self._place(form, url, lambda: Playlist(ask, place))

    def _pieces(
        self, name: str, headers: Mapping[str, str], form: dict[str, Any], section: Mapping[str, float | None]
    ) -> None:
        """Leave of the pieces that a manifest (DASH) names those of a section, and tell where the relay serves them."""
        pieces = _within(form["fragments"], section["section_start"] or 0, section["section_end"] or math.inf)
        urls = [_url(piece, form) for piece in pieces]
        form["fragments"] = [
            {**piece, "url": self._file(name, headers, url, name)}
            for piece, url in zip(pieces, urls, strict=True)
        ]

    def _place(self, form: str, url: str, serve: Callable[[], Served]) -> str:
        """Where the relay serves what lies at `url` and belongs to a format."""
        with self.lock:
            if (form, url) not in self.placed:
                path = f"/{len(self.placed)}{_suffix(url)}"
                self.files[path] = serve()
                self.placed[form, url] = self.relay + path
            return self.placed[form, url]

    def _kept(self, form: str, ask: Callable[[Wanted], Any], group: str, last: str) -> Served:
        """A file of which what comes is kept, if anything is."""
        if self.kept is None:
            return Served(ask, group)
        name = hashlib.sha256(f"{form} {self.numbers[form]} {last}".encode()).hexdigest()[:16]
        self.numbers[form] += 1
        return Ranges(self.kept / name, ask, group)

    def _ask(self, url: str, headers: Mapping[str, str], wanted: Wanted) -> Any:
        """The site's answer, also if it says no."""
        from yt_dlp.networking import Request as Asked
        from yt_dlp.networking.exceptions import HTTPError, TransportError

        sent = {**headers, "Accept-Encoding": "identity"}
        if wanted:
            first, last = wanted
            sent["Range"] = f"bytes={first}-{'' if last is None else last}"

        def ask() -> Any:
            try:
                return self.urlopen(Asked(url, headers=sent))
            except HTTPError as error:
                return error.response

        try:
            return ask()
        except TransportError as error:
            if not _CLOSED.search(str(error)):
                raise
            return ask()


def _is_in_pieces(form: Mapping[str, Any]) -> bool:
    """Whether a manifest (DASH) names all pieces of a format, each of them a file: of parts of files yt-dlp loses which."""
    pieces = form.get("fragments")
    if form.get("protocol") != "http_dash_segments" or not isinstance(pieces, list):
        return False
    return len({_url(piece, form) for piece in pieces}) == len(pieces) and not any(map(form.get, _SPECIAL))


def _url(piece: Mapping[str, Any], form: Mapping[str, Any]) -> str:
    return str(piece.get("url") or urllib.parse.urljoin(form["fragment_base_url"], piece["path"]))


def _within(pieces: Sequence[dict[str, Any]], start: float, end: float) -> Sequence[dict[str, Any]]:
    """The pieces that hold something of the seconds from `start` to `end`, and what they all begin with; all if times are missing."""
    if not all(piece.get("duration") for piece in pieces[1:]):
        return pieces
    kept, at = [], 0.0
    for piece in pieces:
        seconds = piece.get("duration") or 0.0
        if not seconds or (at < end and at + seconds > start):
            kept.append(piece)
        at += seconds
    return kept


def _suffix(url: str) -> str:
    """What ffmpeg tells a piece's kind by: the letters after the path's last dot, or after the query's if these are of media."""
    in_path = re.search(r"\.[A-Za-z0-9]{1,5}$", urllib.parse.urlsplit(url).path)
    at_end = re.search(rf"\.(?:{_MEDIA})$", url)
    found = in_path if in_path and re.fullmatch(rf"\.(?:{_MEDIA})", in_path[0]) else at_end or in_path
    return found[0] if found else ""
