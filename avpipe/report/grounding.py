"""Which segments of a clip AVG's ground truth puts into one group, and how alike pretrained models find them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.clips import ClipContent, read_clip
from avpipe.report.predictions import GROUNDED, missing_lines, read_rows
from avpipe.report.spec import GroundingFigure, chosen_seed
from avpipe.report.style import BACKGROUND, COLOURS, INK, SOFT, Heading, framed_figure
from avpipe.report.timeline import WIDTH, along_time, draw_frames, draw_waveform, label_row, picture_height

SIMILARITIES = {
    "audio_audio": "sound with sound",
    "visual_visual": "picture with picture",
    "audio_visual": "sound with picture",
}
_PANEL = 2.2
"""Inches of a matrix."""


def draw_grounding(spec: GroundingFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """For each chosen clip frames, sound and groups over time, then a line of matrices for each row.

    Raises:
        ConfigError: if `spec.options` asks for a clip or a seed without predictions.
        NothingToDraw: if no run has predictions.
    """
    seed = chosen_seed(spec, spec.options.seed, study)
    rows = read_rows(spec, study, results, seeds=(seed,), columns=GROUNDED)
    drawn = {row.method: row.seeds[seed] for row in rows if row.seeds}
    clips = spec.options.clips
    if isinstance(clips, int):
        clips = mixed_clips(next(iter(drawn.values())), clips)
    tables = {clip: {m: table[table["clip"] == clip] for m, table in drawn.items()} for clip in clips}
    for clip, of_methods in tables.items():
        if any(table.empty for table in of_methods.values()):
            raise ConfigError(f"figure {spec.name}: options.clips: {clip!r} is no test clip with predictions")
    contents = {clip: read_clip(clip, study.media.preset, results) for clip in clips}
    heights = [
        height
        for content in contents.values()
        for height in (*_over_time(content["aspect"]), *[_PANEL] * len(drawn))
    ]
    caption = (
        "Groups: connected components of the graph of segments that sound or look alike (Algorithm 1), from the features "
        f"alone; the lowest line has segments that are alone. Below: cosines in the pretrained model's joint space, seed {seed}."
    )
    inches = sum(heights) + 1.2 * len(clips)
    figure = framed_figure((WIDTH, inches), heading, [caption, *missing_lines(rows)])
    columns = 1 + len(SIMILARITIES)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    first = 0
    for clip in clips:
        above = [figure.add_subplot(grid[first + i, :]) for i in range(3)]
        _draw_over_time(above, clip, contents[clip], next(iter(tables[clip].values())))
        below = [
            [figure.add_subplot(grid[first + 3 + line, column]) for column in range(columns)]
            for line in range(len(drawn))
        ]
        _draw_matrices(below, tables[clip])
        first += 3 + len(drawn)
    return figure


def _over_time(aspect: float) -> list[float]:
    """Inches of frames, sound and groups."""
    return [picture_height(10, aspect), 0.6, 0.9]


def mixed_clips(table: pd.DataFrame, count: int) -> tuple[str, ...]:
    """Clips in which about half of the pairs of segments are in one group; ties go to the first name."""
    shares = table[table["segment"] != table["other"]].groupby("clip", sort=True)["same_group"].mean()
    return tuple((shares - 0.5).abs().round(9).sort_values(kind="stable").head(count).index)


def matrix(table: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """(T, T) of one clip: segment down, other across."""
    return table.pivot(index="segment", columns="other", values=column).to_numpy(np.float64)


def _draw_over_time(axes: list[Axes], clip: str, content: ClipContent, table: pd.DataFrame) -> None:
    """Frames, sound and groups."""
    axes[0].set_title(f"Clip {clip}", loc="left", size=9, color=SOFT)
    draw_frames(axes[0], content["frames"])
    draw_waveform(axes[1], content["waveform"], content["sample_rate"])
    same = matrix(table, "same_group") > 0
    _draw_groups(axes[2], same)
    along_time(axes, len(same))
    for axis in axes[:-1]:
        axis.tick_params(bottom=False, labelbottom=False)


def _draw_groups(axis: Axes, same: npt.NDArray[np.bool_]) -> None:
    """A numbered node a segment; those of one group on a line of their own, segments that are alone on the lowest."""
    label_row(axis, "Groups")
    first = same.argmax(axis=1)
    groups = [group for group in np.unique(first) if (first == group).sum() > 1]
    levels = {group: len(groups) - i for i, group in enumerate(groups)}
    axis.set_ylim(-0.6, len(groups) + 0.6)
    for group in groups:
        members = np.flatnonzero(first == group) + 0.5
        colour = COLOURS[groups.index(group) % len(COLOURS)]
        axis.plot(members, np.full(len(members), levels[group]), color=colour, linewidth=2, zorder=1)
    for segment, group in enumerate(first):
        alone = group not in levels
        level = 0 if alone else levels[group]
        colour = BACKGROUND if alone else COLOURS[groups.index(group) % len(COLOURS)]
        axis.scatter([segment + 0.5], [level], s=130, color=colour, zorder=2)
        axis.text(
            segment + 0.5,
            level,
            f"{segment + 1}",
            ha="center",
            va="center_baseline",
            size=7,
            color=INK if alone else "white",
            zorder=3,
        )


def _draw_matrices(lines: list[list[Axes]], tables: dict[str, pd.DataFrame]) -> None:
    """A line for each method: the truth, then the similarities."""
    columns = {"same_group": "in one group", **SIMILARITIES}
    for axes, (method, table) in zip(lines, tables.items(), strict=True):
        for axis, (column, name) in zip(axes, columns.items(), strict=True):
            values = matrix(table, column)
            image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1)
            ticks = range(0, len(values), 3)
            axis.set_xticks(ticks, [str(tick + 1) for tick in ticks])
            axis.set_yticks(ticks, [str(tick + 1) for tick in ticks])
            axis.tick_params(length=0, labelbottom=axes is lines[-1], labelleft=axis is axes[0])
            if axes is lines[0]:
                axis.set_title(name, size=9)
        axes[0].set_ylabel(method)
        axes[-1].figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01, label="cosine")
