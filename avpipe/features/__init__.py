"""Features: canonical clips through published networks into one zarr array a feature and dataset."""

from pathlib import Path
from typing import TYPE_CHECKING

from avpipe.features.spec import BACKBONES, chunk_path, feature_shape

if TYPE_CHECKING:
    from avpipe.features.store import Features

__all__ = ["BACKBONES", "chunk_path", "feature_shape", "open_features"]


def open_features(path: str | Path) -> "Features":
    """Open results/{dataset}/features/{extractor}.zarr: the array, the clip of each row, which rows are valid."""
    from avpipe.features import store  # zarr takes a while to import

    return store.open_features(path)
