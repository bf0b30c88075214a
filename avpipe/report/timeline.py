"""The segments of clips: frames, sound, truth, and what each method says."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from avpipe.report.style import BACKGROUND, COLOURS, INK, SOFT, WARNING, Heading, framed_figure, wrapped

WIDTH = 11.0
"""Inches of the whole figure."""
CAPTION = "One frame and one label a second; hatched segments are wrong."
_FRAME = 160
"""Pixels a side at which frames are drawn."""


@dataclass(frozen=True)
class Timeline:
    """What the figure shows of one clip. T is the number of segments, one second each.

    Args:
        clip: its name.
        categories: names of the C categories; index C is background.
        truth: (T,) integers.
        predictions: method -> (T,) integers, or the reason why there are none.
        frames: (T, H, W, 3) uint8, one a segment; or why there are none.
        waveform: (samples,) float32 in -1..1 at `sample_rate`; or why there is none.
        sample_rate: samples a second.
        aspect: width over height of the picture before it was squashed to the canonical square.
    """

    clip: str
    categories: tuple[str, ...]
    truth: npt.NDArray[np.integer]
    predictions: Mapping[str, npt.NDArray[np.integer] | str]
    frames: npt.NDArray[np.uint8] | str
    waveform: npt.NDArray[np.floating] | str
    sample_rate: int = 16000
    aspect: float = 1.0


def draw_timelines(timelines: Sequence[Timeline], heading: Heading) -> Figure:
    """For each clip frames and waveform over time; below them a band for the truth and one for each method.

    Wrong segments are hatched, so that nothing depends on seeing colours.
    """
    band = 0.5 if len(timelines) == 1 else 0.4
    heights = [_heights(timeline, band) for timeline in timelines]
    inches = sum(map(sum, heights)) + 0.35 * len(timelines) + 0.4
    figure = framed_figure((WIDTH, inches), heading, [CAPTION])
    ratios = list(itertools.chain(*heights))
    axes = iter(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios))
    colours = _colours(timelines)
    for timeline in timelines:
        _draw_clip(list(itertools.islice(axes, 3 + len(timeline.predictions))), timeline, colours)
    along_time(figure.axes, len(timelines[0].truth))
    return figure


def along_time(axes: Sequence[Axes], seconds: int) -> None:
    """One axis of seconds for all, written below the last; no frames."""
    for axis in axes:
        last = axis is axes[-1]
        axis.set_xlim(0, seconds)
        axis.tick_params(left=False, labelleft=False, bottom=last, labelbottom=last)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
    axes[-1].set_xticks(range(seconds + 1))
    axes[-1].set_xlabel("seconds")


def picture_height(segments: int, aspect: float) -> float:
    """Inches of a line of frames that fills the figure's width."""
    return min(1.4, max(0.5, (WIDTH - 1.2) / segments / aspect))


def _heights(timeline: Timeline, band: float) -> list[float]:
    """Inches of frames, waveform, and each band."""
    picture = picture_height(len(timeline.truth), timeline.aspect)
    return [picture, 0.6] + [band] * (1 + len(timeline.predictions))


def _draw_clip(axes: list[Axes], timeline: Timeline, colours: dict[int, str]) -> None:
    """One clip on its axes, from the frames down to the last method."""
    axes[0].set_title(f"Clip {timeline.clip}", loc="left", size=9, color=SOFT)
    draw_frames(axes[0], timeline.frames)
    draw_waveform(axes[1], timeline.waveform, timeline.sample_rate)
    _draw_band(axes[2], "Truth", timeline.truth, timeline, colours)
    for axis, (method, prediction) in zip(axes[3:], timeline.predictions.items(), strict=True):
        if isinstance(prediction, str):
            label_row(axis, method)
            _say(axis, prediction)
        else:
            right = 100 * float(np.mean(prediction == timeline.truth))
            _draw_band(axis, f"{method}\n{right:.0f} % right", prediction, timeline, colours)


def _colours(timelines: Sequence[Timeline]) -> dict[int, str]:
    """Category -> colour, in the order in which truth and predictions name them."""
    named: dict[int, None] = {}
    for timeline in timelines:
        labels = [timeline.truth, *(p for p in timeline.predictions.values() if not isinstance(p, str))]
        events = (int(label) for row in labels for label in row if label < len(timeline.categories))
        named |= dict.fromkeys(events)
    return {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(named)}


def label_row(axis: Axes, text: str) -> None:
    """What an axis shows, to the left of it."""
    axis.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8)


def _say(axis: Axes, text: str) -> None:
    width = axis.get_figure(root=True).get_figwidth() - 2  # type: ignore[union-attr]
    axis.set_ylim(0, 1)
    axis.text(0.05, 0.5, wrapped(text, width), va="center", color=WARNING)


def draw_frames(axis: Axes, frames: npt.NDArray[np.uint8] | str) -> None:
    """(T, H, W, 3), one a second along the axis; or why there are none."""
    label_row(axis, "Frames")
    if isinstance(frames, str):
        _say(axis, frames)
        return
    for second, frame in enumerate(frames):
        step = max(1, min(frame.shape[:2]) // _FRAME)
        axis.imshow(frame[::step, ::step], extent=(second + 0.02, second + 0.98, 0, 1), aspect="auto")
    axis.set_ylim(0, 1)


def draw_waveform(axis: Axes, waveform: npt.NDArray[np.floating] | str, sample_rate: int) -> None:
    """The lowest and the highest sample of each fiftieth of a second, scaled to the loudest."""
    label_row(axis, "Sound")
    if isinstance(waveform, str):
        _say(axis, waveform)
        return
    block = sample_rate // 50
    whole = waveform[: len(waveform) // block * block].reshape(-1, block)
    peak = max(float(np.abs(waveform).max(initial=0.0)), 1e-6)
    times = (np.arange(len(whole)) + 0.5) / 50
    axis.fill_between(times, whole.min(axis=1) / peak, whole.max(axis=1) / peak, color=SOFT, linewidth=0.3)
    axis.set_ylim(-1.05, 1.05)


def _draw_band(
    axis: Axes, name: str, labels: npt.NDArray[np.integer], timeline: Timeline, colours: dict[int, str]
) -> None:
    """A box for each stretch of segments with the same label, its name inside."""
    label_row(axis, name)
    axis.set_ylim(0, 1)
    starts = [0, *(int(t) for t in np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    for start, end in itertools.pairwise(starts):
        label = int(labels[start])
        colour = colours.get(label, BACKGROUND)
        text = timeline.categories[label] if label < len(timeline.categories) else "background"
        axis.broken_barh([(start + 0.02, end - start - 0.04)], (0.05, 0.9), facecolor=colour)
        for segment in range(start, end):
            if labels[segment] != timeline.truth[segment]:
                axis.broken_barh(
                    [(segment + 0.02, 0.96)],
                    (0.05, 0.9),
                    facecolor="none",
                    edgecolor=INK,
                    hatch="////",
                    linewidth=0.8,
                )
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        axis.text(
            (start + end) / 2,
            0.5,
            _fitted(text, end - start),
            ha="center",
            va="center",
            size=8,
            color=_readable(colour),
            bbox=box,
            linespacing=1.15,
        )


def _fitted(text: str, seconds: int) -> str:
    """The name in lines that fit a box of that many seconds, broken at spaces only."""
    return "\n".join(textwrap.wrap(text, width=14 * seconds, break_long_words=False, break_on_hyphens=False))


def _readable(colour: str) -> str:
    """Black or white, whichever stands out more on `colour` (relative luminance of WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.18 else INK
