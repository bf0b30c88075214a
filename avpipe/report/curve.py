"""A metric over a numeric option of a model, with the points that the paper prints."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from avpipe.plan.experiment import model_options
from avpipe.plan.registry import suggest
from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.predictions import NothingToDraw, mean_over
from avpipe.report.spec import FigureSpec
from avpipe.report.style import INK, Heading, colour, deviations, draw_grid, framed_figure
from avpipe.tables.rows import Row
from avpipe.tables.runs import read_run, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CurveOptions(Section):
    """The two quantities of the curve."""

    option: str = Field(description="of the model; a number in every row")
    metric: str = Field(default="accuracy", description="a name in metrics.json")
    label: str | None = Field(default=None, description="how the option is written; none: its name")
    heading: str = Field(description="how the metric is written, with its unit")


@dataclass(frozen=True)
class Point:
    """One row of the figure.

    Args:
        method: the row's printed name.
        option: the option's value.
        values: the metric of each seed, in percent.
        published: the paper's number, in percent, or None.
        problems: why other seeds have no value.
    """

    method: str
    option: float
    values: tuple[float, ...]
    published: float | None
    problems: tuple[str, ...]


class CurveFigure(FigureSpec):
    """A metric over a numeric option of the model: every row is a point, beside it the published number."""

    options: CurveOptions
    caption = "A metric on the test split over an option of the model."
    table_only = ("predictions",)

    @model_validator(mode="after")
    def _metric_exists(self) -> "CurveFigure":
        if unknown := self.unknown_metrics([self.options.metric]):
            raise ValueError(f"options.metric: {unknown[0]}")
        return self

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """Only metrics are read."""
        return {"metrics.json": study.seeds}

    def value(self, row: Row, study: Study | None = None) -> float:
        """The option's value in this row: the row's own, else the study's, else the model's default."""
        model, name = self.model_of(row) or "", self.options.option
        of_study = study.options_of(model, self.features_of(row).values()) if study else {}
        given = {**of_study, **row.options}
        return float(given.get(name, model_options(model)[name]["default"]))

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """Mistakes of any figure, options that are no number, and two rows at one place."""
        wrong = list(super().problems())
        yield from wrong
        if wrong:
            return
        name, values = self.options.option, dict[str, float]()
        for row in (row for row in self.rows if not row.gap):
            options = model_options(self.model_of(row) or "")
            if name not in options:
                yield row, "options", f"the figure's options.option: {suggest(name, list(options))}"
            elif options[name]["type"] not in ("int", "float"):
                yield row, "options", f"{name} is of type {options[name]['type']}; a curve needs a number"
            else:
                values[row.row] = self.value(row)
        counts = Counter(values.values())
        for row in self.rows:
            if row.row in values and counts[values[row.row]] > 1:
                yield row, "options", f"another row has {name} = {values[row.row]:g} too"

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """The mean over seeds of each row's metric, ± sd, against the option's value."""
        points, options, headings = read_points(self, study, results), self.options, self.headings(study)
        missing = [f"Missing: {row.method}: {row.gap}." for row in self.rows if row.gap]
        missing += [
            f"Missing: {point.method}: {'; '.join(point.problems)}." for point in points if point.problems
        ]
        measured = [point for point in points if point.values]
        if not measured:
            raise NothingToDraw(f"Nothing to draw: no run has {options.metric}.", *missing)
        published = [(point.option, point.published) for point in points if point.published is not None]
        caption = f"{self.caption} {mean_over(len(point.values) for point in measured)}"
        printed = [self.origin()] if published else []
        figure = framed_figure((7.0, 3.8), heading, [caption, *printed, *missing])
        axis = figure.subplots()
        places = [point.option for point in measured]
        axis.errorbar(
            places,
            [float(np.mean(point.values)) for point in measured],
            yerr=np.hstack([deviations(np.array(point.values)[:, None]) for point in measured]),
            color=colour(0),
            marker="o",
            markersize=5,
            capsize=3,
            label=headings[1],
        )
        if published:
            axis.plot(
                *zip(*published, strict=True), "D", color=colour(5), fillstyle="none", label=headings[0]
            )
        for place, number in published:
            axis.annotate(f"{number:g}", (place, number), (6, 4), textcoords="offset points", color=colour(5))
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.set_xlabel(options.label or options.option, color=INK)
        axis.set_ylabel(options.heading)
        axis.margins(y=0.15)
        draw_grid(axis)
        axis.legend(frameon=False)
        return figure


def read_points(spec: CurveFigure, study: Study, results: Path) -> list[Point]:
    """Every row as a point, sorted by the option's value."""
    experiments, metric = spec.experiments(study), spec.options.metric
    points = []
    for row in (row for row in spec.rows if not row.gap):
        experiment = experiments[row.row, spec.setting]
        protocol = experiment.recipe.protocol
        found = {s: read_run(results, experiment, s).value(protocol, metric) for s in study.seeds}
        points.append(
            Point(
                row.method,
                spec.value(row, study),
                tuple(value for value in found.values() if isinstance(value, float)),
                row.published_number(spec.setting, metric),
                tuple(shortened(f"seed {s} {value}") for s, value in found.items() if isinstance(value, str)),
            )
        )
    return sorted(points, key=lambda point: point.option)
