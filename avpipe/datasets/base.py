"""What every reader of annotation files returns, and how readers meet broken files and hostile names.

Three kinds of trouble, three answers:

* A *broken file* (missing, not UTF-8, a line with too few fields, a time that is no number, an unknown
  category) raises `AnnotationError`: it must not become a manifest that is silently shorter.
* A *quirk* (a zero-length event, an id in two splits, a name that matches no clip) is what the authors
  published. It is read as the authors' code reads it and reported as an issue with a code.
* A *hostile or impossible id* (anything but eleven letters, digits, `-` and `_`, the form of a YouTube id) never
  becomes part of a path, a command or a URL. The clip keeps its row, so that counts agree with the annotations, under the
  name `refused~` and a hash of the id; its `source` is the empty string, which no source may be asked for; the
  issue `refused_id` shows what was found.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from avpipe.clips import CLIP_NAME

SPLITS = ("train", "weak", "val", "test", "none")
"""weak: further training clips, of weakly supervised experiments only. none: in no split."""
MODALITIES = ("audiovisual", "audio", "visual", "video")

CLIP_COLUMNS = {"clip": "str", "split": "str", "source": "str", "start": "float64", "end": "float64"}
EVENT_COLUMNS = {"clip": "str", "modality": "str", "category": "str", "onset": "float64", "offset": "float64"}
OPTIONAL_CLIP_COLUMNS = {"split_order": "int64", "match_split": "str", "match_order": "int64"}
ISSUE_COLUMNS = {"code": "str", "clip": "str", "message": "str"}

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")

Issue = tuple[str, str, str]
"""code, clip ("" where it concerns none), message."""


class AnnotationError(ValueError):
    """An annotation file is missing or broken; the message names file, line, what was found and what was expected."""


@dataclass(frozen=True)
class Line:
    """A line of an annotation file, counted from 1."""

    path: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        """For example "trainSet.txt:17"."""
        return f"{self.path.name}:{self.number}"

    def error(self, expected: str) -> AnnotationError:
        """The error that says that this line is not what was expected."""
        return AnnotationError(f"{self.path}, line {self.number}: found {self.text!r}, expected {expected}")

    def fields(self, separator: str, names: str) -> list[str]:
        """The line's fields. Raises `AnnotationError` unless there is one a word of `names`."""
        found = self.text.split(separator)
        if len(found) != len(names.split()):
            raise self.error(
                f"{len(names.split())} fields separated by {separator!r} ({names}), not {len(found)}"
            )
        return found

    def seconds(self, text: str, longest: float = 10.0) -> float:
        """`text` as a time inside a clip. Raises `AnnotationError` unless it is a number from 0 to `longest`."""
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) or float(text) > longest:
            raise self.error(f"a number of seconds from 0 to {longest:g} where it has {text!r}")
        return float(text)


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file, with or without byte order mark and carriage returns; empty ones are left out.

    Raises:
        AnnotationError: if there is no such file, it cannot be read, it is not UTF-8, or it has no line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        folder = path.parent
        known = (
            ", ".join(sorted(file.name for file in folder.iterdir())[:20])
            if folder.is_dir()
            else "no such folder"
        )
        raise AnnotationError(
            f"cannot read {path}: {error.strerror}; in {folder}: {known or 'nothing'}"
        ) from error
    any_line = False
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise AnnotationError(
                f"{path}, line {number}: {line!r} is not UTF-8; save the file as UTF-8"
            ) from error
        if text:
            any_line = True
            yield Line(path, number, text)
    if not any_line:
        raise AnnotationError(f"{path} is empty; expected one line a clip or event")


def table(rows: Iterable[Sequence[object]], columns: dict[str, str]) -> pd.DataFrame:
    """Rows as a DataFrame with these columns and types, also when there are no rows."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)


def youtube_name(identifier: str) -> tuple[str, str]:
    """The clip name and the source of an id that an annotation file gives: (id, id), or (refused~..., "")."""
    return (identifier, identifier) if YOUTUBE_ID.fullmatch(identifier) else (refused_name(identifier), "")


def refused_name(identifier: str) -> str:
    """The clip name of an id that must not become part of a path."""
    return f"refused~{hashlib.sha256(identifier.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def refused(clip: str, line: Line, found: str) -> Issue:
    """The issue of an id that is not one."""
    return (
        "refused_id",
        clip,
        f"{line.place}: {found!r} is not a YouTube id; the clip is listed but never fetched",
    )


def number_repeats(names: Sequence[str]) -> list[str]:
    """Make names unique: the second `x` becomes `x~2`, the third `x~3`."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return unique


