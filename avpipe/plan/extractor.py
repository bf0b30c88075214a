"""One feature of every clip: extracted by us, or imported from published files."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from avpipe.media.presets import CANONICAL, NamedPreset
from avpipe.plan.section import Count, Section, Seed
from avpipe.plan.source import Pattern


class ExtractorConfig(Section):
    """One feature to extract: backbone, preprocessing and pooling."""

    backbone: str = Field(
        description="vggish (audio), resnet18, resnet50, resnet152, vgg16, vgg19 (2D), r2plus1d_18 or r3d_18 (3D), or package.module:Class, a network of your own"
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained", description="published weights, or random ones"
    )
    weights_file: str | None = Field(
        None,
        description="file of weights to use in place of the published ones, written by torch.save(network.state_dict(), FILE)",
    )
    seed: Seed = Field(0, description="seed of random weights")
    pooling: Literal["vector", "map"] = Field(
        "vector",
        description="vector: mean over space, D numbers; map: the last spatial map, (H, W, D), 2D networks only",
    )
    preset: NamedPreset = Field(
        CANONICAL,
        description="canonical format of the clips that it reads: canonical, multisensory, large, or a name in the study's `presets`",
    )
    fps: int = Field(
        1,
        ge=1,
        description="frames of each 1-second segment that the network sees; must divide the preset's rate, 16; 3D networks take them as one input and need 2 or more",
    )
    frames: Literal["middle", "linspace"] = Field(
        "middle",
        description="which frames: middle takes the frame in the middle of each 1/fps second; linspace takes round(linspace(0, last, T * fps)) of the clip's frames, as LLP's scripts do",
    )
    average: bool = Field(
        True,
        description="2D networks only: average over the frames of a segment; false keeps them apart, (clips, T, fps, ...)",
    )
    image_size: int = Field(
        224,
        ge=32,
        le=4096,
        description="side of the square picture that the network sees, in pixels; 112 is usual for 3D networks",
    )
    resize: Literal["squash", "crop"] = Field(
        "squash",
        description="squash: stretch the frame to the square (as for AVE's features); crop: scale the short side to 8/7 of the square and cut out the centre",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="arithmetic of the network; bfloat16 is faster on processors that have it"
    )
    dtype: Literal["float16", "float32"] = Field("float32", description="number type of the stored array")
    last_relu: bool = Field(
        True,
        description="vggish only: true takes the output after the last ReLU (as for AVE's and LLP's features), false the output before it (TensorFlow's current VGGish)",
    )
    pca: bool = Field(
        False, description="vggish only: PCA, clipping and quantization, as for AudioSet's released features"
    )
    batch_size: Count = Field(
        32,
        description="inputs per forward pass: frames (2D), segments (3D) or log-mel spectrograms of a second (vggish)",
    )


class RunConfig(Section):
    """One feature that the network of a run of ours computes."""

    run: str = Field(description="name in `experiments`; it trains from clips")
    output: str = Field(description="which of the network's outputs, a name in its class's `outputs`")
    seed: Seed | None = Field(
        0,
        description="of the run, one of its study's `seeds`; null: an array for each seed of this study, which the runs of that seed read",
    )
    study: str | None = Field(
        None,
        description="file of another study, whose `experiments` have it and which trains it; null: this one",
    )
    preset: NamedPreset | None = Field(
        None,
        description="canonical format of the clips to extract from; null: the one that the run trains on",
    )
    dtype: Literal["float16", "float32"] = Field("float32", description="number type of the stored array")
    batch_size: Count = Field(8, description="clips per forward pass")


class LearnedConfig(RunConfig):
    """A `RunConfig` with what its experiment says, for the job that extracts.

    Args:
        task, model: of the experiment.
        width: D of the output.
        checkpoint: of the run, from the folder that has `results`.
    """

    seed: Seed
    task: str
    model: str
    preset: NamedPreset
    width: int
    checkpoint: str


def _kind(config: Any) -> str:
    run = isinstance(config, RunConfig) or (isinstance(config, dict) and "run" in config)
    return "RunConfig" if run else "ExtractorConfig"


AnyExtractor = Annotated[
    Annotated[ExtractorConfig, Tag("ExtractorConfig")] | Annotated[RunConfig, Tag("RunConfig")],
    Discriminator(_kind),
]
"""An entry of a study's `extractors`; with the key `run` it is a `RunConfig`."""


class ImportedConfig(Section):
    """One feature to read from published files instead of extracting it."""

    path: str = Field(description="format h5: the file; npy: the folder with one file per clip")
    format: Literal["h5", "npy"] = Field(
        description="h5: one array with one row per clip (AVE's files); npy: one file per clip (LLP's folders)"
    )
    shape: tuple[int, ...] = Field(
        description="shape of one clip in our array: [T, D], [T, H, W, D], [T, frames, D] or [T, frames, H, W, D]; for files with T and frames in one axis, such as LLP's (80, 2048), write [10, 8, 2048]"
    )
    dtype: Literal["float16", "float32", "float64"] = Field(
        "float32",
        description="number type of the stored array; rounding is counted in the log, overflow is an error; AVE's files are float64 but hold float32 numbers",
    )
    key: str = Field("avadataset", description="format h5: name of the array in the file")
    rows: str | None = Field(
        None,
        description="format h5: text file that names the clip of each row, one per line: clip names, or AVE's Annotations.txt; null: the dataset's own Annotations.txt (ave), else the order of rows.csv",
    )
    noisy: str | None = Field(
        None,
        description="format h5: second file with the features of AVE's noisy set; row i is the clip noisy~{i}; needs the dataset's option `noisy`",
    )
    pattern: Pattern = Field(
        "{clip}.npy",
        description="format npy: path of a clip's file below `path`; {clip} is the clip's name, {source} its id in the annotation files",
    )
    origin: str = Field("", description="where the feature comes from, in words; stored with the array")

    @field_validator("shape")
    @classmethod
    def _axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not 2 <= len(value) <= 5 or min(value) < 1:
            raise ValueError("2 to 5 numbers, each 1 or more: [T, D], [T, H, W, D] or with frames after T")
        return value


ArrayConfig = ExtractorConfig | LearnedConfig | ImportedConfig
"""What describes an array."""
