"""Bars: F-score of every category of audio and of visual events, methods side by side."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.predictions import (
    PARSED,
    Predictions,
    counted_seeds,
    missing_lines,
    read_categories,
    read_rows,
)
from avpipe.report.spec import FScoresFigure
from avpipe.report.style import BACKGROUND, COLOURS, INK, Heading, framed_figure

MODALITIES = ("audio", "visual")


def draw_fscores(spec: FScoresFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """A panel of bars for audio and one for visual events, mean ± sd over seeds.

    Raises:
        NothingToDraw: if no run has predictions.
    """
    rows, categories = read_rows(spec, study, results, columns=PARSED), read_categories(results)
    drawn = [row for row in rows if row.seeds]
    width = max(8.0, 1.4 + len(categories) * 2 * (0.08 + 0.13 * len(drawn)))
    figure = framed_figure((width, 4.2), heading, _caption(rows))
    for axis, modality in zip(figure.subplots(1, 2, sharey=True), MODALITIES, strict=True):
        scores = {row.method: mean_scores(row, modality, categories) for row in drawn}
        _draw_panel(axis, scores, categories)
        axis.set_title(f"{modality.capitalize()} events", size=10, loc="right")
    figure.axes[0].set_ylabel("F-score (%)")
    figure.axes[0].legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(drawn), frameon=False, borderaxespad=0.2
    )
    return figure


def mean_scores(row: Predictions, modality: str, categories: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """(seeds, C) in percent; see `category_fscores`."""
    tables = row.seeds.values()
    return np.stack([category_fscores(table[table["modality"] == modality], categories) for table in tables])


def category_fscores(table: pd.DataFrame, categories: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """F = 2 TP / (2 TP + FP + FN) over all test segments, in percent, (C,); NaN where the truth has no such segment.

    Args:
        table: columns category, truth, prediction, a row for each segment where either is true.
        categories: names.
    """
    marked = table.assign(both=table["truth"] & table["prediction"])
    sums = marked.groupby("category")[["truth", "prediction", "both"]].sum().reindex(categories, fill_value=0)
    truth, predicted = sums["truth"].to_numpy(np.float64), sums["prediction"].to_numpy(np.float64)
    scores = np.full(len(categories), np.nan)
    np.divide(200 * sums["both"].to_numpy(np.float64), truth + predicted, out=scores, where=truth > 0)
    return scores


def _draw_panel(axis: Axes, scores: dict[str, npt.NDArray[np.float64]], categories: tuple[str, ...]) -> None:
    bar = 0.84 / len(scores)
    for i, (method, values) in enumerate(scores.items()):
        axis.bar(
            np.arange(len(categories)) - 0.42 + bar * (i + 0.5),
            values.mean(axis=0),
            bar * 0.92,
            label=method,
            color=COLOURS[i % len(COLOURS)],
            yerr=values.std(axis=0, ddof=1) if len(values) > 1 else None,
            error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 1.2},
        )
    names = [name.replace("_", " ") for name in categories]
    axis.set_xticks(range(len(names)), names, rotation=55, ha="right", rotation_mode="anchor")
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 105)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)


def _caption(rows: list[Predictions]) -> list[str]:
    several = any(len(row.seeds) > 1 for row in rows)
    spread = ", bars ± sample standard deviation" if several else ""
    text = (
        "F-score of a category over all test segments together, not the mean over clips that the tables have. No bar where "
        f"the test split has no such event. Mean over {counted_seeds(rows)}{spread}."
    )
    return [text, *missing_lines(rows)]
