"""What every reader of annotation files returns, and how readers treat broken files and hostile names.

* A *broken file* (missing, not UTF-8, too few fields in a line, a time that is no number, an unknown category) raises
  `AnnotationError`: it must not silently give a shorter manifest.
* A *quirk* (a zero-length event, an id in two splits, a name that matches no clip) is what the authors published. It is
  read as the authors' code reads it, and reported as an issue with a code.
* An id is the name of a file (`source_name`), or a YouTube id. A source of kind youtube has only clips with the latter.
* A *hostile id* (with a path separator, a leading dot or dash, a control character, ...) never becomes part of a path, a
  command or a URL. Its clip keeps its row, so that counts agree with the annotations: it is named `refused~` and a hash
  of the id, its `source` is "" (no source is asked for it), and the issue `refused_id` shows the id.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from avpipe.clips import CLIP_NAME
from avpipe.plan.registry import suggest

SPLITS = ("train", "weak", "val", "test", "none")
"""weak: extra training clips, for weakly supervised experiments only. none: in no split."""
MODALITIES = ("audiovisual", "audio", "visual", "video")

CLIP_COLUMNS = {"clip": "str", "split": "str", "source": "str", "start": "float64", "end": "float64"}
EVENT_COLUMNS = {"clip": "str", "modality": "str", "category": "str", "onset": "float64", "offset": "float64"}
OPTIONAL_CLIP_COLUMNS = {"split_order": "int64", "match_split": "str", "match_order": "int64"}
ISSUE_COLUMNS = {"code": "str", "clip": "str", "message": "str"}

PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{11}|[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
"""An id that is its clip's name: of YouTube, or of a file. Without `~`, which is in the names of `number_repeats`."""
LONGEST_ID = 128  # bytes

Rows = Iterable[Sequence[object]]
Issue = tuple[str, str, str]  # code, clip ("" if it concerns no single clip), message


class AnnotationError(ValueError):
    """An annotation file is missing or broken; the message says where, what was found and what was expected."""


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
        """The error for this line."""
        return AnnotationError(f"{self.path}, line {self.number}: found {self.text!r}, expected {expected}")

    def fields(self, separator: str, names: str) -> list[str]:
        """The line's fields. Raises `AnnotationError` unless there are as many as words in `names`."""
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
    """The non-empty lines of a UTF-8 file, with or without byte order mark and carriage returns.

    Raises:
        AnnotationError: if the file is missing, unreadable, not UTF-8 or empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        folder, known = path.parent, "no such folder"
        if folder.is_dir():
            known = ", ".join(sorted(file.name for file in folder.iterdir())[:20]) or "nothing"
        raise AnnotationError(f"cannot read {path}: {error.strerror}; in {folder}: {known}") from error
    any_line = False
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise AnnotationError(
                f"{path}, line {number}: {line!r} is not UTF-8; save it as UTF-8"
            ) from error
        if text:
            any_line = True
            yield Line(path, number, text)
    if not any_line:
        raise AnnotationError(f"{path} is empty; expected a line for each clip or event")


def table(rows: Rows, columns: dict[str, str]) -> pd.DataFrame:
    """Rows as a DataFrame with these columns and types, even if there are no rows."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)


def source_name(identifier: str) -> tuple[str, str]:
    """Clip name and source of an id from an annotation file.

    The source is the id, or "" for a hostile one. So is the clip's name, if the id matches `PLAIN_ID`. The name of another
    id (with spaces, dots, letters beyond ASCII) is what is readable of it and a hash: "my take.2" -> my_take_2~8d783debbb.
    """
    if PLAIN_ID.fullmatch(identifier):
        return identifier, identifier
    if not is_file_name(identifier):
        return refused_name(identifier), ""
    return f"{readable(identifier)}~{digest_of(identifier)[:10]}", identifier


def is_file_name(text: str) -> bool:
    """Whether `text` is safe as the name of a file in any folder, and no error that a spreadsheet wrote (#NAME?)."""
    return (
        text.isprintable()
        and text == text.strip()
        and 0 < len(text.encode()) <= LONGEST_ID
        and not re.search(r"^[.-]|[/\\]|^#[A-Z/0-9]+[?!]?$", text)
    )


def readable(text: str) -> str:
    """What a clip's name can keep of a text; "clip" if that is nothing."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[-100:].strip("_-") or "clip"


def digest_of(text: str) -> str:
    """The SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def refused_name(identifier: str) -> str:
    """The clip name of an id that must not become part of a path."""
    return f"refused~{digest_of(identifier)[:12]}"


def refused(clip: str, line: Line, found: str, expected: str = "an id that is safe as a file name") -> Issue:
    """The issue of a hostile id."""
    rules = "no / or \\, no leading dot or dash, no space at an end, no control character, at most 128 bytes"
    message = f"{line.place}: {found!r} is not {expected} ({rules}); the clip is listed but never fetched"
    return "refused_id", clip, message


def read_categories(path: Path) -> tuple[str, ...]:
    """The names of categories, one a line, in index order.

    Raises:
        AnnotationError: for a file that cannot be read, or a name that is repeated or has control characters.
    """
    names: dict[str, None] = {}
    for line in read_lines(path):
        if line.text in names or not line.text.isprintable():
            raise line.error("the name of a category that is not listed yet")
        names[line.text] = None
    return tuple(names)


def check_category(line: Line, name: str, categories: Sequence[str]) -> str:
    """`name`. Raises `AnnotationError` unless it is one of `categories`."""
    if name not in categories:
        own = "categories of your own: `options: {categories: FILE}`"
        raise line.error(f"a category where it has {name!r}; {suggest(name, list(categories))} ({own})")
    return name


