"""Which segments of a clip AVG's ground truth puts into one group, and how similar pretrained models find segments."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.plan.study import Study
from avpipe.report.clips import WIDTH, ClipsFigure, along_time, draw_clip, label_row, read_clip
from avpipe.report.predictions import missing_lines, read_rows
from avpipe.report.style import BACKGROUND, INK, Heading, colour, framed_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MATRICES = {
    "same_group": ("in one group", "segment", "segment"),
    "audio_audio": ("audio with audio", "audio of segment", "audio of segment"),
    "visual_visual": ("visual with visual", "visual of segment", "visual of segment"),
    "audio_visual": ("audio with visual", "audio of segment", "visual of segment"),
}
"""Column of predictions.parquet -> what stands above its matrix, and the names of the axes down and across."""
SEGMENTS = 10
_PANEL = 2.2
"""Inches of a matrix."""


class GroundingFigure(ClipsFigure):
    """The groups that a clip's segments are in, and how similar each row's model finds them."""

    caption = (
        "Groups: connected components of the graph of segments with similar audio or visual features (Algorithm 1), computed "
        "without a model; the lowest line has segments without a group. Below: cosines in the pretrained model's joint space."
    )

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """For each chosen clip frames, audio and groups over time, then a line of matrices for each row."""
        seed, clips = self.seed(study), self.options.clips
        rows = read_rows(self, study, results, seeds=(seed,))
        drawn = {row.method: row.seeds[seed] for row in rows if row.seeds}
        if isinstance(clips, int):
            clips = mixed_clips(next(iter(drawn.values())), clips)
        media = {clip: read_clip(clip, study.media.preset, results) for clip in clips}
        heights = [h for m in media.values() for h in (*m.heights(SEGMENTS), 0.9, *[_PANEL] * len(drawn))]
        inches = sum(heights) + 1.2 * len(clips)
        caption = f"{self.caption} Seed {seed}."
        figure = framed_figure((WIDTH, inches), heading, [caption, *missing_lines(rows)])
        grid = figure.add_gridspec(len(heights), len(MATRICES), height_ratios=heights)
        line = 0
        for clip in clips:
            tables = {method: table[table["clip"] == clip] for method, table in drawn.items()}
            if any(table.empty for table in tables.values()):
                raise self.no_such_clip(clip)
            above = [figure.add_subplot(grid[line + i, :]) for i in range(3)]
            draw_clip(above[0], above[1], clip, media[clip])
            same = matrix(next(iter(tables.values())), "same_group") > 0
            _draw_groups(above[2], same)
            along_time(above, len(same))
            for i, (method, table) in enumerate(tables.items(), line + 3):
                axes = [figure.add_subplot(grid[i, column]) for column in range(len(MATRICES))]
                _draw_matrices(axes, table, first=i == line + 3, last=i == line + 2 + len(drawn))
                axes[0].set_ylabel(f"{method}\nsegment")
            line += 3 + len(drawn)
        return figure


def mixed_clips(table: pd.DataFrame, count: int) -> tuple[str, ...]:
    """Clips in which about half of the pairs of segments are in one group; ties go to the first name."""
    shares = table[table["segment"] != table["other"]].groupby("clip", sort=True)["same_group"].mean()
    return tuple((shares - 0.5).abs().round(9).sort_values(kind="stable").head(count).index)


def matrix(table: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """(T, T) of one clip: segment down, other across."""
    return table.pivot(index="segment", columns="other", values=column).to_numpy(np.float64)


def _draw_groups(axis: "Axes", same: npt.NDArray[np.bool_]) -> None:
    """A numbered node for each segment; each group has a line, segments without a group share the lowest line."""
    label_row(axis, "Groups")
    first = same.argmax(axis=1)
    groups = [group for group in np.unique(first) if (first == group).sum() > 1]
    axis.set_ylim(-0.6, len(groups) + 0.6)
    for i, group in enumerate(groups):
        members = np.flatnonzero(first == group) + 0.5
        axis.plot(members, np.full(len(members), len(groups) - i), color=colour(i), linewidth=2, zorder=1)
    for segment, group in enumerate(first):
        alone = group not in groups
        level = 0 if alone else len(groups) - groups.index(group)
        fill, ink = (BACKGROUND, INK) if alone else (colour(groups.index(group)), "white")
        axis.scatter([segment + 0.5], [level], s=130, color=fill, zorder=2)
        place: dict[str, Any] = {"ha": "center", "va": "center_baseline"}
        axis.text(segment + 0.5, level, f"{segment + 1}", size=7, color=ink, zorder=3, **place)


def _draw_matrices(axes: list["Axes"], table: pd.DataFrame, first: bool, last: bool) -> None:
    """The true groups, then the cosines of one method; titles on the first line, numbers and names below the last."""
    for axis, (column, (name, down, across)) in zip(axes, MATRICES.items(), strict=True):
        values = matrix(table, column)
        colours: dict[str, Any] = (
            {"cmap": "Greys", "vmin": 0} if column == "same_group" else {"cmap": "RdBu_r", "vmin": -1}
        )
        image = axis.imshow(values, vmax=1, **colours)
        axis.set_ylabel(down, size=8)
        axis.set_xlabel(across if last else "", size=8)
        ticks = range(0, len(values), 3)
        axis.set_xticks(ticks, [str(tick + 1) for tick in ticks])
        axis.set_yticks(ticks, [str(tick + 1) for tick in ticks])
        axis.tick_params(length=0, labelbottom=last, labelleft=axis is axes[0])
        if first:
            axis.set_title(name, size=9)
    axes[-1].figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01, label="cosine")
