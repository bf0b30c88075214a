"""LLP (Tian et al., Unified Multisensory Perception: Weakly-Supervised Audio-Visual Video Parsing, ECCV 2020).

Tab-separated files with a header. `AVVP_train.csv`, `AVVP_val_pd.csv` and `AVVP_test_pd.csv` have one line a clip,
`filename event_labels`: the weak labels (modality "video"), comma-joined. `AVVP_eval_audio.csv` and
`AVVP_eval_visual.csv` have one line an event, `filename onset offset event_labels`, for val and test: the audio and the
visual events.

* A file name is an id and `_start_end` in seconds, some with a fraction. An id may contain `_`. A clip is named by its
  id, like the authors' feature files (a second window of one video would be `{id}~2`), and ends at start + 10, as in the
  authors' download script, whatever the name says.
* Categories are in the index order of the authors' code (`CATEGORIES`), which no file of theirs gives, or as in the file
  that the option `categories` names.
* The audio file was corrected in April 2024; nearly all published numbers used the earlier one, which had the same
  name. Choose with `audio_csv`: by content (`corrected`, `original`) or by the name of your file.
* `AVVP_dataset_full.csv`, if present, must list the lines of the three splits; this detects truncated files.

Issue codes: `refused_id` (see `avpipe.datasets.base`), `odd_window` (a window that is not 10 s), `repeated_id`,
`id_in_train_and_val` and so on, `duplicate_label` (a category twice in a weak label). Of the files of events:
`unknown_audio_name` and `unknown_visual_name` (a name that is in no split; its events are left out, as in the authors'
evaluation), `zero_length_event`, `reversed_event` and `duplicate_event` (left out), `audio_outside_label` and
`visual_outside_label` (an event whose category is not in the clip's weak label; kept).
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avpipe.datasets.base import (
    CLIP_COLUMNS,
    AnnotationError,
    Annotations,
    Issue,
    Line,
    check_category,
    number_repeats,
    read_categories,
    read_lines,
    refused,
    refused_name,
    shared_id_issues,
    source_name,
    table,
)

CATEGORIES = (
    "Speech", "Car", "Cheering", "Dog", "Cat", "Frying_(food)", "Basketball_bounce", "Fire_alarm", "Chainsaw", "Cello", "Banjo",
    "Singing", "Chicken_rooster", "Violin_fiddle", "Vacuum_cleaner", "Baby_laughter", "Accordion", "Lawn_mower", "Motorcycle",
    "Helicopter", "Acoustic_guitar", "Telephone_bell_ringing", "Baby_cry_infant_cry", "Blender", "Clapping",
)  # fmt: skip
"""The 25 categories in the index order of the authors' code."""

SPLIT_FILES = {"train": "AVVP_train.csv", "val": "AVVP_val_pd.csv", "test": "AVVP_test_pd.csv"}
FULL_FILE = "AVVP_dataset_full.csv"
VISUAL_FILE = "AVVP_eval_visual.csv"
AUDIO_VERSIONS = {
    "corrected": "d5435664668bec6e7eafb39059d2f424ed2682f6b55395262fc3cb691b7d0778",
    "original": "249122f65501d8d611c0027a48643798fe622bedee60f7e6224b5a8e3c02f886",
}
"""SHA-256 of the file of audio events (with line feeds only): since commit fde5611 (2024-04-16), and before."""
CLIP_SECONDS = 10.0
EXPECTED = "id_start_end with an id that is safe as a file name"
LONGEST = 1e6  # largest possible time in a video, seconds

_NAME = re.compile(r"(?P<id>.*)_(?P<start>[0-9]+(?:\.[0-9]+)?)_(?P<end>[0-9]+(?:\.[0-9]+)?)")

Event = tuple[str, str, str, float, float]  # clip, modality, category, onset, offset


class _SplitLine(NamedTuple):
    """A line of a split's file."""

    line: Line
    name: str
    split: str
    order: int
    labels: tuple[str, ...]


