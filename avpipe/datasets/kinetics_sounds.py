"""Kinetics-Sounds (Arandjelović and Zisserman, Look, Listen and Learn, ICCV 2017, appendix): the classes of Kinetics that
one can both see and hear.

Two forms of lists are read; `lists` chooses:

* `kinetics`: Kinetics' own csv files, `train.csv`, `validate.csv` or `val.csv`, and `test.csv`, of which at least one is there.
  Their header begins label,youtube_id,time_start,time_end,split. Only lines of the 34 classes are kept. Kinetics-400 as
  published has 27 of these names and four that come nearest to others (`RENAMED`): together the 31 classes that papers use.
* `ogm`: the lists of OGM-GE (Peng et al., CVPR 2022), `my_train.txt` and `my_test.txt`, without header:
  `{id}_{start}_{end},10,label` or `{id}_{start},10,label`, label 0 to 30. No file says what the labels mean. `categories` is the name of a file in the folder
  with the 31 names, one a line; without it, the categories are called "class 0" to "class 30".

* A clip is named as Kinetics' files are, `{id}_{start}_{end}` with six digits each.
* The category labels the whole clip (modality "video").

Issue codes: `refused_id`, `repeated_id` (a clip that is listed again), `id_in_{a}_and_{b}`, `no_such_class` (a class that no
line has).
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from avpipe.datasets.base import (
    CLIP_COLUMNS,
    AnnotationError,
    Annotations,
    Issue,
    Line,
    number_repeats,
    read_categories,
    read_lines,
    refused,
    shared_id_issues,
    source_name,
    table,
)

# fmt: off
CLASSES = (
    "blowing nose", "bowling", "chopping wood", "ripping paper", "shuffling cards", "singing", "tapping pen", "typing", "blowing out",
    "dribbling ball", "laughing", "mowing the lawn by pushing lawnmower", "shoveling snow", "stomping", "tap dancing", "tapping guitar",
    "tickling", "fingerpicking", "patting", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet",
    "playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano", "playing saxophone",
    "playing trombone", "playing trumpet", "playing violin", "playing xylophone",
)
# fmt: on
"""The paper's 34 names, of a Kinetics before its publication."""
RENAMED = {
    "blowing out": "blowing out candles",
    "dribbling ball": "dribbling basketball",
    "mowing the lawn by pushing lawnmower": "mowing lawn",
    "stomping": "stomping grapes",
}
"""The paper's name -> the nearest one of Kinetics-400. (Our reading: no source says how classes were renamed. "typing",
"fingerpicking" and "patting" have no near one.)"""
FILES = ("train.csv", "validate.csv", "val.csv", "test.csv")
SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
OGM_CLASSES = 31
LONGEST = 1e6  # largest possible time in a video, seconds

_NAN = float("nan")
_HEADER = ("label", "youtube_id", "time_start", "time_end", "split")
_OGM = re.compile(
    r"(?P<id>[^,]{11})_(?P<start>[0-9]+)(?:_(?P<end>[0-9]+))?,(?P<seconds>[0-9]+),(?P<label>[0-9]+)"
)


class _Row(NamedTuple):
    line: Line
    split: str
    id: str
    start: float
    end: float
    category: str


def read_kinetics_sounds(
    annotations: Path, *, lists: Literal["kinetics", "ogm"] = "kinetics", categories: str = ""
) -> Annotations:
    """Read the folder of Kinetics' csv files, or of OGM-GE's lists.

    Args:
        annotations: the folder.
        lists: which of the two.
        categories: name of a file in the folder, one category a line: the classes to keep in place of the paper's (`kinetics`),
            or the names of the labels from 0 on (`ogm`); empty: see the module's text.

    Raises:
        AnnotationError: for a missing file, a malformed line, or a label without a name.
    """
    own = read_categories(annotations / categories) if categories else ()
    if lists == "ogm":
        names = own or tuple(f"class {label}" for label in range(OGM_CLASSES))
        rows = [*_read_ogm(annotations, "train", names), *_read_ogm(annotations, "test", names)]
    else:
        wanted = own or tuple(name for known in CLASSES for name in (known, RENAMED.get(known)) if name)
        rows = list(_read_kinetics(annotations, frozenset(wanted)))
        listed = {row.category for row in rows}
        names = own or tuple(name for name in wanted if name in listed)
    return _annotations(names, rows, [*_absent(own or CLASSES, rows)] if lists == "kinetics" else [])


def _annotations(names: tuple[str, ...], rows: list[_Row], issues: list[Issue]) -> Annotations:
    """Name the clips; note what is odd."""
    safe = [source_name(row.id) for row in rows]
    plain = [
        f"{name}_{round(row.start):06d}_{round(row.end):06d}"
        for (name, _), row in zip(safe, rows, strict=True)
    ]
    clips = number_repeats(plain)
    for clip, first, (_, source), row in zip(clips, plain, safe, rows, strict=True):
        if clip != first:
            issues.append(("repeated_id", clip, f"{row.line.place}: {first!r} is listed twice"))
        if not source:
            issues.append(refused(clip, row.line, row.id))
    frame = table(
        [
            (clip, row.split, source, row.start, row.end)
            for clip, (_, source), row in zip(clips, safe, rows, strict=True)
        ],
        CLIP_COLUMNS,
    )
    events = [(clip, "video", row.category, _NAN, _NAN) for clip, row in zip(clips, rows, strict=True)]
    return Annotations.from_rows(names, frame, events, issues + shared_id_issues(frame))


def _read_kinetics(folder: Path, wanted: frozenset[str]) -> Iterator[_Row]:
    """The lines of the wanted classes, in the order of `FILES`."""
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not files:
        raise AnnotationError(f"{folder} has none of Kinetics' csv files: {', '.join(FILES)}")
    for file in files:
        lines = read_lines(file)
        header = next(lines)
        if tuple(next(csv.reader([header.text]))[:5]) != _HEADER:
            raise header.error(f"the header {','.join(_HEADER)}")
        for line in lines:
            fields = next(csv.reader([line.text]))
            if len(fields) < len(_HEADER) or fields[4] not in SPLITS:
                raise line.error(f"{','.join(_HEADER)}, the split one of {', '.join(SPLITS)}")
            label, identifier, begin, finish, split = fields[:5]
            start, end = line.seconds(begin, LONGEST), line.seconds(finish, LONGEST)
            if start >= end:
                raise line.error("a start before the end")
            if label in wanted:
                yield _Row(line, SPLITS[split], identifier, start, end, label)


def _read_ogm(folder: Path, split: str, names: tuple[str, ...]) -> Iterator[_Row]:
    """The lines of one list of OGM-GE."""
    for line in read_lines(folder / f"my_{split}.txt"):
        found = _OGM.fullmatch(line.text)
        if found is None or int(found["label"]) >= len(names):
            raise line.error(f"id_start_end,seconds,label, the label 0 to {len(names) - 1}")
        start = line.seconds(found["start"], LONGEST)
        end = line.seconds(found["end"], LONGEST) if found["end"] else start + float(found["seconds"])
        if start >= end:
            raise line.error("a start before the end")
        yield _Row(line, split, found["id"], start, end, names[int(found["label"])])


def _absent(classes: tuple[str, ...], rows: list[_Row]) -> Iterator[Issue]:
    """An issue for each class without a line."""
    listed = {row.category for row in rows}
    for name in classes:
        if name not in listed and RENAMED.get(name) not in listed:
            yield "no_such_class", "", f"no line has the class {name!r}"
