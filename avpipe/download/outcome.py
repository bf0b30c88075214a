"""What fetching one clip came to."""

from dataclasses import dataclass

from avpipe.clips import Status


@dataclass(frozen=True)
class Outcome:
    """What fetching one clip came to.

    Args:
        status: `Status.PRESENT`, or why there is no file.
        reason: in words, with the source's own message; empty only where the status says it all.
        path: the file, if present; as the source's folder was given (relative stays relative).
        bytes: its size.
        sha256: of its content, hexadecimal.
        attempts: how often sources were asked, in all runs together.
        seconds: how long that took, with waits; 0 where nothing was transferred.
        found_in: the source that had it, for example "local" or "http example.org".
        offset: seconds of the source at which the file begins; 0 unless the file is an excerpt.
    """

    status: Status
    reason: str = ""
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    found_in: str | None = None
    offset: float = 0.0