class _Window(NamedTuple):
    """The content of a file name; `seconds` is the window's length."""

    clip: str
    source: str
    start: float
    seconds: float


def read_llp(
    annotations: Path, *, categories: str = "", audio_csv: str = "AVVP_eval_audio.csv"
) -> Annotations:
    """Read the folder of LLP's csv files.

    Args:
        annotations: the folder.
        categories: name of a file in the folder with one category a line, in index order; "": the 25 of LLP.
        audio_csv: name of the file of audio events in the folder; or `corrected` or `original` for the csv file with
            that version's checksum, whatever its name. Most papers' numbers come from the original.

    Raises:
        AnnotationError: for a missing file, a malformed line, an unknown category, a file name listed twice, or split
            files that disagree with `AVVP_dataset_full.csv`.
    """
    name = _file_of_version(annotations, audio_csv) if audio_csv in AUDIO_VERSIONS else audio_csv
    indexed = read_categories(annotations / categories) if categories else CATEGORIES
    return read_parsing_files(annotations, indexed, name)


def _file_of_version(folder: Path, version: str) -> str:
    """Name of the csv file in `folder` with the version's checksum. Raises `AnnotationError` if there is none."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        digest = hashlib.sha256(content).hexdigest()
        if digest == AUDIO_VERSIONS[version]:
            return path.name
        found.append(f"{path.name} {digest[:12]}")
    raise AnnotationError(
        f"{folder}: no csv file is the {version} file of audio events (SHA-256 {AUDIO_VERSIONS[version][:12]}...); found: "
        f"{', '.join(found) or 'none'}; get it from the history of YapengTian/AVVP-ECCV20, or set a file name"
    )


def read_parsing_files(folder: Path, categories: Sequence[str], audio_csv: str) -> Annotations:
    """Read files in LLP's format, with any categories; otherwise as `read_llp`."""
    listed = _read_splits(folder, categories)
    windows = [_window(entry.line, entry.name) for entry in listed]
    clips = number_repeats([window.clip for window in windows])
    issues: list[Issue] = []
    for clip, window, entry in zip(clips, windows, listed, strict=True):
        if not window.source:
            issues.append(refused(clip, entry.line, entry.name, EXPECTED))
        elif window.seconds != CLIP_SECONDS:
            message = f"{entry.line.place}: {entry.name!r} lasts {window.seconds:g} s, not {CLIP_SECONDS:g}"
            issues.append(("odd_window", clip, message))
        if clip != window.clip:
            message = f"{entry.line.place}: {entry.name!r} is another clip of the same id"
            issues.append(("repeated_id", clip, message))
    frame = table(
        [
            (clip, entry.split, window.source, window.start, window.start + CLIP_SECONDS, entry.order)
            for clip, window, entry in zip(clips, windows, listed, strict=True)
        ],
        {**CLIP_COLUMNS, "split_order": "int64"},
    )
    events = _weak_events(clips, listed, issues)
    clip_of = {entry.name: clip for clip, entry in zip(clips, listed, strict=True)}
    labels_of = {entry.name: entry.labels for entry in listed}
    for modality, name in (("audio", audio_csv), ("visual", VISUAL_FILE)):
        events += _timed_events(folder / name, modality, categories, clip_of, labels_of, issues)
    return Annotations.from_rows(categories, frame, events, issues + shared_id_issues(frame))


def _window(line: Line, name: str) -> _Window:
    """The content of a line's file name; a malformed name gives a refused clip without source and times."""
    match = _NAME.fullmatch(name)
    if match is None:
        return _Window(refused_name(name), "", float("nan"), CLIP_SECONDS)
    start, end = (line.seconds(match[side], LONGEST) for side in ("start", "end"))
    clip, source = source_name(match["id"])
    return _Window(clip, source, start if source else float("nan"), round(end - start, 3))


