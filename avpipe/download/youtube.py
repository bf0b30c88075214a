"""Clips on YouTube, or on another site that yt-dlp knows: only the seconds of the clip, at a pace that the site accepts."""

import errno
import hashlib
import math
import os
import re
import shutil
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from avpipe.clips import MEDIA_SUFFIXES, Status
from avpipe.download import ytdlp
from avpipe.download.base import WantedClip, fill, scratch
from avpipe.download.budget import Budget
from avpipe.download.messages import shortened, status_of
from avpipe.download.outcome import Outcome
from avpipe.files import move_whole, output_errors, sha256_of
from avpipe.plan.source import YouTubeSource
from avpipe.web import addresses_of

PAGE = "https://www.youtube.com/watch?v={source}"
ID = re.compile(r"[A-Za-z0-9_-]{11}")
"""YouTube's ids. An id may begin with a hyphen, so it must never be a command line argument of its own."""
RATE = 250.0
"""Videos an hour, if the source has no `rate`. YouTube allows about 300 without an account."""
TIMEOUT = 1800.0
"""Seconds for a clip, if the source has no `timeout`."""
STOP = (Status.BOT_CHECK, Status.RATE_LIMITED)
"""Answers after which all jobs pause."""
USELESS = (Status.NETWORK_ERROR, Status.NO_TOOL)
"""Failures whose cause is not the clip if many follow each other: no network, no JavaScript runtime, a changed site."""
PATIENCE = 10
"""Number of such failures in a row after which the job stops asking."""
# Prefer H.264 and AAC in mp4, where the times of an excerpt are exact.
CHOICE = "--format-sort=vcodec:h264,ext:mp4:m4a"
RUNTIMES = [f"--js-runtimes={name}" for name in ("deno", "node", "quickjs", "bun")]
SLEEP = "--sleep-requests=0.75"
"""yt-dlp's own advice for YouTube."""


class YouTubeFetcher:
    """Fetches videos from pages that yt-dlp can read.

    Only the clip's interval is downloaded, with `margin` seconds before and after it: the excerpt is cut at key
    frames, without decoding, and its `offset` is the second of the video at which it begins. Normalising cuts it exactly.

    Args:
        source: `url`, if given, is the page of another site than YouTube, with {source} in it.
        budgets: folder of the budgets, see `avpipe.download.budget`; yt-dlp's cache is beside it.

    Raises:
        ValueError: if the file of cookies is missing.
    """

    def __init__(self, source: YouTubeSource, budgets: Path) -> None:
        self.source = source
        self.page = source.url or PAGE
        self.host = urllib.parse.urlsplit(self.page).hostname or ""
        self.name = "youtube" if source.url is None else f"yt-dlp {self.host}"
        self.cache = budgets.parent / "yt-dlp"
        proxied = bool(source.proxy or set(urllib.request.getproxies()) - {"no"})
        self.guarded = not (source.allow_private or proxied)
        address = f"-{hashlib.sha256(source.proxy.encode()).hexdigest()[:8]}" if source.proxy else ""
        if source.cookies and not Path(source.cookies).is_file():
            raise ValueError(f"cookies: there is no file {source.cookies}")
        self.stopped = threading.Event()
        self.useless: list[Outcome] = []
        self.budget = Budget(budgets, f"{self.host}{address}", source.rate or RATE, self.stopped)

    def key(self, clip: WantedClip) -> str:
        """The page, the seconds and the format."""
        return f"{fill(self.page, clip, quoted=True)} {self._interval(clip)} {self.source.format}"

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Wait for a turn, then download the clip's seconds; see `Fetcher.fetch`."""
        if self.source.url is None and not ID.fullmatch(clip.source):
            reason = f"{clip.source!r} is no id of YouTube (11 letters, digits, _ and -), which was not asked"
            return Outcome(Status.MISSING, reason)
        if ".." in clip.source.split("/"):
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the site's folder")
        if len(useless := list(self.useless)) >= PATIENCE:
            last = useless[-1]
            return Outcome(last.status, f"not asked, for {PATIENCE} in a row failed: {last.reason}")
        if pause := self.budget.take():
            return pause
        started = time.monotonic()
        with output_errors(destination), scratch(destination) as folder:
            try:
                answer = ytdlp.ask(self._request(clip, folder), self.source.timeout or TIMEOUT, self.stopped)
            except TimeoutError:
                seconds = time.monotonic() - started
                reason = f"stopped after {seconds:.0f} s"
                return Outcome(Status.TIMED_OUT, reason, attempts=1, seconds=round(seconds, 3))
            seconds = round(time.monotonic() - started, 3)
            if answer.path is None:
                return self._failure(answer, seconds)
            found = Path(answer.path)
            suffix = found.suffix if found.suffix in MEDIA_SUFFIXES else ".media"
            path = destination.with_name(destination.name + suffix)
            facts = str(path), found.stat().st_size, sha256_of(found)
            move_whole(found, path)
        self._answered()
        return Outcome(Status.PRESENT, "", *facts, 1, seconds, self.name, answer.offset)

    def stop(self) -> None:
        """End the downloads of other threads; they raise CancelledError."""
        self.stopped.set()

    def _interval(self, clip: WantedClip) -> tuple[float | None, float | None]:
        """The seconds to download: the clip with its margin; None = the video's beginning, its end."""
        start = None if math.isnan(clip.start) else max(0.0, clip.start - self.source.margin)
        end = None if math.isnan(clip.end) else clip.end + self.source.margin
        return start, end

    def _request(self, clip: WantedClip, folder: Path) -> ytdlp.Request:
        """The request for a clip, whose files go to `folder`."""
        import imageio_ffmpeg

        source = self.source
        start, end = self._interval(clip)
        options = [f"--format={source.format}", CHOICE, f"--cache-dir={self.cache}", *RUNTIMES]
        if source.cookies:  # a copy, because yt-dlp rewrites the file when it ends
            shutil.copyfile(source.cookies, folder / "cookies")
            options.append(f"--cookies={folder / 'cookies'}")
        if source.cookies_from_browser:
            options.append(f"--cookies-from-browser={source.cookies_from_browser}")
        if source.proxy:
            options.append(f"--proxy={source.proxy}")
        if source.url is None:
            options.append(SLEEP)
        return ytdlp.Request(
            url=fill(self.page, clip, quoted=True),
            folder=str(folder),
            start=start,
            end=end,
            options=options,
            extractors=["youtube"] if source.url is None else ["default"],
            ffmpeg=shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe(),
            largest=source.max_bytes,
            guarded=self.guarded,
            trusted=[] if source.url is None else sorted(addresses_of(self.host)),
        )

    def _failure(self, answer: ytdlp.Answer, seconds: float) -> Outcome:
        """The outcome that yt-dlp's messages mean; after some, later clips are not asked for."""
        everything = "; ".join(answer.messages)
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in everything:
                raise OSError(number, everything)
        status = status_of(answer.messages[0])
        reason = shortened(answer.messages[0])
        # ffmpeg's own messages say more than "ffmpeg exited with code 8". But a server's error is never final.
        if status is Status.NETWORK_ERROR and not answer.messages[0].startswith("HTTP Error 5"):
            status, reason = status_of(everything), shortened(everything)
        if status in STOP:
            self.budget.stop(status, reason, answer.wait)
        elif status.final:
            self._answered()
        outcome = Outcome(status, reason, attempts=1, seconds=seconds)
        if status in USELESS:
            self.useless.append(outcome)
        return outcome

    def _answered(self) -> None:
        """Note that the site answered about a clip, so the network and the programs work."""
        self.useless.clear()
        self.budget.answered()
