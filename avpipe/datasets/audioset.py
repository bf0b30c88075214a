"""AudioSet (Gemmeke et al., Audio Set: an ontology and human-labeled dataset for audio events, ICASSP 2017): the
released csv files.

`{balanced_train,unbalanced_train,eval}_segments.csv` have one line a clip, `YTID, start_seconds, end_seconds,
"mid,mid"`, after comment lines (`#`). `class_labels_indices.csv` (`index,mid,display_name`) gives the names and order
of the classes.

* A clip is named `{YTID}_{start}`, with the start in whole seconds, or in milliseconds followed by `ms` if it has a
  fraction.
* Labels are weak: one or more categories of the whole clip (modality "video").
* The training sets are the split train, eval is the split test; there is no validation split.
* Subsets: `classes` keeps these classes (names or mids) and their clips; `per_class` and `total` limit the number of
  clips of each set. Which clips are kept depends only on the seed and the clips' names, so a larger number keeps all
  clips of a smaller one.

Issue codes: `refused_id` (see `avpipe.datasets.base`; also `#NAME?`, into which a spreadsheet turns ids that begin with
`-`), `repeated_id` (a clip that is listed again), `odd_window` (not 10 s, as at the end of a video; kept),
`id_in_train_and_test`, `left_out` (how many clips the options left out).
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from avpipe.datasets.base import (
    CLIP_COLUMNS,
    EVENT_COLUMNS,
    ISSUE_COLUMNS,
    AnnotationError,
    Annotations,
    Issue,
    number_repeats,
    read_lines,
    refused,
    shared_id_issues,
    source_name,
    table,
)
from avpipe.plan.registry import UnknownNameError, suggest

CLASSES_FILE = "class_labels_indices.csv"
SETS = {
    "balanced": ("balanced_train_segments.csv", "train"),
    "unbalanced": ("unbalanced_train_segments.csv", "train"),
    "eval": ("eval_segments.csv", "test"),
}
"""Name of a set -> its file and split."""
CLIP_SECONDS = 10.0
LONGEST = 1e6  # largest possible time in a video, seconds

_LINE = re.compile(
    r'(?P<id>[^,]*), ?(?P<start>[0-9]+(?:\.[0-9]+)?), ?(?P<end>[0-9]+(?:\.[0-9]+)?), ?"(?P<labels>[^"]*)"'
)


class _Row(NamedTuple):
    clip: str
    split: str
    source: str
    start: float
    end: float
    classes: tuple[str, ...]


def read_audioset(
    annotations: Path,
    *,
    sets: Sequence[str] = ("balanced", "eval"),
    classes: Sequence[str] = (),
    per_class: int = 0,
    total: int = 0,
    seed: int = 0,
) -> Annotations:
    """Read the folder of AudioSet's csv files.

    Args:
        annotations: the folder.
        sets: names of `SETS`.
        classes: names or mids of the classes to keep; empty: all.
        per_class: how many clips of each class to keep in each set; 0: all. A clip counts for each of its classes.
        total: how many clips to keep in each set; 0: all.
        seed: of the choice of clips.

    Raises:
        AnnotationError: for a missing file, a malformed line, or a class that is not in `class_labels_indices.csv`.
        UnknownNameError: for an unknown set or class.
        ValueError: for a repeated set.
    """
    _check_sets(sets)
    names = _read_classes(annotations / CLASSES_FILE)
    chosen = _chosen(names, classes)
    issues: list[Issue] = []
    rows: list[_Row] = []
    for name in sets:
        file, split = SETS[name]
        listed = list(_read_set(annotations / file, split, names, issues))
        kept = listed if not classes else [row for row in _among(listed, frozenset(chosen)) if row.classes]
        kept = _sample(kept, per_class, total, seed)
        if len(kept) < len(listed):
            message = f"{file}: {len(listed) - len(kept)} of {len(listed)} clips are left out by the options"
            issues.append(("left_out", "", message))
        rows += kept
    clips = number_repeats([row.clip for row in rows])
    issues += [
        ("repeated_id", clip, f"{row.clip!r} is listed twice")
        for clip, row in zip(clips, rows, strict=True)
        if clip != row.clip
    ]
    present = set(clips)
    frame = table([(clip, *row[1:5]) for clip, row in zip(clips, rows, strict=True)], CLIP_COLUMNS)
    known = [issue for issue in issues if issue[1] in present or issue[1] == ""]
    issue_table = table(known + shared_id_issues(frame), ISSUE_COLUMNS)
    return Annotations(tuple(chosen), frame, _events(clips, rows), issue_table)


def _check_sets(sets: Sequence[str]) -> None:
    if isinstance(sets, str) or not sets or len(set(sets)) != len(sets):
        raise ValueError(f"sets: expected a list of {', '.join(SETS)}, each once; found {sets!r}")
    for name in sets:
        if name not in SETS:
            raise UnknownNameError(f"sets: no set {name!r} of AudioSet; {suggest(name, list(SETS))}")


def _read_classes(path: Path) -> dict[str, str]:
    """mid -> name, in the file's order."""
    lines = read_lines(path)
    header = next(lines)
    if header.text != "index,mid,display_name":
        raise header.error("the header index,mid,display_name")
    names: dict[str, str] = {}
    for line in lines:
        fields = next(csv.reader([line.text]))
        if len(fields) != 3 or fields[0] != str(len(names)) or not fields[1] or not fields[2].isprintable():
            raise line.error(f"the class of index {len(names)}: index,mid,display_name")
        if fields[1] in names or fields[2] in names.values() or not fields[2]:
            raise line.error("a mid and a name that are not repeated")
        names[fields[1]] = fields[2]
    return names


