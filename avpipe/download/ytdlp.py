"""Runs yt-dlp in a process of its own, for one clip: it reads a request and writes an answer, both as JSON.

A process can be stopped with everything that it started, and its memory and the size of its files are limited. In the
process yt-dlp is called as a library, so that the URL is never part of a command line.
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
from typing import Any

from avpipe.web import addresses_of, is_public, retry_after

MEMORY = 4 << 30
"""Bytes of data that yt-dlp, its ffmpeg and its JavaScript runtime may each have (Linux)."""
LOOK = 0.1
"""Seconds between two checks whether the process has ended."""
WORDS = 4
"""Number of log lines that are kept."""
ROUNDING = 0.05
"""Seconds by which the video or the audio of an excerpt may end early, because sites round the duration."""
LATE = 0.5
"""Seconds by which the video or the audio of an excerpt may begin late; if it is more, the whole video is downloaded."""
NAME = "clip"
"""Name of the file, instead of a title from the site."""
ANSWER = "answer.json"

# Waits between retries grow. A missing piece is an error. The user's own configuration of yt-dlp is not read.
OPTIONS = [
    "--retries=3", "--fragment-retries=3", "--extractor-retries=2", "--file-access-retries=0", "--socket-timeout=30",
    "--retry-sleep=http:exp=1:30", "--retry-sleep=fragment:exp=1:30", "--retry-sleep=extractor:exp=1:30",
    "--abort-on-error", "--abort-on-unavailable-fragments", "--downloader=m3u8:native", "--fixup=never",
    "--ignore-config", "--no-plugin-dirs", "--no-update", "--no-mtime", "--no-overwrites", "--no-continue",
]  # fmt: skip
# An excerpt keeps the video's times, so that its first time is its offset, and merging does not shift the audio.
TIMES = (
    "--postprocessor-args=Merger+ffmpeg_o:-copyts",
    "--downloader-args=ffmpeg_o:-copyts -start_at_zero -fflags +bitexact -nostats -loglevel warning",
    # Microseconds that ffmpeg waits for a byte, and the protocols that it may open: no local file inside a playlist.
    "--downloader-args=ffmpeg_i:-rw_timeout 60000000 -protocol_whitelist http,https,httpproxy,tls,tcp,crypto,data",
)
_HOLE = re.compile(
    r"prematurely|partial file|Error during demuxing|Connection (?:reset|timed out)|Input/output error"
    r"|Failed to open|HTTP error (?!416)[45]"
)
"""Messages of ffmpeg about a broken connection or a missing piece. ffmpeg itself continues and ends without an error."""


@dataclass(frozen=True)
class Request:
    """A request to this module's process.

    Args:
        url: the clip's page.
        folder: for files; exists, is empty, and is used by this request only.
        start, end: the seconds of the video to download; None = its beginning, its end.
        options: of yt-dlp, in addition to `OPTIONS`.
        extractors: regular expressions of the extractors that may be used.
        ffmpeg: path of the program.
        largest: bytes of the largest file.
        guarded: whether connections to addresses of the private network are refused.
        trusted: addresses that are allowed nevertheless, because the configuration names them.
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
    """The answer to a request.

    Args:
        path: the file; None if it could not be downloaded.
        offset: seconds of the video at which the file begins.
        messages: why there is no file: yt-dlp's error, then ffmpeg's.
        wait: the site's Retry-After in seconds, if it sent one.
    """

    path: str | None = None
    offset: float = 0.0
    messages: Sequence[str] = ()
    wait: float | None = None


