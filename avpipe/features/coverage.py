"""How many clips have a feature, a split at a time: one small file beside the array, for people and for training jobs.

A training job depends on this file instead of every shard's, so that planning a study of a million clips stays quick.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from avpipe.features.store import open_features
from avpipe.files import write_text


def write_coverage(features: Path, manifest: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Count the clips whose row of the array is valid and write them as csv: `split,clips,valid`.

    Args:
        features: the array's folder, features/{extractor}.zarr.
        manifest: manifest.parquet.
        out: the csv to write, features/{extractor}.csv.

    Returns:
        Split -> (clips that the annotations name, clips with a feature), in the order of first appearance.

    Raises:
        FeaturesError: if the array is not finished or damaged.
    """
    valid = open_features(features).valid
    counts: dict[str, tuple[int, int]] = {}
    for split, row in _splits(manifest):
        clips, found = counts.get(split, (0, 0))
        counts[split] = (clips + 1, found + int(row < len(valid) and valid[row]))
    lines = [f"{split},{clips},{found}\n" for split, (clips, found) in counts.items()]
    write_text(out, "".join(["split,clips,valid\n", *lines]))
    return counts


def _splits(manifest: Path) -> Iterator[tuple[str, int]]:
    """Split and row of every clip."""
    table = pq.read_table(manifest, columns=["split", "row"])
    return zip(table["split"].to_pylist(), table["row"].to_pylist(), strict=True)
