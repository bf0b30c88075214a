"""How many clips of each split have a feature: a small csv beside the array.

Training depends on this one file instead of on every shard, which keeps planning fast for a million clips.
"""

from pathlib import Path

import pyarrow.parquet as pq

from avpipe.features.store import open_features
from avpipe.files import write_text


def write_coverage(features: Path, manifest: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Write the csv `split,clips,valid`.

    Args:
        features: the array's folder, features/{extractor}.zarr.
        manifest: manifest.parquet.
        out: csv to write, features/{extractor}.csv.

    Returns:
        Split -> (clips that the annotations name, clips with the feature), in order of first appearance.

    Raises:
        FeaturesError: if the array is incomplete or damaged.
    """
    valid = open_features(features).valid
    counts: dict[str, tuple[int, int]] = {}
    table = pq.read_table(manifest, columns=["split", "row"])
    for split, row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        clips, found = counts.get(split, (0, 0))
        counts[split] = (clips + 1, found + int(row < len(valid) and valid[row]))
    lines = [f"{split},{clips},{found}\n" for split, (clips, found) in counts.items()]
    write_text(out, "".join(["split,clips,valid\n", *lines]))
    return counts
