"""Confusion matrices of the test segments, methods side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.datasets.labels import read_categories
from avpipe.metrics.localization import confusion_matrix, segment_accuracy
from avpipe.plan.study import Study
from avpipe.report.predictions import RowPredictions, mean_over, missing_lines, read_rows
from avpipe.report.spec import FigureSpec
from avpipe.report.style import BACKGROUND, INK, Heading, framed_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL, _NAMES = 4.5, 2.3
"""Inches of a matrix, and of a column of names."""
_NUMBERED = 13
"""Classes up to which there is room for a number in each cell."""


class ConfusionFigure(FigureSpec):
    """Confusion matrices of the rows side by side: every category and background."""

    caption = (
        "Confusion matrices: each line is a true class, in percent of its test segments; each column is a predicted class. "
        "Background is the last class."
    )

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """A matrix for each row of the figure. Classes are numbered along the axes; their names stand beside them."""
        import matplotlib

        rows = read_rows(self, study, results)
        drawn = [row for row in rows if row.seeds]
        names = [*read_categories(results), "background"]
        columns = -(-len(names) // 32)
        widths = [*[_PANEL] * len(drawn), _NAMES * columns]
        caption = f"{self.caption} {mean_over((len(row.seeds) for row in rows), spread=False)}"
        if len(drawn) > 1:
            caption += f" Beside the names: how much more of a class {drawn[-1].method} gets right than {drawn[0].method}."
        size = (sum(widths) + 0.5, _PANEL + 0.4)
        figure = framed_figure(size, heading, [caption, *missing_lines(rows)])
        axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        colours = matplotlib.colormaps["Blues"].with_extremes(bad=BACKGROUND)  # grey: no such test segment
        for axis, row in zip(axes[:-1], drawn, strict=True):
            shares = mean_confusion(row, len(names))
            image = axis.imshow(shares, cmap=colours, vmin=0, vmax=100)
            _label(axis, row, shares)
        axes[0].set_ylabel("true class")
        figure.colorbar(image, ax=axes[:-1], shrink=0.6, pad=0.01, label="% of the true class's segments")
        for axis in axes:
            axis.set_anchor("NW")
        gains = None
        if len(drawn) > 1:
            first, last = (np.diag(mean_confusion(row, len(names))) for row in (drawn[0], drawn[-1]))
            gains = last - first
        _write_names(axes[-1], names, columns, gains)
        return figure


def mean_confusion(row: RowPredictions, classes: int) -> npt.NDArray[np.float64]:
    """(classes, classes) percent of a true class's segments, mean over seeds; NaN where no segment is truly of the class."""
    shares = []
    for table in row.seeds.values():
        counts = confusion_matrix(table["truth"], table["prediction"], classes)
        total = counts.sum(axis=1, keepdims=True)
        shares.append(np.divide(100 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0))
    return np.mean(shares, axis=0)


def _label(axis: "Axes", row: RowPredictions, shares: npt.NDArray[np.float64]) -> None:
    """Title, class numbers along both axes and, where there is room, the shares."""
    right = np.mean([segment_accuracy(t["truth"], t["prediction"]) for t in row.seeds.values()])
    missed = 100 * np.mean([_taken_for_background(table, len(shares) - 1) for table in row.seeds.values()])
    title = f"{row.method}: {100 * right:.1f} % of segments right,\n{missed:.1f} % of event segments taken for background"
    axis.set_title(title, size=10)
    axis.set_xlabel("predicted class")
    numbered = len(shares) <= _NUMBERED
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks(range(len(shares)), list(map(str, range(len(shares)))), size=8 if numbered else 6)
    axis.tick_params(length=0, pad=2)
    axis.spines[["left", "bottom"]].set_visible(False)
    for (i, j), share in np.ndenumerate(shares):
        if numbered and share >= 0.5:
            ink = "white" if share > 60 else INK
            axis.text(j, i, f"{share:.0f}", ha="center", va="center", size=7, color=ink)


def _taken_for_background(table: pd.DataFrame, background: int) -> float:
    """Share of the segments with an event that are predicted as background."""
    events = table[table["truth"] != background]
    return float((events["prediction"] == background).mean()) if len(events) else 0.0


def _write_names(axis: "Axes", names: list[str], columns: int, gains: npt.NDArray[np.float64] | None) -> None:
    """Number and name of every class, and its gain, NaN where it has no test segment."""
    axis.axis("off")
    height = -(-len(names) // columns)
    for index, name in enumerate(names):
        x, y = index // height / columns, 1 - (index % height + 0.5) / max(height, 20)
        axis.text(x, y, f"{index}", ha="right", va="center", size=8, transform=axis.transAxes)
        if gains is not None and np.isfinite(gains[index]):
            name = f"{name}  {gains[index]:+.0f}"
        axis.text(x + 0.04, y, name, va="center", size=8, transform=axis.transAxes)
