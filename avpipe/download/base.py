"""The interface of all fetchers."""

import hashlib
import math
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avpipe.download.outcome import Outcome
from avpipe.web import DownloadFailed


@dataclass(frozen=True)
class WantedClip:
    """A row of the manifest, as a fetcher needs it.

    Args:
        clip: the clip's name; matches `CLIP_NAME` whenever a fetcher sees it.
        source: its id in the source (a YouTube id, a path relative to a folder); it comes from outside and is not trusted.
        start, end: the interval inside the source in seconds, NaN = the whole. The file may have more than that.
    """

    clip: str
    source: str
    start: float
    end: float


class Fetcher(Protocol):
    """One way to get clips. Built from a source of the study; used from several threads at once."""

    @property
    def name(self) -> str:
        """Its name in the column `found_in`."""
        ...

    def key(self, clip: WantedClip) -> str | None:
        """What is asked for, for example a URL. After a final outcome, the same key is not asked for again.

        None for local files, which are looked for in each run, so that a new or changed file is noticed.
        """
        ...

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Get the clip. Anything but a full disk or an unwritable folder is an outcome, never an exception.

        Args:
            clip: the clip.
            destination: path without extension; its parent exists. A finished download is this path with an extension,
                which is the outcome's `path`. Unfinished files are in the same folder and have names that begin with
                `.{clip}.`. A local file keeps its own path.

        Raises:
            OutputError: if the file cannot be written.
        """
        ...


@contextmanager
def scratch(destination: Path) -> Iterator[Path]:
    """An empty folder beside the destination, removed at the end; a folder left by a killed run is removed first."""
    folder = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_digest(key: str) -> str:
    """A short name for a key, without the key's secrets (a URL may hold a token)."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def outcome_of(failure: DownloadFailed) -> Outcome:
    """The outcome of a download that failed."""
    return Outcome(failure.status, failure.reason, attempts=failure.attempts, seconds=failure.seconds)


def offset_of(excerpts: bool, clip: WantedClip) -> float:
    """Seconds of the video at which a source's file begins: the clip's start if its files are `excerpts`."""
    return clip.start if excerpts and not math.isnan(clip.start) else 0.0


def fill(pattern: str, clip: WantedClip, *, quoted: bool = False) -> str:
    """A pattern with the clip's {source} and {clip} in it; quoted, a source cannot reach another host or the query."""
    source = urllib.parse.quote(clip.source, safe="/~") if quoted else clip.source
    values = {"{source}": source, "{clip}": clip.clip}
    return re.sub(r"\{(?:source|clip)\}", lambda field: values[field.group()], pattern)
