"""Where the sources of sound are: the annotation files of VGG-SS and Flickr-SoundNet, and a csv file of one's own.

All are read into `AnnotatedFrame`. Boxes are x0, y0, x1, y1 as fractions of the picture's width and height, y downwards.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from avpipe.files import read_json

CSV_COLUMNS = ("clip", "time", "x0", "y0", "x1", "y1", "on_screen")
FLICKR_PIXELS = 256
"""Width and height of the pictures that Flickr-SoundNet's boxes are drawn on."""


@dataclass(frozen=True, eq=False)
class AnnotatedFrame:
    """What is known of the sources of sound in one picture.

    Args:
        clip: the clip's name, which is also that of its map.
        boxes: (K, 4) float64, x0, y0, x1, y1 in 0 .. 1; K = 0: nothing that sounds is in the picture (a negative).
        time: seconds from the clip's start; None: the annotation does not say, or is about the whole clip.
        agreement: how many boxes must lie over a pixel for it to count fully. 1: every box is a source of its own, and their
            union is the truth. 2: the boxes are those of several annotators, whose consensus is the truth.
    """

    clip: str
    boxes: npt.NDArray[np.float64]
    time: float | None = None
    agreement: int = 1

    @property
    def on_screen(self) -> bool:
        """Whether a source is in the picture."""
        return len(self.boxes) > 0


def read_annotated_frames(path: Path) -> list[AnnotatedFrame]:
    """Read the annotations of a data set.

    Args:
        path: a folder of xml files (`read_flickr`), a json file (`read_vggss`) or a csv file (`read_source_csv`).

    Raises:
        ValueError: for anything else, or a file with other content; it names the file and the place.
    """
    if path.is_dir():
        return read_flickr(path)
    readers = {".json": read_vggss, ".csv": read_source_csv}
    if path.suffix not in readers or not path.is_file():
        raise ValueError(
            f"{path}: expected VGG-SS's vggss.json, Flickr-SoundNet's folder of xml files, or a csv file with the columns "
            f"{','.join(CSV_COLUMNS)}"
        )
    return readers[path.suffix](path)


def read_vggss(path: Path) -> list[AnnotatedFrame]:
    """Read VGG-SS (Chen et al., Localizing Visual Sounds the Hard Way, CVPR 2021): its file metadata/vggss.json.

    A list of `{"file": "{YouTube id}_{start, six digits}", "class": ..., "bbox": [[x0, y0, x1, y1], ...]}`, one a clip, each
    box a source. Values outside 0 .. 1 are clipped and a file that is listed again replaces the first, as in the released
    code of EZ-VSL and SLAVC. Some boxes have no area: such a source cannot be found. The boxes are drawn on one picture
    of the clip, near its middle; the file does not say which.

    Raises:
        ValueError: if the file has other content.
    """
    listed = read_json(path)
    frames: dict[str, AnnotatedFrame] = {}
    for number, entry in enumerate(listed if isinstance(listed, list) else [None]):
        try:
            clip, boxes = str(entry["file"]), _boxes(entry["bbox"])
        except (TypeError, KeyError, ValueError):
            form = '{"file": ..., "class": ..., "bbox": [[x0, y0, x1, y1], ...]}'
            raise ValueError(
                f"{path}, entry {number}: found {str(entry)[:100]}, expected a list of {form}"
            ) from None
        frames[clip] = AnnotatedFrame(clip, np.clip(boxes, 0, 1))
    return list(frames.values())


def read_flickr(folder: Path) -> list[AnnotatedFrame]:
    """Read Flickr-SoundNet's annotations (Senocak et al., Learning to Localize Sound Source in Visual Scenes, CVPR 2018).

    One `{clip}.xml` a clip with the boxes of three annotators. The form of the files is known from the code that reads them
    (Localizing-Visual-Sounds-the-Hard-Way, EZ-VSL), not from a description: elements `bbox`, whose first child is something
    else and whose next four are xmin, ymin, xmax, ymax in whole pixels of a picture of 256 x 256. Names of other elements
    are not looked at. A pixel counts fully where two boxes lie over it, half where one does.

    Args:
        folder: of the files; a file without a box is a clip without a source in the picture.

    Raises:
        ValueError: if there is no xml file, or one has another form.
    """
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise ValueError(f"{folder} has no xml files; expected Flickr-SoundNet's, one a clip")
    frames = []
    for file in files:
        try:
            found = list(ElementTree.parse(file).getroot().iter("bbox"))
            pixels = [[float(int(str(child.text))) for child in list(box)[1:5]] for box in found]
            boxes = _boxes(pixels) / FLICKR_PIXELS
        except (ElementTree.ParseError, ValueError) as error:
            form = "elements bbox with five children, the last four being xmin, ymin, xmax, ymax in pixels"
            raise ValueError(f"{file}: {error}; expected {form}") from None
        frames.append(AnnotatedFrame(file.stem, boxes, agreement=2))
    return frames


def read_source_csv(path: Path) -> list[AnnotatedFrame]:
    """Read a csv file with the columns clip, time, x0, y0, x1, y1, on_screen.

    One line a source and time. `time` is in seconds from the clip's start, or empty for the whole clip. on_screen is 1, or 0
    for something that sounds but is not in the picture; the box is then ignored and may be empty. A clip's time whose lines
    are all 0 is a negative.

    Raises:
        ValueError: if a column is missing or a value is not what it should be; it names the line.
    """
    found: dict[tuple[str, float | None], list[list[float]]] = {}
    for number, row in _csv_rows(path):
        try:
            time = float(row["time"]) if row["time"] else None
            box = [float(row[side]) for side in CSV_COLUMNS[2:6]] if row["on_screen"] == "1" else []
            x0, y0, x1, y1 = box or (0.0, 0.0, 1.0, 1.0)
            good = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and (time is None or 0 <= time < math.inf)
        except (TypeError, ValueError):
            good = False
        if not good or not row["clip"] or row["on_screen"] not in ("0", "1"):
            raise ValueError(
                f"{path}, line {number}: found {','.join(map(str, row.values()))}; expected {','.join(CSV_COLUMNS)} with "
                "0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1, seconds from the clip's start or nothing, and on_screen 0 or 1"
            )
        boxes = found.setdefault((row["clip"], time), [])
        if box:
            boxes.append(box)
    return [AnnotatedFrame(clip, _boxes(boxes), time) for (clip, time), boxes in found.items()]


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in CSV_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}; expected {','.join(CSV_COLUMNS)}")
        for row in reader:
            yield reader.line_num, row


def _boxes(values: list[list[float]]) -> npt.NDArray[np.float64]:
    """(K, 4), also for K = 0. Raises ValueError if a box has not four numbers."""
    boxes = np.array(values, np.float64).reshape(len(values), -1) if values else np.zeros((0, 4))
    if boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError("a box is four numbers")
    return boxes
