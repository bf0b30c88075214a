"""Confusion matrices: what the segments of each category are taken for, methods side by side."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from avpipe.metrics.localization import confusion_matrix, segment_accuracy
from avpipe.plan.study import Study
from avpipe.report.predictions import (
    Predictions,
    class_names,
    counted_seeds,
    missing_lines,
    read_categories,
    read_rows,
)
from avpipe.report.spec import ConfusionFigure
from avpipe.report.style import BACKGROUND, INK, Heading, framed_figure

_PANEL, _NAMES = 4.5, 2.3
"""Inches of a matrix, and of a column of names."""
_NUMBERED = 13
"""Classes up to which there is room for a number in each cell."""


def draw_confusion(spec: ConfusionFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """A matrix a row of the figure: true class down, predicted class across, shares of the true class's segments.

    Classes are numbered along the axes; the names stand beside them.

    Raises:
        NothingToDraw: if no run has predictions.
    """
    rows = read_rows(spec, study, results)
    drawn = [row for row in rows if row.seeds]
    names = class_names(read_categories(results))
    columns = -(-len(names) // 32)
    widths = [*[_PANEL] * len(drawn), _NAMES * columns]
    figure = framed_figure((sum(widths) + 0.5, _PANEL + 0.4), heading, _caption(rows))
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    image = None
    for axis, row in zip(axes, drawn, strict=False):
        image = axis.imshow(mean_confusion(row, len(names)), cmap=_colours(), vmin=0, vmax=100)
        _label(axis, row, len(names))
    axes[0].set_ylabel("true class")
    if image is not None:
        figure.colorbar(image, ax=axes[:-1], shrink=0.6, pad=0.01, label="% of the true class's segments")
    for axis in axes:
        axis.set_anchor("NW")
    _write_names(axes[-1], names, columns)
    return figure


def mean_confusion(row: Predictions, classes: int) -> npt.NDArray[np.float64]:
    """(classes, classes) percent of a true class's segments, mean over seeds; NaN where the truth has no such segment."""
    shares = []
    for table in row.seeds.values():
        counts = confusion_matrix(table["truth"].to_numpy(), table["prediction"].to_numpy(), classes)
        named = counts.sum(axis=1, keepdims=True)
        shares.append(np.divide(100 * counts, named, out=np.full(counts.shape, np.nan), where=named > 0))
    return np.mean(shares, axis=0)


def _colours() -> Colormap:
    """White to blue; grey where the truth has no segment."""
    return matplotlib.colormaps["Blues"].with_extremes(bad=BACKGROUND)


def _label(axis: Axes, row: Predictions, classes: int) -> None:
    """Title, class numbers along both axes and, where there is room, the shares."""
    tables = row.seeds.values()
    right = np.mean([segment_accuracy(t["truth"].to_numpy(), t["prediction"].to_numpy()) for t in tables])
    axis.set_title(f"{row.method}: {100 * right:.1f} % of segments right", size=10)
    axis.set_xlabel("predicted class")
    size = 8 if classes <= _NUMBERED else 6
    for place in (axis.set_xticks, axis.set_yticks):
        place(range(classes), [str(index) for index in range(classes)], size=size)
    axis.tick_params(length=0, pad=2)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    if classes <= _NUMBERED:
        for (i, j), share in np.ndenumerate(mean_confusion(row, classes)):
            if share >= 0.5:
                axis.text(
                    j,
                    i,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    size=7,
                    color="white" if share > 60 else INK,
                )


def _write_names(axis: Axes, names: list[str], columns: int) -> None:
    """Number and name of every class."""
    axis.axis("off")
    height = -(-len(names) // columns)
    for index, name in enumerate(names):
        place = (index // height / columns, 1 - (index % height + 0.5) / max(height, 20))
        axis.text(*place, f"{index}", ha="right", va="center", size=8, transform=axis.transAxes)
        axis.text(place[0] + 0.04, place[1], name, va="center", size=8, transform=axis.transAxes)


def _caption(rows: list[Predictions]) -> list[str]:
    text = f"Every test segment counts once; each line of a matrix adds up to 100 %. Mean over {counted_seeds(rows)}."
    return [text, *missing_lines(rows)]
