"""The array of a feature: whole shards, plain zarr, clear errors."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from avpipe.features import open_features
from avpipe.features.store import Features, FeaturesError, write_shard
from avpipe.plan.extractor import ExtractorConfig, ImportedConfig

SIZE = 4
CONFIG = ExtractorConfig(backbone="vggish")
IDENTITY = {"extractor": "a", "sha256": "0"}
ABOUT = {"environment": {"torch": "1"}}


class Array:
    """results/x with features/a.zarr of some rows, to write shards of."""

    def __init__(self, root: Path, rows: int) -> None:
        self.root, self.path = root, root / "features" / "a.zarr"
        root.mkdir(exist_ok=True)
        self.grow(rows)

    def grow(self, rows: int) -> None:
        self.rows = rows
        (self.root / "rows.csv").write_text("clip\n" + "".join(f"c{i}\n" for i in range(rows)))
        shards = {str(k): "" for k in range(-(-rows // SIZE))}
        (self.root / "manifest.json").write_text(json.dumps({"shards": shards}))

    def values(self, shard: int, dtype: str = "float32") -> np.ndarray:
        return np.random.default_rng(shard).normal(size=(SIZE, 10, 128)).astype(dtype)

    def write(self, shard: int, values: np.ndarray | None = None, **identity: Any) -> np.ndarray:
        values = self.values(shard) if values is None else values
        write_shard(self.path, CONFIG, shard, self.rows, values, {**IDENTITY, **identity}, ABOUT)
        return values


@pytest.fixture
def array(tmp_path: Path) -> Array:
    return Array(tmp_path / "R", rows=10)


def full(array: Array) -> np.ndarray:
    return np.concatenate([array.write(shard) for shard in range(3)])[: array.rows]


def test_shards_written_one_by_one_are_one_zarr_array(array: Array) -> None:
    expected = full(array)
    plain = zarr.open_array(array.path, mode="r")
    assert plain.metadata.zarr_format == 3
    assert plain.chunks == (1, 10, 128)
    assert plain.shards == (SIZE, 10, 128)
    np.testing.assert_array_equal(plain[:], expected)
    assert sorted(f.relative_to(array.path).as_posix() for f in array.path.rglob("*") if f.is_file()) == [
        "c/0/0/0",
        "c/1/0/0",
        "c/2/0/0",
        "zarr.json",
    ]


def test_rows_have_clips_and_validity(array: Array) -> None:
    values = array.values(0)
    values[[1, 3]] = np.nan
    array.write(0, values)
    array.write(1, np.full_like(values, np.nan))
    array.write(2)
    features = open_features(array.path)
    assert features.clips == tuple(f"c{i}" for i in range(10))
    assert np.flatnonzero(~features.valid).tolist() == [1, 3, 4, 5, 6, 7]
    assert repr(features) == "<a.zarr: 4 of 10 clips, 10 x 128 float32 each>"
    everything = features.array[:]
    np.testing.assert_array_equal(np.isnan(everything).all((1, 2)), ~features.valid)
    np.testing.assert_array_equal(features.load(range(10)), everything)


def test_a_shard_without_any_feature_is_a_file_too(array: Array) -> None:
    array.write(0, np.full((SIZE, 10, 128), np.nan, np.float32))
    assert (array.path / "c/0/0/0").is_file()
    assert np.isnan(zarr.open_array(array.path, mode="r")[:SIZE]).all()


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    array = Array(tmp_path_factory.mktemp("store") / "R", rows=10)
    values = array.values(1)
    values[2] = np.nan
    array.write(0)
    array.write(1, values)
    array.write(2)
    return open_features(array.path)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 9), max_size=20), threads=st.integers(1, 3))
def test_load_gives_any_rows_in_any_order(rows: list[int], threads: int, features: Features) -> None:
    np.testing.assert_array_equal(features.load(rows, threads), features.array[:][rows])


@pytest.mark.parametrize("rows", [[-1], [10]])
def test_load_refuses_rows_that_do_not_exist(rows: list[int], features: Features) -> None:
    with pytest.raises(IndexError, match=r"rows are 0 \.\. 9"):
        features.load(rows)


def test_the_same_values_give_the_same_bytes(array: Array) -> None:
    array.write(0)
    first = {f: f.read_bytes() for f in array.path.rglob("*") if f.is_file()}
    shutil.rmtree(array.path)
    array.write(0)
    assert {f: f.read_bytes() for f in array.path.rglob("*") if f.is_file()} == first


def test_new_clips_make_the_array_longer_and_touch_no_old_shard(array: Array) -> None:
    array.grow(SIZE)
    first = array.write(0)
    before = (array.path / "c/0/0/0").stat().st_mtime_ns
    array.grow(7)
    second = array.write(1)
    assert (array.path / "c/0/0/0").stat().st_mtime_ns == before
    found = open_features(array.path)
    np.testing.assert_array_equal(found.array[:], np.concatenate([first, second])[:7])
    array.rows = SIZE  # a job that planned before the clips came must not cut the array
    array.write(0)
    assert zarr.open_array(array.path, mode="r").shape[0] == 7


def test_metadata_is_left_alone_when_nothing_changes(array: Array) -> None:
    array.write(0)
    before = (array.path / "zarr.json").stat().st_mtime_ns
    array.write(1)
    assert (array.path / "zarr.json").stat().st_mtime_ns == before


def test_every_environment_that_wrote_a_shard_is_named(array: Array) -> None:
    array.write(0)
    newer = {"environment": {"torch": "2"}}
    write_shard(array.path, CONFIG, 1, array.rows, array.values(1), IDENTITY, newer)
    attributes = zarr.open_array(array.path, mode="r").attrs
    assert attributes["environments"] == [{"torch": "1"}, {"torch": "2"}]
    assert (array.path / "c/0/0/0").is_file()


def test_shards_of_other_weights_do_not_stay_beside_new_ones(array: Array) -> None:
    full(array)
    array.write(1, sha256="other")
    assert not (array.path / "c/0/0/0").exists()
    with pytest.raises(FeaturesError, match=r"2 of 3 shards are not extracted yet \(0, 2\)"):
        open_features(array.path)


def test_shards_without_clips_are_not_missed(array: Array) -> None:
    array.write(0)
    array.write(2)
    (array.root / "manifest.json").write_text(json.dumps({"shards": {"0": "", "2": ""}}))
    found = open_features(array.path)
    assert found.valid.tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert np.isnan(found.load([5])).all()


def test_clear_errors(array: Array, tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"a\.zarr: no array of features; run the extraction of a first"):
        open_features(array.path)
    zarr.create_array(tmp_path / "foreign.zarr", shape=(3,), dtype="float32")
    with pytest.raises(FeaturesError, match="no array of avpipe"):
        open_features(tmp_path / "foreign.zarr")
    full(array)
    (array.root / "rows.csv").write_text("clip\nc0\n")
    with pytest.raises(FeaturesError, match=r"has 10 rows, but .*rows\.csv names only 1 clips"):
        open_features(array.path)


@pytest.mark.parametrize("kept", [0, 10, 5_000])
def test_a_cut_off_file_is_noticed(kept: int, array: Array) -> None:
    full(array)
    file = array.path / "c/1/0/0"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(FeaturesError, match=r"c/1/0/0 is damaged: delete it and run the extraction again"):
        open_features(array.path).load([5])


def flipped(content: bytes) -> Iterator[bytes]:
    """The content with one bit of one byte changed, for every byte; another bit for each byte."""
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)


def test_no_changed_byte_of_a_shard_gives_a_wrong_number(array: Array) -> None:
    config = ImportedConfig(path="x", format="h5", shape=(2, 3))
    values = np.arange(SIZE * 6, dtype="float32").reshape(SIZE, 2, 3) / 7
    values[1] = np.nan
    array.grow(SIZE)
    write_shard(array.path, config, 0, SIZE, values, IDENTITY, ABOUT)
    file = array.path / "c/0/0/0"
    unnoticed, messages = 0, set()
    for content in flipped(file.read_bytes()):
        file.write_bytes(content)
        try:
            found = open_features(array.path).load(range(SIZE))
        except FeaturesError as error:
            messages.add(str(error).split(" (")[0])
        else:
            unnoticed += 1
            np.testing.assert_array_equal(found, values)
    assert messages == {f"{file} is damaged: delete it and run the extraction again"}
    assert unnoticed <= 3, "in each chunk two bits of Zstandard's header carry nothing that is needed"


def test_no_changed_byte_of_the_metadata_is_taken(array: Array) -> None:
    full(array)
    file = array.path / "zarr.json"
    whole = file.read_bytes()
    meaning = json.loads(whole)
    # A change in the name of the checksum itself changes nothing else.
    named = [content for content in flipped(whole) if b'"metadata_sha256"' in content]
    for content in [b"", whole[:100], *named]:
        with contextlib.suppress(ValueError):
            if json.loads(content) == meaning:
                continue  # one kind of white space in place of another
        file.write_bytes(content)
        with pytest.raises(FeaturesError, match=r"a\.zarr"):
            open_features(array.path)
    with pytest.raises(FeaturesError, match=r"zarr\.json is damaged"):
        array.write(0)
