"""Clips on a web server, one URL per clip."""

import threading
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from avpipe.clips import MEDIA_SUFFIXES, Status
from avpipe.download.base import WantedClip, fill, offset_of, outcome_of, scratch
from avpipe.download.budget import Budget
from avpipe.download.outcome import Outcome
from avpipe.files import move_whole, output_errors
from avpipe.plan.source import HttpSource, HuggingFaceSource
from avpipe.web import DownloadFailed, Limits, Remote, download

STOPS = 3
"""After this many clips in a row for which the server says stop or wait, all jobs of this machine pause."""


class WebFetcher:
    """Fetches files by a URL pattern; `avpipe.web` has the limits and what is refused.

    Args:
        source: its `url` holds {source} or {clip}.
        budgets: folder of the budgets, see `avpipe.download.budget`.
        url: a pattern in place of the source's `url`.
        secrets: headers that are sent to that URL's host only.
    """

    def __init__(
        self,
        source: HttpSource | HuggingFaceSource,
        budgets: Path,
        *,
        url: str | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        pattern = url or source.url
        if pattern is None:
            raise ValueError("an http source needs `url`, with {source} or {clip} in it")
        self.source, self.url, self.secrets = source, pattern, secrets or {}
        self.limits = Limits(largest=source.max_bytes, seconds=source.timeout or Limits.seconds)
        self.stopped = threading.Event()
        place = urllib.parse.urlsplit(pattern)
        port = f"-{place.port}" if place.port else ""
        self.budget = Budget(budgets, f"{place.hostname}{port}", source.rate, self.stopped)
        self._stops = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The kind and the host; no more, because a URL may contain secrets."""
        return f"{self.source.kind} {urllib.parse.urlsplit(self.url).hostname}"

    def key(self, clip: WantedClip) -> str:
        """The clip's URL, and whether its files are excerpts."""
        return f"{self._url(clip)} excerpts" if self.source.excerpts else self._url(clip)

    def _url(self, clip: WantedClip) -> str:
        """The clip's URL; the id is quoted, so that it cannot reach another host or the query."""
        return fill(self.url, clip, quoted=True)

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Download the clip to `destination` + extension; see `Fetcher.fetch`."""
        if ".." in clip.source.split("/"):
            return Outcome(Status.REFUSED_ID, f"{clip.source!r} leads out of the source's folder")
        if pause := self.budget.take():
            return pause
        remote = Remote(self._url(clip), secrets=self.secrets, allow_private=self.source.allow_private)
        try:
            with output_errors(destination), scratch(destination) as folder:
                arrived = download(remote, folder / "file", self.limits, self.stopped)
                suffix = arrived.suffix if arrived.suffix in MEDIA_SUFFIXES else ".media"
                path = destination.with_name(destination.name + suffix)
                move_whole(folder / "file", path)
        except DownloadFailed as failure:
            self._heed(failure)
            return outcome_of(failure)
        with self._lock:
            self._stops = 0
        facts = arrived.size, arrived.sha256, arrived.attempts, arrived.seconds, self.name
        return Outcome(Status.PRESENT, "", str(path), *facts, offset_of(self.source.excerpts, clip))

    def stop(self) -> None:
        """End the downloads of other threads; they raise CancelledError."""
        self.stopped.set()

    def _heed(self, failure: DownloadFailed) -> None:
        """Count refusals; after `STOPS` in a row, start a pause for all jobs. The remaining clips are left for later."""
        stop = failure.status in (Status.RATE_LIMITED, Status.BOT_CHECK)
        later = not failure.status.final
        with self._lock:
            self._stops = self._stops + 1 if stop or (later and failure.wait is not None) else 0
            enough = self._stops >= STOPS
        if enough:
            status = failure.status if stop else Status.RATE_LIMITED
            self.budget.stop(status, failure.reason, failure.wait)
        elif not later:
            self.budget.answered()
