"""The way that yt-dlp's downloads take through our relay, so that what has come of a video is kept."""

import hashlib
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Mapping
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
        for form in info.get("requested_formats") or [info]:
            protocol = form.get("protocol")
            if protocol in ("http", "https", "m3u8", "m3u8_native") and not any(map(form.get, _SPECIAL)):
                name, headers = str(form.get("format_id")), form.get("http_headers") or {}
                form["url"] = self._place(name, headers, form["url"], protocol.startswith("m3u8"))
                options = form.get("downloader_options") or {}
                own = [*options.get("ffmpeg_args", ()), "-http_proxy", self.relay]
                form["downloader_options"] = {**options, "ffmpeg_args": own}
        return [], info

    def _place(self, form: str, headers: Mapping[str, str], url: str, is_list: bool, group: str = "") -> str:
        """Where the relay serves what lies at `url` and belongs to a format, as a piece of its list or not."""
        with self.lock:
            if (form, url) in self.placed:
                return self.placed[form, url]
            path = f"/{len(self.placed)}{_suffix(url)}"
            ask = partial(self._ask, url, headers)
            if is_list:
                self.files[path] = Playlist(
                    ask, lambda part, lists: self._place(form, headers, part, lists, form)
                )
            elif self.kept is None:
                self.files[path] = Served(ask, group)
            else:
                last = urllib.parse.urlsplit(url).path.rpartition("/")[2] if group else ""
                name = hashlib.sha256(f"{form} {self.numbers[form]} {last}".encode()).hexdigest()[:16]
                self.files[path] = Ranges(self.kept / name, ask, group)
                self.numbers[form] += 1
            self.placed[form, url] = self.relay + path
            return self.placed[form, url]

    def _ask(self, url: str, headers: Mapping[str, str], wanted: Wanted) -> Any:
        """The site's answer, also if it says no."""
        from yt_dlp.networking import Request as Asked
        from yt_dlp.networking.exceptions import HTTPError

        sent = {**headers, "Accept-Encoding": "identity"}
        if wanted:
            first, last = wanted
            sent["Range"] = f"bytes={first}-{'' if last is None else last}"
        try:
            return self.urlopen(Asked(url, headers=sent))
        except HTTPError as error:
            return error.response


def _suffix(url: str) -> str:
    """What ffmpeg tells a piece's kind by: the letters after the path's last dot, or after the query's if these are of media."""
    in_path = re.search(r"\.[A-Za-z0-9]{1,5}$", urllib.parse.urlsplit(url).path)
    at_end = re.search(rf"\.(?:{_MEDIA})$", url)
    found = in_path if in_path and re.fullmatch(rf"\.(?:{_MEDIA})", in_path[0]) else at_end or in_path
    return found[0] if found else ""
