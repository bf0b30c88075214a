"""The rows of a table or figure as data, and the experiments they stand for."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from avpipe.features.spec import dimension_names, map_cells
from avpipe.plan.experiment import (
    Experiment,
    Role,
    Setting,
    Trained,
    attends_to_cells,
    check_model,
    task_names,
)
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import UnknownNameError, suggest, target
from avpipe.plan.section import NAME, ConfigError, Section, describe
from avpipe.plan.study import Study
from avpipe.tables.runs import COSTS
from avpipe.training import TASKS

Mistakes = Iterator[tuple["Row", str, str]]
"""Row, key, message."""


class Defaults(Section):
    """Values of rows that do not give their own."""

    model: str | None = None
    features: dict[Role, str] = Field(default_factory=dict)
    recipe: str | dict[str, Any] | None = None


class PretrainingRow(Trained):
    """The experiment whose model a row starts from. Features and recipe are the row's unless given here."""

    task: str = "pretraining"
    model: str
    dataset: str | None = Field(
        None, pattern=NAME, description="another dataset, whose study trains it; none: this study does"
    )
    pretraining: "PretrainingRow | None" = Field(None, description="what this one starts from, in turn")


class Row(Trained):
    """A method as the paper prints it, and the experiment behind it, files of predictions, or the reason for a gap."""

    row: str = Field(pattern=NAME)
    method: str
    remark: str | None = None
    settings: tuple[Setting, ...] | None = None
    pretraining: PretrainingRow | None = None
    predictions: tuple[str, ...] = Field((), description="files that are scored; nothing is trained")
    gap: str | None = Field(None, min_length=1)
    optional: bool = Field(False, description="a gap in studies that do not have its features")
    published: dict[Setting, float | dict[str, float]] = Field(default_factory=dict)

    @field_validator("predictions", mode="before")
    @classmethod
    def _one_file(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def trains(self) -> bool:
        """Whether experiments stand behind the row."""
        return not (self.gap or self.predictions)

    def published_number(self, setting: Setting, metric: str) -> float | None:
        """The number that the paper prints, or None."""
        numbers = self.published.get(setting)
        return numbers.get(metric) if isinstance(numbers, dict) else numbers


class RowsSpec(Section):
    """What a table and a figure have in common: rows that are experiments."""

    title: str
    paper: str | None = None
    printed: str | None = None
    dataset: str | None = None
    task: str
    defaults: Defaults = Field(default_factory=Defaults)
    rows: tuple[Row, ...] = Field(min_length=1)
    _where: str = PrivateAttr(default="table")
    _known: tuple[Study, dict[tuple[str, Setting], Experiment]] | None = PrivateAttr(default=None)

    @field_validator("paper", "printed")
    @classmethod
    def _absent(cls, value: str | None) -> str | None:
        """None for the words that people write where no paper prints the table."""
        return None if value in ("none", "nowhere") else value

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self._where).stem

    def all_settings(self) -> tuple[Setting, ...]:
        """The settings that the rows are run in."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """The paper, and where in it; "" if no paper prints the table."""
        return ", ".join(filter(None, (self.paper, self.printed)))

    def origin(self) -> str:
        """A sentence: which paper prints the numbers, where, and on which dataset they are."""
        if any(row.published for row in self.rows):
            return f"Published{f' on {self.dataset}' if self.dataset else ''}: {self.source}."
        return f"No number is quoted from {self.source}." if self.source else "No paper prints these numbers."

    def headings(self, study: Study) -> tuple[str, str]:
        """Headings of published and of measured numbers; with the datasets if these are not the same.

        A study is on the table's `dataset`, for example AVE, if its own `dataset.name` is `ave` or begins with `ave_`.
        """
        name = study.dataset.name
        if self.dataset is None or re.split("[_-]", name.lower())[0] == self.dataset.lower():
            return "published", "measured"
        return f"published ({self.dataset})", f"measured ({name})"

    def model_of(self, row: Row) -> str | None:
        """The row's model, or None if the row trains nothing."""
        return row.model or self.defaults.model if row.trains else None

    def features_of(self, row: Row) -> dict[Role, str]:
        """Role -> extractor; none if the row trains from clips."""
        usual = {} if row.preset or reads_clips(row.task or self.task) else self.defaults.features
        return dict(usual if row.features is None else row.features)

    def settings_of(self, row: Row) -> tuple[Setting, ...]:
        """The settings in which the row is run; none if it trains nothing."""
        if not row.trains:
            return ()
        return tuple(s for s in self.all_settings() if row.settings is None or s in row.settings)

    def recipe_names(self) -> set[str]:
        """Those of the study's `recipes` that the rows name."""
        recipes = [self._recipe_of(row) for row in self.rows if row.trains]
        recipes += [step.recipe for row in self.rows for step in _pretrainings(row)]
        return {recipe for recipe in recipes if isinstance(recipe, str)}

    def recipe_name(self, row: Row) -> str | None:
        """The row's recipe among the study's `recipes`; None for the study's own training, changed or not."""
        recipe = self._recipe_of(row)
        return recipe if isinstance(recipe, str) else None

    def _recipe_of(self, row: Row) -> str | dict[str, Any] | None:
        return self.defaults.recipe if row.recipe is None else row.recipe

    def experiments(self, study: Study) -> dict[tuple[str, Setting], Experiment]:
        """(row, setting) -> experiment, without gaps.

        Raises:
            ConfigError: for an extractor or a recipe that the study does not have, or a setting or recipe in which the
                task does not train; names file, row and key.
        """
        if self._known and self._known[0] is study:
            return self._known[1]
        return {
            (row.row, setting): self._experiment(row, row, setting, study)
            for row in self.rows
            for setting in self.settings_of(row)
        }

    def _experiment(
        self, row: Row, step: "Row | PretrainingRow", setting: Setting, study: Study
    ) -> Experiment:
        """The experiment of the row itself, or of a pretraining of it, with its own pretraining."""
        experiment, before = self._step(row, step, setting, study), step.pretraining
        if before is None:
            return experiment
        pretraining = self._experiment(row, before, "self-supervised", study)
        return experiment.model_copy(update={"pretraining": pretraining, "pretrained_on": before.dataset})

    def _step(self, row: Row, step: Trained, setting: Setting, study: Study) -> Experiment:
        """The experiment of the row itself, or of its pretraining."""
        here = f"{self._where}, row {row.row!r}: {'' if step is row else 'pretraining.'}"
        task, model = step.task or self.task, step.model or self.defaults.model or ""
        usual = {} if step.preset or reads_clips(task) else self.features_of(row)
        features = usual if step.features is None else dict(step.features)
        if {**study.options_of(model, features.values()), **step.options}.get("motion_dim") == 0:
            features.pop("motion", None)
        recipe = self._recipe_of(row) if step.recipe is None else step.recipe
        elsewhere = isinstance(step, PretrainingRow) and step.dataset is not None
        for role, extractor in features.items():
            if extractor not in study.feature_names and not elsewhere:
                without = (
                    "; with the model's option `motion_dim: 0` a row needs none" if role == "motion" else ""
                )
                raise ConfigError(
                    f"{here}features.{role}: the study has {study.no_feature(extractor)}{without}"
                )
        try:
            return study.experiment(
                step.model_copy(update={"recipe": recipe}), task, model, features, setting
            )
        except ConfigError as error:
            raise ConfigError(f"{here}{error}") from None

    def unknown_metrics(self, metrics: Iterable[str]) -> list[str]:
        """A message for each metric that no task of the rows gives. Raises `UnknownNameError` for an unknown task."""
        tasks = sorted({self.task, *(row.task for row in self.rows if row.task)})
        known = [*COSTS, *dict.fromkeys(name for task in tasks for name in task_names(task, "metrics"))]
        return [
            f"metric {metric!r} is not given by {' or '.join(tasks)}; {suggest(metric, known)}"
            for metric in metrics
            if metric not in known
        ]

    def possible(self, study: Study) -> Self:
        """The same with a gap in place of each row whose model does not take the form of the study's visual feature.

        Raises:
            ConfigError: as `experiments`.
        """
        rows = {row.row: self._without_features(row, study) for row in self.rows}
        found = self._with_rows(rows).experiments(study)
        for (name, _), asked in found.items():
            if reason := _unfit(asked, study):
                rows[name] = _as_gap(rows[name], reason)
        spec = self._with_rows(rows)
        spec._known = study, {key: asked for key, asked in found.items() if not rows[key[0]].gap}
        return spec

    def _with_rows(self, rows: dict[str, Row]) -> Self:
        changed = self.model_copy(update={"rows": tuple(rows.values())})
        changed._where, changed._known = self._where, None
        return changed

    def _without_features(self, row: Row, study: Study) -> Row:
        """The row; a gap if it is optional and the study does not have a feature of it."""
        absent = [name for name in self.features_of(row).values() if name not in study.feature_names]
        return _as_gap(row, f"the study has no feature {absent[0]}") if row.optional and absent else row

    def problems(self) -> Mistakes:
        """Mistakes that are visible without a study."""
        names = [row.row for row in self.rows]
        for row in self.rows:
            if names.count(row.row) > 1:
                yield row, "row", "two rows have this name; names are unique in a table"
            for setting in row.settings or ():
                if setting not in self.all_settings():
                    yield row, "settings", f"{setting!r} is not among {list(self.all_settings())}"
            if not row.trains:
                yield from self._untrained_problems(row)
                continue
            if not (self.features_of(row) or row.preset or reads_clips(row.task or self.task)):
                yield row, "features", "are missing; for example {audio: vggish}"
            model = self.model_of(row)
            if model is None:
                yield row, "model", "is missing; name a model, or give `gap: reason` if none exists yet"
            else:
                task = row.task or self.task
                yield from _experiment_problems(row, "", task, model, row.options, self._recipe_of(row))
            for number, before in enumerate(_pretrainings(row), start=1):
                yield from _experiment_problems(
                    row, number * "pretraining.", before.task, before.model, before.options, before.recipe
                )

    def _untrained_problems(self, row: Row) -> Mistakes:
        """Mistakes of a row with a gap, or with predictions."""
        parts = ["model", "options", "features", "preset", "recipe", "pretraining"]
        key = "gap" if row.gap else "predictions"
        parts += ["task", "settings", "predictions"] if row.gap else []
        if wrong := [part for part in parts if getattr(row, part)]:
            yield row, key, f"a row with {key} runs nothing; remove {', '.join(wrong)}, or {key}"
        if row.predictions and len(row.settings or self.all_settings()) != 1:
            yield row, "settings", "name the one setting in which the predictions were made"


