"""Where a clip is: its row in every array, and its file in a folder of the user's."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from string import Formatter

ROWS_FILE = "rows.csv"
"""Clip names in row order (line n + 2 = row n). Rows are appended, never renumbered."""

_NAME = re.compile(r"[A-Za-z0-9_~-]+")


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
        if not _NAME.fullmatch(clip):
            raise RowsError(f"{path}, line {number}: {clip!r} is no clip's name: {advice}")
    if len(set(clips)) != len(clips):
        twice = Counter(clips).most_common(1)[0][0]
        raise RowsError(f"{path}: {twice!r} has two rows: {advice}")
    return clips


def noisy_clip(row: int) -> str:
    """The clip name of row `row` of AVE's noisy set, whose YouTube ids are lost."""
    return f"noisy~{row}"


def local_file(root: Path, pattern: str, clip: str, source: str) -> Path | None:
    """The path below `root` at which a clip's file is expected, or None if there can be none.

    None: the pattern needs the source and the source was refused (""), or the path would leave `root` (absolute,
    `..`, NUL). Symbolic links are followed.

    Args:
        root: the source's folder.
        pattern: path below `root`, with {source} or {clip} in it.
        clip: the clip's name.
        source: the clip's id in the source, or its path relative to the folder.

    Raises:
        ValueError: for a pattern with other fields, an absolute pattern, or one with `..`.
    """
    relative = relative_path(pattern, clip, source)
    return None if relative is None else root / relative


def relative_path(pattern: str, clip: str, source: str) -> str | None:
    """As `local_file`, relative to the folder."""
    if check_pattern(pattern) and not source:
        return None
    relative = pattern.format(source=source, clip=clip)
    unsafe = (
        relative.startswith("/") or "\0" in relative or (".." in relative and ".." in relative.split("/"))
    )
    return None if unsafe else relative


@cache
def check_pattern(pattern: str) -> bool:
    """Whether `pattern` contains {source}. Raises ValueError as `local_file`."""
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
            f"pattern {pattern!r}: it is relative to the source's folder, so no leading / and no .."
        )
    return "source" in fields
