"""yt-dlp in a process of its own, for one clip: a request in JSON in, an answer in JSON out.

A process can be stopped with everything it started, and its memory and files are bounded whatever a site sends. In it
yt-dlp is called as a library, which takes the URL as data and not as a part of a command line.
"""

import contextlib
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from avpipe.web import addresses_of, is_public, retry_after

MEMORY = 4 << 30
"""Bytes of data that yt-dlp, its ffmpeg and its JavaScript runtime may each have (Linux)."""
LOOK = 0.1
"""Seconds between looks at whether the process has ended."""
WORDS = 4
"""Lines of a log, and warnings, that are kept."""
ROUNDING = 0.05
"""Seconds by which the video or the audio of an excerpt may end early; likewise."""
LATE = 0.5
"""Seconds by which the video or the audio of an excerpt may begin late; if it is more, the whole video is downloaded."""
NAME = "clip"
"""Name of the file, so that nothing of the site is in it."""
ANSWER = "answer.json"

# Repeats wait longer each time. Holes are errors. Nothing is read from the user's configuration of yt-dlp.
MANNERS = [
    "--retries=3",
    "--fragment-retries=3",
    "--extractor-retries=2",
    "--file-access-retries=0",
    "--socket-timeout=30",
    "--retry-sleep=http:exp=1:30",
    "--retry-sleep=fragment:exp=1:30",
    "--retry-sleep=extractor:exp=1:30",
    "--abort-on-error",
    "--abort-on-unavailable-fragments",
    "--downloader=m3u8:native",
    "--fixup=never",
    "--ignore-config",
    "--no-plugin-dirs",
    "--no-update",
    "--no-mtime",
    "--no-overwrites",
    "--no-continue",
]
# The times of an excerpt are those of the video, so that its first one is its offset; and merging does not shift the audio.
TIMES = (
    "--postprocessor-args=Merger+ffmpeg_o:-copyts",
    "--downloader-args=ffmpeg_o:-copyts -start_at_zero -fflags +bitexact -nostats -loglevel warning",
    # Microseconds that ffmpeg waits for a byte, and what it may open. A file only if its command line names it.
    "--downloader-args=ffmpeg_i:-rw_timeout 60000000 -protocol_whitelist http,https,httpproxy,tls,tcp,crypto,data",
)
_HOLE = re.compile(
    r"prematurely|partial file|Error during demuxing|Connection (?:reset|timed out)|Input/output error"
    r"|Failed to open|HTTP error (?!416)[45]"
)
"""What ffmpeg says when a connection breaks or a piece of a video is not there. It continues, and ends without an error."""


