"""What became of a clip: one closed list of outcomes for downloading and for decoding."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Why a clip is there, or why not.

    `final` tells whether asking again is pointless: a deleted video stays deleted, a busy server does not stay
    busy. `meaning` is one sentence for the reader of a table.
    """

    final: bool
    meaning: str

    def __new__(cls, value: str, final: bool = True, meaning: str = "") -> "Status":
        member = str.__new__(cls, value)
        member._value_, member.final, member.meaning = value, final, meaning
        return member

    PRESENT = "present", True, "The clip is there, with audio and video."
    NO_AUDIO = (
        "no_audio",
        True,
        "The file has no audio that can be decoded in the clip's interval; its video is there.",
    )
    NO_VIDEO = (
        "no_video",
        True,
        "The file has no video that can be decoded in the clip's interval; its audio is there.",
    )
    TOO_SHORT = (
        "too_short",
        True,
        "The file ends before the clip's interval begins, or has next to nothing in it.",
    )
    CORRUPT = (
        "corrupt",
        True,
        "The file is not a media file, or a good part of the interval cannot be decoded.",
    )
    MISSING = "missing", False, "No source has a file for the clip."
    UNAVAILABLE = "unavailable", True, "The source says that the clip does not exist, or no longer."
    WEB_PAGE = (
        "web_page",
        False,
        "The source sent a web page in place of the file: a check, a sign-in, or an address that is wrong.",
    )
    PRIVATE = "private", True, "The source has the clip, but does not show it to us."
    AGE_BLOCKED = "age_blocked", True, "The source asks for a signed-in adult."
    REGION_BLOCKED = "region_blocked", True, "The source does not show the clip in this country."
    BOT_CHECK = (
        "bot_check",
        False,
        "The source takes us for a robot; it may answer later or from another address.",
    )
    RATE_LIMITED = "rate_limited", False, "We asked the source too often; it will answer later."
    NOT_YET = "not_yet", False, "The source will have the clip later: a premiere, or a stream still running."
    NETWORK_ERROR = "network_error", False, "The connection or the server failed."
    TIMED_OUT = "timed_out", False, "The work took longer than allowed."
    TOO_LARGE = "too_large", True, "The file is larger than allowed."
    REFUSED_ID = (
        "refused_id",
        True,
        "The clip's id is unsafe as a file name or leads out of the source's folder.",
    )
    NOT_FETCHED = (
        "not_fetched",
        False,
        "No source was asked: all features of the study are imported.",
    )
    REFUSED_URL = "refused_url", True, "The source sent us to an address that we do not open."
    NO_TOOL = (
        "no_tool",
        False,
        "A program that the source needs is missing or too old; avpipe doctor says which.",
    )
    EXCLUDED = "excluded", True, "The clip could be used, but the study's frozen list leaves it out."

    @property
    def in_shard(self) -> bool:
        """Whether the clip, or the modality that it has, is in the tar of canonical clips."""
        return self in (Status.PRESENT, Status.NO_AUDIO, Status.NO_VIDEO)


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
        part: the whole file under another name in `path`'s folder, until the journal has this outcome and it gets its
            name; None where it has.
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
    part: str | None = None
