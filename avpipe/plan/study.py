"""A study: everything that decides what `snakemake all` makes."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from avpipe.media.presets import CANONICAL, PRESETS, NamedPreset, Preset
from avpipe.plan.experiment import (
    Experiment,
    ExperimentConfig,
    Setting,
    Trained,
    array_name,
    check_experiment,
    model_options,
    output_width,
    task_names,
)
from avpipe.plan.extractor import (
    AnyExtractor,
    ArrayConfig,
    ExtractorConfig,
    ImportedConfig,
    LearnedConfig,
    RunConfig,
)
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import suggest
from avpipe.plan.section import NAME, ConfigError, Count, Seconds, Section, Seed, describe
from avpipe.plan.source import AnySource, LocalSource
from avpipe.training import TASKS


class DatasetConfig(Section):
    """The clips, their labels, and where the files come from."""

    name: str = Field(pattern=NAME, description="name of the results folder: results/{name}")
    kind: str = Field(
        description="format of the annotation files: demo, demo_motion, ave, llp, audioset, ucf101, kinetics_sounds, voxceleb, folder, or package.module:function, a reader of your own"
    )
    annotations: str | None = Field(
        None,
        description="folder of the dataset's own annotation files (ave, llp, audioset, ucf101, kinetics_sounds, voxceleb); demo, demo_motion and folder need none",
    )
    sources: tuple[AnySource, ...] = Field(
        (), description="where the clips come from; for each clip they are tried in this order"
    )
    minimum: dict[Literal["train", "val", "test", "none"], Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="smallest share of usable clips in each split, for example {train: 0.9, test: 0.95}; with fewer the study stops before training",
    )
    usable: str | None = Field(
        None,
        description="text file that names the only clips to train and test on, as `avpipe datasets freeze` writes it; the study stops if one of them is missing",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of this kind of dataset: docs/datasets.md lists them",
    )


class MediaConfig(Section):
    """The canonical clip: the form into which every file is converted before features are extracted."""

    preset: NamedPreset = Field(
        CANONICAL,
        description="format that extractors, and tasks that train from clips, read if they name none, that figures show, and whose outcomes are in clips.parquet: canonical, multisensory, large, or a name in `presets`",
    )
    timeout: Seconds = Field(120.0, description="seconds that ffmpeg may take for one clip")


class Study(Section):
    """A study is one file. It decides everything that `snakemake all` makes."""

    dataset: DatasetConfig = Field(description="the clips, their labels, and where the files come from")
    folder: str | None = Field(
        None,
        description="the folder of videos, only for a dataset of kind folder; usually given as `--config folder=DIR`",
    )
    weights: Literal["pretrained", "random"] | None = Field(
        None,
        description="replaces `weights` of every extractor, and of the networks that `experiments` train; usually given as `--config weights=random`",
    )
    weights_folder: str | None = Field(
        None, description="folder of downloaded weights; null: a folder in the user's cache"
    )
    shard_size: Count = Field(
        256,
        description="clips per job; another size makes other shards: clips are converted and features extracted again",
    )
    media: MediaConfig = Field(default_factory=MediaConfig, description="the canonical clip")
    presets: dict[str, Preset] = Field(
        default_factory=dict, description="further formats of canonical clips: name -> format"
    )
    extractors: dict[str, AnyExtractor] = Field(
        default_factory=dict, description="features that can be extracted: name of the array -> settings"
    )
    experiments: dict[str, ExperimentConfig] = Field(
        default_factory=dict,
        description="trainings beside those of the tables, for extractors with `run`: name -> the keys of a table's row",
    )
    imported: dict[str, ImportedConfig] = Field(
        default_factory=dict,
        description="features that are read from published files: name of the array -> settings; no name may also stand in `extractors`",
    )
    features: tuple[str, ...] = Field(
        (), description="names of features to make even if no table or figure needs them"
    )
    bundles: tuple[tuple[str, ...], ...] = Field(
        (),
        description="groups of extractors that run in one job, which decodes each clip once; the name of an experiment stands for its `outputs`",
    )
    backbones: dict[str, tuple[Literal["supervised", "weakly-supervised"], ...]] = Field(
        default_factory=dict,
        description="for tables that compare visual features (`each: visual`), such as ave_grid: name of the feature -> settings to train every model in; on vectors, models that attend to the cells of a map are trained without this attention",
    )
    tables: tuple[str, ...] = Field((), description="names of files in workflow/tables; each is one table")
    figures: tuple[str, ...] = Field((), description="names of files in workflow/figures; each is one figure")
    seeds: tuple[Seed, ...] = Field((0, 1, 2), description="each experiment is run once per seed")
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="model -> options for all of its rows, or model@feature -> options for its rows with this feature, which win: {avel: {hidden_dim: 64}, avel@vgg16_map: {attention: false}}; an option that a row sets itself wins over both",
    )
    training: Recipe = Field(default_factory=Recipe, description="how every experiment is trained")
    training_of: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="task (localization, parsing, ...) or model -> changes to `training` for all of its experiments; the model's win over the task's",
    )
    recipes: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name -> changes to `training`; a row of a table may ask for them by this name",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N",
    )
    notice: str | None = Field(
        None,
        description="warning above every table and figure, for studies whose numbers are no reproduction",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_names(cls, config: Any) -> Any:
        """Put the study's own presets where their names stand, and `media.preset` into extractors that name none."""
        if not isinstance(config, dict):
            return config
        own = config.get("presets") or {}
        if not isinstance(own, dict) or not all(isinstance(format_, dict) for format_ in own.values()):
            return config
        if taken := sorted(own.keys() & PRESETS.keys()):
            raise ValueError(f"presets: every study has {taken[0]!r}; take another name")
        own = {name: {**format_, "name": name} for name, format_ in own.items()}

        def named(section: Any, usual: Any) -> Any:
            if not isinstance(section, dict) or ("run" in section and section.get("preset") is None):
                return section
            preset = section.get("preset", usual)
            return {**section, "preset": own.get(preset, preset) if isinstance(preset, str) else preset}

        media = named(config.get("media") or {}, "canonical")
        extractors, outputs = config.get("extractors") or {}, _outputs(config)
        if isinstance(extractors, dict):
            extractors = {**outputs, **extractors}
        if isinstance(media, dict) and isinstance(extractors, dict):
            extractors = {name: named(config_, media["preset"]) for name, config_ in extractors.items()}
        found = {**config, "presets": own, "media": media, "extractors": extractors}
        if "bundles" in config:
            found["bundles"] = _with_outputs(config["bundles"], outputs, extractors)
        return found

    @model_validator(mode="after")
    def _known_seeds(self) -> "Study":
        for name, experiment in self.experiments.items():
            if unknown := set(experiment.seeds or ()) - set(self.seeds):
                raise ValueError(
                    f"experiments.{name}.seeds: {min(unknown)} is not among the study's seeds {list(self.seeds)}"
                )
        return self

    @field_validator("folder", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"the name was read as {type(value).__name__}, not as text: put ./ before it, folder=./NAME"
            )
        return value

    @field_validator("extractors", "imported")
    @classmethod
    def _array_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.match(NAME, name):
                raise ValueError(f"extractor name {name!r}: letters, digits, _ and - only")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for name in self.imported:
            if name in self.extractors:
                raise ValueError(f"{name!r} is both extracted and imported: keep it in one of the two")
        named = [("features", name) for name in self.features]
        named += [(f"models.{key}", key.partition("@")[2]) for key in self.models if "@" in key]
        for key, name in named:
            if name not in self.feature_names:
                raise ValueError(f"{key}: {self.no_feature(name)}")
        networks = self.with_backbone
        for bundle in self.bundles:
            read = {networks[name].preset.name for name in bundle if name in networks}
            if len(read) > 1:
                raise ValueError(
                    f"bundles: {', '.join(bundle)} read clips of several presets: {sorted(read)}"
                )
        bundled = [name for bundle in self.bundles for name in bundle]
        for name in bundled:
            if name not in self.extractors:
                raise ValueError(f"bundles: no extractor {name!r}; {suggest(name, list(self.extractors))}")
            if bundled.count(name) > 1:
                raise ValueError(f"bundles: extractor {name!r} stands in two bundles")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds: need at least one, each once")
        for key, recipes in (("recipes", self.recipes), ("training_of", self.training_of)):
            for name, changes in recipes.items():
                try:
                    Recipe.model_validate({**self.training.model_dump(), **changes})
                except ValidationError as error:
                    raise ValueError(f"{key}.{name}: {describe(error, Recipe).strip()}") from error
        for name in self.experiments:
            self._refuse_circle(f"experiments.{name}", ())
        return self

    def _refuse_circle(self, step: str, before: tuple[str, ...]) -> None:
        """Raise ValueError if a training reads features of its own network, directly or not."""
        if step in before:
            circle = " -> ".join([*before[before.index(step) :], step])
            raise ValueError(f"a training cannot read features that need its own network: {circle}")
        kind, _, name = step.partition(".")
        if kind == "experiments" and name in self.experiments:
            for feature in (self.experiments[name].features or {}).values():
                self._refuse_circle(f"extractors.{feature}", (*before, step))
        extractor = self.extractors.get(name) if kind == "extractors" else None
        if isinstance(extractor, RunConfig) and extractor.study is None:
            self._refuse_circle(f"experiments.{extractor.run}", (*before, step))

    def no_feature(self, name: str) -> str:
        """The message for a feature that the study does not have."""
        return f"no extractor {name!r} in `extractors` or `imported`; {suggest(name, self.feature_names)}"

    def options_of(self, model: str, features: Iterable[str]) -> dict[str, Any]:
        """The options in `models` for a row with this model and these features."""
        keys = (model, *(f"{model}@{name}" for name in features))
        return {option: value for key in keys for option, value in self.models.get(key, {}).items()}

    @property
    def feature_names(self) -> list[str]:
        """The names of all arrays, extracted and imported."""
        return [*self.extractors, *self.imported]

    @property
    def with_backbone(self) -> dict[str, ExtractorConfig]:
        """The extractors with a network of others; without those of runs."""
        return {n: config for n, config in self.extractors.items() if isinstance(config, ExtractorConfig)}

    def arrays_of(self, feature: str) -> dict[str, ArrayConfig]:
        """What describes the array of a feature, by the array's name; a feature may have one for each seed. Raises as `learned`."""
        config = self.extractors.get(feature) or self.imported[feature]
        if not isinstance(config, RunConfig):
            return {feature: config}
        if config.seed is not None:
            return {feature: self.learned(feature, config.seed)}
        return {array_name(feature, seed): self.learned(feature, seed) for seed in self.seeds}

    def array(self, feature: str) -> ArrayConfig:
        """What describes the arrays of a feature, which differ only in the seed: that of the first one."""
        return next(iter(self.arrays_of(feature).values()))

    @property
    def arrays(self) -> dict[str, ArrayConfig]:
        """Every feature of the study, extracted or imported, by the name of its array. Raises as `learned`."""
        return {
            name: config for feature in self.feature_names for name, config in self.arrays_of(feature).items()
        }

    def trainer(self, name: str) -> "tuple[Study, Experiment]":
        """The study that trains the network of an extractor with `run`, and the experiment.

        Raises:
            ConfigError: names the key under `extractors` that is wrong.
        """
        config, here = self.extractors[name], f"extractors.{name}"
        assert isinstance(config, RunConfig)
        study = read_study(config.study, f"{here}.study") if config.study else self
        if config.run not in study.experiments:
            known = suggest(config.run, list(study.experiments))
            raise ConfigError(
                f"{here}.run: no {config.run!r} in `experiments` of {config.study or 'the study'}; {known}"
            )
        seeds = study.experiments[config.run].seeds or study.seeds
        for seed in self.seeds if config.seed is None else (config.seed,):
            if seed not in seeds:
                one = "; give the run one seed, or all of the study's" if config.seed is None else ""
                raise ConfigError(f"{here}.seed: {seed} is not among the seeds {list(seeds)} of its run{one}")
        return study, study.trained(config.run)

    def trained(self, name: str) -> Experiment:
        """An entry of `experiments`. Raises `ConfigError` that names the key in which it cannot train."""
        asked, here = self.experiments[name], f"experiments.{name}"
        for role, feature in (asked.features or {}).items():
            if feature not in self.feature_names:
                raise ConfigError(f"{here}.features.{role}: {self.no_feature(feature)}")
        try:
            return self.experiment(asked, asked.task, asked.model, asked.features or {}, asked.setting)
        except ValueError as error:
            raise ConfigError(f"{here}: {error}") from None

    def learned(self, name: str, seed: int) -> LearnedConfig:
        """An extractor with `run`, with what its experiment says, by the run of this seed. Nothing is imported.

        Raises:
            ConfigError: names the key that is wrong.
        """
        config, (study, experiment) = self.extractors[name], self.trainer(name)
        assert isinstance(config, RunConfig)
        preset, here = config.preset or experiment.preset, f"extractors.{name}"
        if preset is None:
            raise ConfigError(
                f"{here}.run: {config.run} trains on features; the network of an extractor trains from clips (`preset`)"
            )
        try:
            preset.check_picks(1)
            width = output_width(experiment.model, experiment.options, config.output)
        except ValueError as error:
            raise ConfigError(f"{here}: {error}") from None
        run = f"results/{study.dataset.name}/runs/{experiment.id}/seed{seed}"
        return LearnedConfig(
            **config.model_dump(exclude={"study", "preset", "seed"}),
            seed=seed,
            task=experiment.task,
            model=experiment.model,
            preset=preset,
            width=width,
            checkpoint=f"{run}/checkpoint.pt",
        )

    def experiment(
        self, step: Trained, task: str, model: str, features: Mapping[Any, str], setting: Setting
    ) -> Experiment:
        """The experiment of a row, with the study's presets, options and recipe.

        Args:
            step: its options, preset and recipe.
            task, model, features, setting: with the defaults that a table has for its rows.

        Raises:
            ConfigError: names the key in which the task cannot train.
            UnknownNameError: if task or model do not exist.
        """
        options = {**self.options_of(model, features.values()), **step.options}
        own, name = {**PRESETS, **self.presets}, step.preset
        if name is not None and name not in own:
            raise ConfigError(f"preset: no preset {name!r}; {suggest(name, list(own))}")
        usual = self.media.preset if "preset" in task_names(task, "reads") else None
        named, changes = (None, step.recipe) if isinstance(step.recipe, dict) else (step.recipe, {})
        try:
            recipe = self.recipe(task, model, named, changes)
        except ValidationError as error:
            raise ConfigError(f"recipe: {describe(error, Recipe).strip()}") from None
        experiment = Experiment(
            task=task,
            model=model,
            options=options,
            features=dict(features),
            per_seed=tuple(sorted(f for f in set(features.values()) if self._is_per_seed(f))),
            preset=own[name] if name else usual,
            setting=setting,
            recipe=recipe,
        )
        check_experiment(experiment)
        return experiment

    def _is_per_seed(self, feature: str) -> bool:
        config = self.extractors.get(feature)
        return isinstance(config, RunConfig) and config.seed is None

    def recipe(
        self, task: str, model: str, name: str | None, changes: dict[str, Any] | None = None
    ) -> Recipe:
        """How a row is trained: `training`, changed by the task, the model, the named recipe and `changes`, in this order.

        Args:
            task: of the row, for example "localization".
            model: of the row.
            name: the recipe that the row asks for, or None.
            changes: the row's own changes, or None.

        Raises:
            ConfigError: if the study has no recipe of this name, or a change is to a key that only other tasks read.
            ValidationError: if `changes` has an unknown key or a wrong value.
        """
        if name is not None and name not in self.recipes:
            raise ConfigError(
                f"recipe: no recipe {name!r} in the study's `recipes`; {suggest(name, list(self.recipes))}"
            )
        merged = self.training.model_dump()
        for where, part in (
            (f"training_of.{task}", self.training_of.get(task, {})),
            (f"training_of.{model}", self.training_of.get(model, {})),
            (f"recipes.{name}", self.recipes[name] if name else {}),
            ("recipe", changes or {}),
        ):
            check_recipe_keys(part, task, where)
            merged |= part
        return Recipe.model_validate(merged)


