"""yt-dlp in a process of its own, for one clip: a line of JSON in, a line of JSON out.

A process, because it can be stopped with everything it started, and its memory and files are bounded whatever a site
sends; yt-dlp's library inside it, because that takes the URL as data and not as a command line. See decision note 012.
"""

import contextlib
import json
import math
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from avpipe.download.detour import Detour
from avpipe.download.ranges import Served
from avpipe.download.relay import relay
from avpipe.http import is_public, retry_after

MEMORY = 4 << 30
"""Bytes of data that yt-dlp, its ffmpeg and its JavaScript runtime may each have (Linux)."""
LOOK = 0.5
"""Seconds after which is looked whether the time is over."""
WORDS = 4
"""Lines of a log, and warnings, that are kept."""
ROUNDING = 0.05
"""Seconds by which the end of an excerpt, as the file tells it, may be early."""
LATE = 0.5
"""Seconds by which pictures or sound of an excerpt may begin late; a video's own may, and more is got from the whole video."""
NAME = "clip"
"""Files are called that; nothing of the site is in their names."""

# Repeats wait longer each time. Sleeping between requests is yt-dlp's own advice for YouTube (`-t sleep`).
MANNERS = (
    "--retries=3",
    "--fragment-retries=3",
    "--extractor-retries=2",
    "--file-access-retries=0",
    "--retry-sleep=http:exp=1:30",
    "--retry-sleep=fragment:exp=1:30",
    "--retry-sleep=extractor:exp=1:30",
    "--socket-timeout=30",
    "--abort-on-error",
    "--abort-on-unavailable-fragments",
)
# Else pictures and sound that begin apart would each begin at 0.
MERGER = "--postprocessor-args=Merger+ffmpeg_o:-copyts"
# Times of an excerpt are those of the source, so that its offset can be read from the file; nothing repairs them.
EXCERPT = "--downloader-args=ffmpeg_o:-copyts -start_at_zero -fflags +bitexact -nostats -loglevel warning"
FILES = (
    "--ignore-config",
    "--no-plugin-dirs",
    "--no-update",
    "--no-mtime",
    "--fixup=never",
    "--no-overwrites",
    "--no-continue",
)
PROTOCOLS = "http,https,httpproxy,tls,tcp,crypto,data"
"""What ffmpeg may open; files only if yt-dlp's own command names one."""
_CUT_OFF = re.compile(
    r"prematurely|partial file|Error during demuxing|Connection (?:reset|timed out)|Input/output error"
)
"""What ffmpeg says, and goes on as if all were well, when a connection breaks."""


@dataclass(frozen=True)
class Request:
    """What to bring.

    Args:
        url: the clip's page.
        folder: where files go; exists, is empty, and belongs to this request.
        kept: folder of what has come of this very excerpt, now or in a process that was killed; it need not exist.
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
    kept: str
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
        path: the file, or None.
        offset: seconds of the video at which the file begins.
        messages: why it did not come: yt-dlp's error, then ffmpeg's.
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
        request: what to bring.
        timeout: seconds.
        stopped: set from elsewhere to end at once.

    Raises:
        TimeoutError: it was ended after `timeout` seconds.
        CancelledError: it was ended because of `stopped`.
    """
    command = [sys.executable, "-m", "avpipe.download.ytdlp"]
    programs = Path(request.folder) / "bin"  # yt-dlp looks for a program of this name, not for a path
    programs.mkdir()
    (programs / "ffmpeg").symlink_to(request.ffmpeg)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    pipe = subprocess.PIPE
    with (Path(request.folder) / "log").open("a+b") as log:
        # Without buffers: what a process that ended at once did not read must not be written again when the pipe closes.
        process = subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=log, env=environment, process_group=0
        )
        with process, _all_killed(process.pid):
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            # The pipe stays open as long as we live: when it closes, the process ends itself.
            _wait(process.stdout, timeout, stopped)
            line = process.stdout.readline()
        log.seek(0)
        words = log.read().decode("utf-8", "replace")
    said = _last_words(words)
    if not line:
        return Answer(messages=(f"yt-dlp ended with status {process.returncode}", *said))
    answer = Answer(**json.loads(line))
    if answer.path and _CUT_OFF.search(words):
        return Answer(messages=("the connection broke", *said))
    return answer if answer.path else replace(answer, messages=(*answer.messages, *said))


