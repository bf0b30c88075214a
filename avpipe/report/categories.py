"""Bars: accuracy per event category, methods side by side."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from avpipe.metrics.localization import category_accuracy
from avpipe.plan.study import Study
from avpipe.report.predictions import (
    Predictions,
    any_truth,
    chosen_categories,
    class_names,
    counted_seeds,
    missing_lines,
    read_categories,
    read_rows,
)
from avpipe.report.spec import CategoriesFigure
from avpipe.report.style import BACKGROUND, COLOURS, INK, Heading, framed_figure


def draw_categories(spec: CategoriesFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """Grouped bars: of each category's test segments the share found, mean ± sd over seeds.

    Raises:
        ConfigError: if `spec.options.categories` names one that the dataset does not have.
        NothingToDraw: if no run has predictions.
    """
    rows, categories = read_rows(spec, study, results), read_categories(results)
    shown = _shown(spec, rows, categories)
    names = [class_names(categories)[index] for index in shown]
    scores = {row.method: _scores(row, len(categories) + 1)[:, shown] for row in rows if row.seeds}
    width = max(7.0, 0.5 + len(shown) * (0.32 + 0.17 * len(scores)))
    figure = framed_figure((width, 3.9), heading, _caption(rows))
    axis = figure.subplots()
    bar = 0.8 / len(scores)
    for i, (method, values) in enumerate(scores.items()):
        places = np.arange(len(shown)) - 0.4 + bar * (i + 0.5)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
        axis.bar(
            places,
            values.mean(axis=0),
            bar * 0.92,
            label=method,
            color=COLOURS[i % len(COLOURS)],
            yerr=spread,
            error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 1.8},
        )
    axis.set_xticks(range(len(shown)), [_broken(name) for name in names])
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(shown) - 0.4)
    axis.set_ylim(0, 105)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("accuracy (%)")
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)
    axis.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(scores), frameon=False, borderaxespad=0.2
    )
    return figure


def _broken(name: str) -> str:
    return name.replace(", ", ",\n").replace(" ", "\n")


def _caption(rows: list[Predictions]) -> list[str]:
    several = any(len(row.seeds) > 1 for row in rows)
    seeds = counted_seeds(rows) + (", bars ± sample standard deviation" if several else "")
    text = f"Of the test segments of a category the share that is found. Mean over {seeds}."
    return [text, *missing_lines(rows)]


def _scores(row: Predictions, classes: int) -> npt.NDArray[np.float64]:
    """(seeds, classes) in percent, NaN where the test split has no such segment."""
    tables = row.seeds.values()
    return 100 * np.stack(
        [category_accuracy(t["truth"].to_numpy(), t["prediction"].to_numpy(), classes) for t in tables]
    )


def _shown(spec: CategoriesFigure, rows: list[Predictions], categories: tuple[str, ...]) -> list[int]:
    """Indices of the groups of bars, background last."""
    options, background = spec.options, len(categories)
    shown = chosen_categories(spec, options.categories, options.limit, rows, categories)
    return [*shown, *([background] if options.background and background in any_truth(rows) else [])]
