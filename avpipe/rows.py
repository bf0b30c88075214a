"""Which clip is in which row of every array."""

import re
from collections import Counter
from pathlib import Path

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
