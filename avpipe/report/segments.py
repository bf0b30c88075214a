"""The segments of test clips: frames, audio, the truth and each method's prediction."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.datasets.labels import read_categories
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.clips import (
    WIDTH,
    ClipMedia,
    ClipsFigure,
    along_time,
    draw_clip,
    label_row,
    read_clip,
    write_reason,
)
from avpipe.report.predictions import read_rows
from avpipe.report.style import BACKGROUND, INK, Heading, colour, framed_figure, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Labels = npt.NDArray[np.str_]
"""(T,) names of categories, or `NOTHING`."""
NOTHING = "background"


@dataclass(frozen=True)
class Timeline:
    """What the figure shows of one clip of T segments.

    Args:
        clip: its name.
        truth: the true labels.
        predictions: method -> labels, or the reason why there are none.
        media: frames and audio.
    """

    clip: str
    truth: Labels
    predictions: Mapping[str, Labels | str]
    media: ClipMedia


class SegmentsFigure(ClipsFigure):
    """The segments of test clips with the truth and each row's prediction."""

    caption = (
        "One frame and one label a second; hatched segments are wrong. If the figure's file names no clips, it shows clips that "
        "have event and background and whose accuracy by the first method is nearest to the mean."
    )

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """A timeline of each chosen clip, one below the other."""
        return draw_timelines(read_timelines(self, study, results), heading, self.caption)


def read_timelines(spec: SegmentsFigure, study: Study, results: Path) -> list[Timeline]:
    """Choose the clips and read what the figure shows of them. Raises as `FigureSpec.draw` does."""
    rows = read_rows(spec, study, results)
    shown, tables = dict[str, str | pd.DataFrame](), list[pd.DataFrame]()
    for row in rows:
        seeds = [seed for seed in row.seeds if spec.options.seed in (None, seed)]
        if seeds:
            tables.append(row.seeds[seeds[0]])
            shown[f"{row.method}, seed {seeds[0]}"] = tables[-1]
        else:
            shown[row.method] = "; ".join(row.problems)
    if not tables:
        message = f"options.seed: no row has predictions of seed {spec.options.seed}"
        raise ConfigError(f"figure {spec.name}: {message}")
    names, clips = np.array([*read_categories(results), NOTHING]), spec.options.clips
    if isinstance(clips, int):
        clips = typical_clips(tables[0], len(names) - 1, clips)
    timelines = []
    for clip in clips:
        if clip not in set(tables[0]["clip"]):
            raise spec.no_such_clip(clip)
        predictions = {
            method: said if isinstance(said, str) else names[_of_clip(said, clip)["prediction"]]
            for method, said in shown.items()
        }
        truth, media = names[_of_clip(tables[0], clip)["truth"]], read_clip(clip, study.media.preset, results)
        timelines.append(Timeline(clip, truth, predictions, media))
    return timelines


def _of_clip(table: pd.DataFrame, clip: str) -> pd.DataFrame:
    return table[table["clip"] == clip].sort_values("segment")


def typical_clips(predictions: pd.DataFrame, background: int, count: int) -> tuple[str, ...]:
    """Clips with event and background whose accuracy is nearest to the mean accuracy of such clips.

    The clips are of different categories as far as possible; ties go to the first name. If too few clips have both event
    and background, other clips follow.
    """
    marked = predictions.assign(
        right=predictions["truth"] == predictions["prediction"], event=predictions["truth"] != background
    )
    clips = marked.groupby("clip", sort=True).agg(right=("right", "mean"), event=("event", "mean"))
    events = marked[marked["event"]].groupby("clip")["truth"].agg(lambda truth: truth.mode().iloc[0])
    clips["category"] = events.reindex(clips.index).fillna(background)
    clips["whole"] = ~clips["event"].between(0, 1, inclusive="neither")
    mean = clips[~clips["whole"]]["right"].mean() if not clips["whole"].all() else clips["right"].mean()
    clips["distance"] = (clips["right"] - mean).abs().round(9)
    clips = clips.reset_index().sort_values(["whole", "distance", "clip"])
    clips["turn"] = clips.groupby(["whole", "category"]).cumcount()
    return tuple(clips.sort_values(["whole", "turn", "distance", "clip"])["clip"].head(count))


def draw_timelines(timelines: Sequence[Timeline], heading: Heading, caption: str) -> "Figure":
    """For each clip frames and waveform; below them a band for the truth and one for each method.

    Wrong segments are hatched, so that nothing depends on telling colours apart.
    """
    band, segments = 0.5 if len(timelines) == 1 else 0.4, len(timelines[0].truth)
    heights = [
        height
        for timeline in timelines
        for height in [*timeline.media.heights(segments), *[band] * (1 + len(timeline.predictions))]
    ]
    inches = sum(heights) + 0.35 * len(timelines) + 0.4
    figure = framed_figure((WIDTH, inches), heading, [caption])
    axes = iter(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    colours = _colours(timelines)
    for timeline in timelines:
        draw_clip(next(axes), next(axes), timeline.clip, timeline.media)
        _draw_band(next(axes), "Truth", timeline.truth, timeline.truth, colours)
        for method, prediction in timeline.predictions.items():
            if isinstance(prediction, str):
                axis = next(axes)
                label_row(axis, method)
                write_reason(axis, prediction)
            else:
                right = 100 * float(np.mean(prediction == timeline.truth))
                _draw_band(next(axes), f"{method}\n{right:.0f} % right", prediction, timeline.truth, colours)
    along_time(figure.axes, segments)
    figure.axes[0].fill([], [], facecolor="none", edgecolor=INK, hatch="////", label="wrong")
    legend_above(figure.axes[0], "lower right")
    return figure


def _colours(timelines: Sequence[Timeline]) -> dict[str, str]:
    """Name -> colour: of the categories in the order in which truth and predictions name them, and of background."""
    named: dict[str, None] = {}
    for timeline in timelines:
        labels = [timeline.truth, *(p for p in timeline.predictions.values() if not isinstance(p, str))]
        named |= dict.fromkeys(label for row in labels for label in row.tolist() if label != NOTHING)
    return {label: colour(i) for i, label in enumerate(named)} | {NOTHING: BACKGROUND}


def _draw_band(axis: "Axes", name: str, labels: Labels, truth: Labels, colours: dict[str, str]) -> None:
    """A box for each stretch of segments with the same label, its name inside."""
    label_row(axis, name)
    axis.set_ylim(0, 1)
    wrong = labels != truth
    starts = [0, *(int(t) for t in np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
    for start, end in itertools.pairwise(starts):
        text = str(labels[start])
        fill = colours[text]
        axis.broken_barh([(start + 0.02, end - start - 0.04)], (0.05, 0.9), facecolor=fill)
        marks = [(segment + 0.02, 0.96) for segment in range(start, end) if wrong[segment]]
        if marks:
            look: dict[str, Any] = {"edgecolor": INK, "hatch": "////", "linewidth": 0.8}
            axis.broken_barh(marks, (0.05, 0.9), facecolor="none", **look)
        lines = textwrap.wrap(text, 14 * (end - start), break_long_words=False, break_on_hyphens=False)
        axis.text(
            (start + end) / 2,
            0.5,
            "\n".join(lines),
            ha="center",
            va="center",
            size=8,
            color=_readable(fill),
            bbox={"facecolor": fill, "edgecolor": "none", "pad": 1.5},
            linespacing=1.15,
        )


def _readable(fill: str) -> str:
    """Black or white, whichever stands out more on the colour `fill` (relative luminance of WCAG)."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(fill)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if luminance < 0.18 else INK
