"""Published features become our arrays: every number the same, clips that are not there NaN, everything wrong refused."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.ave import read_row_names
from avpipe.datasets.base import AnnotationError, source_name
from avpipe.datasets.manifest import write_manifest
from avpipe.features import open_features
from avpipe.features.published import (
    PublishedFeaturesError,
    import_features,
    import_shard,
    inspect_published,
)
from avpipe.files import H5Error
from avpipe.plan.extractor import ImportedConfig

LINES = [f"Bark&{letter * 11}&good&{number}&9" for number, letter in enumerate("ABCDEFG")] + [
    "Cat&AAAAAAAAAAA&good&0&5"
]
NAMES = [letter * 11 for letter in "ABCDEFG"] + ["AAAAAAAAAAA~2"]


def ave_study(folder: Path, lines: list[str] = LINES, noisy: int = 0, shard_size: int = 3) -> Path:
    """R of a dataset in AVE's format: its manifest."""
    annotations = folder / "annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    sets = {"Annotations": lines, "trainSet": lines[:-2], "valSet": lines[-2:-1], "testSet": lines[-1:]}
    for name, content in sets.items():
        (annotations / f"{name}.txt").write_text("".join(f"{line}\n" for line in content))
    read = read_annotations("ave", annotations, noisy=noisy)
    write_manifest(read, "mine", folder / "R", shard_size, [])
    return folder / "R"


def h5(path: Path, values: np.ndarray, key: str = "avadataset") -> Path:
    with h5py.File(path, "w") as file:
        file[key] = values
    return path


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def h5_config(path: Path, shape: tuple[int, ...] = (10, 128), **more: object) -> ImportedConfig:
    return ImportedConfig.model_validate({"path": str(path), "format": "h5", "shape": shape, **more})


def test_a_row_of_an_h5_file_is_the_clip_of_that_line_of_the_annotations(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    values = numbers(8, 10, 128)
    config = h5_config(h5(tmp_path / "audio.h5", values.astype("float64")))
    counts = import_features("a", config, study)
    assert counts == {"imported": 8}
    found = open_features(study / "features" / "a.zarr")
    assert found.clips == tuple(NAMES)
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array[:], values)


def test_a_part_of_the_dataset_reads_its_rows_of_the_whole_file(tmp_path: Path) -> None:
    study = ave_study(tmp_path, [LINES[6], LINES[2], LINES[7]])
    whole = tmp_path / "all.txt"
    whole.write_text("Category&VideoID&Quality&StartTime&EndTime\n" + "\n".join(LINES) + "\n")
    values = numbers(8, 10, 128)
    config = h5_config(h5(tmp_path / "audio.h5", values), rows=str(whole))
    import_features("a", config, study, read_row_names(whole))
    found = open_features(study / "features" / "a.zarr")
    # AAAAAAAAAAA is in this study's annotations once, so it is row 0 of the whole, where it stands first
    np.testing.assert_array_equal(found.array[:], values[[6, 2, 0]])


def test_the_names_of_rows_may_be_in_rows_csv_or_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("clip\nB\nA\nA\n")
    (tmp_path / "names.txt").write_text("B\nA\nA\n")
    assert (
        read_row_names(tmp_path / "rows.csv") == read_row_names(tmp_path / "names.txt") == ["B", "A", "A~2"]
    )


def test_rows_may_be_named_by_the_ids_of_clips_with_other_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("my take.2\nA~2\n")
    assert read_row_names(tmp_path / "names.txt") == [source_name("my take.2")[0], "A~2"]


