"""UCF-101 (Soomro, Zamir and Shah, UCF101: a dataset of 101 human actions classes from videos in the wild, 2012).

The official lists: `classInd.txt` has one line a class, `number Name`, numbered from 1. `trainlist0N.txt` has
`Class/v_Class_gGG_cCC.avi number` a video, `testlist0N.txt` the path alone. The three pairs split the same 13,320
videos in three ways; `split` chooses one.

* A clip is a whole video. Its source is the path in the list, `Archery/v_Archery_g01_c01.avi`, and its name is the file's,
  `v_Archery_g01_c01`. A file with a name of another form is named by its path, as in a folder: `Archery~mine~mp4`.
* The category is the name of the folder. (Class 37 is HandstandPushups, its files are called `v_HandStandPushups_...`.)
* The category labels the whole clip (modality "video"). About half of the classes have sound.
* There is no validation split.

Issue codes: `refused_id` (a path that is not folder and media file; the clip is listed but never fetched).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from avpipe.clips import MEDIA_SUFFIXES
from avpipe.datasets.base import Annotations, Issue, Line, is_file_name, read_lines, refused, refused_name
from avpipe.datasets.folder import clip_names

CLASSES_FILE = "classInd.txt"
_OFFICIAL = re.compile(r"[A-Za-z0-9]+/(?P<clip>v_[A-Za-z0-9]+_g[0-9]+_c[0-9]+)\.avi")
_NAN = float("nan")


def read_ucf101(annotations: Path, *, split: Literal[1, 2, 3] = 1) -> Annotations:
    """Read the folder of UCF-101's train/test lists for action recognition.

    Args:
        annotations: the folder.
        split: which of the three official splits.

    Raises:
        AnnotationError: for a missing file, a malformed line, a class that is not in `classInd.txt`, or a video listed
            twice.
    """
    return read_lists(annotations, ("train", "test"), split)


def read_lists(annotations: Path, parts: Iterable[str], split: int) -> Annotations:
    """The clips of `{part}list0{split}.txt` for each of `parts`, which are names of splits; see `read_ucf101`."""
    categories = _read_classes(annotations / CLASSES_FILE)
    clips, events = [], []
    issues: list[Issue] = []
    places: dict[str, Line] = {}
    for part in parts:
        for line, path, category in _read_list(annotations / f"{part}list0{split}.txt", part, categories):
            name, source = _clip(path)
            if name in places:
                raise line.error(f"a video that is listed once; {places[name].place} has it too")
            places[name] = line
            if not source:
                issues.append(refused(name, line, path, "Class/file of a video"))
            clips.append((name, part, source, _NAN, _NAN))
            if category:
                events.append((name, "video", category, _NAN, _NAN))
    return Annotations.from_rows(categories.values(), clips, events, issues)


def _clip(path: str) -> tuple[str, str]:
    """Name and source of the clip of a path; see `avpipe.datasets.base.source_name`."""
    if found := _OFFICIAL.fullmatch(path):
        return found["clip"], path
    parts = path.split("/")
    media = f".{path.rpartition('.')[2].lower()}" in MEDIA_SUFFIXES
    safe = media and len(parts) == 2 and all(map(is_file_name, parts))
    return (clip_names([path])[0], path) if safe else (refused_name(path), "")


def _read_classes(path: Path) -> dict[str, str]:
    """Number -> name, in the file's order."""
    classes: dict[str, str] = {}
    for line in read_lines(path):
        number, name = line.fields(" ", "number name")
        if number != str(len(classes) + 1) or not is_file_name(name):
            raise line.error(f"class {len(classes) + 1}: number and name")
        if name in classes.values():
            raise line.error("a name that is not repeated")
        classes[number] = name
    return classes


def _read_list(path: Path, part: str, classes: Mapping[str, str]) -> Iterator[tuple[Line, str, str]]:
    """Line, path and category ("" if unknown, for a refused path of a list without numbers)."""
    for line in read_lines(path):
        video, number = line.text, ""
        if part == "train":
            video, _, number = line.text.rpartition(" ")
            if number not in classes:
                raise line.error(f"a path and the number of a class (1 to {len(classes)})")
        folder = video.partition("/")[0]
        named = folder if folder in classes.values() else ""
        if _clip(video)[1] and not named:
            raise line.error(f"a folder that {CLASSES_FILE} lists as a class")
        if named and number and classes[number] != named:
            raise line.error(f"the number of {named}; {number} is {classes[number]}")
        yield line, video, named or classes.get(number, "")
