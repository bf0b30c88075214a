"""A curve shows the mean over seeds of each row at its option's value, and the published points."""

from typing import Any

import numpy as np
from matplotlib.container import ErrorbarContainer

from avpipe.report.curve import Point, read_points

from .conftest import NO_RUN, Toy, figure_of, texts

ROWS: list[dict[str, Any]] = [
    {"row": "more", "method": "θ = 0.1", "model": "tacma", "options": {"theta": 0.1}},
    {"row": "own", "method": "θ = 0.03", "model": "tacma", "published": {"supervised": 77.2}},
    {"row": "none", "method": "θ = 0", "model": "tacma", "options": {"theta": 0.0}},
]
SPEC = figure_of("curve", {"option": "theta", "label": "θ", "heading": "Accuracy (%)"}, rows=ROWS)


def write_accuracies(toy: Toy) -> None:
    for row, accuracies in ((0, (0.5, 0.75)), (2, (0.25,))):
        for seed, accuracy in enumerate(accuracies):
            toy.write_run(toy.experiment(SPEC, row), seed, accuracy)


def test_points_are_sorted_by_value_and_have_the_numbers_of_the_protocol(toy: Toy) -> None:
    write_accuracies(toy)
    assert read_points(SPEC, toy.study, toy.results) == [
        Point("θ = 0", 0.0, (25.0,), None, (f"seed 1 {NO_RUN}",)),
        Point("θ = 0.03", 0.03, (), 77.2, (f"seed 0 {NO_RUN}", f"seed 1 {NO_RUN}")),
        Point("θ = 0.1", 0.1, (50.0, 75.0), None, ()),
    ]


def test_the_curve_is_the_mean_with_its_deviation_and_published_points_are_separate(toy: Toy) -> None:
    write_accuracies(toy)
    figure = toy.draw(SPEC)
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
    for part in (
        "1 or 2 seeds ± sample standard deviation",
        "Published: Nobody, 2020, Figure 1.",
        "Missing: θ = 0.03: seed 0 no run yet",
    ):
        assert part in said
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("θ", "Accuracy (%)")
