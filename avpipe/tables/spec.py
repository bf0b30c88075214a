"""A paper's table as data: which experiments it needs and which numbers the paper printed.

One YAML file a table in `workflow/tables/`; the file's name is the table's name. The workflow reads them before it
plans anything, so importing this module loads no torch and no pandas.

    title: Comparison with existing methods       # stands above the table
    paper: Ramaswamy, ..., ICASSP 2020
    printed: slide "Results (performance comparison in %)"
    task: localization                            # what trains and evaluates every row that names no other
    metrics: {accuracy: Acc.}                     # name in metrics.json -> heading of the column
    settings: [supervised, weakly-supervised]     # default: both
    decimals: 1                                   # of the printed numbers; default 1
    defaults:                                     # for rows that do not say otherwise (a row's key replaces all of it)
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
        task: refined_parsing                     # where it is not the table's
        settings: [supervised]                    # where the row exists; default: all of the table's
        published: {supervised: 75.2}             # or {supervised: {accuracy: 75.2}} where there are several metrics
        pretraining:                              # the experiment whose model this one starts from, of the same seed
          {model: avg, options: {objective: uni}}  # features and recipe: the row's, unless given; `dataset`: another's
      - row: dam
        method: DAM
        gap: the model is not in avpipe yet       # instead of a model: published number and a gap with this reason
        published: {supervised: 74.5}             # a number that the paper does not print is left out

A table with `each: visual` stands for one row a visual feature of the study's `backbones` in place of every row of its file.
Its metrics may be costs too: `parameters` (millions) and `seconds` (a run's training).

A figure's rows have the same form (`avpipe.report.spec`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, PrivateAttr, ValidationError

from avpipe.plan.experiment import Experiment, Role, Setting, check_model
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import UnknownNameError, suggest
from avpipe.plan.section import NAME, ConfigError, Section, describe
from avpipe.plan.study import Study

SUPERVISED: tuple[Setting, ...] = ("supervised", "weakly-supervised")


class Defaults(Section):
    """What a row has when it does not say otherwise."""

    model: str | None = None
    features: dict[Role, str] = Field(default_factory=dict)
    recipe: str | dict[str, Any] | None = None


class PretrainingRow(Section):
    """The experiment whose model a row starts from. It has the row's features and recipe where it does not say otherwise."""

    model: str
    task: str = "pretraining"
    options: dict[str, Any] = Field(default_factory=dict)
    features: dict[Role, str] | None = None
    recipe: str | dict[str, Any] | None = None
    dataset: str | None = Field(
        None, pattern=NAME, description="another dataset, whose study trains it; none: this study does"
    )


class Row(Section):
    """A method as the paper prints it, and the experiment behind it, or the reason why there is none."""

    row: str = Field(pattern=NAME)
    method: str
    remark: str | None = None
    task: str | None = None
    model: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    features: dict[Role, str] | None = None
    recipe: str | dict[str, Any] | None = None
    settings: tuple[Setting, ...] | None = None
    pretraining: PretrainingRow | None = None
    gap: str | None = Field(None, min_length=1)
    published: dict[Setting, float | dict[str, float]] = Field(default_factory=dict)


