"""The content of a demo clip, before anything is rendered.

The eight classes are the eight edges of a ring of four looks and four sounds: a class shares its look with one neighbour
and its sound with the other. An audio-visual event is a look and a sound of the same class in the same second; any other
look or sound is a distractor. So neither modality alone can tell the class, or when the other modality is present.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SECONDS = 10
LOOKS = ("striped", "checked", "ringed", "dotted")
SOUNDS = ("chime", "hum", "rattle", "siren")
SPLITS = ("train", "test", "train", "val", "train", "test", "train")
"""Splits of the clips in turn. With seven entries and eight classes, 56 clips have each class with each entry once."""

NO_EVENT = 0.1
"""Share of clips whose sound and look never coincide: all background, like AVE's clips of other categories."""
FULL_LENGTH = 0.35  # share of clips whose event lasts all ten seconds (AVE: 0.66)
DISTRACTOR = 0.6
"""Probability of an additional sound without its look, and of an additional look without its sound."""
DISTURBED = (0.1, 0.1, 0.06)
"""Probabilities that in a second the objects are occluded, the sounds masked, or both."""

FRAME_RATES = (24, 25, 30)
FRAME_SIZES = ((160, 120), (176, 144), (192, 108))
SAMPLE_RATES = (22050, 44100)
ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True)
class EventClass:
    """A look and a sound. Of the two classes with the same look, or the same sound, one is livelier."""

    look: int
    sound: int
    lively: bool

    @property
    def name(self) -> str:
        """For example "Striped chime"."""
        return f"{LOOKS[self.look]} {SOUNDS[self.sound]}".capitalize()


