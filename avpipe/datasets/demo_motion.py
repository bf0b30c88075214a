"""A second rendered dataset: shapes that move and sound at the same instants.

It is made for self-supervised alignment (is the sound in step with the picture?), localization of a sound's source, action
recognition from picture and sound, and separation of on-screen from off-screen sound.

* A *source* has events at random times without a period: strikes (sudden, then a fast decay) and swells (a slow rise and
  fall). Their level, 0 to 1 over time, is how far the source's shape moves, how bright it is, and how loud its sound is.
* Every clip has a sounding shape, and in the other half of the frame a silent shape that moves in the same way at times of
  its own. A quarter of the clips also have an off-screen source: the same kind of sound at times of its own, and no shape.
* With `distractors: false` a clip has neither of the two, but one shape, and the sound of that shape alone.
* A category is a motion and a sound. Each motion occurs with each sound, so neither alone tells the category.
* The sound is stereo. The channel on the source's side is a little louder.

Annotations: UCF-101's lists with three splits, `vallist0N.txt` in the format of `testlist0N.txt`, and `sources.csv`, one row
for each event that is heard: clip, time (seconds at which its level is highest), x0, y0, x1, y1 (the box that contains the
shape at all times, as fractions of the frame from its top left corner; empty for an off-screen source), on_screen (1 or 0).
"""

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt

from avpipe.datasets.demo import AAC, AAC_FRAME, MP4, X264, _cores
from avpipe.files import whole_file, write_text
from avpipe.progress import Progress

if TYPE_CHECKING:
    from avpipe.datasets.base import Annotations

Array = npt.NDArray[np.floating]
Image = npt.NDArray[np.uint8]

MOTIONS = ("Hop", "Flash", "Grow")
SOUNDS = ("Bell", "Hiss")
CATEGORIES = tuple(f"{motion}{sound}" for motion in MOTIONS for sound in SOUNDS)
SPLITS = ("train", "train", "val", "test", "train", "train", "train", "train", "test", "train")
"""Splits of the blocks of six clips, one of each category, in turn; the second and third split begin one and two later."""
FEWEST = 4 * len(CATEGORIES)
"""Clips with which each of the three splits has all categories in train, val and test."""

GAP = (0.6, 1.8)
"""Range of the seconds from one event to the next, uniform; so a window of 2 s has an event or more."""
SWELLS = 0.4  # share of swells among the events
DECAY = 0.12  # seconds in which a strike's level falls to 1/e
SWELL = 0.3  # seconds in which a swell rises; it falls in as many
OFF_SCREEN = 0.25  # share of clips with an off-screen source

FRAME_RATE = 15
SIDE = 96  # of the frame, pixels
RADIUS = (0.19, 0.22)  # of a shape, a growing one at its largest, as a fraction of the frame's side
HOP = 0.3  # height of a hop, likewise
GROWTH = 0.6  # a growing shape's radius at the highest level, less that at rest, as a fraction of the latter
OUTLINES = (1, 2, 8)  # exponent p of a shape's outline |x|^p + |y|^p = 1: diamond, disc, almost a square
DIM = 0.35  # brightness of a shape at rest; at the highest level it is white
PIXELS = (np.arange(SIDE) + 0.5) / SIDE

SAMPLE_RATE = 22050
LOUDNESS = 0.4  # amplitude of the sounding shape
OFF_SCREEN_LOUDNESS = (0.15, 0.35)  # range of that of an off-screen source
NOISE = 0.003  # root mean square of the background noise
PAN = 0.3  # the share that a channel loses of a source at the other side's edge


@dataclass(frozen=True)
class Events:
    """The events of a source.

    Args:
        times: (n,) seconds, increasing, from before the clip's begin to after its end.
        swells: (n,) bool: swell or strike.
    """

    times: Array
    swells: npt.NDArray[np.bool_]

    def level(self, seconds: Array) -> Array:
        """The level at these times, (m,) -> (m,), 0 to 1."""
        level = np.zeros(len(seconds))
        for time, swells in zip(self.times, self.swells, strict=True):
            near = slice(*np.searchsorted(seconds, (time - SWELL, time + 10 * DECAY)))
            since = seconds[near] - time
            if swells:
                own = np.cos(np.pi / 2 * np.clip(since / SWELL, -1, 1)) ** 2
            else:
                own = np.where(since >= 0, np.exp(-since / DECAY), 0)
            level[near] = np.maximum(level[near], own)
        return level