@dataclass(frozen=True)
class Request:
    """What to download.

    Args:
        url: the clip's page.
        folder: where files go; exists, is empty, and belongs to this request.
        start, end: seconds of the video that are wanted, None = from its beginning, to its end.
        options: of yt-dlp, beyond those that are always given.
        extractors: regular expressions of the extractors that may be used.
        ffmpeg: path of the program.
        largest: bytes of the largest file.
        guarded: refuse to connect to addresses of the private network.
        trusted: addresses that are connected to all the same, those that the configuration leads to.
    """

    url: str
    folder: str
    start: float | None
    end: float | None
    options: Sequence[str]
    extractors: Sequence[str]
    ffmpeg: str
    largest: int
    guarded: bool
    trusted: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Args:
        path: the file, or None where there is none.
        offset: seconds of the video at which the file begins.
        messages: why there is no file: yt-dlp's error, then ffmpeg's.
        warnings: of yt-dlp.
        wait: the site's Retry-After in seconds, if it sent one.
    """

    path: str | None = None
    offset: float = 0.0
    messages: Sequence[str] = ()
    warnings: Sequence[str] = ()
    wait: float | None = None


def ask(request: Request, timeout: float, stopped: threading.Event) -> Answer:
    """Run yt-dlp in a process of its own.

    Args:
        request: what to download.
        timeout: seconds.
        stopped: set from elsewhere to end at once.

    Raises:
        TimeoutError: it was ended after `timeout` seconds.
        CancelledError: it was ended because of `stopped`.
    """
    folder = Path(request.folder)
    (folder / "bin").mkdir()  # yt-dlp looks for a program of this name, not for a path
    (folder / "bin" / "ffmpeg").symlink_to(request.ffmpeg)
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    deadline = time.monotonic() + timeout
    with (folder / "log").open("a+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "avpipe.download.ytdlp"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,
        )
        assert process.stdin is not None
        with process:
            try:
                # The pipe stays open as long as we live: when it closes, the process ends itself.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
                while process.poll() is None:
                    if stopped.wait(LOOK):
                        raise CancelledError
                    if time.monotonic() > deadline:
                        raise TimeoutError
            finally:
                with contextlib.suppress(ProcessLookupError):  # with all it started
                    os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        words = _last_words(log.read().decode("utf-8", "replace"))
    answer = Answer(messages=(f"yt-dlp ended with status {process.returncode}",))
    if process.returncode == 0:
        answer = Answer(**json.loads((folder / ANSWER).read_text(encoding="utf-8")))
    return answer if answer.path else replace(answer, messages=(*answer.messages, *words))


def _last_words(log: str) -> list[str]:
    """What ffmpeg, or Python, complained about: the lines about a hole if there are any, else the last ones."""
    lines = [re.sub(r" @ 0x[0-9a-f]+", "", line.strip())[:200] for line in log.splitlines() if line.strip()]
    return ([line for line in lines if _HOLE.search(line)] or lines)[-WORDS:]


def main() -> None:
    """Read a request from the standard input, download the file, write the answer into the request's folder."""
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.largest, request.largest))
    if sys.platform == "linux":  # not the address space: JavaScript runtimes reserve more of it than they use
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    if request.guarded:
        sys.addaudithook(_Guard(request.trusted))
    answer = json.dumps(asdict(_bring(request)))
    (Path(request.folder) / ANSWER).write_text(answer, encoding="utf-8")


def _end_with_parent() -> None:
    """Wait until the standard input closes, which is when the process that asked is gone; then end all we started."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _bring(request: Request) -> Answer:
    """Download the excerpt; or the whole video if no seconds are given, or if the excerpt does not have all of them.

    Some servers cannot start in the middle, and some manifests give wrong times. In a whole video yt-dlp itself notices
    what is missing.
    """
    if request.start or request.end is not None:
        span = (request.start or 0.0, math.inf if request.end is None else request.end)
        answer, duration = _run(request, span)
        times = _times(answer.path) if answer.path else None
        end = min(span[1], math.inf if duration is None else duration - 1) - ROUNDING  # sites round it
        if times and times.begin <= span[0] + LATE and (times.end >= end or end == math.inf):
            return replace(answer, offset=times.start)
        if answer.path:
            Path(answer.path).unlink()
        elif "not in allowed_" not in _log():  # ffmpeg refuses pieces (HLS) with odd names, yt-dlp does not
            return answer
        os.ftruncate(2, 0)  # the log: what ffmpeg said of the excerpt does not count
    return _run(request, None)[0]


def _log() -> str:
    """What ffmpeg has said so far."""
    return os.pread(2, 1 << 20, 0).decode("utf-8", "replace")


def _run(request: Request, span: tuple[float, float] | None) -> tuple[Answer, float | None]:
    """One run of yt-dlp's library: the answer, and the seconds of the video if the site tells them."""
    import yt_dlp

    said = _Said(request)
    options = yt_dlp.parse_options([*MANNERS, *TIMES, *request.options]).ydl_opts
    options |= {
        "logger": said,
        "allowed_extractors": list(request.extractors),
        "outtmpl": {"default": str(Path(request.folder) / f"{NAME}.%(ext)s")},
        "max_filesize": request.largest,
        "match_filter": said.objection,
        "playlist_items": "1",
    }
    if span is not None:
        options["download_ranges"] = yt_dlp.utils.download_range_func(None, [span])
    try:
        with yt_dlp.YoutubeDL(options) as session:
            if span is not None:
                session.add_post_processor(_Excerpt(session, said), when="before_dl")
            session.extract_info(request.url)
    except Exception as error:  # an extractor that does not understand a page may raise anything
        return said.failed(str(error) or repr(error), _wish(error)), said.duration
    if said.objections:  # perhaps to one of two files only, and yt-dlp downloaded the other
        return said.failed(""), said.duration
    found = [path for path in Path(request.folder).glob(f"{NAME}.*") if path.suffix not in (".part", ".ytdl")]
    if len(found) != 1:
        return said.failed(f"yt-dlp brought {len(found)} files"), said.duration
    if _HOLE.search(_log()):
        return said.failed("the connection broke"), said.duration
    return Answer(path=str(found[0])), said.duration


