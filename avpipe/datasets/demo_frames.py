"""The pictures of the demo: four textured objects, each calm or lively, over moving, cluttered backgrounds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from avpipe.datasets.demo_plan import CLASSES, LOOKS, SECONDS, ClipPlan, EventClass, envelope, mark_seconds

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

OBJECT_SIZE = ((0.62, 0.78), (0.52, 0.68))
"""Range of an object's side (calm, lively), as a fraction of the frame's height."""
OPACITY = (0.65, 1.0)  # range of an object's opacity, drawn for each second
MOTIONS = (((0.08, 0.0), 0.8), ((0.0, 0.16), 1.4))
"""(calm, lively): amplitude (y, x) as a fraction of the frame's height, and cycles a second."""
DRIFT = 12  # largest shift of the background from its middle, pixels
COLOURS = {
    "striped": ((205, 45, 40), (240, 225, 215)),
    "checked": ((30, 125, 50), (15, 30, 20)),
    "ringed": ((40, 75, 190), (235, 150, 40)),
    "dotted": ((225, 205, 50), (110, 35, 120)),
}
"""The two colours of each look."""
SHAPES = {"striped": 2, "checked": 8, "ringed": 2, "dotted": 1}
"""Exponent p of each look's outline |x|^p + |y|^p = 1: 1 a diamond, 2 a disc, 8 almost a square."""


def render_frames(plan: ClipPlan) -> Iterator[Image]:
    """The clip's SECONDS * frame_rate frames, (height, width, 3) uint8 RGB."""
    rng = plan.random("frames")
    times = ((np.arange(SECONDS * plan.frame_rate) + 0.5) / plan.frame_rate).astype(np.float32)
    backdrop = _backdrop(rng, plan.height + 2 * DRIFT, plan.width + 2 * DRIFT)
    drift = DRIFT * (1 + np.sin(np.outer(times, rng.uniform(0.4, 1.2, 2)) + rng.uniform(0, 6, 2)))
    sides = rng.permutation(2)  # the event's object in one half of the frame, a distractor in the other
    objects = [
        _object(rng, plan, CLASSES[interval.category], interval.seconds, times, side)
        for interval, side in zip(plan.visual, sides, strict=False)
    ]
    clutter = [_clutter(rng, plan, times) for _ in range(rng.integers(0, 3))]
    occluders = [_occluder(rng, plan, thing, times) for thing in objects]
    for frame in range(len(times)):
        top, left = drift[frame].astype(int)
        image = backdrop[top : top + plan.height, left : left + plan.width].copy()
        for sprite in (*clutter, *objects, *occluders):
            sprite.paste(image, frame)
        yield image


@dataclass
class _Sprite:
    """A small picture that moves over the frames.

    Args:
        pixels: (h, w, 3), 0 .. 255.
        alpha: (h, w, 1), 0 .. 1.
        corner: (frames, 2), top and left.
        opacity: (frames,), 0 where it is invisible.
    """

    pixels: Array
    alpha: Array
    corner: npt.NDArray[np.floating]
    opacity: npt.NDArray[np.floating]

    def paste(self, image: Image, frame: int) -> None:
        """Blend the sprite into `image`, (height, width, 3), in place; parts outside are cut off."""
        if self.opacity[frame] == 0:
            return
        top, left = np.round(self.corner[frame]).astype(int)
        height, width = self.alpha.shape[:2]
        y, x = max(0, -top), max(0, -left)
        place = image[top + y : top + height, left + x : left + width]
        inside = np.s_[y : y + place.shape[0], x : x + place.shape[1]]
        alpha = np.float32(self.opacity[frame]) * self.alpha[inside]
        place[:] = place + alpha * (self.pixels[inside] - place)