def _chosen(names: Mapping[str, str], classes: Sequence[str]) -> list[str]:
    """The names of the classes to keep, in the file's order."""
    if isinstance(classes, str):
        raise ValueError(f"classes: a list of names or mids, not {classes!r}")
    known = [*names, *names.values()]
    for wanted in classes:
        if wanted not in known:
            raise UnknownNameError(f"classes: AudioSet has no class {wanted!r}; {_near(wanted, known)}")
    return [name for mid, name in names.items() if not classes or mid in classes or name in classes]


def _near(word: str, known: list[str]) -> str:
    """A suggestion, without the list of all classes."""
    text = suggest(word, known)
    return text if text.startswith("did") else f"{CLASSES_FILE} lists them"


def _among(rows: Sequence[_Row], chosen: frozenset[str]) -> Iterator[_Row]:
    """The rows with only the chosen ones of their classes."""
    for row in rows:
        yield row._replace(classes=tuple(name for name in row.classes if name in chosen))


def _read_set(path: Path, split: str, names: Mapping[str, str], issues: list[Issue]) -> Iterator[_Row]:
    """The clips of a set. Appends to `issues`."""
    empty = True
    for line in read_lines(path):
        if line.text.startswith("#") and not line.text.startswith("#NAME?"):
            continue
        empty = False
        found = _LINE.fullmatch(line.text)
        if found is None:
            raise line.error('YTID, start, end, "mid,mid"')
        start, end = (line.seconds(found[side], LONGEST) for side in ("start", "end"))
        if start >= end:
            raise line.error("a start before the end")
        mids = dict.fromkeys(found["labels"].split(","))
        for mid in mids:
            if mid not in names:
                raise line.error(f"a class of {CLASSES_FILE} where it has {mid!r}")
        name, source = source_name(found["id"])
        clip = f"{name}_{round(start)}" if start.is_integer() else f"{name}_{round(start * 1000)}ms"
        if not source:
            issues.append(refused(clip, line, found["id"]))
        elif round(end - start, 3) != CLIP_SECONDS:
            issues.append(("odd_window", clip, f"{line.place}: lasts {end - start:g} s"))
        yield _Row(clip, split, source, start, end, tuple(names[mid] for mid in mids))
    if empty:
        raise AnnotationError(f"{path} lists no clip; is it cut off?")


def _sample(rows: list[_Row], per_class: int, total: int, seed: int) -> list[_Row]:
    """The clips to keep, in the file's order."""
    if not (per_class or total):
        return rows
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} {row.clip}".encode()).digest())
    counts: Counter[str] = Counter()
    kept: set[str] = set()
    for row in ordered:
        if total and len(kept) == total:
            break
        if not per_class or any(counts[name] < per_class for name in row.classes):
            kept.add(row.clip)
            counts.update(row.classes)
    return [row for row in rows if row.clip in kept]


def _events(clips: Sequence[str], rows: Sequence[_Row]) -> pd.DataFrame:
    """The weak labels, made by column because millions of tuples would take more memory than the table."""
    categories = [row.classes for row in rows]
    frame = pd.DataFrame({"clip": clips, "modality": "video", "category": categories}).explode("category")
    return frame.assign(onset=np.nan, offset=np.nan).astype(EVENT_COLUMNS).reset_index(drop=True)