def _rows(path: Path, columns: str) -> Iterator[tuple[Line, list[str]]]:
    """The fields of each line after the header `columns`."""
    lines = read_lines(path)
    header = next(lines)
    if header.fields("\t", columns) != columns.split():
        raise header.error(f"the header {columns!r}, tab-separated")
    for line in lines:
        yield line, line.fields("\t", columns)


def _read_splits(folder: Path, categories: Sequence[str]) -> list[_SplitLine]:
    listed = []
    first: dict[str, Line] = {}
    for split, file in SPLIT_FILES.items():
        for order, (line, (name, labels)) in enumerate(_rows(folder / file, "filename event_labels")):
            if name in first:
                raise line.error(f"a file name that is listed once; {first[name].place} has it too")
            first[name] = line
            weak = tuple(check_category(line, label, categories) for label in labels.split(","))
            listed.append(_SplitLine(line, name, split, order, weak))
    if not listed:
        raise AnnotationError(f"{folder}: {', '.join(SPLIT_FILES.values())} list no clip")
    if (folder / FULL_FILE).is_file():
        _check_full(folder, first.keys())
    return listed


def _check_full(folder: Path, names: Collection[str]) -> None:
    """Raise `AnnotationError` unless `AVVP_dataset_full.csv` lists exactly these file names."""
    full = {name for _, (name, _) in _rows(folder / FULL_FILE, "filename event_labels")}
    for here, there, where in ((names, full, FULL_FILE), (full, names, "the split files")):
        missing = [name for name in here if name not in there]
        if missing:
            raise AnnotationError(
                f"{folder}: {FULL_FILE} and the split files ({', '.join(SPLIT_FILES.values())}) should list the same "
                f"clips, but {len(missing)} are not in {where}, for example {missing[0]!r}; is a file cut off?"
            )


def _weak_events(clips: Sequence[str], listed: Sequence[_SplitLine], issues: list[Issue]) -> list[Event]:
    """The weak labels as events, each category once a clip. Appends to `issues`."""
    events = []
    for clip, entry in zip(clips, listed, strict=True):
        distinct = dict.fromkeys(entry.labels)
        if len(distinct) < len(entry.labels):
            message = f"{entry.line.place}: a category is repeated in {','.join(entry.labels)!r}"
            issues.append(("duplicate_label", clip, message))
        events += [(clip, "video", category, float("nan"), float("nan")) for category in distinct]
    return events


def _timed_events(
    path: Path,
    modality: str,
    categories: Sequence[str],
    clip_of: Mapping[str, str],
    labels_of: Mapping[str, tuple[str, ...]],
    issues: list[Issue],
) -> list[Event]:
    """The events of one modality's file that an evaluation can use. Appends to `issues`."""
    unknown: dict[str, list[str]] = defaultdict(list)
    known = set()
    events = []
    for line, (name, start, end, label) in _rows(path, "filename onset offset event_labels"):
        onset, offset = line.seconds(start), line.seconds(end)
        category = check_category(line, label, categories)
        clip = clip_of.get(name, "")
        again = (name, onset, offset, category) in known
        known.add((name, onset, offset, category))
        if not clip:
            unknown[name].append(line.place)
        if onset >= offset:
            code = "zero_length_event" if onset == offset else "reversed_event"
            issues.append((code, clip, f"{line.place}: {line.text!r} has no duration; left out"))
        if again:
            issues.append(("duplicate_event", clip, f"{line.place}: {line.text!r} is repeated; left out"))
        if not clip or onset >= offset or again:
            continue
        events.append((clip, modality, category, onset, offset))
        if category not in labels_of[name]:
            message = f"{line.place}: {category} is not in the clip's label {','.join(labels_of[name])!r}"
            issues.append((f"{modality}_outside_label", clip, message))
    issues += [
        (f"unknown_{modality}_name", "", f"{name!r} is in no split; left out: {', '.join(places)}")
        for name, places in unknown.items()
    ]
    return events
