"""AVE (Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018): the released text files.

`Annotations.txt` has one line a clip, `Category&VideoID&Quality&Start&End`; a header line is skipped. `trainSet.txt`,
`valSet.txt` and `testSet.txt` list the same lines by split, in the order of the released `{train,val,test}_order.h5`,
kept in the column `split_order`. Where all three are missing, the order files ("order": line numbers from 0) are read
instead.

* Each line is a clip; a repeated id gives a clip of its own, named `{id}~2`.
* Categories are numbered by first appearance in `Annotations.txt`, or as in the file that the option `categories` names;
  background comes last.
* An event is the seconds [Start, End) of the authors' 10 s excerpt. The files do not say where in the YouTube video the
  excerpt lies, so a clip's start and end are NaN: the whole of a source's file.
* Two rows of the authors' `labels.h5` (171 and 2189, both test) are said to have two categories (AVE-ECCV18 issue 10);
  the text files, which are read here, give one each. `conflicts: drop` leaves these two clips out.
* 18 ids are both in the training split and in another one, with another category. `shared_ids: drop` leaves out the
  clips of the earlier split (train before val before test), so that no test clip is lost.
* A clip that is left out stays in the manifest, in the split "none".
* `labels` reads the events from a file of labels instead (`labels.h5`, PSP's `right_labels.h5`): "avadataset", (N, 10,
  C + 1), one for a segment's category, background last; row i belongs to line i of `Annotations.txt`.
* `{train,val,test}_order_match.h5`, if present, split the clips for cross-modality localization (columns match_split
  and match_order): the same sizes, but every test clip has an event shorter than the clip.
* `noisy` appends the clips of the noisy set, named `noisy~0` and so on: 178 clips of background only. Their ids are
  lost, so only their published features exist. They are in the split weak, which weakly supervised experiments train on
  in addition to train; row i of `audio_feature_noisy.h5` and `visual_feature_noisy.h5` is `noisy~{i}`.
* `VWi2ENBuTbw` is annotated from 0 to 0. Here it is all background, as in the authors' `labels_closs.h5`; their
  `mil_labels.h5` (weak supervision) gives it its category.

Issue codes: `refused_id` (see `avpipe.datasets.base`), `repeated_id` (an id in several rows), `conflicting_labels`
(rows of one id that overlap in time and differ in category), `id_in_train_and_val` and so on, `zero_length_event`,
`reversed_event` (both make the clip all background), `no_split`, `other_labels` (the file of labels contradicts
`Annotations.txt`), `two_labels` (the two rows above), `dropped` (a clip left out by an option).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from avpipe.clips import CLIP_NAME, noisy_clip
from avpipe.datasets.base import (
    CLIP_COLUMNS,
    AnnotationError,
    Annotations,
    Issue,
    Line,
    check_category,
    leaking_clips,
    number_repeats,
    read_categories,
    read_lines,
    refused,
    shared_id_issues,
    source_name,
    table,
)
from avpipe.files import H5Error, open_h5

_WHOLE = (float("nan"), float("nan"))  # start and end of a clip that is a whole file
Event = tuple[str, str, str, float, float]  # clip, modality, category, onset, offset

TWO_LABELS = ("hOuyJFqb4JM", "ddU9u9pBszc")  # ids of the rows 171 and 2189 of `Annotations.txt`

FIELDS = "Category VideoID Quality Start End"
SET_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


class _Row(NamedTuple):
    line: Line
    category: str
    identifier: str
    onset: float
    offset: float


def read_ave(
    annotations: Path,
    *,
    categories: str = "",
    labels: str = "",
    noisy: int = 0,
    conflicts: Literal["keep", "drop"] = "keep",
    shared_ids: Literal["keep", "drop"] = "keep",
) -> Annotations:
    """Read the folder that holds AVE's `Annotations.txt` and its split files.

    Args:
        annotations: the folder.
        categories: name of a file in the folder with one category a line, in index order: another one is an error.
        labels: name of a file of labels in the folder; its events replace the intervals of `Annotations.txt`.
        noisy: how many clips of the noisy set to append; there are 178.
        conflicts: "drop" leaves out the two clips that have two categories in the authors' `labels.h5`.
        shared_ids: "drop" leaves out the clips whose id is also in a later split.

    Raises:
        H5Error: for an h5 file that is damaged or has another array.
        AnnotationError: for a missing file, a malformed line, or a line of a split file that is not in
            `Annotations.txt` or is in more split files than lines.
    """
    rows = _read_rows(annotations / "Annotations.txt")
    names = [source_name(row.identifier) for row in rows]
    clips = number_repeats([name for name, _ in names])
    issues = [
        refused(clip, row.line, row.identifier)
        for clip, row, (_, source) in zip(clips, rows, names, strict=True)
        if not source
    ]
    events = _events(rows, clips, issues)
    indexed = tuple(dict.fromkeys(row.category for row in rows))
    if categories:
        indexed = read_categories(annotations / categories)
        for row in rows:
            check_category(row.line, row.category, indexed)
    if labels:
        events, others = _replace_events(annotations / labels, clips, indexed, events)
        issues += others
    splits = _read_splits(annotations, rows)
    issues += [
        ("no_split", clip, f"{row.line.place} is in none of {', '.join(SET_FILES.values())}")
        for clip, row, (split, _) in zip(clips, rows, splits, strict=True)
        if split == "none"
    ]
    sources = [source for _, source in names]
    frame = _with_match_splits(_clip_table(clips, sources, splits, noisy), annotations, len(rows))
    issues += shared_id_issues(frame)
    if conflicts == "drop":
        doubtful = [clip for clip in clips if clip in TWO_LABELS]
        issues += _leave_out(frame, dict.fromkeys(doubtful, "two categories in labels.h5"))
    if shared_ids == "drop":
        issues += _leave_out_leaks(frame)
    return Annotations.from_rows(indexed, frame, events, issues)


def read_row_names(path: Path) -> list[str]:
    """The clip of each row of a published h5 file, from Annotations.txt or from a file with one clip name a line.

    Raises:
        AnnotationError: if the file cannot be read, or a line of Annotations.txt has no id.
    """
    names = []
    for line in read_lines(path):
        if line.number == 1 and (line.text == "clip" or line.text.startswith("Category&VideoID")):
            continue
        ave = "&" in line.text
        identifier = line.fields("&", FIELDS)[1] if ave else line.text
        listed = not ave and re.fullmatch(CLIP_NAME, identifier)  # may be a clip's name already, such as x~2
        names.append(identifier if listed else source_name(identifier)[0])
    return number_repeats(names)


def _events(rows: Sequence[_Row], clips: Sequence[str], issues: list[Issue]) -> list[Event]:
    """The annotated events. Appends to `issues`."""
    events = []
    for clip, row in zip(clips, rows, strict=True):
        if row.onset < row.offset:
            events.append((clip, "audiovisual", row.category, row.onset, row.offset))
        else:
            code = "zero_length_event" if row.onset == row.offset else "reversed_event"
            message = f"{row.line.place}: {row.line.text!r} has no event; the clip is all background"
            issues.append((code, clip, message))
    issues += _repeat_issues(rows, clips)
    for clip, row in zip(clips, rows, strict=True):
        if row.identifier in TWO_LABELS:
            message = f"{row.line.place}: {row.category} here, two categories in the authors' labels.h5"
            issues.append(("two_labels", clip, message))
    return events


def _clip_table(
    clips: Sequence[str], sources: Sequence[str], splits: Sequence[tuple[str, int]], noisy: int
) -> pd.DataFrame:
    """The clips with their splits, then the noisy set."""
    extra = [(noisy_clip(row), "weak", "", *_WHOLE, row) for row in range(noisy)]
    rows = [
        (clip, split, source, *_WHOLE, order)
        for clip, source, (split, order) in zip(clips, sources, splits, strict=True)
    ]
    return table(rows + extra, {**CLIP_COLUMNS, "split_order": "int64"})


def _read_rows(path: Path) -> list[_Row]:
    rows = []
    for line in read_lines(path):
        if line.number == 1 and line.text.startswith("Category&VideoID"):
            continue
        category, identifier, _, start, end = line.fields("&", FIELDS)
        if not category or not category.isprintable():
            raise line.error("a category's name in the first field")
        rows.append(_Row(line, category, identifier, line.seconds(start), line.seconds(end)))
    if not rows:
        raise AnnotationError(f"{path} has only a header; expected one line a clip")
    return rows


def _replace_events(
    path: Path, clips: Sequence[str], categories: Sequence[str], events: Sequence[Event]
) -> tuple[list[Event], list[Issue]]:
    """The events of a file of labels, and an issue for each clip where they differ from `events`."""
    with open_h5(path, "avadataset") as array:
        if array.ndim != 3 or array.shape[0] != len(clips) or array.shape[2] != len(categories) + 1:
            raise H5Error(
                f"{path} has shape {array.shape}, expected ({len(clips)}, segments, {len(categories) + 1}): a row for "
                "each line of Annotations.txt, a column for each category and one for background"
            )
        labels = array[:] > 0
    found: dict[str, list[Event]] = {clip: [] for clip in clips}
    padded = np.pad(labels[:, :, :-1], ((0, 0), (1, 1), (0, 0))).astype(np.int8)
    edges = np.diff(padded, axis=1).transpose(0, 2, 1)  # (N, C, T + 1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    for (clip, category, onset), (_, _, offset) in zip(starts.tolist(), ends.tolist(), strict=True):
        event = (clips[clip], "audiovisual", categories[category], float(onset), float(offset))
        found[clips[clip]].append(event)
    annotated: dict[str, list[Event]] = {clip: [] for clip in clips}
    for event in events:
        annotated[event[0]].append(event)
    issues = [
        ("other_labels", clip, f"{path.name}: {_spans(own)}; Annotations.txt: {_spans(annotated[clip])}")
        for clip, own in found.items()
        if own != annotated[clip]
    ]
    return [event for clip in clips for event in found[clip]], issues


def _spans(events: Sequence[Event]) -> str:
    return ", ".join(f"{category} {on:g}-{off:g}" for _, _, category, on, off in events) or "background"


def _read_splits(folder: Path, rows: Sequence[_Row]) -> list[tuple[str, int]]:
    """Split and position in the split of each row, from the split files or, if all are missing, the order files."""
    orders = {split: folder / f"{split}_order.h5" for split in SET_FILES}
    texts = [folder / name for name in SET_FILES.values()]
    if any(path.exists() for path in texts) or not all(path.exists() for path in orders.values()):
        return _read_sets(folder, rows)
    return _read_orders(orders, len(rows))


def _read_orders(files: Mapping[str, Path], rows: int) -> list[tuple[str, int]]:
    """Split and position in the split's file of each row; ("none", count of such rows so far) for a row in no file."""
    found: dict[int, tuple[str, int]] = {}
    for split, path in files.items():
        with open_h5(path, "order") as array:
            numbers = np.asarray(array[:]).reshape(-1).tolist()
        for order, row in enumerate(numbers):
            if not 0 <= row < rows or row in found or row != int(row):
                raise H5Error(
                    f"{path}, entry {order}: {row} is not the number of a line of Annotations.txt (0 to {rows - 1}), "
                    "or is listed twice"
                )
            found[int(row)] = (split, order)
    outside = iter(range(rows))
    return [found[row] if row in found else ("none", next(outside)) for row in range(rows)]


