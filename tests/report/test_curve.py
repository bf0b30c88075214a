"""A curve shows the mean over seeds of each row at its option's value, and the published points."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.curve import Point, draw_curve, read_points
from avpipe.report.spec import CurveFigure, FigureSpec
from avpipe.report.style import Heading

ROWS: list[dict[str, Any]] = [
    {"row": "more", "method": "θ = 0.1", "model": "tacma", "options": {"theta": 0.1}},
    {"row": "own", "method": "θ = 0.03", "model": "tacma", "published": {"supervised": 77.2}},
    {"row": "none", "method": "θ = 0", "model": "tacma", "options": {"theta": 0.0}},
]


@pytest.fixture
def spec(parsed: Callable[..., FigureSpec]) -> CurveFigure:
    options = {"option": "theta", "label": "θ", "heading": "Accuracy (%)"}
    figure = parsed("curve", options, rows=ROWS)
    assert isinstance(figure, CurveFigure)
    return figure


@pytest.fixture
def write_accuracy(spec: CurveFigure, study: Study, write_run: Callable[..., Path]) -> Callable[..., None]:
    """Accuracy of each seed of a row, a fraction."""

    def write(row: str, *accuracies: float) -> None:
        for seed, accuracy in enumerate(accuracies):
            numbers = {"validation": {"accuracy": accuracy}, "last": {"accuracy": 0.1}}
            write_run(spec.experiments(study)[row, "supervised"], seed, {"a": ([0], [0])}, metrics=numbers)

    return write


def test_points_stand_by_value_with_the_numbers_of_the_protocol(
    spec: CurveFigure, study: Study, results: Path, write_accuracy: Callable[..., None]
) -> None:
    write_accuracy("more", 0.5, 0.75)
    write_accuracy("none", 0.25)
    none, own, more = read_points(spec, study, results)
    missing = "no run yet (metrics.json is missing)"
    assert none == Point("θ = 0", 0.0, (25.0,), None, (f"seed 1 {missing}",))
    assert own == Point("θ = 0.03", 0.03, (), 77.2, (f"seed 0 {missing}", f"seed 1 {missing}"))
    assert more == Point("θ = 0.1", 0.1, (50.0, 75.0), None, ())


def test_the_curve_is_the_mean_with_its_spread_and_published_points_stand_apart(
    spec: CurveFigure, study: Study, results: Path, write_accuracy: Callable[..., None],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    write_accuracy("more", 0.5, 0.75)
    write_accuracy("none", 0.25)
    figure = draw_curve(spec, study, results, Heading("Title"))
    (axis,) = figure.axes
    (bars,) = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    line, _, (spreads,) = bars.lines
    np.testing.assert_allclose(line.get_xydata(), [(0, 25), (0.1, 62.5)])
    half = np.std([50, 75], ddof=1)  # 17.7
    ends = [segment[:, 1] for segment in spreads.get_segments()]
    np.testing.assert_allclose(ends, [(25, 25), (62.5 - half, 62.5 + half)])
    (published,) = [other for other in axis.lines if other.get_label() == "published"]
    np.testing.assert_allclose(published.get_xydata(), [(0.03, 77.2)])
    said = " ".join(texts(figure))
    assert "1 or 2 seeds ± sample standard deviation" in said
    assert "Published: Figure 1." in said
    assert "Missing: θ = 0.03: seed 0 no run yet" in said
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("θ", "Accuracy (%)")
