"""Import of published features into a zarr array, a shard at a time: the same files as those of extraction.

A clip that the published files do not have is a row of NaN, as everywhere. What is stored equals what was read: a
number that the array's type cannot hold is an error if it would become infinite, and counted if it is rounded.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from avpipe.datasets.manifest import read_ledger
from avpipe.features.imported import (
    ImportFeaturesError,
    Published,
    Values,
    inspect_published,
    open_published,
)
from avpipe.features.store import write_shard
from avpipe.files import read_json
from avpipe.plan import fingerprint
from avpipe.plan.extractor import ImportedConfig


def import_features(name: str, config: ImportedConfig, results: Path) -> Counter[str]:
    """Import one feature for every clip of a study.

    Args:
        name: of the array, features/{name}.zarr.
        config: what to read.
        results: R, the study's folder, with the manifest.

    Returns:
        Counts of clips: "imported", "not in the files"; and of numbers "rounded".

    Raises:
        FileNotFoundError: there is no manifest.
        ImportFeaturesError, H5Error: as `open_published`; for a number too large for the type.
    """
    published = inspect_published(config)
    counts: Counter[str] = Counter()
    for shard in read_index(results)["shards"]:
        counts += import_shard(name, config, published, results, int(shard))
    return counts


def import_shard(
    name: str, config: ImportedConfig, published: dict[str, Any], results: Path, shard: int
) -> Counter[str]:
    """Import one shard; see `import_features`. `published` is what `inspect_published` found."""
    index = read_index(results)
    if config.format == "h5" and Path(config.path).stat().st_size != published["bytes"]:
        raise ImportFeaturesError(f"{config.path} has changed since it was looked at; run the import again")
    values = np.full((index["shard_size"], *config.shape), np.nan, config.dtype)
    counts: Counter[str] = Counter()
    with open_published(config, read_ledger(results / "rows.csv")) as source:
        for clip, identifier, row in _clips(results, shard):
            found = _read(source, clip, identifier, config)
            if found is None:
                counts["not in the files"] += 1
                continue
            values[row - shard * index["shard_size"]], rounded = found
            counts.update({"imported": 1, "rounded": rounded})
    identity = {
        "extractor": name,
        "dataset": index["dataset"],
        "config": config.model_dump(mode="json", include={"format", "shape", "dtype"}),
        "weights": "imported",
        "sha256": published["sha256"],
        "imported": published,
        "preprocessing": config.origin or f"not known: imported from {published['file']}",
    }
    environment = {key: value for key, value in fingerprint.environment().items() if key != "cores"}
    path = results / "features" / f"{name}.zarr"
    write_shard(path, config, shard, index["rows"], values, identity, {"environment": environment})
    return +counts


def read_index(results: Path) -> dict[str, Any]:
    """The content of manifest.json. Raises FileNotFoundError where there is none."""
    path = results / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: make the manifest first (avpipe datasets manifest), it says which row is which clip"
        )
    index: dict[str, Any] = read_json(path)
    return index


def _clips(results: Path, shard: int) -> Iterator[tuple[str, str, int]]:
    """Clip, source and row of the clips of a shard."""
    table = pq.read_table(
        results / "manifest.parquet", columns=["clip", "source", "row"], filters=[("shard", "=", shard)]
    )
    return zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def _read(source: Published, clip: str, identifier: str, config: ImportedConfig) -> tuple[Values, int] | None:
    """A clip's features as they are stored, and how many numbers that rounds; None where there are none."""
    found = source.read(clip, identifier)
    if found is None:
        return None
    with np.errstate(over="ignore"):
        stored = found.astype(config.dtype)
    if (np.isinf(stored) & ~np.isinf(found)).any():
        raise ImportFeaturesError(
            f"{config.path}, clip {clip}: {np.nanmax(np.abs(found)):.3g} is too large for {config.dtype}; "
            "set `dtype: float32`"
        )
    rounded = int(np.count_nonzero((stored.astype(found.dtype) != found) & ~np.isnan(found)))
    return stored.reshape(config.shape), rounded
