"""Clips that are already on a disk: found, checked, never copied."""

from pathlib import Path

from avpipe.config import Source
from avpipe.download.base import WantedClip, fill, sha256_of
from avpipe.download.outcome import Outcome, Status


class LocalFetcher:
    """Files below one folder.

    Args:
        source: its `path` is the folder and `pattern` the file below it, for example "{source}.mp4".
    """

    name = "local"

    def __init__(self, source: Source) -> None:
        if source.path is None:
            raise ValueError("a local source needs `path`, the folder that holds the clips")
        self.root = Path(source.path)
        self.pattern = source.pattern

    def key(self, clip: WantedClip) -> None:
        """Looking again costs nothing."""

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Point to the file. `destination` is not used: nothing is copied."""
        relative = fill(self.pattern, clip)
        try:
            return self._look(relative)
        except ValueError:  # a NUL character
            return Outcome(Status.REFUSED_ID, f"{relative!r} is not a file name", attempts=1)
        except OSError as error:
            return Outcome(Status.MISSING, f"{relative} cannot be read: {error.strerror}", attempts=1)

    def _look(self, relative: str) -> Outcome:
        path = self.root / relative
        if not path.resolve().is_relative_to(self.root.resolve()):
            reason = f"{relative!r} leads out of the folder {self.root}; name the folder that it leads to as a source"
            return Outcome(Status.REFUSED_ID, reason, attempts=1)
        if not path.is_file():
            what = "is not a file" if path.exists() else "is not there"
            return Outcome(Status.MISSING, f"{relative} {what}", attempts=1)
        size = path.stat().st_size
        return Outcome(Status.PRESENT, "", str(path), size, sha256_of(path), attempts=1, found_in=self.name)
