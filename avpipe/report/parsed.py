"""Audio and visual events of test clips over time: the truth, and below it what each method says."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.clips import ClipContent, read_clip
from avpipe.report.predictions import PARSED, missing_lines, read_rows
from avpipe.report.spec import ParsedFigure, chosen_seed
from avpipe.report.style import BACKGROUND, COLOURS, INK, SOFT, Heading, framed_figure
from avpipe.report.timeline import WIDTH, along_time, draw_frames, draw_waveform, label_row, picture_height

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


def draw_parsed(spec: ParsedFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """For each chosen clip frames and sound, and every category that is true or predicted.

    Raises:
        ConfigError: if `spec.options` asks for a clip or a seed without predictions.
        NothingToDraw: if no run has predictions.
    """
    seed = chosen_seed(spec, spec.options.seed, study)
    rows = read_rows(spec, study, results, seeds=(seed,), columns=PARSED)
    tables = {row.method: row.seeds[seed] for row in rows if row.seeds}
    clips = spec.options.clips
    if isinstance(clips, int):
        clips = typical_clips(next(iter(tables.values())), clips)
    lanes = {clip: read_lanes(clip, tables) for clip in clips}
    for clip, found in lanes.items():
        if not found:
            raise ConfigError(f"figure {spec.name}: options.clips: {clip!r} is no test clip with events")
    contents = {clip: read_clip(clip, study.media.preset, results) for clip in clips}
    heights = [h for clip in clips for h in _heights(lanes[clip], contents[clip], len(tables))]
    inches = sum(heights) + 0.35 * len(clips) + 0.5
    caption = f"One frame and one label a second; hatched: predicted, but not true. Seed {seed}."
    figure = framed_figure((WIDTH, inches), heading, [caption, *missing_lines(rows)])
    axes = iter(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    for clip in clips:
        first = next(axes)
        first.set_title(f"Clip {clip}", loc="left", size=9, color=SOFT)
        draw_frames(first, contents[clip]["frames"])
        draw_waveform(next(axes), contents[clip]["waveform"], contents[clip]["sample_rate"])
        for lane in lanes[clip]:
            _draw_lane(next(axes), lane)
    along_time(figure.axes, SEGMENTS)
    _write_legend(figure, list(tables))
    return figure


def _heights(lanes: list[Lane], content: ClipContent, methods: int) -> list[float]:
    """Inches of frames, sound and every lane."""
    return [picture_height(SEGMENTS, content["aspect"]), 0.6] + [0.1 + _LANE * (1 + methods)] * len(lanes)


def typical_clips(table: pd.DataFrame, count: int) -> tuple[str, ...]:
    """Clips with audio and visual events that are not the same, and of average correctness; ties go to the first name.

    Correctness is the share of labels, true or predicted, that are both. Other clips are taken where these are too few.
    """
    marked = table.assign(right=table["truth"] & table["prediction"])
    clips = marked.groupby("clip", sort=True).agg(right=("right", "mean"))
    places: dict[str, dict[str, set[tuple[int, str]]]] = {"audio": {}, "visual": {}}
    for row in marked[marked["truth"]].itertuples():
        places[str(row.modality)].setdefault(str(row.clip), set()).add(
            (int(str(row.segment)), str(row.category))
        )
    heard, seen = places["audio"], places["visual"]
    clips["dull"] = [
        clip not in heard or clip not in seen or heard[clip] == seen[clip] for clip in clips.index
    ]
    interesting = clips[~clips["dull"]] if not clips["dull"].all() else clips
    clips["distance"] = (clips["right"] - interesting["right"].mean()).abs().round(9)
    return tuple(clips.sort_values(["dull", "distance"], kind="stable").head(count).index)


def read_lanes(clip: str, tables: dict[str, pd.DataFrame]) -> list[Lane]:
    """What is true or predicted in a clip, audio first; method -> predictions of the test split."""
    own = {method: table[table["clip"] == clip] for method, table in tables.items()}
    every = pd.concat(own.values())
    lanes = []
    for modality in ("audio", "visual"):
        for category in sorted(set(every[every["modality"] == modality]["category"])):
            rows = {
                method: table[(table["modality"] == modality) & (table["category"] == category)]
                for method, table in own.items()
            }
            said = {"Truth": _marked(pd.concat(rows.values()), "truth")}
            said |= {method: _marked(table, "prediction") for method, table in rows.items()}
            lanes.append(Lane(modality, category, said))
    return lanes


def _marked(table: pd.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    """(T,) the segments where the column is true."""
    marked = np.zeros(SEGMENTS, bool)
    marked[table[table[column]]["segment"].to_numpy(np.int64)] = True
    return marked


def _draw_lane(axis: Axes, lane: Lane) -> None:
    """A line for the truth and one for each method below it."""
    label_row(axis, f"{lane.modality}\n{lane.category.replace('_', ' ')}")
    count = len(lane.rows)
    axis.set_ylim(0, count)
    for i, marked in enumerate(lane.rows.values()):
        bottom = count - 1 - i
        axis.broken_barh([(0, SEGMENTS)], (bottom + 0.1, 0.8), facecolor=BACKGROUND)
        colour = INK if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
        for segment in np.flatnonzero(marked):
            wrong = not lane.rows["Truth"][segment]
            axis.broken_barh(
                [(float(segment), 1.0)],
                (bottom + 0.1, 0.8),
                facecolor=colour,
                edgecolor="white",
                hatch="////" if wrong else None,
                linewidth=0.6,
            )


def _write_legend(figure: Figure, methods: list[str]) -> None:
    """Truth and methods with their colours, beside the first line of events."""
    axis = figure.axes[0]
    for i, name in enumerate(["Truth", *methods]):
        colour = INK if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
        axis.plot([], [], color=colour, linewidth=6, label=name)
    axis.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=1 + len(methods), frameon=False, borderaxespad=0.2
    )
