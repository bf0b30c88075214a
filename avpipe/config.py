"""The study's configuration: described once here; the JSON schema and `docs/config.md` are generated from it.

Light on purpose (no torch, no pandas): the Snakefile validates with it at every start.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from avpipe.lazy import suggest


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key, what was found and what was expected."""


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors: a typo must not become a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""Names that become parts of paths: datasets, extractors, tables."""


class Source(Section):
    """Where clips may be found; a dataset's sources are tried in order."""

    kind: Literal["local", "http"] = Field(description="local folder, or http(s) URL pattern")
    path: str | None = Field(None, description="local: the folder")
    pattern: str = Field(
        "{source}.mp4",
        description="local: file below `path`; {source} is the id (or relative path) that the annotations give, {clip} the clip's name",
    )
    url: str | None = Field(None, description="http: URL with {source} or {clip}")

    @model_validator(mode="after")
    def _needs(self) -> "Source":
        if self.kind == "local" and not self.path:
            raise ValueError("a local source needs `path`, the folder that holds the clips")
        if self.kind == "http" and not (
            self.url and re.match(r"https?://", self.url) and ("{source}" in self.url or "{clip}" in self.url)
        ):
            raise ValueError("an http source needs `url`, http(s)://..., with {source} or {clip} in it")
        return self


class DatasetConfig(Section):
    """Which clips exist and what is true of them."""

    name: str = Field(pattern=NAME, description="results go to results/{name}")
    kind: str = Field(description="format of the annotations: demo, ave, llp, folder")
    annotations: str | None = Field(
        None,
        description="folder of the dataset's own annotation files (ave, llp); for `folder`, the folder of videos itself",
    )
    sources: tuple[Source, ...] = Field((), description="where to get the clips, tried in order")
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