def _outputs(config: dict[str, Any]) -> dict[str, Any]:
    """The extractors that the `outputs` of a study's experiments stand for, as the study would write them."""
    experiments = config.get("experiments") or {}
    found = {}
    for name, asked in experiments.items() if isinstance(experiments, dict) else ():
        outputs, seeds = (asked.get(key) if isinstance(asked, dict) else None for key in ("outputs", "seeds"))
        trained = tuple(seeds or config.get("seeds") or (0,))
        seed = trained[0] if len(trained) == 1 else None
        for output in outputs or ():
            found[f"{name}_{output}"] = {"run": name, "output": output, "seed": seed}
    return found


def _with_outputs(bundles: Any, outputs: Mapping[str, Any], extractors: Any) -> Any:
    """A study's `bundles` with `outputs` in place of their experiments' names, unless an extractor has such a name."""
    if not isinstance(bundles, list | tuple) or not all(isinstance(each, list | tuple) for each in bundles):
        return bundles

    def named(name: Any) -> list[Any]:
        of_experiment: list[Any] = [output for output, config in outputs.items() if config["run"] == name]
        return of_experiment if of_experiment and name not in extractors else [name]

    return [[each for name in bundle for each in named(name)] for bundle in bundles]


def check_recipe_keys(part: dict[str, Any], task: str, where: str) -> None:
    """Raise `ConfigError` for a change, in `part` of a recipe, to a key that only other tasks than `task` read."""
    for key, value in part.items():
        readers = [other for other in TASKS if key in task_names(other, "recipe_keys")]
        default = Recipe.model_fields[key].get_default(call_default_factory=True) if readers else None
        if readers and task not in readers and value != default:
            raise ConfigError(
                f"{where}.{key}: {value!r} changes nothing in the task {task}; the key is for {' and '.join(readers)}"
            )