def shared_id_issues(clips: pd.DataFrame) -> list[Issue]:
    """One issue `id_in_{a}_and_{b}` for each source that has clips in both splits a and b: a leak."""
    issues = []
    for source, held in _shared_sources(clips, "split"):
        for pair in combinations([split for split in SPLITS if split in {where for _, where in held}], 2):
            names = ", ".join(f"{clip} ({split})" for clip, split in held if split in pair)
            issues.append((f"id_in_{pair[0]}_and_{pair[1]}", held[0][0], f"{source}: {names}"))
    return issues


def leaking_clips(clips: pd.DataFrame, column: str) -> dict[str, str]:
    """The clips whose source is in a later split too (train before val before test), and that split.

    Args:
        clips: as `Annotations` has them.
        column: which division counts, "split" or "match_split".
    """
    leaking: dict[str, str] = {}
    for _, held in _shared_sources(clips, column):
        last = max((split for _, split in held), key=SPLITS.index)
        leaking |= {clip: last for clip, split in held if split != last}
    return leaking


def _shared_sources(clips: pd.DataFrame, column: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sources that have several clips, and these clips with their splits."""
    known = clips[(clips["source"] != "") & (clips[column] != "none")]
    repeated = known[known["source"].duplicated(keep=False)]
    holders: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for source, clip, split in zip(repeated["source"], repeated["clip"], repeated[column], strict=True):
        holders[source].append((clip, split))
    return list(holders.items())


@dataclass(frozen=True)
class Annotations:
    """Which clips a dataset names and what its annotators say of them.

    Args:
        categories: names of the C event categories; their order is the index. Background is not among them.
        clips: columns clip, split (of `SPLITS`), source (the id in the source, "" if it was refused), start and
            end (seconds inside the source, NaN for the whole), one row a clip in the annotation file's order. Columns
            of `OPTIONAL_CLIP_COLUMNS` may follow: split_order (position of the clip in the file of its split; without it
            the order of the rows counts), and match_split with match_order, the same of another division of the
            clips, for cross-modality localization.
        events: columns clip, modality (of `MODALITIES`), category, onset, offset (seconds inside the clip; both
            NaN for modality "video", which says that a category occurs somewhere, heard or seen).
        issues: columns code, clip, message: the quirks of the files.

    Raises:
        ValueError: if the tables contradict this; a mistake of the reader, never of the files.
    """

    categories: tuple[str, ...]
    clips: pd.DataFrame
    events: pd.DataFrame
    issues: pd.DataFrame

    def __post_init__(self) -> None:
        self._check_columns()
        clips, events = self.clips, self.events
        _require(not clips["clip"].duplicated().any(), "clip names repeat", clips[clips["clip"].duplicated()])
        named = clips["clip"].str.fullmatch(CLIP_NAME)
        _require(named.all(), f"clip names must match {CLIP_NAME}", clips[~named])
        for column in ("split", "match_split"):
            if column in clips:
                known = clips[column].isin(SPLITS)
                _require(known.all(), f"{column} is one of {SPLITS}", clips[~known])
        start, end = clips["start"].to_numpy(), clips["end"].to_numpy()
        window = (np.isnan(start) & np.isnan(end)) | ((start >= 0) & (start < end) & np.isfinite(end))
        _require(window.all(), "0 <= start < end, or both NaN", clips[~window])
        if len(set(self.categories)) != len(self.categories) or "" in self.categories:
            raise ValueError(f"categories repeat or are empty: {self.categories}")
        for column, values in (("modality", MODALITIES), ("category", self.categories)):
            good = events[column].isin(values)
            _require(good.all(), f"{column} is one of {values}", events[~good])
        owned = events["clip"].isin(clips["clip"])
        _require(owned.all(), "events belong to clips", events[~owned])
        onset, offset = events["onset"].to_numpy(), events["offset"].to_numpy()
        weak = (events["modality"] == "video").to_numpy()
        timed = np.where(
            weak, np.isnan(onset) & np.isnan(offset), (onset >= 0) & (onset < offset) & np.isfinite(offset)
        )
        _require(timed.all(), "0 <= onset < offset, both NaN for modality video", events[~timed])

    def _check_columns(self) -> None:
        for name, frame, columns in (
            ("clips", self.clips, [*CLIP_COLUMNS]),
            ("events", self.events, [*EVENT_COLUMNS]),
            ("issues", self.issues, [*ISSUE_COLUMNS]),
        ):
            optional = [c for c in OPTIONAL_CLIP_COLUMNS if name == "clips" and c in frame]
            if list(frame.columns) != columns + optional:
                raise ValueError(
                    f"{name} has the columns {list(frame.columns)}, expected {columns + optional}"
                )


def _require(holds: bool | np.bool_, rule: str, offenders: pd.DataFrame) -> None:
    """Raise ValueError with the rule and the first offending rows, unless it holds."""
    if not holds:
        raise ValueError(
            f"{rule}; not so in {len(offenders)} rows, for example {offenders.head(3).to_dict('records')}"
        )
