"""A study: everything that decides what `all` means."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from avpipe.plan.extractor import ExtractorConfig, ImportedConfig
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import suggest
from avpipe.plan.section import NAME, ConfigError, Section, describe
from avpipe.plan.source import AnySource, LocalSource


class DatasetConfig(Section):
    """Which clips exist and what is true of them."""

    name: str = Field(pattern=NAME, description="results go to results/{name}")
    kind: str = Field(description="format of the annotations: demo, ave, llp, audioset, ucf101, folder")
    annotations: str | None = Field(
        None,
        description="folder of the dataset's own annotation files (ave, llp, audioset, ucf101); for `folder`, the folder of videos itself",
    )
    sources: tuple[AnySource, ...] = Field((), description="where to get the clips, tried in order")
    minimum: dict[Literal["train", "val", "test", "none"], Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="smallest share of a split's clips that must be usable, for example {train: 0.9, test: 0.95}; with less the study stops before it trains",
    )
    usable: str | None = Field(
        None,
        description="file with the names of the clips to train and test on (`avpipe datasets freeze` writes it): others are left out, and one that is missing stops the study",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the dataset's reader, for example how many clips the demo renders",
    )


class MediaConfig(Section):
    """The canonical clip."""

    preset: str = Field(
        "canonical",
        pattern=NAME,
        description="name of the canonical format; segments go to segments/{preset}",
    )
    timeout: float = Field(120.0, gt=0, description="seconds after which ffmpeg is stopped for one clip")


class Study(Section):
    """Everything that decides what `all` means. config.yaml is the default study; workflow/configs/ holds others."""

    dataset: DatasetConfig
    folder: str | None = Field(
        None,
        description="shorthand for `--config folder=DIR`: a plain folder of videos, for the `folder` dataset",
    )
    weights: Literal["pretrained", "random"] | None = Field(
        None, description="shorthand for `--config weights=random`: overrides `weights` of every extractor"
    )
    weights_folder: str | None = Field(
        None, description="folder of downloaded weights (default: the user's cache folder)"
    )
    shard_size: int = Field(256, ge=1, description="clips a job; changing it renumbers the shards")
    media: MediaConfig = Field(default_factory=MediaConfig)
    extractors: dict[str, ExtractorConfig] = Field(
        default_factory=dict, description="features to extract, by the name of their array"
    )
    imported: dict[str, ImportedConfig] = Field(
        default_factory=dict,
        description="features that exist already, read from published files; by the name of their array, as `extractors`",
    )
    features: tuple[str, ...] = Field(
        (), description="extractors to run, or features to import, though no table needs them"
    )
    bundles: tuple[tuple[str, ...], ...] = Field(
        (), description="extractors that share one job, so that a clip is decoded once for all of them"
    )
    backbones: dict[str, tuple[Literal["supervised", "weakly-supervised"], ...]] = Field(
        default_factory=dict,
        description="visual features that the tables with `each` compare, every model on every one, and in which settings",
    )
    tables: tuple[str, ...] = Field((), description="tables to fill: names of files in workflow/tables")
    figures: tuple[str, ...] = Field((), description="figures to draw: names of files in workflow/figures")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="seeds of every experiment")
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="options by model, for every row that does not set them itself; for studies that need small models",
    )
    training: Recipe = Field(default_factory=Recipe, description="the protocol of every experiment")
    training_of: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="changes to `training` by task (localization, parsing, ...) or model, whose changes come last, for every experiment of it; for studies whose tasks or models need different schedules",
    )
    recipes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named changes to `training` that a table's row may ask for"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    notice: str | None = Field(
        None, description="said in the title of every table; for studies whose numbers are no reproduction"
    )

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
        for name in self.features:
            if name not in self.arrays:
                raise ValueError(f"features: no extractor {name!r}; {suggest(name, list(self.arrays))}")
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
                    raise ValueError(f"{key}.{name}: {describe(error, Recipe)}") from error
        return self

    @property
    def arrays(self) -> dict[str, ExtractorConfig | ImportedConfig]:
        """Every feature of the study, extracted or imported, by the name of its array."""
        return {**self.extractors, **self.imported}

    def recipe(
        self, task: str, model: str, name: str | None, changes: dict[str, Any] | None = None
    ) -> Recipe:
        """The default recipe, changed by the task's, the model's, the named one and `changes`, in this order."""
        if name is not None and name not in self.recipes:
            raise ConfigError(f"no recipe {name!r}; {suggest(name, list(self.recipes))}")
        named = self.recipes[name] if name else {}
        usual = {
            **self.training.model_dump(),
            **self.training_of.get(task, {}),
            **self.training_of.get(model, {}),
        }
        return Recipe.model_validate({**usual, **named, **(changes or {})})


def validate_study(config: dict[str, Any], where: str = "the configuration") -> Study:
    """Check a merged Snakemake config. Raises `ConfigError` that names each wrong key, with a suggestion."""
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(f"{where} is wrong:\n{describe(error, Study)}") from None
    return study


def resolve(study: Study) -> Study:
    """Put the shorthands where they belong: `folder=DIR` into the dataset, `weights=random` into every extractor.

    Raises `ConfigError` if the folder is missing, is no folder, or is given to another kind of dataset.
    """
    changes: dict[str, Any] = {}
    if study.weights is not None:
        weights = {"weights": study.weights}
        changes["extractors"] = {n: e.model_copy(update=weights) for n, e in study.extractors.items()}
    if study.dataset.kind == "folder":
        if study.folder is None:
            raise ConfigError("the folder study needs --config folder=DIR, the folder that holds the videos")
        if not Path(study.folder).is_dir():
            raise ConfigError(f"folder: {study.folder} is not a folder")
        source = LocalSource(path=study.folder, pattern="{source}")
        changes["dataset"] = study.dataset.model_copy(
            update={"annotations": study.folder, "sources": (source,)}
        )
    elif study.folder is not None:
        raise ConfigError(
            f"folder: this study's dataset is of kind {study.dataset.kind}; "
            "for a folder of videos add --configfile workflow/configs/folder.yaml"
        )
    return study.model_copy(update=changes)
