"""What every stage knows about a clip: its name, its row in every array, the place of a local file, and its status."""

import re
from collections import Counter
from enum import StrEnum
from functools import cache
from pathlib import Path
from string import Formatter

CLIP_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_~-]{0,127}"
"""Pattern of a clip's whole name: safe in a path, and without a dot, at which a WebDataset key would end."""
MEDIA_SUFFIXES = frozenset([
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".flv", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp", ".wmv",
    ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".flac", ".wav",
])  # fmt: skip
"""Extensions that a downloaded file keeps; any other becomes ".media" (ffmpeg looks at the content)."""

ROWS_FILE = "rows.csv"
"""Clip names in row order (line n + 2 = row n). Rows are appended, never renumbered."""


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


def local_file(root: Path, pattern: str, clip: str, source: str) -> Path | None:
    """Where the file of a clip would lie below `root`, or None if it must not be asked for.

    None: the pattern wants a source that was refused (""), or the result would leave `root` (an absolute path, `..`, a
    NUL). Links are followed: whoever put them below `root` meant them.

    Args:
        root: the source's folder.
        pattern: path below it with {source} or {clip} in it.
        clip: the clip's name.
        source: its id in the source, or its path relative to the folder.

    Raises:
        ValueError: for a pattern with other fields, an absolute one, or one with `..`.
    """
    relative = relative_path(pattern, clip, source)
    return None if relative is None else root / relative


def relative_path(pattern: str, clip: str, source: str) -> str | None:
    """The path below a source's folder, or None, as in `local_file`."""
    if check_pattern(pattern) and not source:
        return None
    relative = pattern.format(source=source, clip=clip)
    unsafe = (
        relative.startswith("/") or "\0" in relative or (".." in relative and ".." in relative.split("/"))
    )
    return None if unsafe else relative


@cache
def check_pattern(pattern: str) -> bool:
    """Whether a source's pattern has {source} in it. Raises ValueError if it is not one that `local_file` takes."""
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"pattern {pattern!r}: {error}; write {{source}} or {{clip}}") from error
    fields = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not fields or not set(fields) <= {"source", "clip"} or not plain:
        raise ValueError(f"pattern {pattern!r}: needs {{source}} or {{clip}}, and may have no other {{...}}")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(
            f"pattern {pattern!r}: is below the source's folder, so it has no leading / and no .."
        )
    return "source" in fields


class RowsError(ValueError):
    """rows.csv is not what avpipe wrote; going on would renumber the clips of features that exist."""


def read_rows(path: Path) -> list[str]:
    """The clip of each row, from `rows.csv`; an empty list if there is no such file.

    Raises:
        RowsError: if the last line is cut off, the header is another, or a name is repeated or impossible.
    """
    if not path.exists():
        return []
    header, *clips = path.read_text(encoding="utf-8", errors="replace").split("\n")
    advice = (
        "restore it from a copy; or, to start anew, delete it together with the manifest, the segments and the "
        "features beside it, because their rows would get other numbers"
    )
    if header != "clip" or not clips or clips.pop() != "":
        raise RowsError(f"{path} is cut off or not written by avpipe: {advice}")
    for number, clip in enumerate(clips, start=2):
        if not re.fullmatch(r"[A-Za-z0-9_~-]+", clip):
            raise RowsError(f"{path}, line {number}: {clip!r} is no clip's name: {advice}")
    if len(set(clips)) != len(clips):
        twice = Counter(clips).most_common(1)[0][0]
        raise RowsError(f"{path}: {twice!r} has two rows: {advice}")
    return clips


def noisy_clip(row: int) -> str:
    """The clip name of row `row` of AVE's noisy set, whose YouTube ids are lost."""
    return f"noisy~{row}"