def ask(request: Request, timeout: float, stopped: threading.Event) -> Answer:
    """Run yt-dlp in a process of its own.

    Args:
        request: what to download.
        timeout: seconds.
        stopped: ends the process when it is set.

    Raises:
        TimeoutError: it was ended after `timeout` seconds.
        CancelledError: it was ended because of `stopped`.
    """
    folder = Path(request.folder)
    (folder / "bin").mkdir()  # yt-dlp looks for a program with this name on PATH
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
                # The pipe closes when this process ends; then yt-dlp's process ends itself.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
                while process.poll() is None:
                    if stopped.wait(LOOK):
                        raise CancelledError
                    if time.monotonic() > deadline:
                        raise TimeoutError
            finally:
                with contextlib.suppress(ProcessLookupError):  # with the programs that it started
                    os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        words = _last_words(log.read().decode("utf-8", "replace"))
    answer = Answer(messages=(f"yt-dlp ended with status {process.returncode}",))
    if process.returncode == 0:
        answer = Answer(**json.loads((folder / ANSWER).read_text(encoding="utf-8")))
    return answer if answer.path else replace(answer, messages=(*answer.messages, *words))


def _last_words(log: str) -> list[str]:
    """Error messages in the log: lines about a missing piece if there are any, else the last lines."""
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
    answer = json.dumps(asdict(_download(request)))
    (Path(request.folder) / ANSWER).write_text(answer, encoding="utf-8")