class Spec(Section):
    """What a table and a figure have in common: rows that are experiments."""

    title: str
    paper: str
    printed: str = Field(description="where the paper prints it")
    task: str
    defaults: Defaults = Field(default_factory=Defaults)
    rows: tuple[Row, ...] = Field(min_length=1)
    _where: str = PrivateAttr(default="table")

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self._where).stem

    def all_settings(self) -> tuple[Setting, ...]:
        """The settings that the rows are run in."""
        raise NotImplementedError

    def find(self, row: str) -> Row:
        """The row with this slug. Raises `ConfigError` with a suggestion."""
        for candidate in self.rows:
            if candidate.row == row:
                return candidate
        raise ConfigError(f"{self.name} has no row {row!r}; {suggest(row, [r.row for r in self.rows])}")

    def model_of(self, row: Row) -> str | None:
        """The row's model, or None where the row is a gap."""
        return None if row.gap else row.model or self.defaults.model

    def features_of(self, row: Row) -> dict[Role, str]:
        """Role -> extractor."""
        return dict(row.features if row.features is not None else self.defaults.features)

    def settings_of(self, row: Row) -> tuple[Setting, ...]:
        """The settings in which the row is run; none for a gap."""
        if row.gap:
            return ()
        return tuple(s for s in self.all_settings() if row.settings is None or s in row.settings)

    def recipe_names(self) -> set[str]:
        """The study's `recipes` that the rows ask for."""
        recipes = [self._recipe_of(row) for row in self.rows if not row.gap]
        recipes += [row.pretraining.recipe for row in self.rows if row.pretraining]
        return {recipe for recipe in recipes if isinstance(recipe, str)}

    def recipe_name(self, row: Row) -> str | None:
        """Which of the study's `recipes` the row is trained by; None for the study's own training, changed or not."""
        recipe = self._recipe_of(row)
        return recipe if isinstance(recipe, str) else None

    def _recipe_of(self, row: Row) -> str | dict[str, Any] | None:
        return row.recipe if row.recipe is not None else self.defaults.recipe

    def experiments(self, study: Study) -> dict[tuple[str, Setting], Experiment]:
        """(row, setting) -> experiment, gaps left out.

        Raises:
            ConfigError: for an extractor or a recipe that the study does not have; names file, row and key.
        """
        found: dict[tuple[str, Setting], Experiment] = {}
        for row in self.rows:
            for setting in self.settings_of(row):
                found[row.row, setting] = self._experiment(row, setting, study)
        return found

    def _experiment(self, row: Row, setting: Setting, study: Study) -> Experiment:
        model = self.model_of(row) or ""
        return Experiment(
            task=row.task or self.task,
            model=model,
            options=self._options(model, row.options, study),
            features=self._features(row, self.features_of(row), study, "features"),
            setting=setting,
            recipe=self._recipe(row, (row.task or self.task, model), self._recipe_of(row), study, "recipe"),
            pretraining=self._pretraining(row, study),
            pretrained_on=row.pretraining.dataset if row.pretraining else None,
        )

    def _pretraining(self, row: Row, study: Study) -> Experiment | None:
        before = row.pretraining
        if before is None:
            return None
        features = self.features_of(row) if before.features is None else before.features
        if before.dataset is None:
            self._features(row, features, study, "pretraining.features")
        recipe = self._recipe_of(row) if before.recipe is None else before.recipe
        return Experiment(
            task=before.task,
            model=before.model,
            options=self._options(before.model, before.options, study),
            features=features,
            setting="self-supervised",
            recipe=self._recipe(row, (before.task, before.model), recipe, study, "pretraining.recipe"),
        )

    def _options(self, model: str, own: dict[str, Any], study: Study) -> dict[str, Any]:
        """The row's options over the study's."""
        options = {**study.models.get(model, {}), **own}
        if options != own:
            try:
                check_model(model, options)
            except UnknownNameError as error:
                raise ConfigError(f"the study's models.{model}: {error}") from None
        return options

    def _features(self, row: Row, features: dict[Role, str], study: Study, key: str) -> dict[Role, str]:
        for role, extractor in features.items():
            if extractor not in study.arrays:
                known = suggest(extractor, list(study.arrays))
                message = f"the study has no extractor {extractor!r} in its `extractors`; {known}"
                raise self._error(row, f"{key}.{role}", message)
        return dict(features)

    def _recipe(
        self, row: Row, trained: tuple[str, str], recipe: str | dict[str, Any] | None, study: Study, key: str
    ) -> Recipe:
        """Of a row's task and model, or of its pretraining's."""
        try:
            if isinstance(recipe, dict):
                return study.recipe(*trained, None, recipe)
            return study.recipe(*trained, recipe)
        except ConfigError as error:
            raise self._error(row, key, f"{error} (in the study's `recipes`)") from None
        except ValidationError as error:
            raise self._error(row, key, describe(error, Recipe).strip()) from None

    def _error(self, row: Row, key: str, message: str) -> ConfigError:
        return ConfigError(f"{self._where}, row {row.row!r}: {key}: {message}")

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """What is wrong and can be seen without a study: (row, key, message)."""
        for row in self.rows:
            if sum(other.row == row.row for other in self.rows) > 1:
                yield row, "row", "two rows have this name; names are unique in a table"
            for setting in row.settings or ():
                if setting not in self.all_settings():
                    yield row, "settings", f"{setting!r} is not among {list(self.all_settings())}"
            if row.gap:
                parts = ("task", "model", "options", "features", "recipe", "settings", "pretraining")
                wrong = [key for key in parts if getattr(row, key)]
                if wrong:
                    yield row, "gap", f"a row with a gap runs nothing; remove {', '.join(wrong)}, or the gap"
            else:
                yield from self._experiment_problems(row)

    def _experiment_problems(self, row: Row) -> Iterator[tuple[Row, str, str]]:
        model = self.model_of(row)
        if model is None:
            yield row, "model", "is missing; name a model, or give `gap: reason` where none exists yet"
        else:
            yield from _model_problems(row, "", model, row.options)
        if not self.features_of(row):
            yield row, "features", "are missing; for example {audio: vggish}"
        yield from _recipe_problems(row, "recipe", self._recipe_of(row))
        if row.pretraining is not None:
            before = row.pretraining
            yield from _model_problems(row, "pretraining.", before.model, before.options)
            yield from _recipe_problems(row, "pretraining.recipe", before.recipe)


