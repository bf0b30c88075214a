"""An experiment: everything that decides a run's numbers except the data, the code and the seed."""

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from avpipe.media.presets import NamedPreset
from avpipe.models import MODELS
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import (
    UnknownNameError,
    check_options,
    names_of,
    options_of,
    suggest,
    target,
    value_of,
)
from avpipe.plan.section import ConfigError, Section, Seed, describe
from avpipe.training import TASKS

Setting = Literal["supervised", "weakly-supervised", "self-supervised"]
Role = Literal["audio", "visual", "motion"]


def array_name(extractor: str, seed: int) -> str:
    """The name of the array that an extractor with one for each seed has for this one."""
    return f"{extractor}-seed{seed}"


LARGEST_SIZE = 100_000
"""Of a layer. A larger one is a slip, and would end in a job that lacks memory."""


def check_model(model: str, options: dict[str, Any]) -> None:
    """Raise `UnknownNameError` where the model, an option of it, or such a value, does not exist. The model is not imported."""
    who = f"model {model!r}"
    check_options(target(MODELS, model, "model"), options, who)
    for name, value in options.items():
        low, high = _limits(name) if isinstance(value, int | float) else (value, value)
        if not low <= value <= high:
            raise UnknownNameError(f"{who}: option {name} is from {low:g} to {high:g}, not {value!r}")


def _limits(option: str) -> tuple[float, float]:
    """The smallest and the largest value of a model's option, by its name."""
    if option.endswith("dropout"):
        return 0, 1
    given = option.removesuffix("_dim") in get_args(Role)  # 0: the model does without this role
    return 1 if option.endswith("_dim") and not given else -LARGEST_SIZE, LARGEST_SIZE


def model_options(model: str) -> dict[str, dict[str, Any]]:
    """The options of a model, as `registry.options_of` describes them. The model is not imported."""
    return options_of(target(MODELS, model, "model"))


def attends_to_cells(model: str, options: Mapping[str, Any], features: Mapping[Role, str]) -> str | None:
    """The option by which the model, with these options and features, attends to the cells of a map; None if it does not.

    Such a model has the options `visual_cells` and `attention` or `visual_attention`; the audio guides the attention.
    """
    known = model_options(model)
    if "visual_cells" in known and {"audio", "visual"} <= features.keys():
        for name in ("attention", "visual_attention"):
            if known.get(name, {}).get("type") == "bool" and options.get(name, known[name]["default"]):
                return name
    return None


def output_width(model: str, options: Mapping[str, Any], output: str) -> int:
    """D, the numbers of a model's output for a segment. The model is not imported.

    Its class has `outputs = {"audio": 128, "visual": "width"}`: name -> D, or the name of the option that is D.

    Raises:
        UnknownNameError: if the model has no such output.
    """
    value = value_of(target(MODELS, model, "model"), "outputs")
    outputs: dict[str, int | str] = ast.literal_eval(value) if value is not None else {}
    if not outputs:
        raise UnknownNameError(f"model {model!r} has no `outputs` for features (docs/extending.md)")
    width = target(outputs, output, f"output of model {model!r}")
    return int(
        options.get(width, model_options(model)[width]["default"]) if isinstance(width, str) else width
    )


def task_names(task: str, attribute: str) -> tuple[str, ...]:
    """The `settings`, `metrics`, `recipe_keys` or `reads` of a task (`avpipe.training.task.Task`), which is not imported.

    Raises:
        UnknownNameError: if the task does not exist.
    """
    return names_of(target(TASKS, task, "task"), attribute) or ()


class Trained(Section):
    """What a table's row, its pretraining and a study's experiment have in common."""

    task: str | None = Field(None, description="what trains and evaluates it: localization, parsing, ...")
    model: str | None = Field(None, description="a name of avpipe.models.list_models()")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    features: dict[Role, str] | None = Field(None, description="role in the model's batch -> extractor")
    preset: str | None = Field(
        None,
        description="canonical format of the clips that it reads in place of features; null, in a task that trains from clips: that of `media`",
    )
    recipe: str | dict[str, Any] | None = Field(
        None, description="one of the study's `recipes`, or changes to `training`"
    )


