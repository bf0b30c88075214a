"""A paper's table as data: which experiments it needs and which numbers the paper printed.

One YAML file a table in `workflow/tables/`; the file's name is the table's name. The workflow reads these files before it
plans anything, so importing this module loads no torch and no pandas.

    title: Comparison with existing methods       # stands above the table
    paper: Ramaswamy, ..., ICASSP 2020
    printed: slide "Results (performance comparison in %)"
    task: localization                            # the task of rows that do not name one
    metrics: {accuracy: Acc.}                     # name in metrics.json -> heading of the column
    settings: [supervised, weakly-supervised]     # default: both
    decimals: 1                                   # of the printed numbers; default 1
    defaults:                                     # for rows that do not give these keys; a row's key replaces all of it
      model: avin
      features: {audio: vggish, visual: vgg16_map}
      recipe: short
    rows:
      - row: avin                                 # slug: in the csv, and for `avpipe why`
        method: AVIN (Ours)                       # as printed
        remark: audio+visual                      # optional, as printed
        model: avin                               # a name of avpipe.models.list_models()
        options: {fusion: mfb}                    # keyword arguments of the model
        features: {audio: vggish, visual: vgg16_map}   # role in the model's batch -> extractor of the study
        recipe: {epochs: 50}                      # changes to the study's `training`, or the name of one of its `recipes`
        task: refined_parsing                     # if it is not the table's
        settings: [supervised]                    # in which the row is run; default: all of the table's
        published: {supervised: 75.2}             # or {supervised: {accuracy: 75.2}} if there are several metrics
        pretraining:                              # start from this experiment's checkpoint of the same seed
          {model: avg, options: {objective: uni}}  # features and recipe: the row's, unless given; `dataset`: another study's
      - row: dam
        method: DAM
        gap: the model is not in avpipe yet       # in place of a model: the table shows a gap with this reason
        published: {supervised: 74.5}             # leave out numbers that the paper does not print

With `each: visual` every row of the file is repeated for each visual feature in the study's `backbones`.
A metric may also be a cost: `parameters` (millions) or `seconds` (training of a run).

A figure's rows have the same form (`avpipe.report.spec`).
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from avpipe.plan.experiment import Role, Setting
from avpipe.plan.registry import suggest
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.tables.rows import Mistakes, Row, RowsSpec, checked, read_yaml

SUPERVISED: tuple[Setting, ...] = ("supervised", "weakly-supervised")


class TableSpec(RowsSpec):
    """A table of a paper."""

    metrics: dict[str, str] = Field(min_length=1, description="name in metrics.json -> heading")
    each: Role | None = Field(
        None, description="the role that every row takes from each of the study's `backbones` in turn"
    )
    settings: tuple[Setting, ...] = Field(SUPERVISED, min_length=1)
    decimals: int = Field(1, ge=0, le=6)

    @model_validator(mode="after")
    def _metrics_exist(self) -> "TableSpec":
        if unknown := self.unknown_metrics(self.metrics):
            raise ValueError(f"metrics: {'; '.join(unknown)}")
        return self

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
        rows = [self._with(row, self.each, name, study) for row in self.rows for name in study.backbones]
        expanded = self.model_copy(update={"rows": tuple(rows), "each": None})
        expanded._where = self._where
        return expanded

    def _with(self, row: Row, role: Role, extractor: str, study: Study) -> Row:
        """The row with this extractor in this role."""
        if extractor not in study.arrays:
            known = suggest(extractor, list(study.arrays))
            raise ConfigError(f"backbones: no extractor {extractor!r}; {known}")
        backbone = getattr(study.arrays[extractor], "backbone", extractor)
        changes = {
            "row": f"{row.row}-{extractor}",
            "remark": ", ".join(filter(None, [row.remark, backbone])),
            "features": {**self.features_of(row), role: extractor},
            "settings": tuple(s for s in self.settings_of(row) if s in study.backbones[extractor]),
        }
        return row.model_copy(update=changes)


def load_table(path: Path, study: Study | None = None) -> TableSpec:
    """Read `workflow/tables/{name}.yaml`.

    Raises:
        ConfigError: names file, row and key of each mistake; with `study`, also extractors and recipes that the
            study does not have.
    """
    return parse_table(read_yaml(path), str(path), study)


def parse_table(data: dict[str, Any], where: str, study: Study | None = None) -> TableSpec:
    """Check the content of a table's file; `where` (a path, or the table's name) stands in error messages."""
    spec = checked(TableSpec, where, data)
    if study is not None:
        spec = spec.expanded(study)
        spec.experiments(study)
    return spec
