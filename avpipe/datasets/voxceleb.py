"""VoxCeleb1 (Nagrani, Chung and Zisserman, VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017) and
VoxCeleb2 (Chung, Nagrani and Zisserman, VoxCeleb2: deep speaker recognition, Interspeech 2018): people who speak.

A list names an utterance a line, the path last: `id00012/21Uxsk56VDQ/00001.wav` is the first utterance of a video by speaker
id00012. Before the path may stand the speaker (VoxCeleb2's `train_list.txt`) or the part (VoxCeleb1's `iden_split.txt`: 1, 2 or
3), which are not used. Without a list, the folder itself is read, {speaker}/{video}/{utterance}.mp4.

* A clip is an utterance, a file of its own. Its source is the path with the ending of the files that you have (`ending`), its
  name is {speaker}_{video}_{utterance}, and its category the speaker.
* Each speaker belongs to one split, train, val or test, which depends only on the seed and the speaker's id. The speakers of
  Owens and Efros's splits (ECCV 2018), which are disjoint, too, are not published.

Issue codes: `left_out` (how many utterances `per_speaker` left out).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from avpipe.datasets.base import AnnotationError, Annotations, Issue, digest_of, read_lines

_PATH = re.compile(r"(?P<speaker>id[0-9]{5})/(?P<video>[A-Za-z0-9_-]{1,50})/(?P<utterance>[0-9]{1,9})")
_NAN = float("nan")


def read_voxceleb(
    annotations: Path,
    *,
    lists: str = "",
    ending: str = "mp4",
    val: float = 0.1,
    test: float = 0.1,
    per_speaker: int = 0,
    seed: int = 0,
) -> Annotations:
    """Read a list of utterances, or a folder of them.

    Args:
        annotations: the folder.
        lists: name of a list in it; empty: the folder has the files themselves.
        ending: of the files.
        val, test: shares of the speakers in these splits, about; train has the others.
        per_speaker: how many utterances of each speaker to keep, chosen by the seed and their names; 0: all.
        seed: of both choices.

    Raises:
        AnnotationError: for a missing list or folder, a malformed line, an utterance that is listed twice, or no utterance.
        ValueError: for shares that leave nothing for train.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(
            f"val and test: shares of the speakers with a sum below 1, found {val:g} and {test:g}"
        )
    found = list(_listed(annotations / lists) if lists else _in_folder(annotations, ending))
    order = sorted(found, key=lambda path: digest_of(f"{seed} {path}")) if per_speaker else found
    counts: Counter[str] = Counter()
    kept = set()
    for path in order:
        speaker = path.partition("/")[0]
        counts[speaker] += 1
        if not per_speaker or counts[speaker] <= per_speaker:
            kept.add(path)
    issues: list[Issue] = []
    if len(kept) < len(found):
        issues.append(("left_out", "", f"{len(found) - len(kept)} of {len(found)} utterances are left out"))
    clips, events = [], []
    for path in (path for path in found if path in kept):
        speaker, name = path.partition("/")[0], path.replace("/", "_")
        clips.append((name, _split(speaker, val, test, seed), f"{path}.{ending}", _NAN, _NAN))
        events.append((name, "video", speaker, _NAN, _NAN))
    return Annotations.from_rows(sorted(counts), clips, events, issues)


def _listed(path: Path) -> Iterator[str]:
    """The utterances of a list without their endings, in its order."""
    places: dict[str, str] = {}
    for line in read_lines(path):
        utterance = line.text.rpartition(" ")[2].rpartition(".")[0]
        if not _PATH.fullmatch(utterance):
            raise line.error(
                "a path {speaker}/{video}/{utterance}.wav at the end, such as id00012/21Uxsk56VDQ/00001.wav"
            )
        if utterance in places:
            raise line.error(f"an utterance that is listed once; {places[utterance]} has it too")
        places[utterance] = line.place
        yield utterance


def _in_folder(folder: Path, ending: str) -> Iterator[str]:
    """The utterances below a folder without their endings, in alphabetical order."""
    paths = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(f"id*/*/*.{ending}"))
    found = sorted(path for path in paths if _PATH.fullmatch(path))
    if not found:
        raise AnnotationError(
            f"{folder} has no files {{speaker}}/{{video}}/{{utterance}}.{ending}, and `lists` names no list"
        )
    yield from found


def _split(speaker: str, val: float, test: float, seed: int) -> str:
    """By a number from 0 to 1 that follows from the seed and the speaker."""
    drawn = int(digest_of(f"{seed} {speaker}")[:13], 16) / 16**13
    return "test" if drawn < test else "val" if drawn < test + val else "train"
