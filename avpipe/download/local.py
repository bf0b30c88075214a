"""Clips that are already on this machine. They are used where they are, never copied."""

from pathlib import Path

from avpipe.clips import Status, local_file
from avpipe.download.archive import ArchiveFetcher
from avpipe.download.base import Fetcher, WantedClip, offset_of
from avpipe.download.outcome import Outcome
from avpipe.files import sha256_of_version
from avpipe.plan.source import ArchiveSource, LocalSource


def local_fetcher(source: LocalSource) -> Fetcher:
    """A fetcher of files below a folder or of members of an archive, depending on what `path` is."""
    if source.local_archive:
        return ArchiveFetcher(ArchiveSource(**source.model_dump(exclude={"kind"})))
    return LocalFetcher(source)


class LocalFetcher:
    """Files below one folder. Links are followed: whoever put them there meant them.

    Args:
        source: its `path` is the folder and `pattern` the file below it, for example "{source}.mp4".
    """

    name = "local"

    def __init__(self, source: LocalSource) -> None:
        self.source = source
        self.root = Path(source.path)
        self.pattern = source.pattern

    def key(self, clip: WantedClip) -> None:
        """None: looking again costs nothing."""

    def fetch(self, clip: WantedClip, destination: Path) -> Outcome:
        """Give the path of the file. `destination` is not used, because nothing is copied.

        Raises:
            ValueError: for a pattern that `avpipe.clips.local_file` does not accept.
        """
        path = local_file(self.root, self.pattern, clip.clip, clip.source)
        if path is None:
            reason = f"{clip.source!r} leads out of {self.root}; name the folder it leads to as a source"
            return Outcome(Status.REFUSED_ID, reason, attempts=1)
        try:
            relative = path.relative_to(self.root)
            if not path.is_file():
                what = "is not a file" if path.exists() else "is not there"
                return Outcome(Status.MISSING, f"{relative} {what}", attempts=1)
            state, most = path.stat(), self.source.max_bytes
            if state.st_size > most:
                reason = (
                    f"{relative} has {state.st_size:,} bytes, more than {most:,}: set max_bytes of the source"
                )
                return Outcome(Status.TOO_LARGE, reason, attempts=1)
            digest = sha256_of_version(path, state.st_size, state.st_mtime_ns)
            facts = state.st_size, digest, 1, 0.0, self.name
            return Outcome(
                Status.PRESENT, "", str(path), *facts, offset=offset_of(self.source.excerpts, clip)
            )
        except OSError as error:
            return Outcome(Status.MISSING, f"{clip.source!r} cannot be read: {error.strerror}", attempts=1)