class ExperimentConfig(Trained):
    """An experiment that no table's row asks for: its run's network computes features."""

    task: str = Field(description="what trains and evaluates it")
    model: str = Field(description="a name of avpipe.models.list_models()")
    setting: Setting = Field("self-supervised", description="which labels the training sees")
    seeds: tuple[Seed, ...] | None = Field(
        None, min_length=1, description="some of the study's `seeds`, with which it is trained; null: all"
    )
    processes: int = Field(
        1,
        ge=1,
        description="processes of its job that train together, each on a part of every batch and on a GPU of its own if `device` is cuda; numbers differ by rounding, and it is not part of the experiment",
    )
    outputs: tuple[str, ...] = Field(
        (),
        description="outputs of its network that are extractors of the study, each with the name EXPERIMENT_OUTPUT; if it has several seeds, there is a feature for each, and the run of a row reads that of its own seed",
    )


class Experiment(Section):
    """The recipe behind a table's row in one setting. Two tables that ask for the same share its runs."""

    task: str = Field(description="what trains and evaluates it: localization, parsing, ...")
    model: str = Field(description="a name of avpipe.models.list_models(), or package.module:Class")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    features: dict[Role, str] = Field(
        default_factory=dict, description="role in the model's batch -> extractor; none with `preset`"
    )
    per_seed: tuple[str, ...] = Field(
        (), description="those of `features` that have an array for each seed: a run reads that of its own"
    )
    preset: NamedPreset | None = Field(
        None, description="canonical format of the clips that it reads in place of features; null: features"
    )
    setting: Setting
    recipe: Recipe
    pretraining: "Experiment | None" = Field(
        default=None,
        description="experiment whose checkpoint of the same seed initializes this one; null: random weights",
    )
    pretrained_on: str | None = Field(
        default=None,
        description="name of the dataset that has the pretraining's results; null: the same dataset",
    )

    @model_serializer(mode="wrap")
    def _without_absent_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave keys out that are not given, so that other experiments keep the id they had before these keys existed."""
        written: dict[str, Any] = serialize(self)
        for key in ("per_seed", "preset", "pretraining", "pretrained_on"):
            if not getattr(self, key):
                written.pop(key, None)
        return written

    @property
    def chain(self) -> tuple["Experiment", ...]:
        """This experiment, its pretraining, the pretraining's own pretraining and so on, within the same dataset."""
        here = self.pretraining if self.pretrained_on is None else None
        return (self, *(here.chain if here else ()))

    def arrays(self, seed: int) -> dict[Role, str]:
        """Role -> name of the array that the run of this seed reads."""
        return {r: array_name(n, seed) if n in self.per_seed else n for r, n in self.features.items()}

    def at(self, seed: int) -> "Experiment":
        """The same with the names of the arrays that the run of this seed reads in place of the features'."""
        return self.model_copy(update={"features": self.arrays(seed), "per_seed": ()})

    @property
    def id(self) -> str:
        """For example `avin-supervised-3f2a91c4`: readable, and different whenever anything above is."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        name = self.model.rpartition(":")[2]
        return f"{name}-{self.setting}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def to_json(self) -> str:
        """The content of experiment.json, for people to read; `read` reads it back."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """The experiment in a file that `to_json` filled.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigError: it is no experiment; names each key that is missing, unknown or wrong.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ConfigError(f"{path} is no experiment:\n{describe(error, cls)}") from None


def check_experiment(experiment: Experiment) -> None:
    """Raise `ConfigError` that names the key with which the experiment's task cannot train. Neither task nor model is imported.

    Raises:
        UnknownNameError: if the task or the model does not exist.
    """
    task, recipe = experiment.task, experiment.recipe
    settings, keys = task_names(task, "settings"), task_names(task, "recipe_keys")
    if experiment.setting not in settings:
        raise ConfigError(
            f"settings: the task {task} is {' or '.join(settings) or 'of no setting'}, not {experiment.setting}"
        )
    raw = "preset" in task_names(task, "reads")
    if raw != (experiment.preset is not None) or raw == bool(experiment.features):
        what = (
            "clips: give `preset`, and no"
            if raw
            else "features: give `features`, for example {audio: vggish}, and no"
        )
        raise ConfigError(f"preset: the task {task} trains from {what} {'features' if raw else 'preset'}")
    if ("refine_epochs" in keys) != bool(recipe.refine_epochs):
        raise ConfigError(
            f"recipe.refine_epochs: found {recipe.refine_epochs!r} for the task {task}; only refined_parsing has a first "
            "training, and it needs 1 epoch or more"
        )
    # A model may leave its factors out; then its terms are known in the job only.
    terms = names_of(target(MODELS, experiment.model, "model"), "default_loss_weights")
    for term in recipe.loss_weights:
        if "loss_weights" in keys and terms and term not in terms:
            known = suggest(term, list(terms))
            raise ConfigError(
                f"recipe.loss_weights: the loss of {experiment.model} has no term {term!r}; {known}"
            )