def reads_clips(task: str) -> bool:
    """Whether a task trains from clips, not from features; False if there is no such task, which is reported elsewhere."""
    try:
        return "preset" in task_names(task, "reads")
    except UnknownNameError:
        return False


def _pretrainings(row: Row) -> Iterator[PretrainingRow]:
    """What the row starts from, what that starts from, and so on."""
    before = row.pretraining
    while before is not None:
        yield before
        before = before.pretraining


def _as_gap(row: Row, reason: str) -> Row:
    kept = {key: getattr(row, key) for key in ("row", "method", "remark", "published")}
    return Row(**kept, gap=reason)


def _unfit(asked: Experiment, study: Study) -> str | None:
    """Why the experiment's model does not take the form of its visual feature; None if it does, or if it has none."""
    visual = asked.features.get("visual")
    if visual is None:
        return None
    array, option = study.array(visual), attends_to_cells(asked.model, asked.options, asked.features)
    if asked.task in ("localization", "cross_modality") and "frame" in dimension_names(array):
        return (
            f"{visual} keeps the frames of a segment apart, and models of the task {asked.task} take their average: "
            "take a feature with average: true"
        )
    if option and map_cells(array) < 2:
        return (
            f"{asked.model} attends to the cells of a map, and {visual} has none: take a feature with maps, or "
            f"set {option}: false under {asked.model}@{visual} in the study's models"
        )
    return None