def _wait(stream: IO[bytes], timeout: float, stopped: threading.Event) -> None:
    """Until something can be read."""
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not selector.select(LOOK):
            if stopped.is_set():
                raise CancelledError
            if time.monotonic() > deadline:
                raise TimeoutError


@contextlib.contextmanager
def _all_killed(group: int) -> Iterator[None]:
    """Nothing of the process group is left when the block ends."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _last_words(log: str) -> list[str]:
    """What ffmpeg, or Python, complained about in the end."""
    lines = [re.sub(r" @ 0x[0-9a-f]+", "", line.strip()) for line in log.splitlines()]
    return [line[:200] for line in lines if line][-WORDS:]


def main() -> None:
    """Read a request from the standard input, bring the file, write the answer to the standard output."""
    request = Request(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed goes to the log
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.largest, request.largest))
    if sys.platform == "linux":  # not the address space: JavaScript runtimes reserve more of it than they use
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    answer = _bring(request)
    os.write(answers, json.dumps(asdict(answer)).encode() + b"\n")


def _end_with_parent() -> None:
    """Wait until the standard input closes, which is when the process that asked is gone; then end all we started."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _bring(request: Request) -> Answer:
    """The excerpt; the whole video if none is wanted, or if the site's server cannot start in the middle."""
    refused: list[str] = []
    files: dict[str, Served] = {}
    with relay(refused, files) as url:
        if request.guarded:
            for name in ("no_proxy", "NO_PROXY"):  # else ffmpeg would go round the relay
                os.environ.pop(name, None)
            sys.addaudithook(_Guard([*request.trusted], url))
            through = f"--downloader-args=ffmpeg_i:-http_proxy {url} -protocol_whitelist {PROTOCOLS}"
            request = replace(request, options=[*request.options, through])
        if request.start or request.end is not None:
            span = (request.start or 0.0, float("inf") if request.end is None else request.end)
            answer, at = _through(url, files, request, span)
            if answer.path is None or at is not None:
                return _told(replace(answer, offset=at or 0.0), refused, files)
            Path(answer.path).unlink()
        return _told(_through(url, files, request, None)[0], refused, files)


def _through(
    relay: str, files: dict[str, Served], request: Request, span: tuple[float, float] | None
) -> tuple[Answer, float | None]:
    """One run through the relay, another that keeps nothing where the site's answers do not fit together.

    Returns:
        The answer; of an excerpt also the second of the video at which the file begins, None if that is too late.
    """
    for kept in (Path(request.kept), None):
        files.clear()
        answer = _run(request, span, partial(Detour, relay=relay, files=files, kept=kept))
        served = list(files.values())
        if not any(file.unfit for file in served):
            break
        for half in Path(request.folder).glob(f"{NAME}.*"):
            half.unlink()
        os.ftruncate(2, 0)  # the log: what ffmpeg said of the first try does not count
    times = _times(answer.path) if answer.path and span else None
    reached = times is not None and span is not None and times.end >= span[1] - ROUNDING
    if any(_is_hole(file, served[place:], reached) for place, file in enumerate(served)):
        return replace(answer, path=None), None
    begun = times is not None and span is not None and times.begin <= span[0] + LATE
    return answer, times.start if times and begun else None


def _is_hole(file: Served, after: Sequence[Served], reached: bool) -> bool:
    """Whether a file lacks something that was wanted of it: programs leave out what does not come, and go on.

    It is none if it is a piece that was asked for in advance: nothing of it or of a later one came, and the end was `reached`.
    """
    begun = any(other.given for other in after if other.group == file.group)
    return bool(file.missing) and not (file.group and reached and not begun)


def _told(answer: Answer, refused: Sequence[str], files: Mapping[str, Served]) -> Answer:
    """The answer; if there is no file, with what the relay met: where a server said no, that first."""
    if answer.path:
        return answer
    refusals = [refusal for file in list(files.values()) for refusal in file.missing.values() if refusal]
    # A site that says stop says it of all it has; after that what may pass comes first.
    refusals.sort(key=lambda refusal: (refusal.wait is None and refusal.code != 429, refusal.code < 500))
    wait = next((refusal.wait for refusal in refusals if refusal.wait is not None), answer.wait)
    words = dict.fromkeys((*map(str, refusals), *refused[:WORDS], *answer.messages))
    return replace(answer, messages=tuple(words), wait=wait)