def _with_match_splits(clips: pd.DataFrame, folder: Path, rows: int) -> pd.DataFrame:
    """`clips` with match_split and match_order if the folder has one of their files; noisy clips are in no split."""
    files = {split: folder / f"{split}_order_match.h5" for split in SET_FILES}
    if not any(path.exists() for path in files.values()):
        return clips
    found = _read_orders(files, rows) + [("none", row) for row in range(len(clips) - rows)]
    columns = {"match_split": "str", "match_order": "int64"}
    return clips.join(table(found, columns))


def _leave_out(clips: pd.DataFrame, reasons: Mapping[str, str]) -> list[Issue]:
    """Put clips into the split none, also for matching; return their issues."""
    chosen = clips["clip"].isin(list(reasons))
    for column in ("split", "match_split"):
        if column in clips:
            clips.loc[chosen, column] = "none"
    return [("dropped", clip, f"left out: {reason}") for clip, reason in reasons.items()]


def _leave_out_leaks(clips: pd.DataFrame) -> list[Issue]:
    """Put the clips whose id is also in a later split into the split none, for each kind of split; return their issues."""
    issues = []
    for column in ("split", "match_split"):
        if column in clips:
            leaking = leaking_clips(clips, column)
            clips.loc[clips["clip"].isin(list(leaking)), column] = "none"
            dropped = [(clip, f"left out of {column}: its id is in {last}") for clip, last in leaking.items()]
            issues += [("dropped", clip, message) for clip, message in dropped]
    return issues


