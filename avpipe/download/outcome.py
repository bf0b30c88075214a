"""The outcome of fetching one clip."""

from dataclasses import dataclass

from avpipe.clips import Status


@dataclass(frozen=True)
class Outcome:
    """The outcome of fetching one clip.

    Args:
        status: `Status.PRESENT`, or why there is no file.
        reason: an explanation with the source's own message; may be empty if the status says enough.
        path: the file, if present; relative if the source's folder is.
        bytes: its size.
        sha256: of its content, hexadecimal.
        attempts: number of requests to sources, in all runs together.
        seconds: how long the requests took, with waits; 0 for local files.
        found_in: the source of the file, for example "local" or "http example.org".
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
