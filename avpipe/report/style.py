"""How every figure looks, and how it is written. Functions import matplotlib, so reading a figure's file does not."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from avpipe.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#5E4FA2")
"""Okabe and Ito's palette for colour-blind readers, without yellow and black, and two more colours."""
BACKGROUND = "#E4E7EB"
INK = "#1B1F24"
SOFT = "#57606A"
WARNING = "#A33B00"

_RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same on every machine
    "font.size": 9.0,
    "text.parse_math": False,  # a "$" in a name or in a failure's reason is a "$"
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
}


def colour(index: int) -> str:
    """The colour of the row or category with this index."""
    return COLOURS[index % len(COLOURS)]


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults with our changes; the user's own matplotlibrc is not used."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def write_figure(figure: "Figure", base: Path, title: str) -> None:
    """Write `base`.svg and `base`.png, each whole or not at all."""
    for ending, dpi in (("svg", 100), ("png", 160)):  # in an svg, only pictures have pixels
        with whole_file(base.with_name(f"{base.name}.{ending}")) as temporary:
            figure.savefig(temporary, format=ending, dpi=dpi, metadata={"Title": title})


def wrapped(text: str, inches: float, points: float = 9.0) -> str:
    """Break `text` into lines that fit `inches` at a font size of `points`."""
    return "\n".join(textwrap.wrap(text, width=max(20, int(inches * 72 / (0.58 * points)))))


@dataclass(frozen=True)
class Heading:
    """The title above a figure and, where its numbers are no reproduction, the reason."""

    title: str
    notice: str | None = None


def framed_figure(size: tuple[float, float], heading: Heading, caption: Sequence[str]) -> "Figure":
    """A figure with room for axes of `size` inches (width, height), the heading above it and the caption's lines below."""
    from matplotlib.figure import Figure

    width, inches = size
    above: list[tuple[str, dict[str, Any]]] = [
        (wrapped(heading.title, width - 0.2, 13), {"size": 12, "weight": "bold"})
    ]
    if heading.notice:
        above.append((wrapped(heading.notice, width - 0.2), {"size": 9, "color": WARNING}))
    below = "\n".join(wrapped(line, width - 0.2, 8) for line in caption)
    head, foot = 0.1 + sum(_inches(text, style["size"]) for text, style in above), 0.12 + _inches(below, 8)
    height = head + inches + foot
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", rect=(0, foot / height, 1, inches / height))
    figure.text(0.1 / width, 0.08 / height, below, size=8, color=SOFT, va="bottom")
    top = height - 0.1
    for text, style in above:
        figure.text(0.1 / width, top / height, text, va="top", **style)
        top -= _inches(text, style["size"])
    return figure


def _inches(text: str, points: float) -> float:
    """Height of some lines, with a little room below them."""
    return (text.count("\n") + 1) * points * 1.3 / 72 + 0.04


def draw_bars(
    axis: "Axes", names: Sequence[str], methods: Mapping[str, npt.NDArray[Any]], rotation: float = 0
) -> None:
    """Groups of bars, one group a name and one bar a method: means over seeds with their `deviations`.

    Args:
        axis: where to draw.
        names: N, below the groups.
        methods: name in the legend -> (seeds, N) percent; NaN leaves a bar out.
        rotation: of the names, in degrees.
    """
    bar = 0.82 / len(methods)
    for i, (method, values) in enumerate(methods.items()):
        axis.bar(
            np.arange(len(names)) - 0.41 + bar * (i + 0.5),
            values.mean(axis=0),
            bar * 0.92,
            label=method,
            color=colour(i),
            yerr=deviations(values),
            error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 1.5},
        )
    slanted: dict[str, Any] = {"rotation": rotation, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(range(len(names)), names, **(slanted if rotation else {}))
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(names) - 0.4)
    draw_grid(axis)


def deviations(percent: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Lengths of error bars below and above the mean over seeds, (2, N): the sample standard deviation, cut off at 0 and 100.

    `percent`: (seeds, N); the bars of one seed have length 0.
    """
    mean = percent.mean(axis=0)
    deviation = percent.std(axis=0, ddof=1) if len(percent) > 1 else np.zeros_like(mean)
    return np.stack([np.minimum(deviation, mean), np.minimum(deviation, 100 - mean)])


def draw_grid(axis: "Axes") -> None:
    """Pale horizontal lines behind everything else."""
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)


def legend_above(axis: "Axes", loc: Literal["lower left", "lower right"] = "lower left") -> None:
    """The legend in one line above the axis, at its left or right end."""
    columns = len(axis.get_legend_handles_labels()[1])
    place = (-0.01 if loc == "lower left" else 1.0, 1.0)
    axis.legend(loc=loc, bbox_to_anchor=place, ncols=columns, frameon=False, borderaxespad=0.2)
