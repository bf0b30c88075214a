"""Shapes, axes and paths of features, without importing torch: the Snakefile needs them at every start."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from avpipe.plan import registry
from avpipe.plan.extractor import ArrayConfig, ExtractorConfig, ImportedConfig, LearnedConfig
from avpipe.plan.registry import Entries, LazyTable
from avpipe.plan.section import ConfigError

Kind = Literal["2d", "3d", "audio"]
Modality = Literal["video", "audio"]


@dataclass(frozen=True)
class Backbone:
    """A network that computes features.

    Args:
        kind: what the network takes. 2d: single frames; 3d: the frames of a segment together; audio: its sound.
        width: D, numbers in a pooled vector, or in a cell of the map.
        ceils: whether a part of a cell at the image's border is a cell of the map (ResNet pads, VGG does not).
        stride: side of a map's cell in pixels of the image.
    """

    kind: Kind
    width: int
    ceils: bool = False
    stride: int = 32


BACKBONES: Entries[Backbone] = {
    "vggish": Backbone("audio", 128),
    "resnet18": Backbone("2d", 512, ceils=True),
    "resnet50": Backbone("2d", 2048, ceils=True),
    "resnet152": Backbone("2d", 2048, ceils=True),
    "vgg16": Backbone("2d", 512),
    "vgg19": Backbone("2d", 512),
    "r2plus1d_18": Backbone("3d", 512),
    "r3d_18": Backbone("3d", 512),
}

NETWORKS: LazyTable = {
    "audio": "avpipe.features.vggish:VGGishExtractor",
    "2d": "avpipe.features.visual:VisualExtractor",
    "3d": "avpipe.features.visual:VisualExtractor",
}
"""Kind of backbone -> the class that computes its features."""

OWN_NETWORKS: LazyTable = {**NETWORKS, "audio": "avpipe.features.own:WaveformExtractor"}
"""The same for a person's own networks."""

PUBLISHED: dict[str, ExtractorConfig] = {
    "vggish": ExtractorConfig(backbone="vggish"),
    "vgg19": ExtractorConfig(backbone="vgg19", pooling="map", fps=16),
    "resnet152": ExtractorConfig(
        backbone="resnet152", fps=8, frames="linspace", average=False, resize="crop"
    ),
    "r2plus1d_18": ExtractorConfig(backbone="r2plus1d_18", fps=8, frames="linspace", image_size=112),
    "r3d_18": ExtractorConfig(backbone="r3d_18", fps=8, frames="linspace", image_size=112),
}
"""Settings of the published features: AVE's (vggish, vgg19), LLP's (vggish, resnet152, r2plus1d_18; r3d_18 likewise)."""


def published_config(backbone: str) -> ExtractorConfig:
    """The settings with which AVE or LLP published features of `backbone`, else the configuration's defaults."""
    backbone_of(backbone)  # raises with a suggestion
    return PUBLISHED.get(backbone) or ExtractorConfig(backbone=backbone)


@cache
def backbone_of(name: str) -> Backbone:
    """The facts about a backbone, in our table or in the class attributes of a person's own network.

    Raises:
        UnknownNameError: there is no such backbone, or its class does not say `kind` and `width`.
    """
    if ":" not in name:
        return registry.target(BACKBONES, name, "backbone")
    registry.target({}, name, "backbone")
    given = {key: registry.literal_of(name, key) for key in ("kind", "width", "ceils", "stride")}
    if given["kind"] not in get_args(Kind) or type(given["width"]) is not int:
        raise registry.UnknownNameError(
            f"backbone {name!r}: the class needs the attributes `kind`, one of {', '.join(get_args(Kind))}, and "
            f"`width`, a number; found {given['kind']!r} and {given['width']!r}"
        )
    return Backbone(**{key: value for key, value in given.items() if value is not None})


def extractor_class(backbone: str) -> str:
    """The class that computes a backbone's features, as "module:Class"."""
    table = OWN_NETWORKS if ":" in backbone else NETWORKS
    return table[backbone_of(backbone).kind]


def network_modules(backbone: str) -> tuple[str, ...]:
    """The modules that compute a backbone's features: ours, and a person's own."""
    names = [extractor_class(backbone), *([backbone] if ":" in backbone else [])]
    return tuple(name.split(":")[0] for name in names)