def _object(
    rng: np.random.Generator, plan: ClipPlan, kind: EventClass, seconds: range, times: Array, half: int
) -> _Sprite:
    """A look in the given seconds, in the left (0) or right (1) half of the frame."""
    look = LOOKS[kind.look]
    side = int(rng.uniform(*OBJECT_SIZE[kind.lively]) * plan.height)
    grid = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    outline = np.abs(x) ** SHAPES[look] + np.abs(y) ** SHAPES[look]
    alpha = np.clip((1 - outline) * 8, 0, 1)[..., None]
    first, second = np.asarray(COLOURS[look], np.float32) + rng.normal(0, 12, (2, 3)) + rng.normal(0, 15)
    pixels = np.clip(first + _texture(rng, look, x, y)[..., None] * (second - first), 0, 255)
    room = np.array([plan.height, plan.width]) - side
    middle = room * [rng.uniform(0.1, 0.9), (half + rng.random()) / 2]
    reach, rate = MOTIONS[kind.lively]
    phase = 2 * np.pi * rate * np.exp(rng.normal(0, 0.2)) * times + rng.uniform(0, 6)
    corner = middle + np.outer(np.sin(phase), reach) * plan.height
    levels = rng.uniform(*OPACITY, SECONDS) * mark_seconds(seconds)
    return _Sprite(
        pixels.astype(np.float32), alpha.astype(np.float32), corner, envelope(levels, times, fade=0.04)
    )


def _texture(rng: np.random.Generator, look: str, x: Array, y: Array) -> Array:
    """The mixture of the look's two colours at each point of [-1, 1]^2, 0 .. 1."""
    turn = rng.uniform(-0.4, 0.4)
    u, v = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    frequency = np.pi * rng.uniform(2.6, 3.4)
    wave = {
        "striped": np.sin(frequency * u),
        "checked": np.sin(frequency * u) * np.sin(frequency * v) * 2,
        "ringed": np.sin(2 * frequency * np.hypot(x, y)),
        "dotted": np.cos(1.4 * frequency * u) + np.cos(1.4 * frequency * v) - 0.6,
    }[look]
    return np.clip(0.5 + 2 * wave, 0, 1)


def _clutter(rng: np.random.Generator, plan: ClipPlan, times: Array) -> _Sprite:
    """A plain rectangle of a random colour that moves across the picture all the time."""
    height, width = (rng.uniform(0.1, 0.3, 2) * plan.height).astype(int)
    pixels = np.broadcast_to(_mute(rng.uniform(20, 235, 3).astype(np.float32)), (height, width, 3))
    start, speed = rng.uniform(0, 1, 2), rng.uniform(-0.15, 0.15, 2)
    path = np.abs((start + np.outer(times, speed) + 1) % 2 - 1)  # back and forth
    corner = path * (np.array([plan.height, plan.width]) - (height, width))
    return _Sprite(pixels, np.ones((height, width, 1), np.float32), corner, np.ones(len(times)))


def _occluder(rng: np.random.Generator, plan: ClipPlan, thing: _Sprite, times: Array) -> _Sprite:
    """A mottled grey panel that covers the whole path of `thing`, in the occluded seconds."""
    low = thing.corner.min(axis=0) - 4
    height, width = (thing.corner.max(axis=0) + thing.alpha.shape[:2] + 4 - low).astype(int)
    pixels = np.clip(_mute(_smooth(rng, height, width, cells=5)) * 25 + rng.uniform(40, 200), 0, 255)
    corner = np.broadcast_to(low, (len(times), 2))
    alpha = np.ones((height, width, 1), np.float32)
    return _Sprite(pixels, alpha, corner, envelope(mark_seconds(plan.occluded), times, fade=0.02))


def _backdrop(rng: np.random.Generator, height: int, width: int) -> Image:
    """A muted background of soft patches, (height, width, 3)."""
    patches = 35 * _smooth(rng, height, width, cells=4) + 18 * _smooth(rng, height, width, cells=24)
    scene = rng.uniform(60, 190) + rng.normal(0, 15, 3) + _mute(patches)
    return np.clip(scene, 0, 255).astype(np.uint8)


def _mute(colours: Array) -> Array:
    """Colours halfway to grey."""
    return 0.5 * colours + 0.5 * colours.mean(axis=-1, keepdims=True)


def _smooth(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
    """Standard normal colours on a grid of cells x cells, interpolated to (height, width, 3)."""
    grid = rng.standard_normal((cells, cells, 3), dtype=np.float32)
    return np.einsum(
        "yi,ijc,xj->yxc", _interpolation(height, cells), grid, _interpolation(width, cells), optimize=True
    )


def _interpolation(size: int, cells: int) -> Array:
    """(size, cells): weights of linear interpolation from `cells` values to `size`."""
    position = np.linspace(0, cells - 1, size, dtype=np.float32)[:, None]
    return np.clip(1 - np.abs(position - np.arange(cells)), 0, 1).astype(np.float32)