def validate_study(config: dict[str, Any], where: str = "the configuration") -> Study:
    """Check a merged Snakemake config. Raises `ConfigError` that names each wrong key, with a suggestion."""
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(f"{where} is wrong:\n{describe(error, Study)}") from None
    return study


@cache
def read_study(path: str, key: str) -> Study:
    """The study in a file; `key` names it in messages. Raises `ConfigError` if there is none."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{key}: {path}: {error}") from None
    return validate_study(config, path)


def resolve(study: Study) -> Study:
    """Put the shorthands where they belong: `folder=DIR` into the dataset, `weights=random` into every extractor.

    The dataset reads the folder through the link results/{name}/source, which `avpipe.datasets.manifest.link_folder` makes:
    so no result depends on where the folder is, or on how its path is written.

    Raises `ConfigError` if the folder is missing, is no folder, or is given to another kind of dataset.
    """
    changes: dict[str, Any] = {}
    if study.weights is not None:
        weights = {"weights": study.weights}
        changed = {n: e.model_copy(update=weights) for n, e in study.with_backbone.items()}
        changes["extractors"] = {**study.extractors, **changed}
        changes["experiments"] = {
            name: asked.model_copy(update={"options": {**asked.options, **weights}})
            if "weights" in model_options(asked.model)
            else asked
            for name, asked in study.experiments.items()
        }
    if study.dataset.kind == "folder":
        if study.folder is None:
            raise ConfigError("the folder study needs --config folder=DIR, the folder that holds the videos")
        try:
            folder = Path(study.folder).expanduser()
        except RuntimeError as error:  # ~NAME, where there is no such user
            raise ConfigError(f"folder: {study.folder}: {error}") from None
        if not folder.is_dir():
            raise ConfigError(f"folder: {study.folder} is not a folder")
        link = f"results/{study.dataset.name}/source"
        # The limit is for downloads: a person's own long video may be larger.
        source = LocalSource(path=link, pattern="{source}", max_bytes=1 << 50)
        changes["folder"] = str(folder.resolve())
        changes["dataset"] = study.dataset.model_copy(update={"annotations": link, "sources": (source,)})
    elif study.folder is not None:
        raise ConfigError(
            f"folder: this study's dataset is of kind {study.dataset.kind}; "
            "for a folder of videos add --configfile workflow/configs/folder.yaml"
        )
    return study.model_copy(update=changes)
