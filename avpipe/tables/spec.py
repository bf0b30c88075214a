"""A paper's table as data: which experiments it needs and which numbers the paper printed.

One YAML file a table in `workflow/tables/`; the file's name is the table's name. The workflow reads these files before it
plans anything, so importing this module loads no torch and no pandas.

docs/extending.md lists the keys. With `each: visual` every row of the file is repeated for each visual feature in the
study's `backbones`. A figure's rows have the same form (`avpipe.report.spec`).
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from avpipe.features.spec import map_cells
from avpipe.plan.experiment import Role, Setting, attends_to_cells
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError, Section
from avpipe.plan.study import Study
from avpipe.tables.rows import Mistakes, Row, RowsSpec, checked, read_yaml

SUPERVISED: tuple[Setting, ...] = ("supervised", "weakly-supervised")


class Average(Section):
    """A column with the mean of a metric over this dataset and others, which are, for example, other splits."""

    metric: str
    datasets: tuple[str, ...] = Field(
        min_length=1, description="the other datasets, whose studies make the same experiments"
    )


class TableSpec(RowsSpec):
    """A table of a paper."""

    metrics: dict[str, str] = Field(min_length=1, description="name in metrics.json -> heading")
    averages: dict[str, Average] = Field(
        default_factory=dict, description="key of `metrics` that is a mean over datasets -> of what"
    )
    each: Role | None = Field(
        None, description="the role that every row takes from each of the study's `backbones` in turn"
    )
    settings: tuple[Setting, ...] = Field(SUPERVISED, min_length=1)
    decimals: int = Field(1, ge=0, le=6)

    @model_validator(mode="after")
    def _metrics_exist(self) -> "TableSpec":
        if unused := self.averages.keys() - self.metrics.keys():
            raise ValueError(f"averages: {min(unused)!r} has no heading in `metrics`")
        if unknown := self.unknown_metrics(self.measured(name) for name in self.metrics):
            raise ValueError(f"metrics: {'; '.join(unknown)}")
        return self

    def measured(self, metric: str) -> str:
        """The metric in metrics.json behind a key of `metrics`."""
        return self.averages[metric].metric if metric in self.averages else metric

    def all_settings(self) -> tuple[Setting, ...]:
        """The table's settings, in its order."""
        return self.settings

    def problems(self) -> Mistakes:
        """Mistakes in the rows, and published numbers that belong to no column."""
        yield from super().problems()
        for row in self.rows:
            for setting, numbers in row.published.items():
                if setting not in self.settings:
                    yield row, f"published.{setting}", f"the table's settings are {list(self.settings)}"
                if isinstance(numbers, dict):
                    for metric in sorted(set(numbers) - set(self.metrics)):
                        known = suggest(metric, list(self.metrics))
                        yield row, f"published.{setting}.{metric}", f"no such metric; {known}"
                elif len(self.metrics) > 1:
                    metrics = ", ".join(self.metrics)
                    yield row, f"published.{setting}", f"say which metric the number belongs to: {metrics}"

    def expanded(self, study: Study) -> "TableSpec":
        """The table with one row for each backbone, if it has `each`; else the table itself.

        Raises:
            ConfigError: if the study has no `backbones`, or one of them is none of its features.
        """
        if self.each is None:
            return self
        if not study.backbones:
            raise ConfigError(f"{self._where}: the study names no `backbones` to compare")
        rows: list[Row] = []
        for row in self.rows:
            of_each = [self._with(row, self.each, name, study) for name in study.backbones]
            rows += [row] if row.predictions else of_each
        expanded = self.model_copy(update={"rows": tuple(rows), "each": None})
        expanded._where = self._where
        return expanded

    def _with(self, row: Row, role: Role, extractor: str, study: Study) -> Row:
        """The row with this extractor in this role."""
        if extractor not in study.feature_names:
            raise ConfigError(f"backbones: {study.no_feature(extractor)}")
        array, features = study.array(extractor), {**self.features_of(row), role: extractor}
        remarks, options, model = (
            [row.remark, getattr(array, "backbone", extractor)],
            row.options,
            self.model_of(row),
        )
        if model and map_cells(array) < 2:
            given = {**study.options_of(model, features.values()), **options}
            if option := attends_to_cells(model, given, features):
                options = {**options, option: False}
                remarks.append("without attention")
        changes = {
            "row": f"{row.row}-{extractor}",
            "remark": ", ".join(filter(None, remarks)),
            "options": options,
            "features": features,
            "settings": tuple(s for s in self.settings_of(row) if s in study.backbones[extractor]),
        }
        return row.model_copy(update=changes)


def load_table(path: Path, study: Study | None = None) -> TableSpec:
    """Read `workflow/tables/{name}.yaml`.

    Raises:
        ConfigError: names file, row and key of each mistake; with `study`, also backbones that the study does not have.
    """
    return parse_table(read_yaml(path), str(path), study)


def parse_table(data: dict[str, Any], where: str, study: Study | None = None) -> TableSpec:
    """Check the content of a table's file; `where` (a path, or the table's name) stands in error messages."""
    spec = checked(TableSpec, where, data)
    return spec.expanded(study).possible(study) if study else spec
