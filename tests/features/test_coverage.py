"""The count of clips that have a feature."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avpipe.features.coverage import write_coverage
from avpipe.features.store import FeaturesError

from .test_store import Array


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.parquet"
    splits = ["train"] * 5 + ["test"] * 3 + ["val"] * 2
    pd.DataFrame({"split": splits, "row": range(10)}).to_parquet(path)
    return path


def test_counts_the_valid_clips_of_each_split(tmp_path: Path, manifest: Path) -> None:
    array = Array(tmp_path / "R", rows=10)
    for shard in range(3):
        values = array.values(shard)
        values[1] = np.nan  # rows 1, 5 and 9
        array.write(shard, values)
    counts = write_coverage(array.path, manifest, tmp_path / "a.csv")
    assert counts == {"train": (5, 4), "test": (3, 2), "val": (2, 1)}
    assert (tmp_path / "a.csv").read_text() == "split,clips,valid\ntrain,5,4\ntest,3,2\nval,2,1\n"


def test_an_unfinished_array_is_not_counted(tmp_path: Path, manifest: Path) -> None:
    array = Array(tmp_path / "R", rows=10)
    array.write(0)
    with pytest.raises(FeaturesError, match="2 of 3 shards are not extracted yet"):
        write_coverage(array.path, manifest, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
