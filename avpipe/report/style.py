"""How every figure looks, and how it is written: the same bytes from the same numbers."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Heading:
    """What stands above a figure: its title and, where its numbers are no reproduction, why."""

    title: str
    notice: str | None = None


def framed_figure(size: tuple[float, float], heading: Heading, caption: Sequence[str]) -> Figure:
    """A figure with room for axes of `size` inches (width, height), the heading above it and the caption's lines below."""
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


def message_figure(heading: Heading, lines: list[str]) -> Figure:
    """A figure that says why there is nothing to see."""
    return framed_figure((9.0, 0.1), heading, lines)