def number_repeats(names: Sequence[str]) -> list[str]:
    """Make names unique: the second `x` becomes `x~2`, the third `x~3`."""
    counts: dict[str, int] = {}
    unique = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}~{counts[name]}")
    return unique


def shared_id_issues(clips: pd.DataFrame) -> list[Issue]:
    """One issue `id_in_{a}_and_{b}` for each source with clips in both splits a and b, which is a leak."""
    issues = []
    for source, own in _shared_sources(clips, "split"):
        for pair in combinations([split for split in SPLITS if split in {where for _, where in own}], 2):
            names = ", ".join(f"{clip} ({split})" for clip, split in own if split in pair)
            issues.append((f"id_in_{pair[0]}_and_{pair[1]}", own[0][0], f"{source}: {names}"))
    return issues


def leaking_clips(clips: pd.DataFrame, column: str) -> dict[str, str]:
    """Clips whose source is also in a later split (train before val before test) -> that split.

    Args:
        clips: as in `Annotations`.
        column: "split" or "match_split".
    """
    leaking: dict[str, str] = {}
    for _, own in _shared_sources(clips, column):
        last = max((split for _, split in own), key=SPLITS.index)
        leaking |= {clip: last for clip, split in own if split != last}
    return leaking


def _shared_sources(clips: pd.DataFrame, column: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each source with several clips, and these clips with their splits."""
    known = clips[(clips["source"] != "") & (clips[column] != "none")]
    repeated = known[known["source"].duplicated(keep=False)]
    clips_of: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for source, clip, split in zip(repeated["source"], repeated["clip"], repeated[column], strict=True):
        clips_of[source].append((clip, split))
    return list(clips_of.items())


@dataclass(frozen=True)
class Annotations:
    """The clips of a dataset and their annotated events.

    Args:
        categories: names of the C event categories, in index order, without background.
        clips: one row a clip, in the annotation file's order: clip, split (of `SPLITS`), source (the id in the source,
            "" if refused), start and end (seconds in the source, NaN for the whole file). Columns of
            `OPTIONAL_CLIP_COLUMNS` may follow: split_order (position in the file of the clip's split; default: the
            order of the rows), and match_split with match_order, the same for the split used in cross-modality
            localization.
        events: clip, modality (of `MODALITIES`), category, onset, offset (seconds in the clip). Modality "video" says
            that the category occurs somewhere in the clip, in audio or visual; its onset and offset are NaN.
        issues: code, clip, message: the quirks of the files.

    Raises:
        ValueError: if the tables break these rules, which is a bug in the reader.
    """

    categories: tuple[str, ...]
    clips: pd.DataFrame
    events: pd.DataFrame
    issues: pd.DataFrame

    @classmethod
    def from_rows(
        cls, categories: Iterable[str], clips: "Rows | pd.DataFrame", events: Rows, issues: Rows
    ) -> "Annotations":
        """The annotations from the rows of the tables; `clips` may be a table already."""
        if not isinstance(clips, pd.DataFrame):
            clips = table(clips, CLIP_COLUMNS)
        return cls(tuple(categories), clips, table(events, EVENT_COLUMNS), table(issues, ISSUE_COLUMNS))

    def __post_init__(self) -> None:
        self._check_columns()
        if len(set(self.categories)) != len(self.categories) or "" in self.categories:
            raise ValueError(f"categories repeat or are empty: {self.categories}")
        clips, start, end = self.clips, self.clips["start"], self.clips["end"]
        window = (start >= 0) & (start < end) & (end < float("inf"))
        _require(clips, ~clips["clip"].duplicated(), "clip names repeat")
        _require(clips, clips["clip"].str.fullmatch(CLIP_NAME), f"clip names must match {CLIP_NAME}")
        for column in [name for name in ("split", "match_split") if name in clips]:
            _require(clips, clips[column].isin(SPLITS), f"{column} is one of {SPLITS}")
        _require(clips, window | (start.isna() & end.isna()), "0 <= start < end, or both NaN")
        events, onset, offset = self.events, self.events["onset"], self.events["offset"]
        timed = (onset >= 0) & (onset < offset) & (offset < float("inf"))
        weak = onset.isna() & offset.isna()
        for column, values in (("modality", MODALITIES), ("category", self.categories)):
            _require(events, events[column].isin(values), f"{column} is one of {values}")
        _require(events, events["clip"].isin(clips["clip"]), "events belong to clips")
        times = weak.where(events["modality"] == "video", timed)
        _require(events, times, "0 <= onset < offset, both NaN for modality video")

    def _check_columns(self) -> None:
        for name, frame, columns in (
            ("clips", self.clips, [*CLIP_COLUMNS]),
            ("events", self.events, [*EVENT_COLUMNS]),
            ("issues", self.issues, [*ISSUE_COLUMNS]),
        ):
            optional = [c for c in OPTIONAL_CLIP_COLUMNS if name == "clips" and c in frame]
            if (found := list(frame.columns)) != columns + optional:
                raise ValueError(f"{name} has the columns {found}, expected {columns + optional}")


def _require(table: pd.DataFrame, holds: pd.Series, rule: str) -> None:
    """Raise ValueError with the rule and the first offending rows, unless `holds` for every row."""
    if not holds.all():
        bad = table[~holds]
        raise ValueError(f"{rule}; broken in {len(bad)} rows, for example {bad.head(3).to_dict('records')}")