def _read_sets(folder: Path, rows: Sequence[_Row]) -> list[tuple[str, int]]:
    """As `_read_orders`, from the split files."""
    waiting: dict[str, list[int]] = defaultdict(list)
    for index, row in reversed(list(enumerate(rows))):
        waiting[row.line.text].append(index)
    found: list[tuple[str, int] | None] = [None] * len(rows)
    for split, name in SET_FILES.items():
        lines = (line for line in read_lines(folder / name) if not line.text.startswith("Category&VideoID"))
        for order, line in enumerate(lines):
            if not waiting[line.text]:
                raise line.error("a line of Annotations.txt that is in no other split file")
            found[waiting[line.text].pop()] = (split, order)
    outside = iter(range(len(rows)))
    return [where if where is not None else ("none", next(outside)) for where in found]


def _repeat_issues(rows: Sequence[_Row], clips: Sequence[str]) -> list[Issue]:
    """`repeated_id` for ids in several rows; `conflicting_labels` if these rows overlap in time and differ in category."""
    counts = Counter(row.identifier for row in rows)
    groups: dict[str, list[tuple[str, _Row]]] = defaultdict(list)
    for clip, row in zip(clips, rows, strict=True):
        if counts[row.identifier] > 1:
            groups[row.identifier].append((clip, row))
    issues = []
    for identifier, group in groups.items():
        first = group[0][0]
        listed = "; ".join(f"{clip} {row.category} {row.onset:g}-{row.offset:g}" for clip, row in group)
        issues.append(("repeated_id", first, f"{identifier!r} has {len(group)} rows: {listed}"))
        if any(
            a.category != b.category and max(a.onset, b.onset) < min(a.offset, b.offset)
            for (_, a), (_, b) in combinations(group, 2)
        ):
            message = f"the same seconds of {identifier!r} have several categories: {listed}"
            issues.append(("conflicting_labels", first, message))
    return issues