@dataclass(frozen=True)
class Shape:
    """A shape that moves with the level of its events.

    Args:
        x, y, radius: centre and size at rest, as fractions of the frame's side, from its top left corner.
        outline: of `OUTLINES`.
        colour: (3,), 0 .. 255.
    """

    events: Events
    motion: str
    x: float
    y: float
    radius: float
    outline: int
    colour: Array

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1: contains the shape at all times."""
        reach, top = _room(self.motion, self.radius)
        return self.x - reach, self.y - top, self.x + reach, self.y + reach

    def draw(self, image: Array, level: float) -> None:
        """Paint the shape over `image`, (SIDE, SIDE, 3), in place."""
        y, radius = self.y, self.radius
        colour = DIM * self.colour + level * (255 - DIM * self.colour)
        if self.motion == "Hop":
            y -= HOP * level
        elif self.motion == "Grow":
            radius *= 1 + GROWTH * level
        across, down = np.abs(PIXELS - self.x) / radius, np.abs(PIXELS - y) / radius
        distance = (across**self.outline + down[:, None] ** self.outline) ** (1 / self.outline)
        alpha = np.clip((1 - distance) * radius * SIDE + 0.5, 0, 1)[..., None]
        image += alpha * (colour - image)


def _room(motion: str, radius: float) -> tuple[float, float]:
    """How far a shape extends from its centre at rest: to the sides and down, and up."""
    reach = radius * (1 + GROWTH * (motion == "Grow"))
    return reach, reach + HOP * (motion == "Hop")


@dataclass(frozen=True)
class MotionPlan:
    """The content of a clip, before anything is rendered.

    Args:
        sounding, silent: the shapes.
        off_screen: events of the off-screen source, or None.
        distractors: whether the silent shape is drawn.
    """

    index: int
    seed: int
    seconds: int
    category: int
    sounding: Shape
    silent: Shape
    off_screen: Events | None
    distractors: bool

    @property
    def path(self) -> str:
        """Of the clip's file below `source/`, for example "HopBell/0000.mp4"."""
        return f"{CATEGORIES[self.category]}/{self.index:04d}.mp4"

    @property
    def sound(self) -> str:
        return SOUNDS[self.category % len(SOUNDS)]

    def split(self, number: int) -> str:
        """The clip's split in the lists with this number, 1 to 3."""
        return SPLITS[(self.index // len(CATEGORIES) + number - 1) % len(SPLITS)]

    def heard(self, events: Events) -> Array:
        """The times of the events inside the clip."""
        return events.times[(events.times >= 0) & (events.times < self.seconds)]


def plan_motion(index: int, seed: int, seconds: int = 6, distractors: bool = True) -> MotionPlan:
    """Clip number `index` of the dataset with `seed`; it does not depend on the number of clips."""
    rng = np.random.default_rng([seed, index, 0])
    category = index % len(CATEGORIES)
    motion = MOTIONS[category // len(SOUNDS)]
    sounding, silent = (_shape(rng, motion, seconds, half) for half in rng.permutation(2))
    off_screen = _events(rng, seconds) if distractors and rng.random() < OFF_SCREEN else None
    return MotionPlan(index, seed, seconds, category, sounding, silent, off_screen, distractors)


def _events(rng: np.random.Generator, seconds: int) -> Events:
    """Events from about 3 s before the clip to 1 s after it, so that its begin and end look like its middle."""
    gaps = rng.uniform(*GAP, size=int((seconds + 4) / GAP[0]) + 1)
    times = np.round(np.cumsum(gaps) - 3 - GAP[1] * rng.random(), 4)
    times = times[times < seconds + 1]
    return Events(times, rng.random(len(times)) < SWELLS)


def _shape(rng: np.random.Generator, motion: str, seconds: int, half: int) -> Shape:
    """A shape in the left (0) or right (1) half of the frame."""
    radius = rng.uniform(*RADIUS) / (1 + GROWTH * (motion == "Grow"))
    reach, top = _room(motion, radius)
    colour = rng.permutation([255, 40, rng.uniform(40, 255)])  # bright and not grey
    return Shape(
        events=_events(rng, seconds),
        motion=motion,
        x=half / 2 + rng.uniform(reach, 0.5 - reach),
        y=rng.uniform(top, 1 - reach),
        radius=radius,
        outline=int(rng.choice(OUTLINES)),
        colour=colour,
    )


def render_motion_frames(plan: MotionPlan) -> Iterator[Image]:
    """The clip's seconds * FRAME_RATE frames, (SIDE, SIDE, 3) uint8 RGB.

    A frame shows the highest level in the time for which it is shown, so a strike is seen in the frame of its instant.
    """
    rng = np.random.default_rng([plan.seed, plan.index, 1])
    corners = rng.uniform(50, 110) + rng.normal(
        0, 12, (2, 2, 3)
    )  # the background goes from one colour to another
    weights = np.stack([1 - PIXELS, PIXELS])
    backdrop = np.einsum("iy,ijc,jx->yxc", weights, corners, weights)
    times = np.arange(1, plan.seconds * FRAME_RATE * 8 + 1) / (FRAME_RATE * 8)
    shapes = (plan.silent, plan.sounding) if plan.distractors else (plan.sounding,)
    levels = [shape.events.level(times).reshape(-1, 8).max(axis=1) for shape in shapes]
    for now in zip(*levels, strict=True):
        image = backdrop.copy()
        for shape, level in zip(shapes, now, strict=True):
            shape.draw(image, level)
        yield np.clip(image, 0, 255).astype(np.uint8)


def render_motion_sound(plan: MotionPlan) -> Array:
    """The clip's waveform, (2, seconds * SAMPLE_RATE) float32 in [-1, 1]."""
    rng = np.random.default_rng([plan.seed, plan.index, 2])
    times = np.arange(plan.seconds * SAMPLE_RATE) / SAMPLE_RATE
    sources = [(plan.sounding.events, LOUDNESS, plan.sounding.x)]
    if plan.off_screen:
        sources.append((plan.off_screen, rng.uniform(*OFF_SCREEN_LOUDNESS), rng.random()))
    waveform = rng.normal(0, NOISE, (2, len(times)))
    for events, loudness, place in sources:
        balance = 1 - PAN * np.array([[place], [1 - place]])
        waveform += balance * loudness * events.level(times) * TIMBRES[plan.sound](rng, times)
    return np.tanh(waveform).astype(np.float32)


def _bell(rng: np.random.Generator, times: Array) -> Array:
    """Three partials of a random pitch."""
    pitch = rng.uniform(400, 1000)
    return np.sum([np.sin(2 * np.pi * pitch * ratio * times) / ratio for ratio in (1, 2.76, 5.4)], axis=0)


def _hiss(rng: np.random.Generator, times: Array) -> Array:
    """Noise around a random frequency."""
    hold = SAMPLE_RATE // 1000  # a new random value every millisecond
    steps = rng.standard_normal(-(-len(times) // hold))
    return np.repeat(steps, hold)[: len(times)] * np.sin(2 * np.pi * rng.uniform(2000, 5000) * times)


TIMBRES: dict[str, Callable[[np.random.Generator, Array], Array]] = {"Bell": _bell, "Hiss": _hiss}


def render_demo_motion(
    out: Path,
    *,
    clips: int = 240,
    seed: int = 0,
    seconds: int = 6,
    distractors: bool = True,
    workers: int | None = None,
) -> None:
    """Render the dataset below `out`.

    Writes `source/{category}/{number}.mp4` (H.264 at 15 frames a second, 96x96, and AAC), then `annotations/`. The same
    options give the same bytes. A larger number of clips does not change the first ones, and files with the right content
    are not written again.

    Args:
        out: folder, made if missing.
        clips: how many; of 60, 42 are for training, 6 for validation, 12 for testing.
        seed: of all random numbers.
        seconds: length of a clip.
        distractors: whether clips have a silent shape, and a quarter of them an off-screen source.
        workers: processes; default: one a core.

    Raises:
        ValueError: for fewer than 24 clips, or clips shorter than 3 s.
        OutputError: if `out` cannot be written.
    """
    if clips < FEWEST:
        raise ValueError(
            f"clips: demo_motion needs at least {FEWEST}, so that each split has all categories; found {clips}"
        )
    if seconds < 3:
        raise ValueError(f"seconds: a clip of demo_motion has at least 3, found {seconds}")
    plans = [plan_motion(index, seed, seconds, distractors) for index in range(clips)]
    for folder in ("source", "annotations"):
        for unfinished in (out / folder).glob("**/.*.tmp"):  # of a run that was killed
            unfinished.unlink(missing_ok=True)
    workers = min(workers or _cores(), clips)
    render, progress = partial(_render_clip, folder=out / "source"), Progress("render demo", clips, "clips")
    if workers == 1:
        for plan in plans:
            render(plan)
            progress.advance()
    else:
        # A Pool, because its processes end when this one is killed; those of an executor do not.
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in pool.imap_unordered(render, plans, chunksize=4):
                progress.advance()
    _write_annotations(out / "annotations", plans)


def _render_clip(plan: MotionPlan, folder: Path) -> None:
    path = folder / plan.path
    content = encode_motion(plan)
    if not (path.is_file() and path.read_bytes() == content):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)


def encode_motion(plan: MotionPlan) -> bytes:
    """The clip's mp4 file. One thread and no version strings, so that the bytes are always the same."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options=MP4) as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options=X264)
        video.width, video.height, video.pix_fmt = SIDE, SIDE, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", options=AAC)
        audio.bit_rate = 96_000
        for image in render_motion_frames(plan):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        waveform = render_motion_sound(plan)
        for start in range(0, waveform.shape[1], AAC_FRAME):
            samples = np.ascontiguousarray(waveform[:, start : start + AAC_FRAME])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return file.getvalue()


def _write_annotations(folder: Path, plans: Sequence[MotionPlan]) -> None:
    from avpipe.datasets.folder import clip_names

    write_text(
        folder / "classInd.txt", "".join(f"{n} {name}\n" for n, name in enumerate(CATEGORIES, start=1))
    )
    for number in (1, 2, 3):
        for split in ("train", "val", "test"):
            label = " {}" if split == "train" else ""  # only the training list has numbers of classes
            own = [plan for plan in plans if plan.split(number) == split]
            lines = "".join(f"{plan.path}{label.format(plan.category + 1)}\n" for plan in own)
            write_text(folder / f"{split}list0{number}.txt", lines)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("clip", "time", "x0", "y0", "x1", "y1", "on_screen"))
    for plan, clip in zip(plans, clip_names([plan.path for plan in plans]), strict=True):
        box = [f"{edge:.4f}" for edge in plan.sounding.box]
        rows = [(time, *box, 1) for time in plan.heard(plan.sounding.events)]
        if plan.off_screen:
            rows += [(time, *[""] * 4, 0) for time in plan.heard(plan.off_screen)]
        writer.writerows((clip, f"{time:.4f}", *rest) for time, *rest in rows)
    write_text(folder / "sources.csv", table.getvalue())


def read_demo_motion(annotations: Path) -> "Annotations":
    """Read the folder `annotations` that `render_demo_motion` wrote, with the first of its three splits.

    A clip is called, for example, HopBell~0000~mp4. Its category is an event of modality "video".

    Raises:
        AnnotationError: for a missing file or a malformed line.
    """
    from avpipe.datasets.ucf101 import read_lists

    return read_lists(annotations, ("train", "val", "test"), split=1)