def _experiment_problems(
    row: Row, prefix: str, task: str, model: str, options: dict[str, Any], recipe: str | dict[str, Any] | None
) -> Mistakes:
    """Mistakes in the task, the model, its options and the recipe; `prefix` stands before their keys."""
    try:
        target(TASKS, task, "task")
    except UnknownNameError as error:
        yield row, f"{prefix}task", str(error)
    try:
        check_model(model, options)
    except UnknownNameError as error:
        yield row, prefix + ("options" if "option" in str(error) else "model"), str(error)
    if isinstance(recipe, dict):
        try:
            Recipe.model_validate(recipe)
        except ValidationError as error:
            yield row, f"{prefix}recipe", describe(error, Recipe).strip()


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a table's or figure's file. Raises `ConfigError` if the file is missing or has another form."""
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
    """Safe YAML that refuses a repeated key; plain YAML would use the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                message = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return super().construct_mapping(node, deep)


_Spec = TypeVar("_Spec", bound=RowsSpec)


def checked(kind: type[_Spec], where: str, data: dict[str, Any]) -> _Spec:
    """A table or figure from the content of its file. Raises `ConfigError` that lists every mistake."""
    try:
        spec = kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where} is wrong:\n{_with_slugs(describe(error, kind), data)}") from None
    spec._where = where
    problems = [f"  row {row.row!r}: {key}: {message}" for row, key, message in spec.problems()]
    if problems:
        raise ConfigError("\n".join([f"{where} is wrong:", *dict.fromkeys(problems)]))
    return spec


def _with_slugs(text: str, data: dict[str, Any]) -> str:
    """`rows.3.optons: ...` -> `row 'avin': optons: ...`, for rows that have a name."""
    rows = data.get("rows")
    for index, row in reversed(list(enumerate(rows if isinstance(rows, list) else ()))):
        if isinstance(row, dict) and isinstance(row.get("row"), str):
            text = text.replace(f"  rows.{index}.", f"  row {row['row']!r}: ")
    return text