def _end_with_parent() -> None:
    """Wait until the standard input closes, because the parent process is gone; then end this process and its programs."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _download(request: Request) -> Answer:
    """Download the excerpt, or the whole video if no seconds are given or the excerpt lacks some of them.

    Some servers cannot start in the middle of a video, and some manifests have wrong times. In a whole video, yt-dlp
    notices missing pieces itself.
    """
    if request.start or request.end is not None:
        span = (request.start or 0.0, math.inf if request.end is None else request.end)
        answer, duration = _run(request, span)
        times = _times(answer.path) if answer.path else None
        end = min(span[1], math.inf if duration is None else duration - 1) - ROUNDING
        if times and times[1] <= span[0] + LATE and (times[2] >= end or end == math.inf):
            return replace(answer, offset=times[0])
        if answer.path:
            Path(answer.path).unlink()
        elif "not in allowed_" not in _log():  # ffmpeg refuses pieces (HLS) with odd names, yt-dlp does not
            return answer
        os.ftruncate(2, 0)  # the log: messages about the excerpt do not count
    return _run(request, None)[0]


def _log() -> str:
    """ffmpeg's messages so far; the process's log is its standard error."""
    return os.pread(2, 1 << 20, 0).decode("utf-8", "replace")


def _run(request: Request, span: tuple[float, float] | None) -> tuple[Answer, float | None]:
    """Run yt-dlp's library once. Gives the answer, and the video's duration in seconds if the site has it."""
    import yt_dlp

    log = _Log(request)
    options = yt_dlp.parse_options([*OPTIONS, *TIMES, *request.options]).ydl_opts
    options |= {
        "logger": log,
        "allowed_extractors": list(request.extractors),
        "outtmpl": {"default": str(Path(request.folder) / f"{NAME}.%(ext)s")},
        "max_filesize": request.largest,
        "match_filter": log.objection,
        "playlist_items": "1",
    }
    if span is not None:
        options["download_ranges"] = yt_dlp.utils.download_range_func(None, [span])
    try:
        with yt_dlp.YoutubeDL(options) as session:
            if span is not None:
                session.add_post_processor(_Excerpt(session, log), when="before_dl")
            session.extract_info(request.url)
    except Exception as error:  # an extractor that does not understand a page may raise anything
        return log.failed(str(error) or repr(error), _retry_after_of(error)), log.duration
    if log.objections:  # it may concern one of two files only; yt-dlp has then downloaded the other
        return log.failed(""), log.duration
    found = [path for path in Path(request.folder).glob(f"{NAME}.*") if path.suffix not in (".part", ".ytdl")]
    if len(found) != 1:
        return log.failed(f"yt-dlp downloaded {len(found)} files"), log.duration
    if _HOLE.search(_log()):
        return log.failed("the connection broke"), log.duration
    return Answer(path=str(found[0])), log.duration


class _Excerpt:
    """Prepares each video for the download of an excerpt. It has the methods of a post-processor of yt-dlp.

    Args:
        session: of yt-dlp, with its cookies, headers and proxy.
        log: gets the video's duration, if the manifest has it.
    """

    def __init__(self, session: Any, log: "_Log") -> None:
        self.session, self.log = session, log

    def set_downloader(self, _: Any) -> None:
        """Nothing to set."""

    def run(self, info: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """Give the files to delete (none), and the video as it is to be downloaded.

        Of the pieces in a DASH manifest, only those of the excerpt remain, and yt-dlp downloads them itself, because
        ffmpeg's own reader of manifests shifts the audio by an AAC frame. ffmpeg downloads everything else.
        """
        forms = info.get("requested_formats") or [info]
        section = {name: info.get(name) for name in ("section_start", "section_end")}
        for form in forms:
            if _is_in_pieces(form):
                pieces, end = form["fragments"], section["section_end"] or math.inf
                self.log.duration = sum(piece.get("duration") or 0 for piece in pieces) or None
                form["fragments"] = _within(pieces, section["section_start"] or 0, end)
            else:
                form["url"] = self._end_of_redirects(form)
        if any(map(_is_in_pieces, forms)):
            for form in forms:
                form.update(dict.fromkeys(section) if _is_in_pieces(form) else section)
            info.update(dict.fromkeys(section))
        return [], info

    def _end_of_redirects(self, form: Mapping[str, Any]) -> str:
        """The URL of a file after redirects. ffmpeg would follow redirects without any check of their addresses.

        Raises:
            yt_dlp.networking.exceptions.RequestError: the server refuses it, or the guard refuses an address.
        """
        from yt_dlp.networking import Request as Asked
        from yt_dlp.networking.exceptions import TransportError

        asked = Asked(form["url"], headers={**(form.get("http_headers") or {}), "Range": "bytes=0-0"})
        try:
            response = self.session.urlopen(asked)
        except TransportError:  # the site may have closed a connection that was kept open
            response = self.session.urlopen(asked)
        with contextlib.closing(response):
            return str(response.url)


def _is_in_pieces(form: Mapping[str, Any]) -> bool:
    """Whether a DASH manifest lists the pieces of a format, each a file of its own: yt-dlp cannot download parts of a file."""
    pieces = form.get("fragments")
    if form.get("protocol") != "http_dash_segments" or not isinstance(pieces, list):
        return False
    return len({piece.get("url") or piece.get("path") for piece in pieces}) == len(pieces)


def _within(pieces: Sequence[dict[str, Any]], start: float, end: float) -> Sequence[dict[str, Any]]:
    """The pieces that overlap the seconds `start` to `end`, and the header; all pieces if durations are missing."""
    if not all(piece.get("duration") for piece in pieces[1:]):
        return pieces
    kept, at = [], 0.0
    for piece in pieces:
        seconds = piece.get("duration") or 0.0
        if not seconds or (at < end and at + seconds > start):
            kept.append(piece)
        at += seconds
    return kept


def _times(excerpt: str) -> tuple[float, float, float] | None:
    """Start of the file, begin of the stream that begins last, end of the one that ends first, seconds.

    None if it has neither video nor audio, or if one of them is empty.
    """
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
    return start, max(first for first, _ in spans.values()), min(last for _, last in spans.values())


def _retry_after_of(error: BaseException | None) -> float | None:
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


class _Log:
    """yt-dlp's `logger`: collects our reasons to refuse a video."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.objections: list[str] = []
        self.duration: float | None = None

    def debug(self, message: str) -> None:
        if "max-filesize" in message:
            self.objections.append(message)

    info = debug

    def warning(self, message: str, **_: Any) -> None:
        """Not kept."""

    error = warning

    def objection(self, info: Mapping[str, Any], incomplete: bool = False) -> str | None:
        """The reason not to download a video; None if there is none."""
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
        """The answer without a file: our objection if there is one, else yt-dlp's error."""
        return Answer(messages=self.objections[:1] or [last], wait=wait)


class _Guard:
    """Refuses connections to the private network, whose services no site may reach through us.

    As an audit hook it is called for every connection of this process, and for every program that the process starts,
    whose command line may have URLs. It is not called for the connections of such a program.

    Args:
        trusted: addresses that are allowed nevertheless.
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