def test_clips_that_the_file_does_not_have_are_nan_and_counted(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    values = numbers(3, 10, 128)
    config = h5_config(h5(tmp_path / "audio.h5", values), rows="names.txt")
    names = ["BBBBBBBBBBB", "DDDDDDDDDDD", "nobody"]
    assert import_features("a", config, study, names) == {"imported": 2, "not in the files": 6}
    found = open_features(study / "features" / "a.zarr")
    assert np.flatnonzero(found.valid).tolist() == [1, 3]
    np.testing.assert_array_equal(found.load([1, 3]), values[:2])


def test_the_noisy_set_is_a_second_file(tmp_path: Path) -> None:
    study = ave_study(tmp_path, noisy=4)
    values, noisy = numbers(8, 10, 7, 7, 512, dtype="float16"), numbers(4, 10, 7, 7, 512, dtype="float16")
    config = h5_config(
        h5(tmp_path / "v.h5", values.astype("float64")),
        (10, 7, 7, 512),
        noisy=str(h5(tmp_path / "n.h5", noisy.astype("float64"))),
        dtype="float16",
        rows="Annotations.txt",
    )
    assert import_features("v", config, study, NAMES) == {"imported": 12}
    found = open_features(study / "features" / "v.zarr")
    assert found.clips[8:] == ("noisy~0", "noisy~1", "noisy~2", "noisy~3")
    np.testing.assert_array_equal(found.array[:], np.concatenate([values, noisy]))
    assert found.array.metadata.dimension_names == ("clip", "segment", "y", "x", "feature")


def test_a_folder_of_npy_files_is_split_into_segments(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    values = numbers(2, 80, 2048)
    for name, value in zip(("CCCCCCCCCCC", "AAAAAAAAAAA~2"), values, strict=True):
        np.save(tmp_path / f"{name}.npy", value)
    config = ImportedConfig(path=str(tmp_path), format="npy", shape=(10, 8, 2048))
    assert import_features("r", config, study) == {"imported": 2, "not in the files": 6}
    found = open_features(study / "features" / "r.zarr")
    np.testing.assert_array_equal(found.load([2, 7]).reshape(2, 80, 2048), values)
    assert found.array.metadata.dimension_names == ("clip", "segment", "frame", "feature")


def test_npy_files_may_be_named_by_the_source(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "AAAAAAAAAAA_x.npy", numbers(10, 128))
    config = ImportedConfig(path=str(tmp_path), format="npy", shape=(10, 128), pattern="deep/{source}_x.npy")
    import_features("a", config, study)
    assert np.flatnonzero(open_features(study / "features" / "a.zarr").valid).tolist() == [0, 7]


def test_the_array_says_what_it_was_made_from(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    path = h5(tmp_path / "audio.h5", numbers(8, 10, 128).astype("float64"))
    import_features("a", h5_config(path, origin="VGGish, by its authors"), study)
    attributes = dict(open_features(study / "features" / "a.zarr").array.attrs)
    published = inspect_published(h5_config(path))
    assert attributes["imported"] == published
    assert published["shape"] == [8, 10, 128]
    assert published["dtype"] == "float64"
    assert attributes["sha256"] == published["sha256"]
    assert attributes["weights"] == "imported"
    assert attributes["preprocessing"] == "VGGish, by its authors"
    assert str(tmp_path) not in json.dumps(attributes)


def test_another_file_leaves_no_shard_of_the_first(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    first, second = numbers(8, 10, 128), numbers(8, 10, 128) + 1
    import_features("a", h5_config(h5(tmp_path / "1.h5", first)), study)
    config = h5_config(h5(tmp_path / "2.h5", second))
    import_shard("a", config, inspect_published(config), study, 0)
    assert not (study / "features/a.zarr/c/1/0/0").exists()


def test_rounding_is_counted_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    values = np.ones((8, 10, 128))
    values[0, 0, :2] = [0.1, 1 / 3]  # no float32
    values[1, 0, 0] = np.nan
    path = h5(tmp_path / "a.h5", values)
    assert import_features("a", h5_config(path), study)["rounded"] == 2
    import_features("b", h5_config(path, dtype="float64"), study)
    np.testing.assert_array_equal(open_features(study / "features/b.zarr").array[:], values)
    values[2, 3, 4] = 1e6
    config = h5_config(h5(tmp_path / "b.h5", values), dtype="float16")
    with pytest.raises(PublishedFeaturesError, match="clip CCCCCCCCCCC: 1e\\+06 is too large for float16"):
        import_features("c", config, study)


def test_h5_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    with pytest.raises(PublishedFeaturesError, match=r"has 5 rows, but rows\.csv names 8 clips: set `rows`"):
        import_features("a", h5_config(h5(tmp_path / "5.h5", numbers(5, 10, 128))), study)
    with pytest.raises(
        PublishedFeaturesError, match=r"a clip has shape \(10, 64\), expected \(10, 128\); see"
    ):
        import_features("a", h5_config(h5(tmp_path / "64.h5", numbers(8, 10, 64))), study)
    with pytest.raises(H5Error, match="has no array 'avadataset' of its own; it has 'x': set `key`"):
        import_features("a", h5_config(h5(tmp_path / "x.h5", numbers(8, 10, 128), "x")), study)
    with pytest.raises(H5Error, match="is not a file"):
        import_features("a", h5_config(tmp_path / "none.h5"), study)
    whole = h5(tmp_path / "whole.h5", numbers(8, 10, 128)).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(H5Error, match="no HDF5 file or is cut off"):
        import_features("a", h5_config(tmp_path / "cut.h5"), study)
    assert not (study / "features").exists() or not list((study / "features").rglob("zarr.json"))


def test_an_h5_file_cannot_make_us_read_another_file(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    h5(tmp_path / "secret.h5", numbers(8, 10, 128))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["avadataset"] = h5py.ExternalLink("secret.h5", "/avadataset")
    layout = h5py.VirtualLayout((8, 10, 128), "float32")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "avadataset", (8, 10, 128))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("avadataset", layout)
    (tmp_path / "raw").write_bytes(bytes(8 * 10 * 128 * 4))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        outside = [(str(tmp_path / "raw"), 0, 8 * 10 * 128 * 4)]
        file.create_dataset("avadataset", (8, 10, 128), "float32", external=outside)
    for name in ("link", "virtual", "external"):
        with pytest.raises(H5Error):
            import_features("a", h5_config(tmp_path / f"{name}.h5"), study)


def test_npy_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    study = ave_study(tmp_path)
    file = tmp_path / "BBBBBBBBBBB.npy"
    config = ImportedConfig(path=str(tmp_path), format="npy", shape=(10, 128))

    def message() -> str:
        with pytest.raises(PublishedFeaturesError) as caught:
            import_features("a", config, study)
        return str(caught.value)

    assert "has no npy file" in message()
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    assert "no whole npy file of numbers" in message()
    np.save(file, numbers(10, 64))
    assert "a clip has shape (10, 64)" in message()
    np.save(file, numbers(10, 128))
    file.write_bytes(file.read_bytes()[:-1])
    assert "no whole npy file" in message()
    file.write_bytes(b"")
    assert "no whole npy file" in message()
    np.savez(file.with_suffix(""), a=numbers(10, 128))
    file.with_suffix(".npz").replace(file)
    assert "not one npy array" in message()


def test_an_annotation_line_without_an_id_is_named(tmp_path: Path) -> None:
    (tmp_path / "Annotations.txt").write_text("Bark&AAAAAAAAAAA&good&0&1\nBark&B\n")
    with pytest.raises(AnnotationError, match="line 2: found 'Bark&B'"):
        read_row_names(tmp_path / "Annotations.txt")


def test_without_a_manifest_the_message_says_how_to_make_it(tmp_path: Path) -> None:
    config = h5_config(h5(tmp_path / "a.h5", numbers(8, 10, 128)))
    with pytest.raises(FileNotFoundError, match="make the manifest first"):
        import_features("a", config, tmp_path)


def test_the_real_noisy_set_comes_in_unchanged(shared: Path, tmp_path: Path) -> None:
    study = ave_study(tmp_path, noisy=178, shard_size=64)
    path = shared / "data" / "ave" / "audio_feature_noisy.h5"
    main = h5(tmp_path / "audio.h5", numbers(8, 10, 128))
    config = h5_config(main, noisy=str(path), rows="Annotations.txt")
    assert import_features("vggish", config, study, NAMES) == {"imported": 186}
    found = open_features(study / "features" / "vggish.zarr").array[8:]
    with h5py.File(path) as file:
        released = file["avadataset"][:]
    assert found.shape == (178, 10, 128)
    np.testing.assert_array_equal(found, released)  # released as float64, all of them float32 numbers


@pytest.mark.parametrize("kind", ["another pattern", "other rows", "only NaN"])
def test_files_without_a_feature_of_any_clip_are_an_error_and_no_array_is_written(
    kind: str, tmp_path: Path
) -> None:
    study, names = ave_study(tmp_path), ["nobody", "no one"]
    if kind == "another pattern":
        np.save(tmp_path / "AAAAAAAAAAA.npy", numbers(10, 128))
        config = ImportedConfig(path=str(tmp_path), format="npy", shape=(10, 128), pattern="{clip}_a.npy")
        message = r"no feature of any of the 8 clips .*_a\.npy: set `pattern`"
    else:
        values = numbers(2, 10, 128)
        if kind == "only NaN":
            values[:], names = np.nan, NAMES[:2]
        config = h5_config(h5(tmp_path / "audio.h5", values), rows="names.txt")
        message = r"audio\.h5 has no feature of any of the 8 clips .*set `rows`"
    with pytest.raises(PublishedFeaturesError, match=message):
        import_features("a", config, study, names)
    assert not (study / "features").exists()
    with pytest.raises(PublishedFeaturesError, match=message):  # as the workflow's jobs do it
        import_shard("a", config, inspect_published(config), study, 0, names)
    assert not (study / "features").exists()