CLASSES = tuple(EventClass(look=k // 2, sound=(k + 1) // 2 % 4, lively=k % 2 == 1) for k in range(8))


@dataclass(frozen=True)
class Interval:
    """An audio or visual event of a class (index in `CLASSES`), in the seconds onset <= t < offset."""

    category: int
    onset: int
    offset: int

    @property
    def seconds(self) -> range:
        return range(self.onset, self.offset)


@dataclass(frozen=True)
class ClipPlan:
    """A clip.

    Args:
        audio: sounds; the first is the event's, the others are distractors.
        visual: looks; the first is the event's, the others are distractors.
        occluded: seconds in which every object is hidden; labels stay.
        masked: seconds in which noise covers every sound; labels stay.
    """

    index: int
    seed: int
    id: str
    split: str
    audio: tuple[Interval, ...]
    visual: tuple[Interval, ...]
    occluded: frozenset[int]
    masked: frozenset[int]
    frame_rate: int
    width: int
    height: int
    sample_rate: int
    channels: int

    @property
    def event(self) -> Interval:
        """The audio-visual event: the seconds with both its look and its sound; 0 to 0 if there are none."""
        sound, look = self.audio[0], self.visual[0]
        onset, offset = max(sound.onset, look.onset), min(sound.offset, look.offset)
        return Interval(sound.category, onset, offset) if onset < offset else Interval(sound.category, 0, 0)

    def random(self, purpose: str) -> np.random.Generator:
        """A random generator for one purpose, independent of the numbers drawn for others."""
        return _random(self.seed, self.index, purpose)


def _random(seed: int, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, index, *purpose.encode()])


def plan_clip(index: int, seed: int) -> ClipPlan:
    """Clip number `index` of the demo with `seed`; it does not depend on the number of clips."""
    rng = _random(seed, index, "plan")
    sound, look = _event(rng, category=index % len(CLASSES))
    audio: tuple[Interval, ...] = (sound,)
    visual: tuple[Interval, ...] = (look,)
    events = co_occurrences(audio, visual)
    if rng.random() < DISTRACTOR:
        audio = _add_distractor(rng, audio, allowed=lambda more: co_occurrences(more, visual) == events)
    if rng.random() < DISTRACTOR:
        visual = _add_distractor(rng, visual, allowed=lambda more: co_occurrences(audio, more) == events)
    occluded, masked = _disturbed(rng, event=sorted(second for second, _ in events))
    width, height = FRAME_SIZES[rng.integers(len(FRAME_SIZES))]
    return ClipPlan(
        index=index,
        seed=seed,
        id="".join(ID_LETTERS[i] for i in rng.integers(len(ID_LETTERS), size=11)),
        split=SPLITS[index % len(SPLITS)],
        audio=audio,
        visual=visual,
        occluded=occluded,
        masked=masked,
        frame_rate=int(rng.choice(FRAME_RATES)),
        width=width,
        height=height,
        sample_rate=int(rng.choice(SAMPLE_RATES)),
        channels=int(rng.integers(1, 3)),
    )


def co_occurrences(audio: Iterable[Interval], visual: Iterable[Interval]) -> set[tuple[int, int]]:
    """Every (second, class) with both the class's sound and its look, even if these belong to different intervals."""
    sounds = {(second, CLASSES[i.category].sound) for i in audio for second in i.seconds}
    looks = {(second, CLASSES[i.category].look) for i in visual for second in i.seconds}
    return {
        (second, k)
        for second in range(SECONDS)
        for k, kind in enumerate(CLASSES)
        if (second, kind.sound) in sounds and (second, kind.look) in looks
    }


def _event(rng: np.random.Generator, category: int) -> tuple[Interval, Interval]:
    """Audio and visual interval of a class: together for at least three seconds, for the whole clip, or never."""
    if rng.random() < NO_EVENT:
        border = int(rng.integers(3, SECONDS - 2))
        halves = (Interval(category, 0, border), Interval(category, border, SECONDS))
        return halves if rng.random() < 0.5 else halves[::-1]
    if rng.random() < FULL_LENGTH:
        return Interval(category, 0, SECONDS), Interval(category, 0, SECONDS)
    length = int(rng.integers(3, SECONDS - 1))
    onset = int(rng.integers(0, SECONDS - length + 1))
    offset = onset + length
    # One of the two begins up to three seconds early, and one ends up to three seconds late.
    early = rng.integers(0, 4, size=2) * rng.permutation(2)
    late = rng.integers(0, 4, size=2) * rng.permutation(2)
    onsets, offsets = np.maximum(onset - early, 0).tolist(), np.minimum(offset + late, SECONDS).tolist()
    sound, look = (Interval(category, *times) for times in zip(onsets, offsets, strict=True))
    return sound, look


def _add_distractor(
    rng: np.random.Generator, there: tuple[Interval, ...], allowed: Callable[[tuple[Interval, ...]], bool]
) -> tuple[Interval, ...]:
    """Add another class for two to five seconds if that makes no new audio-visual event; else add none."""
    for _ in range(50):
        onset = int(rng.integers(0, SECONDS - 1))
        offset = min(SECONDS, onset + int(rng.integers(2, 6)))
        more = (*there, Interval(int(rng.integers(len(CLASSES))), onset, offset))
        if more[-1].category != there[0].category and allowed(more):
            return more
    return there


def _disturbed(rng: np.random.Generator, event: list[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Occluded and masked seconds: any but the first and the last of the event, so that its ends stay recognisable."""
    kinds = rng.choice(4, size=SECONDS, p=[*DISTURBED, 1 - sum(DISTURBED)])
    kinds[event[:1] + event[-1:]] = 3
    occluded, masked = np.isin(kinds, (0, 2)), np.isin(kinds, (1, 2))
    return frozenset(np.flatnonzero(occluded).tolist()), frozenset(np.flatnonzero(masked).tolist())


def mark_seconds(seconds: Iterable[int]) -> npt.NDArray[np.float64]:
    """(SECONDS,) float64: 1 in these seconds, else 0."""
    marks = np.zeros(SECONDS)
    marks[list(seconds)] = 1
    return marks


def envelope(
    levels: npt.NDArray[np.floating], times: npt.NDArray[np.floating], fade: float
) -> npt.NDArray[np.float32]:
    """The level of each second, (SECONDS,), at `times` in seconds, float32; it changes within `fade` seconds of each border."""
    borders = np.arange(SECONDS)
    knots = np.stack([borders + fade, borders + 1 - fade], axis=1).ravel()
    return np.interp(times, knots, np.repeat(levels, 2)).astype(np.float32)
