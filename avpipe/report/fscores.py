"""Bars: F-score of every category of audio and of visual events, methods side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.datasets.labels import read_categories
from avpipe.plan.study import Study
from avpipe.report.predictions import mean_over, missing_lines, read_rows
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading, draw_bars, framed_figure, legend_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FScoresFigure(FigureSpec):
    """F-score of every category, of audio and of visual events, bars of the rows side by side."""

    caption = (
        "F-score of each category over all test segments together; the tables' scores are means over clips instead. A category "
        "without such events in the test split has no bar."
    )

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """A panel of bars for audio and one for visual events."""
        rows, categories = read_rows(self, study, results), read_categories(results)
        drawn = [row for row in rows if row.seeds]
        width = max(8.0, 1.4 + len(categories) * 2 * (0.08 + 0.13 * len(drawn)))
        caption = f"{self.caption} {mean_over(len(row.seeds) for row in rows)}"
        figure = framed_figure((width, 4.2), heading, [caption, *missing_lines(rows)])
        names = [name.replace("_", " ") for name in categories]
        for axis, modality in zip(figure.subplots(1, 2, sharey=True), ("audio", "visual"), strict=True):
            scores = {
                row.method: np.stack(
                    [category_fscores(t[t["modality"] == modality], categories) for t in row.seeds.values()]
                )
                for row in drawn
            }
            draw_bars(axis, names, scores, rotation=55)
            axis.set_ylim(0, 105)
            axis.set_title(f"{modality.capitalize()} events", size=10, loc="right")
        figure.axes[0].set_ylabel("F-score (%)")
        legend_above(figure.axes[0])
        return figure


def category_fscores(table: pd.DataFrame, categories: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """F = 2 TP / (2 TP + FP + FN) over all test segments, in percent, (C,); NaN for a category that is never true.

    Args:
        table: columns category, truth, prediction, a row for each segment where either is true.
        categories: names.
    """
    from sklearn.metrics import f1_score

    scores = np.full(len(categories), np.nan)
    for i, category in enumerate(categories):
        own = table[table["category"] == category]
        if own["truth"].any():
            scores[i] = 100 * f1_score(own["truth"], own["prediction"])
    return scores