def _run(request: Request, span: tuple[float, float] | None, through: Callable[[Any], Detour]) -> Answer:
    """One run of yt-dlp's library; `through` makes what looks at each video before it is downloaded."""
    import yt_dlp

    said = _Said()
    options = yt_dlp.parse_options([*FILES, *MANNERS, MERGER, EXCERPT, *request.options]).ydl_opts
    options |= {
        "logger": said,
        "allowed_extractors": list(request.extractors),
        "outtmpl": {"default": str(Path(request.folder) / f"{NAME}.%(ext)s")},
        "max_filesize": request.largest,
        "match_filter": lambda info, incomplete=False: said.objection(info, request),
        "playlist_items": "1",
    }
    if span is not None:
        options["download_ranges"] = yt_dlp.utils.download_range_func(None, [span])
    try:
        with yt_dlp.YoutubeDL(options) as session:
            session.add_post_processor(through(session), when="before_dl")
            session.extract_info(request.url)
    except Exception as error:  # of an extractor that met a page it does not know: anything
        return said.failed(str(error) or repr(error), _wish(error))
    if said.objections:  # to one of two files, say; yt-dlp goes on with the other
        return said.failed("", None)
    found = [path for path in Path(request.folder).glob(f"{NAME}.*") if path.suffix not in (".part", ".ytdl")]
    if len(found) != 1:
        return said.failed(f"yt-dlp brought {len(found)} files", None)
    return Answer(path=str(found[0]))


class _Times(NamedTuple):
    """Seconds: where a file starts, by the latest the first of its streams' begins, and at the earliest ends."""

    start: float
    begin: float
    end: float


def _times(excerpt: str) -> _Times | None:
    """When the file's pictures and sound begin and end; None if there are none, or one of them is empty."""
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
    """What yt-dlp says, and what we object to; its `logger`."""

    def __init__(self) -> None:
        self.objections: list[str] = []
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        if "max-filesize" in message:
            self.objections.append(message)

    def info(self, message: str) -> None:
        self.debug(message)

    def warning(self, message: str, **_: Any) -> None:
        self.warnings.append(message.removeprefix("WARNING: "))

    def error(self, message: str) -> None:
        self.warnings.append(message)

    def objection(self, info: Mapping[str, Any], request: Request) -> str | None:
        """Why a video is not downloaded though it is there."""
        duration = info.get("duration")
        found = None
        if info.get("is_live"):
            found = "the video is live"
        elif duration is not None and request.start is not None and duration + 1 <= request.start:
            found = f"the video ends before the clip's interval: it has {duration} s"
        if found:
            self.objections.append(found)
        return found

    def failed(self, last: str, wait: float | None) -> Answer:
        """The answer without a file: our objection if there is one, else yt-dlp's last words."""
        return Answer(messages=self.objections[:1] or [last], warnings=self.warnings[-WORDS:], wait=wait)


class _Guard:
    """Refuses connections to addresses of the private network: what a site says must not make us ask services there.

    An audit hook sees every connection of this process, and the command line of every program it starts. ffmpeg's own
    connections are this process's, by the relay.

    Args:
        trusted: addresses that the configuration leads to.
        relay: URL of the relay.
    """

    def __init__(self, trusted: Sequence[str], relay: str = "") -> None:
        self.trusted, self.relay = frozenset(trusted), relay

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            _, address = arguments
            # else a socket of this machine, for example the keyring's
            if isinstance(address, tuple) and "http://{}:{}".format(*address) != self.relay:
                self.check(*addresses_of(str(address[0])))
        elif event == "subprocess.Popen":
            for part in map(str, arguments[1] or ()):
                own = part == self.relay or part.startswith(f"{self.relay}/")
                if re.match(r"[a-z][a-z0-9+]*://", part) and not own:
                    self.check(*addresses_of(urllib.parse.urlsplit(part).hostname or ""))

    def check(self, *addresses: str) -> None:
        """Raise OSError for a private address."""
        for address in addresses:
            if address not in self.trusted and not is_public(address):
                raise OSError(f"refused to connect to {address}, an address that is not public")


def addresses_of(host: str) -> list[str]:
    """The addresses of a host, by name or address; none if it has none, then the program that asks will say so."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError:
        return []


if __name__ == "__main__":
    main()