def _model_problems(
    row: Row, where: str, model: str, options: dict[str, Any]
) -> Iterator[tuple[Row, str, str]]:
    try:
        check_model(model, options)
    except UnknownNameError as error:
        yield row, where + ("options" if "option" in str(error) else "model"), str(error)


def _recipe_problems(
    row: Row, key: str, recipe: str | dict[str, Any] | None
) -> Iterator[tuple[Row, str, str]]:
    if isinstance(recipe, dict):
        try:
            Recipe.model_validate(recipe)
        except ValidationError as error:
            yield row, key, describe(error, Recipe).strip()


class TableSpec(Spec):
    """A table of a paper."""

    metrics: dict[str, str] = Field(min_length=1, description="name in metrics.json -> heading")
    each: Role | None = Field(
        None, description="the role that every row takes from each of the study's `backbones` in turn"
    )
    settings: tuple[Setting, ...] = Field(SUPERVISED, min_length=1)
    decimals: int = Field(1, ge=0, le=6)

    def all_settings(self) -> tuple[Setting, ...]:
        """The table's settings, in its order."""
        return self.settings

    def published(self, row: Row, setting: Setting, metric: str) -> float | None:
        """The number that the paper prints, or None."""
        numbers = row.published.get(setting)
        return numbers.get(metric) if isinstance(numbers, dict) else numbers

    def problems(self) -> Iterator[tuple[Row, str, str]]:
        """Those of any rows, and published numbers that belong to no column."""
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
        """The rows that `each` stands for, as they are where there is no `each`.

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
        """The row with another feature in the role."""
        if extractor not in study.arrays:
            raise ConfigError(
                f"backbones: no extractor {extractor!r}; {suggest(extractor, list(study.arrays))}"
            )
        backbone = getattr(study.arrays[extractor], "backbone", extractor)
        changes = {
            "row": f"{row.row}-{extractor}",
            "remark": ", ".join(filter(None, [row.remark, backbone])),
            "features": {**self.features_of(row), role: extractor},
            "settings": tuple(s for s in self.settings_of(row) if s in study.backbones[extractor]),
        }
        return row.model_copy(update=changes)


_Spec = TypeVar("_Spec", bound=Spec)


def load_table(path: Path, study: Study | None = None) -> TableSpec:
    """Read `workflow/tables/{name}.yaml`.

    Raises:
        ConfigError: names file, row and key of each mistake; with `study`, also extractors and recipes that the
            study does not have.
    """
    return parse_table(read_mapping(path), str(path), study)


def parse_table(data: dict[str, Any], where: str, study: Study | None = None) -> TableSpec:
    """Check the content of a table's file; `where` (a path, or the table's name) stands in error messages."""
    spec = checked(TableSpec, where, data, None)
    if study is not None:
        spec = spec.expanded(study)
        spec.experiments(study)
    return spec


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises `ConfigError` where there is no such file, or something else in it."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as title and rows, found {type(data).__name__}")
    return data


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: the second would silently win."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            message = f"the key {key!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def checked(kind: type[_Spec], where: str, data: dict[str, Any], study: Study | None) -> _Spec:
    """A spec of this kind. Raises `ConfigError` with every mistake that is found."""
    try:
        spec = kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where} is wrong:\n{_with_slugs(describe(error, kind), data)}") from None
    spec._where = where
    problems = [f"  row {row.row!r}: {key}: {message}" for row, key, message in spec.problems()]
    if problems:
        raise ConfigError("\n".join([f"{where} is wrong:", *dict.fromkeys(problems)]))
    if study is not None:
        spec.experiments(study)
    return spec


def _with_slugs(text: str, data: dict[str, Any]) -> str:
    """`rows.3.optons: ...` -> `row 'avin': optons: ...`, for those rows that have a name."""
    rows = data.get("rows")
    for index, row in reversed(list(enumerate(rows if isinstance(rows, list) else ()))):
        if isinstance(row, dict) and isinstance(row.get("row"), str):
            text = text.replace(f"  rows.{index}.", f"  row {row['row']!r}: ")
    return text