def check_extractors(extractors: Mapping[str, ExtractorConfig]) -> None:
    """Raise `ConfigError` for options that do not fit their backbone; one line per mistake."""
    mistakes = [
        f"  extractors.{name}.{mistake}"
        for name, config in extractors.items()
        for mistake in _mistakes(config)
    ]
    if mistakes:
        raise ConfigError("extractors are wrong:\n" + "\n".join(mistakes))


def _mistakes(config: ExtractorConfig) -> list[str]:
    try:
        kind = backbone_of(config.backbone).kind
    except registry.UnknownNameError as error:
        return [f"backbone: {error}"]
    found = []
    if config.weights_file and not Path(config.weights_file).is_file():
        found.append(f"weights_file: {config.weights_file} is no file")
    if ":" in config.backbone and config.weights == "pretrained" and not config.weights_file:
        found.append(
            "weights_file: is missing; name the file of the network's weights, or set `weights: random`"
        )
    if config.pooling == "map" and kind != "2d":
        two_d = ", ".join(name for name, backbone in BACKBONES.items() if backbone.kind == "2d")
        found.append(f"pooling: {config.backbone} has no spatial map; take `vector`, or one of {two_d}")
    if config.pca and config.backbone != "vggish":
        found.append("pca: only vggish has PCA parameters")
    elif config.pca and config.weights == "random":
        found.append("pca: the published PCA belongs to the published weights; set `weights: pretrained`")
    if not config.last_relu and config.backbone != "vggish":
        found.append("last_relu: only vggish has the choice")
    try:
        config.preset.check_picks(config.fps)
    except ValueError as error:
        found.append(str(error))
    if kind == "3d" and config.fps < 2:
        found.append(f"fps: {config.backbone} takes the frames of a segment as one clip; set 8 or 16, not 1")
    return found


def modality(config: ExtractorConfig) -> Modality:
    """Which part of a clip the extractor reads."""
    return "audio" if backbone_of(config.backbone).kind == "audio" else "video"


def map_size(config: ExtractorConfig) -> int:
    """Side of a 2d backbone's last map: 224 -> 7."""
    backbone = backbone_of(config.backbone)
    return (config.image_size + (backbone.stride - 1 if backbone.ceils else 0)) // backbone.stride


def frame_axis(config: ExtractorConfig) -> bool:
    """Whether the array has an axis for the frames of a segment."""
    return backbone_of(config.backbone).kind == "2d" and not config.average


def feature_shape(config: ArrayConfig) -> tuple[int, ...]:
    """The shape of one clip's features: (T, [fps,] [H, W,] D); for imported ones, the study's `shape`."""
    if isinstance(config, ImportedConfig):
        return config.shape
    if isinstance(config, LearnedConfig):
        return (config.preset.segments, config.width)
    backbone = backbone_of(config.backbone)
    frames = (config.fps,) if frame_axis(config) else ()
    cells = (map_size(config),) * 2 if backbone.kind == "2d" and config.pooling == "map" else ()
    return (config.preset.segments, *frames, *cells, backbone.width)


def map_cells(config: ArrayConfig) -> int:
    """H * W of a feature's map; 1 for vectors."""
    shape = feature_shape(config)
    return shape[-3] * shape[-2] if len(shape) > 3 else 1


def dimension_names(config: ArrayConfig) -> tuple[str, ...]:
    """The names of the array's axes, the clips' axis first."""
    if isinstance(config, ImportedConfig):
        return ("clip", "segment", *_INNER_AXES[len(config.shape)], "feature")
    if isinstance(config, LearnedConfig):
        return ("clip", "segment", "feature")
    frames = ("frame",) if frame_axis(config) else ()
    cells = ("y", "x") if backbone_of(config.backbone).kind == "2d" and config.pooling == "map" else ()
    return ("clip", "segment", *frames, *cells, "feature")


_INNER_AXES: dict[int, tuple[str, ...]] = {2: (), 3: ("frame",), 4: ("y", "x"), 5: ("frame", "y", "x")}
"""Axes between segment and feature of an imported clip, by how many axes it has."""


def chunk_path(config: ArrayConfig, shard: int | str) -> str:
    """The file of a shard below the array's folder: "c/3/0/0". `shard` may be a Snakemake wildcard."""
    return "/".join(["c", str(shard), *["0"] * len(feature_shape(config))])
