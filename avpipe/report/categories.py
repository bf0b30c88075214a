"""Bars: accuracy per event category, methods side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from avpipe.datasets.labels import read_categories
from avpipe.metrics.localization import category_accuracy
from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.predictions import (
    RowPredictions,
    any_truth,
    chosen_categories,
    mean_over,
    missing_lines,
    read_rows,
)
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading, draw_bars, framed_figure, legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CategoriesOptions(Section):
    """Which categories the bar chart shows."""

    categories: tuple[str, ...] = Field(
        default=(), description="their names, in this order; empty: those with most test segments"
    )
    limit: int = Field(default=10, ge=1, description="how many, where `categories` is empty")
    background: bool = Field(default=True, description="one more group of bars for segments without an event")


class CategoriesFigure(FigureSpec):
    """Accuracy per category, bars of the rows side by side."""

    options: CategoriesOptions = Field(default_factory=CategoriesOptions)
    caption = "Accuracy per event category: the share of its test segments whose category is predicted."

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """Grouped bars, the background's last."""
        rows, categories, options = read_rows(self, study, results), read_categories(results), self.options
        truth, names = any_truth(rows), [*categories, "background"]
        shown = chosen_categories(self, options.categories, options.limit, truth, categories)
        if options.background and len(categories) in truth:
            shown.append(len(categories))
        scores = {row.method: _accuracies(row, len(names))[:, shown] for row in rows if row.seeds}
        width = max(7.0, 0.5 + len(shown) * (0.32 + 0.17 * len(scores)))
        caption = f"{self.caption} {mean_over(len(row.seeds) for row in rows)}"
        figure = framed_figure((width, 3.9), heading, [caption, *missing_lines(rows)])
        axis = figure.subplots()
        draw_bars(axis, [names[i].replace(", ", ",\n").replace(" ", "\n") for i in shown], scores)
        axis.set_ylim(0, 105)
        axis.set_yticks(range(0, 101, 20))
        axis.set_ylabel("accuracy (%)")
        legend_above(axis)
        return figure


def _accuracies(row: RowPredictions, classes: int) -> npt.NDArray[np.float64]:
    """(seeds, classes) in percent, NaN where the test split has no such segment."""
    tables = row.seeds.values()
    return 100 * np.stack([category_accuracy(t["truth"], t["prediction"], classes) for t in tables])