class _Excerpt:
    """Prepares each video for the download of some seconds. A post-processor of yt-dlp's, by its methods alone.

    Args:
        session: yt-dlp's, which asks the site, with its cookies, headers and proxy.
        said: gets the video's duration, if a manifest tells it.
    """

    def __init__(self, session: Any, said: "_Said") -> None:
        self.session, self.said = session, said

    def set_downloader(self, _: Any) -> None:
        """Nothing to set."""

    def run(self, info: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """What is to be deleted (nothing), and the video as it is to be downloaded.

        Of the pieces that a manifest (DASH) names, only those of the section stay, and yt-dlp downloads them itself:
        ffmpeg's reader of manifests shifts the audio against the video by an AAC frame. ffmpeg downloads all else.
        """
        forms = info.get("requested_formats") or [info]
        section = {name: info.get(name) for name in ("section_start", "section_end")}
        for form in forms:
            if _is_in_pieces(form):
                pieces, end = form["fragments"], section["section_end"] or math.inf
                self.said.duration = sum(piece.get("duration") or 0 for piece in pieces) or None
                form["fragments"] = _within(pieces, section["section_start"] or 0, end)
            else:
                form["url"] = self._end_of_redirects(form)
        if any(map(_is_in_pieces, forms)):
            for form in forms:
                form.update(dict.fromkeys(section) if _is_in_pieces(form) else section)
            info.update(dict.fromkeys(section))
        return [], info

    def _end_of_redirects(self, form: Mapping[str, Any]) -> str:
        """Where a file really is. ffmpeg follows redirects by itself, where nobody looks at the addresses.

        Raises:
            yt_dlp.networking.exceptions.RequestError: the server refuses it, or the guard refuses an address.
        """
        from yt_dlp.networking import Request as Asked
        from yt_dlp.networking.exceptions import TransportError

        asked = Asked(form["url"], headers={**(form.get("http_headers") or {}), "Range": "bytes=0-0"})
        try:
            response = self.session.urlopen(asked)
        except (
            TransportError
        ):  # perhaps of a connection that was kept open, and that the site has closed by now
            response = self.session.urlopen(asked)
        with contextlib.closing(response):
            return str(response.url)


def _is_in_pieces(form: Mapping[str, Any]) -> bool:
    """Whether a manifest (DASH) names all pieces of a format, and each piece is a file: yt-dlp cannot fetch parts of files."""
    pieces = form.get("fragments")
    if form.get("protocol") != "http_dash_segments" or not isinstance(pieces, list):
        return False
    return len({piece.get("url") or piece.get("path") for piece in pieces}) == len(pieces)


def _within(pieces: Sequence[dict[str, Any]], start: float, end: float) -> Sequence[dict[str, Any]]:
    """The pieces with something of the seconds `start` to `end`, and the header; all pieces if durations are missing."""
    if not all(piece.get("duration") for piece in pieces[1:]):
        return pieces
    kept, at = [], 0.0
    for piece in pieces:
        seconds = piece.get("duration") or 0.0
        if not seconds or (at < end and at + seconds > start):
            kept.append(piece)
        at += seconds
    return kept


class _Times(NamedTuple):
    """In seconds: where a file starts, when the last of its streams begins, and when the first of them ends."""

    start: float
    begin: float
    end: float


def _times(excerpt: str) -> _Times | None:
    """When the file's video and audio begin and end; None if it has neither, or if one of them is empty."""
    import av

    try:
        with av.open(
            f"file:{excerpt}", metadata_errors="replace", options={"protocol_whitelist": "file"}
        ) as file:
            spans: dict[int, tuple[float, float]] = {
                stream.index: (math.inf, -math.inf) for stream in (*file.streams.video, *file.streams.audio)
            }
            for packet in file.demux():
                if packet.pts is not None and packet.time_base and packet.stream.index in spans:
                    begin, lasts = packet.pts * packet.time_base, (packet.duration or 0) * packet.time_base
                    first, last = spans[packet.stream.index]
                    spans[packet.stream.index] = min(first, float(begin)), max(last, float(begin + lasts))
            start = (file.start_time or 0) / av.time_base
    except (av.FFmpegError, ValueError):
        return None
    if not spans or math.inf in (first for first, _ in spans.values()):
        return None
    return _Times(start, max(first for first, _ in spans.values()), min(last for _, last in spans.values()))


def _wish(error: BaseException | None) -> float | None:
    """The Retry-After behind an error, seconds."""
    for _ in range(8):
        if error is None:
            break
        response = getattr(error, "response", None)
        if response is not None:
            return retry_after(response.headers.get("Retry-After"))
        information = getattr(error, "exc_info", None) or (None, None)
        error = getattr(error, "cause", None) or information[1] or error.__cause__ or error.__context__
    return None


class _Said:
    """yt-dlp's `logger`: what it says of a request, and why we refuse a video."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.objections: list[str] = []
        self.warnings: list[str] = []
        self.duration: float | None = None

    def debug(self, message: str) -> None:
        if "max-filesize" in message:
            self.objections.append(message)

    info = debug

    def warning(self, message: str, **_: Any) -> None:
        self.warnings.append(message.removeprefix("WARNING: "))

    error = warning

    def objection(self, info: Mapping[str, Any], incomplete: bool = False) -> str | None:
        """Why a video is not downloaded though it is there."""
        self.duration, start = info.get("duration"), self.request.start
        found = None
        if info.get("is_live"):
            found = "the video is live"
        elif self.duration is not None and start is not None and self.duration + 1 <= start:
            found = f"the video ends before the clip's interval: it has {self.duration} s"
        if found:
            self.objections.append(found)
        return found

    def failed(self, last: str, wait: float | None = None) -> Answer:
        """The answer where there is no file: our objection if there is one, else yt-dlp's error."""
        return Answer(messages=self.objections[:1] or [last], warnings=self.warnings[-WORDS:], wait=wait)


class _Guard:
    """Refuses connections to addresses of the private network: no site may make us ask services there.

    As an audit hook it sees every connection of this process, and the URLs in the command line of every program that
    the process starts. It does not see the connections of such a program.

    Args:
        trusted: addresses that the configuration leads to.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self.trusted = frozenset(trusted)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):  # else a socket of this machine
            self.check(str(arguments[1][0]))
        elif event == "subprocess.Popen":
            for part in map(str, arguments[1] or ()):
                if re.match(r"[a-z][a-z0-9+]*://", part):
                    self.check(urllib.parse.urlsplit(part).hostname or "")

    def check(self, host: str) -> None:
        """Raise OSError for a private address."""
        for address in addresses_of(host):
            if address not in self.trusted and not is_public(address):
                raise OSError(f"refused to connect to {address}, an address that is not public")


if __name__ == "__main__":
    main()
