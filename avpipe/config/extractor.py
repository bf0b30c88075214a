"""One feature of every clip."""

from typing import Literal

from pydantic import Field

from avpipe.config.section import Section


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
