"""Audio and visual events of test clips over time: the truth, and below it each method's prediction."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.plan.study import Study
from avpipe.report.clips import WIDTH, ClipsFigure, along_time, draw_clip, label_row, read_clip
from avpipe.report.predictions import missing_lines, read_rows
from avpipe.report.style import BACKGROUND, INK, SOFT, Heading, colour, framed_figure, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEGMENTS = 10
_LANE = 0.17
"""Inches of one method's line of a category."""


@dataclass(frozen=True)
class Lane:
    """A category in a modality.

    Args:
        modality: "audio" or "visual".
        category: its name.
        rows: "Truth", then the methods -> (T,) bool.
    """

    modality: str
    category: str
    rows: dict[str, npt.NDArray[np.bool_]]


class ParsedFigure(ClipsFigure):
    """Audio and visual events of test clips, each row's prediction below the truth."""

    caption = "One frame and one label a second: for each audio and visual event the truth and, below it, each method's prediction."

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """For each chosen clip frames, audio, and every category that is true or predicted."""
        seed, clips = self.seed(study), self.options.clips
        rows = read_rows(self, study, results, seeds=(seed,))
        tables = {row.method: row.seeds[seed] for row in rows if row.seeds}
        if isinstance(clips, int):
            clips = typical_clips(next(iter(tables.values())), clips)
        shown = {
            clip: (read_clip(clip, study.media.preset, results), read_lanes(clip, tables)) for clip in clips
        }
        heights: list[float] = []
        for clip, (media, lanes) in shown.items():
            if not lanes:
                raise self.no_such_clip(clip)
            heights += [*media.heights(SEGMENTS), *[0.1 + _LANE * (1 + len(tables))] * len(lanes)]
        inches = sum(heights) + 0.35 * len(clips) + 0.5
        caption = f"{self.caption} Seed {seed}."
        figure = framed_figure((WIDTH, inches), heading, [caption, *missing_lines(rows)])
        axes = iter(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        for clip, (media, lanes) in shown.items():
            draw_clip(next(axes), next(axes), clip, media)
            for lane in lanes:
                _draw_lane(next(axes), lane)
        along_time(figure.axes, SEGMENTS)
        for i, name in enumerate(["Truth", *tables]):
            figure.axes[0].plot([], [], color=_ink(i), linewidth=6, label=name)
        look: dict[str, Any] = {"facecolor": SOFT, "edgecolor": "white", "hatch": "////"}
        figure.axes[0].fill([], [], label="predicted, but not true", **look)
        legend_above(figure.axes[0], "lower right")
        return figure


def typical_clips(table: pd.DataFrame, count: int) -> tuple[str, ...]:
    """Clips whose audio and visual events differ and whose correctness is nearest to the mean; ties go to the first name.

    Correctness is the share of labels, true or predicted, that are both. If there are too few such clips, other clips follow.
    """
    marked = table.assign(right=table["truth"] & table["prediction"])
    clips = marked.groupby("clip", sort=True).agg(right=("right", "mean"))
    true, events = table[table["truth"]], {}
    for modality in ("audio", "visual"):
        own = true[true["modality"] == modality]
        events[modality] = (
            (own["segment"].astype(str) + " " + own["category"]).groupby(own["clip"]).agg(frozenset)
        )
    audio, visual = (events[modality].reindex(clips.index) for modality in events)
    clips["dull"] = audio.isna() | visual.isna() | (audio == visual)
    interesting = clips[~clips["dull"]] if not clips["dull"].all() else clips
    clips["distance"] = (clips["right"] - interesting["right"].mean()).abs().round(9)
    return tuple(clips.sort_values(["dull", "distance"], kind="stable").head(count).index)


def read_lanes(clip: str, tables: dict[str, pd.DataFrame]) -> list[Lane]:
    """Every category that is true or predicted in a clip, audio first. `tables`: method -> predictions of the test split."""
    own = {method: table[table["clip"] == clip] for method, table in tables.items()}
    lanes = []
    for (modality, category), both in pd.concat(own.values()).groupby(["modality", "category"], sort=True):
        rows = {"Truth": _marked(both, "truth")}
        for method, table in own.items():
            lane = table[(table["modality"] == modality) & (table["category"] == category)]
            rows[method] = _marked(lane, "prediction")
        lanes.append(Lane(str(modality), str(category), rows))
    return lanes


def _marked(table: pd.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    """(T,) the segments where the column is true."""
    marked = np.zeros(SEGMENTS, bool)
    marked[table[table[column]]["segment"].to_numpy(np.int64)] = True
    return marked


def _draw_lane(axis: "Axes", lane: Lane) -> None:
    """A line for the truth and one for each method below it."""
    label_row(axis, f"{lane.modality}\n{lane.category.replace('_', ' ')}")
    count = len(lane.rows)
    axis.set_ylim(0, count)
    for i, marked in enumerate(lane.rows.values()):
        place = (count - 1 - i + 0.1, 0.8)
        axis.broken_barh([(0, SEGMENTS)], place, facecolor=BACKGROUND)
        for segment in np.flatnonzero(marked):
            hatch = None if lane.rows["Truth"][segment] else "////"
            look: dict[str, Any] = {
                "facecolor": _ink(i),
                "edgecolor": "white",
                "hatch": hatch,
                "linewidth": 0.6,
            }
            axis.broken_barh([(float(segment), 1.0)], place, **look)


def _ink(line: int) -> str:
    """The colour of the truth (line 0) or of a method."""
    return INK if line == 0 else colour(line - 1)
