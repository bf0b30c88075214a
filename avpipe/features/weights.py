"""Published weights: their addresses, sizes and hashes, and how they are downloaded.

The hashes are those that other public projects give for the same files, and agree with the first eight digits that
PyTorch puts into the file names; of VGGish's PCA only those eight are known. `fetch` checks them on every use.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from avpipe.plan import registry
from avpipe.plan.extractor import ExtractorConfig
from avpipe.web import Limits, Remote, fetch_published

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST, _LONGEST = 1 << 30, 86_400.0
"""Largest file in bytes where the size is unknown, and longest download in seconds."""


class WeightsError(ValueError):
    """A file of weights does not hold what it must; the message says what to do."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights.

    Args:
        url: where it is published; the last part is the file's name.
        sha256: of the file, or its first digits where no more is known.
        size: bytes, None where unknown.
        licence: of the file, as far as its publishers say.
        origin: what it was trained on, and torchvision's name for it.
    """

    url: str
    sha256: str
    size: int | None
    licence: str
    origin: str

    @property
    def filename(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


_TORCH = "https://download.pytorch.org/models/"
_VGGISH = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/"
_BSD = "BSD-3-Clause (torchvision); the images' own terms may bind too"

PUBLISHED_WEIGHTS: dict[str, PublishedWeights] = {
    "vggish": PublishedWeights(
        f"{_VGGISH}vggish-10086976.pth",
        "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        288_567_937,
        "Apache-2.0",
        "a preliminary YouTube-8M; ported from TensorFlow's VGGish by H. Taylor",
    ),
    "vggish_pca": PublishedWeights(
        f"{_VGGISH}vggish_pca_params-970ea276.pth",
        "970ea276",
        181_358,
        "Apache-2.0",
        "the PCA of the AudioSet release",
    ),
    "resnet18": PublishedWeights(
        f"{_TORCH}resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        46_830_571,
        _BSD,
        "ImageNet-1k, ResNet18_Weights.IMAGENET1K_V1",
    ),
    "resnet50": PublishedWeights(
        f"{_TORCH}resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        102_530_333,
        _BSD,
        "ImageNet-1k, ResNet50_Weights.IMAGENET1K_V1",
    ),
    "resnet152": PublishedWeights(
        f"{_TORCH}resnet152-394f9c45.pth",
        "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
        None,
        _BSD,
        "ImageNet-1k, ResNet152_Weights.IMAGENET1K_V1",
    ),
    "vgg16": PublishedWeights(
        f"{_TORCH}vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
        _BSD,
        "ImageNet-1k, VGG16_Weights.IMAGENET1K_V1",
    ),
    "vgg19": PublishedWeights(
        f"{_TORCH}vgg19-dcbb9e9d.pth",
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        574_673_361,
        _BSD,
        "ImageNet-1k, VGG19_Weights.IMAGENET1K_V1",
    ),
    "r2plus1d_18": PublishedWeights(
        f"{_TORCH}r2plus1d_18-91a641e6.pth",
        "91a641e6c2ab531d1aca5f4321b4d802ec5c3babc15df855cdb6e39c6a1107c8",
        126_162_996,
        _BSD,
        "Kinetics-400, R2Plus1D_18_Weights.KINETICS400_V1",
    ),
    "r3d_18": PublishedWeights(
        f"{_TORCH}r3d_18-b3b3357e.pth",
        "b3b3357ead25631ec9c57362ff2128a92d0427e01e2cd184951a44380c3f2e9d",
        133_546_016,
        _BSD,
        "Kinetics-400, R3D_18_Weights.KINETICS400_V1",
    ),
}


def default_folder() -> Path:
    """Where downloaded weights are kept; on Linux $XDG_CACHE_HOME/avpipe/weights, else ~/.cache/avpipe/weights."""
    return user_cache_path("avpipe") / "weights"


def fetch(
    name: str,
    folder: Path,
    *,
    published: Mapping[str, PublishedWeights] = PUBLISHED_WEIGHTS,
) -> Path:
    """The file of published weights `name` in `folder`; it is downloaded if it is not there, and its SHA-256 is checked.

    Args:
        name: a key of `published`.
        folder: where the file is or goes.
        published: the table of weights.

    Raises:
        PublishedFileError: if the file is wrong or cannot be downloaded.
        UnknownNameError: if there is no such name.
        OutputError: if the folder cannot be written.
    """
    registry.target({known: weights.url for known, weights in published.items()}, name, "published weights")
    weights = published[name]
    path = folder / weights.filename
    limits = Limits(weights.size or _LARGEST, _LONGEST, attempts=2)
    fetch_published(Remote(weights.url, sha256=weights.sha256), path, limits)
    return path


def needed_weights(extractors: Collection[ExtractorConfig]) -> list[str]:
    """The names of the published weights that these extractors load, in the order of the table."""
    needed = {
        config.backbone for config in extractors if config.weights == "pretrained" and not config.weights_file
    }
    if any(config.pca for config in extractors):
        needed.add("vggish_pca")
    return [name for name in PUBLISHED_WEIGHTS if name in needed]


def load_state(path: Path) -> dict[str, "Tensor"]:
    """The tensors in a file of weights, on the CPU; no code in the file is run.

    Raises:
        WeightsError: if the file holds anything but tensors (and numpy arrays, as VGGish's PCA does).
    """
    import pickle

    import numpy as np
    import torch

    # the file of VGGish's PCA was written with numpy < 2, where the core module was numpy.core
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.float32)),
        type(np.dtype(np.float64)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{path} holds no plain tensors: {error}") from error
    return {name: torch.as_tensor(value) for name, value in state.items()}
