"""A metric over a numeric option of a model, with the points that the paper prints."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import CurveFigure
from avpipe.report.style import BACKGROUND, COLOURS, INK, Heading, framed_figure
from avpipe.tables.runs import read_run, shortened


@dataclass(frozen=True)
class Point:
    """One row of the figure.

    Args:
        method: as the row prints it.
        option: the option's value.
        values: the metric of each seed, in percent.
        published: the same, or None.
        problems: why other seeds have no value.
    """

    method: str
    option: float
    values: tuple[float, ...]
    published: float | None
    problems: tuple[str, ...]


def draw_curve(spec: CurveFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """The mean over seeds of each row's metric, ± sd, against the option's value.

    Raises:
        NothingToDraw: if no run has the metric.
    """
    points = read_points(spec, study, results)
    missing = [f"Missing: {point.method}: {'; '.join(point.problems)}." for point in points if point.problems]
    measured = [point for point in points if point.values]
    if not measured:
        raise NothingToDraw(f"Nothing to draw: no run has {spec.options.metric}.", *missing)
    figure = framed_figure((7.0, 3.8), heading, [*_caption(spec, measured), *missing])
    axis = figure.subplots()
    options = [point.option for point in measured]
    axis.errorbar(
        options,
        [float(np.mean(point.values)) for point in measured],
        yerr=[float(np.std(point.values, ddof=1)) if len(point.values) > 1 else 0.0 for point in measured],
        color=COLOURS[0],
        marker="o",
        markersize=5,
        capsize=3,
        label="measured",
    )
    printed = [(point.option, point.published) for point in points if point.published is not None]
    if printed:
        axis.plot(*zip(*printed, strict=True), "D", color=COLOURS[5], fillstyle="none", label="published")
    for option, number in printed:
        axis.annotate(f"{number:g}", (option, number), (6, 4), textcoords="offset points", color=COLOURS[5])
    axis.set_xticks(options, [f"{option:g}" for option in options])
    axis.set_xlabel(spec.options.label or spec.options.option, color=INK)
    axis.set_ylabel(spec.options.heading)
    axis.margins(y=0.15)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)
    axis.legend(frameon=False)
    return figure


def read_points(spec: CurveFigure, study: Study, results: Path) -> list[Point]:
    """Every row as a point, by the option's value."""
    experiments = spec.experiments(study)
    points = []
    for row in spec.rows:
        experiment = experiments[row.row, spec.setting]
        values, problems = [], []
        for seed in study.seeds:
            value = read_run(results, experiment, seed).value(experiment.recipe.protocol, spec.options.metric)
            if isinstance(value, str):
                problems.append(shortened(f"seed {seed} {value}"))
            else:
                values.append(value)
        point = Point(row.method, spec.value(row, study), tuple(values), spec.published(row), tuple(problems))
        points.append(point)
    return sorted(points, key=lambda point: point.option)


def _caption(spec: CurveFigure, measured: list[Point]) -> list[str]:
    counts = sorted({len(point.values) for point in measured})
    seeds = (
        "1 seed" if counts == [1] else f"{' or '.join(map(str, counts))} seeds ± sample standard deviation"
    )
    text = f"Test split, mean over {seeds}."
    published = any(spec.published(row) is not None for row in spec.rows)
    return [text, f"Published: {spec.printed}."] if published else [text]
