"""The way that yt-dlp's downloads take through our relay, so that what has come of a video is kept."""

import hashlib
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avpipe.download.playlist import Playlist, Written
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
_FILES = ("http", "https")
_LISTS = ("m3u8", "m3u8_native")
"""What yt-dlp calls the ways in which a video comes."""
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
        begins: tells at which second what lies at a URL begins; None if nobody knows.
    """

    def __init__(
        self,
        session: Any,
        relay: str,
        files: dict[str, Served],
        kept: Path | None,
        begins: Callable[[str], float | None],
    ) -> None:
        self.relay, self.files, self.kept, self.begins = relay, files, kept, begins
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
        forms = [form for form in info.get("requested_formats") or [info] if self._is_placed(form)]
        for form in forms:
            self._tell_ffmpeg(form, "-http_proxy", self.relay)
        in_lists = all(form["protocol"] not in _FILES for form in forms)
        if len(forms) == 2 and in_lists and (info.get("section_start") or info.get("section_end")):
            self._keep_apart(*forms)
        return [], info

    def _is_placed(self, form: dict[str, Any]) -> bool:
        """Whether the relay serves a format, which then names the places at the relay."""
        if any(map(form.get, _SPECIAL)):
            return False
        protocol, name, headers = form.get("protocol"), _name(form), form.get("http_headers") or {}
        if protocol in _FILES:
            form["url"] = self._file(name, headers, form["url"])
        elif protocol in _LISTS:
            form["url"] = self._list(name, headers, form["url"])
        elif protocol == "http_dash_segments" and _has_times(form.get("fragments")):
            self._pieces(form)
        else:
            return False
        return True

    def _keep_apart(self, pictures: dict[str, Any], sound: dict[str, Any]) -> None:
        """Make the sound begin as long before or after the pictures as it does there: ffmpeg lets each list begin at 0."""
        seen, heard = self.begins(pictures["url"]), self.begins(sound["url"])
        if seen is not None and heard is not None:
            self._tell_ffmpeg(sound, "-itsoffset", f"{heard - seen:.6f}")

    def _tell_ffmpeg(self, form: dict[str, Any], *arguments: str) -> None:
        options = form.get("downloader_options") or {}
        form["downloader_options"] = {**options, "ffmpeg_args": [*options.get("ffmpeg_args", ()), *arguments]}

    def _file(
        self, form: str, headers: Mapping[str, str], url: str, group: str = "", suffix: str | None = None
    ) -> str:
        """Where the relay serves a file of a format, which may be a piece of a list."""
        ask = partial(self._ask, url, headers)
        last = urllib.parse.urlsplit(url).path.rpartition("/")[2] if group else ""
        return self._place(
            form, url, _suffix(url) if suffix is None else suffix, lambda: self._kept(form, ask, group, last)
        )

    def _list(self, form: str, headers: Mapping[str, str], url: str) -> str:
        """Where it serves a list (HLS) that belongs to a format."""

        def place(part: str, is_list: bool) -> str:
            return self._list(form, headers, part) if is_list else self._file(form, headers, part, form)

        ask = partial(self._ask, url, headers)
        return self._place(form, url, _suffix(url), lambda: Playlist(ask, place))

    def _pieces(self, form: dict[str, Any]) -> None:
        """Places for the pieces that a manifest (DASH) names, and a list of them for ffmpeg in the manifest's place."""
        name, headers = _name(form), form.get("http_headers") or {}
        suffix = ".mkv" if form.get("ext") == "webm" else ".mp4"  # ffmpeg opens no other in a list
        pieces = []
        for piece in form["fragments"]:
            url = piece.get("url") or urllib.parse.urljoin(form["fragment_base_url"], piece["path"])
            pieces.append({**piece, "url": self._file(name, headers, url, name, suffix)})
        times = [(piece["url"], piece.get("duration")) for piece in pieces]
        place = self._place(name, form["url"], ".m3u8", lambda: Written(times))
        form.update({"fragments": pieces, "url": place, "manifest_stream_number": 0})

    def _place(self, form: str, url: str, suffix: str, serve: Callable[[], Served]) -> str:
        """Where the relay serves what lies at `url` and belongs to a format."""
        with self.lock:
            if (form, url) not in self.placed:
                path = f"/{len(self.placed)}{suffix}"
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
        except TransportError:  # as of a connection that was kept open, and that the site has closed by now
            return ask()


def _name(form: Mapping[str, Any]) -> str:
    return str(form.get("format_id"))


def _has_times(pieces: Any) -> bool:
    """Whether these are all pieces of a video, not a stream's that go on, and it is known how long each lasts.

    The first one may be what the others begin with.
    """
    listed = isinstance(pieces, Sequence) and not isinstance(pieces, str) and len(pieces) > 1
    return listed and all(piece.get("duration") for piece in pieces[1:])


def _suffix(url: str) -> str:
    """What ffmpeg tells a piece's kind by: the letters after the path's last dot, or after the query's if these are of media."""
    in_path = re.search(r"\.[A-Za-z0-9]{1,5}$", urllib.parse.urlsplit(url).path)
    at_end = re.search(rf"\.(?:{_MEDIA})$", url)
    found = in_path if in_path and re.fullmatch(rf"\.(?:{_MEDIA})", in_path[0]) else at_end or in_path
    return found[0] if found else ""
