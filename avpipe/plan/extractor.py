"""One feature of every clip: extracted by us, or imported from published files."""

from typing import Literal

from pydantic import Field, field_validator

from avpipe.plan.section import Section


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
    frames: Literal["middle", "linspace"] = Field(
        "middle",
        description="which frames: those in the middle of their own 1/fps of a second, or round(linspace(0, last, T * fps)) over the clip's frames, as LLP's scripts pick",
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


class ImportedConfig(Section):
    """A feature that somebody else computed, read from published files instead of being extracted."""

    path: str = Field(description="h5: the file; npy: the folder that holds a file a clip")
    format: Literal["h5", "npy"] = Field(
        description="h5: one array, a row a clip (AVE's files); npy: one file a clip (LLP's folders)"
    )
    shape: tuple[int, ...] = Field(
        description="of one clip in our array: [T, D], [T, H, W, D], [T, frames, D] or [T, frames, H, W, D]; a file that has T and frames in one axis, such as LLP's (80, 2048), is split: [10, 8, 2048]"
    )
    dtype: Literal["float16", "float32", "float64"] = Field(
        "float32",
        description="type in which it is stored; AVE's files are float64 but hold float32 numbers, which the import checks",
    )
    key: str = Field("avadataset", description="h5: name of the array in the file")
    rows: str | None = Field(
        None,
        description="h5: text file that names the clip of each row, one a line: AVE's Annotations.txt, or clip names; default: the dataset's own Annotations.txt (ave), else the order of rows.csv",
    )
    noisy: str | None = Field(
        None,
        description="h5: a second file with AVE's noisy set; its row i is the clip noisy~{i}, see the dataset's option `noisy`",
    )
    pattern: str = Field(
        "{clip}.npy", description="npy: file below `path`; {clip} is the clip's name, {source} its id"
    )
    origin: str = Field("", description="where it is from, in words; kept with the array")

    @field_validator("shape")
    @classmethod
    def _axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not 2 <= len(value) <= 5 or min(value) < 1:
            raise ValueError("2 to 5 numbers, each 1 or more: [T, D], [T, H, W, D] or with frames after T")
        return value
