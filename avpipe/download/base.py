"""What every fetcher takes and gives."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avpipe.download.outcome import Outcome

CLIP_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_~-]{0,127}")
"""Clip names that may touch a path: no separator, and no dot, because a WebDataset key ends at the first one."""


@dataclass(frozen=True)
class WantedClip:
    """A row of the manifest, as a fetcher needs it.

    Args:
        clip: the clip's name; matches `CLIP_NAME` whenever a fetcher sees it.
        source: its id in the source (a YouTube id, a path relative to a folder); comes from outside, trust nothing.
        start, end: the interval inside the source in seconds, NaN = the whole. A fetcher may bring more than that.
    """

    clip: str
    source: str
    start: float
    end: float


class Fetcher(Protocol):
    """One way to get clips. Built from a `config.Source`; used from several threads at once."""

    @property
    def name(self) -> str:
        """What `found_in` says of it."""
        ...

    def key(self, clip: WantedClip) -> str | None:
        """What is asked for, for example a URL: the same key is not asked again after a final outcome.

        None where asking costs nothing, so that a local file that appears or changes is noticed.
        """
        ...

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Get the clip. Anything but a full disk or an unwritable folder is an outcome, never an exception.

        Args:
            clip: what is wanted.
            destination: path without extension for what must be written; its parent exists. The file appears
                whole or not at all, and the outcome's `path` names it with its extension.

        Raises:
            OutputError: if the file cannot be written.
        """
        ...


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