class ExtractorConfig(Section):
    """One feature: backbone, preprocessing, pooling. The defaults are those of the published features."""

    backbone: str = Field(
        description="vggish, resnet18, resnet50, resnet152, vgg16, vgg19, r2plus1d_18, r3d_18"
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="published weights, or seeded random ones"
    )
    seed: int = Field(0, ge=0, description="seed of random weights")
    pooling: Literal["vector", "map"] = Field(
        "vector", description="globally pooled vector, or the last spatial map (H, W, D)"
    )
    fps: int = Field(
        1,
        ge=1,
        le=16,
        description="frames a second (a segment) that the network sees; 3D networks take them as one clip of frames",
    )
    average: bool = Field(
        True,
        description="average the frames of a segment; without it the array gets a frame axis (clips, T, fps, ...); no effect on vggish and 3D networks",
    )
    image_size: int = Field(
        224, ge=32, description="side of the square that 2D networks see; 3D networks: 112 is customary"
    )
    resize: Literal["squash", "crop"] = Field(
        "squash",
        description="squash the frame to the square (AVE's features) or scale the short side and crop the centre",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the network")
    dtype: Literal["float16", "float32"] = Field("float32", description="type in which features are stored")
    last_relu: bool = Field(
        True,
        description="vggish only: after the last ReLU (AVE's and LLP's features) or before it (TensorFlow's current VGGish)",
    )
    pca: bool = Field(
        False, description="vggish only: PCA, clipping and quantization as in the AudioSet release"
    )
    batch_size: int = Field(
        32, ge=1, description="images (2D), clips of frames (3D) or log-mel examples a forward pass"
    )


class Recipe(Section):
    """How an experiment is trained. A paper's own schedule is a named recipe; the study's default is one for all."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, description="sgd only")
    schedule: Literal["constant", "step", "milestones", "plateau", "cosine"] = Field(
        "constant", description="of the learning rate"
    )
    step: int = Field(10, ge=1, description="step: epochs between decays; plateau: patience in epochs")
    milestones: tuple[int, ...] = Field((), description="milestones: epochs after which the rate decays")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of a decay")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    shuffle: bool = Field(True, description="a new seeded order each epoch; false is AVEL's released code")
    drop_last: bool = Field(False, description="drop the last, partial batch; true is AVEL's released code")
    evaluate_every: int = Field(1, ge=1, description="epochs between evaluations on the validation split")
    protocol: Literal["validation", "last", "best_test"] = Field(
        "validation",
        description="which checkpoint a table reports; best_test only to compare with papers that chose on the test split",
    )
    loss: str = Field(
        "default",
        description="of the task; localization: cross_entropy, soft_margin (AVEL's code: MultiLabelSoftMarginLoss on softmax probabilities) or binary_cross_entropy (on softmax probabilities); default is the model's paper's",
    )
    pooling: Literal["default", "max", "mean"] = Field(
        "default",
        description="weakly-supervised localization: how segment scores become a clip's; default is the model's paper's",
    )


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
    features: tuple[str, ...] = Field((), description="extractors to run though no table needs them")
    bundles: tuple[tuple[str, ...], ...] = Field(
        (), description="extractors that share one job, so that a clip is decoded once for all of them"
    )
    tables: tuple[str, ...] = Field((), description="tables to fill: names of files in workflow/tables")
    figures: tuple[str, ...] = Field((), description="figures to draw: names of files in workflow/figures")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="seeds of every experiment")
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="options by model, for every row that does not set them itself; for studies that need small models",
    )
    training: Recipe = Field(default_factory=Recipe, description="the protocol of every experiment")
    recipes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named changes to `training` that a table's row may ask for"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    notice: str | None = Field(
        None, description="said in the title of every table; for studies whose numbers are no reproduction"
    )

    @field_validator("extractors")
    @classmethod
    def _extractor_names(cls, value: dict[str, ExtractorConfig]) -> dict[str, ExtractorConfig]:
        for name in value:
            if not re.match(NAME, name):
                raise ValueError(f"extractor name {name!r}: letters, digits, _ and - only")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for name in self.features:
            if name not in self.extractors:
                raise ValueError(f"features: no extractor {name!r}; {suggest(name, list(self.extractors))}")
        bundled = [name for bundle in self.bundles for name in bundle]
        for name in bundled:
            if name not in self.extractors:
                raise ValueError(f"bundles: no extractor {name!r}; {suggest(name, list(self.extractors))}")
            if bundled.count(name) > 1:
                raise ValueError(f"bundles: extractor {name!r} stands in two bundles")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds: need at least one, each once")
        for name, changes in self.recipes.items():
            try:
                Recipe.model_validate({**self.training.model_dump(), **changes})
            except ValidationError as error:
                raise ValueError(f"recipes.{name}: {describe(error, Recipe)}") from error
        return self

    def recipe(self, name: str | None, changes: dict[str, Any] | None = None) -> Recipe:
        """The default recipe, changed by the named one and by `changes`."""
        if name is not None and name not in self.recipes:
            raise ConfigError(f"no recipe {name!r}; {suggest(name, list(self.recipes))}")
        named = self.recipes[name] if name else {}
        return Recipe.model_validate({**self.training.model_dump(), **named, **(changes or {})})


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
        source = Source(kind="local", path=study.folder, pattern="{source}")
        changes["dataset"] = study.dataset.model_copy(
            update={"annotations": study.folder, "sources": (source,)}
        )
    elif study.folder is not None:
        raise ConfigError(
            f"folder: this study's dataset is of kind {study.dataset.kind}; "
            "for a folder of videos add --configfile workflow/configs/folder.yaml"
        )
    return study.model_copy(update=changes)


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """One line a mistake: the key's full name, what is wrong, the nearest known key."""
    lines = []
    for mistake in error.errors():
        path = [str(part) for part in mistake["loc"]]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            section = _section(root, path[:-1])
            known = list(section.model_fields) if section else []
            message = f"no such key; {suggest(path[-1], known)}"
        elif mistake["type"] == "missing":
            message = "is missing"
        else:
            found = mistake.get("input")
            if not isinstance(found, dict):
                message += f" (found {found!r})"
        lines.append(f"  {'.'.join(path)}: {message}" if path else f"  {message}")
    return "\n".join(lines)


def _section(root: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The Section that a key path leads to, through lists and dictionaries."""
    section: type[BaseModel] | None = root
    for part in path:
        if section is None:
            return None
        field = section.model_fields.get(part)
        if field is None:  # an index of a list or a key of a dictionary: stay
            continue
        section = next(
            (
                kind
                for kind in _types(field.annotation)
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
    return section


def _types(annotation: Any) -> list[Any]:
    """The types that an annotation is made of."""
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(kind for argument in arguments for kind in _types(argument))]
