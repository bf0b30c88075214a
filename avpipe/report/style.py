"""How every figure looks, and how it is written: the same bytes from the same numbers."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from avpipe.files import whole_file

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#5E4FA2")
"""Okabe and Ito's palette without yellow and black, told apart by colour-blind people, and two more."""
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
    "svg.hashsalt": "avpipe",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults with our changes, whatever the person's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def write_figure(figure: Figure, base: Path, title: str) -> None:
    """Write `base`.svg and `base`.png, each whole or not at all, without dates."""
    _freeze_layout(figure)
    svg, png = base.with_name(f"{base.name}.svg"), base.with_name(f"{base.name}.png")
    with whole_file(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    with whole_file(png) as temporary:
        figure.savefig(temporary, format="png", dpi=160, metadata={"Software": None, "Title": title})


def _freeze_layout(figure: Figure) -> None:
    """Round what the layout engine found: its solver differs in the last bits from one time to the next."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position().get_points().round(5)))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((round(x, 5), round(y, 5)))


def wrapped(text: str, inches: float, points: float = 9.0) -> str:
    """Break `text` into lines that fit `inches` at a font size of `points`."""
    return "\n".join(textwrap.wrap(text, width=max(20, int(inches * 72 / (0.58 * points)))))


def message_figure(title: str, lines: list[str]) -> Figure:
    """A figure that says why there is nothing to see."""
    width = 9.0
    text = "\n".join(wrapped(line, width - 1) for line in lines)
    figure = Figure(figsize=(width, 1.2 + 0.18 * (text.count("\n") + 1)))
    figure.text(0.03, 0.93, wrapped(title, width - 1, 11), size=11, weight="bold", va="top")
    figure.text(0.03, 0.70, text, color=WARNING, va="top", linespacing=1.4)
    return figure
