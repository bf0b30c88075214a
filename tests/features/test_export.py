"""Our features in others' forms: the same numbers, the names and axes that others' code reads."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.ave import read_row_names
from avpipe.datasets.labels import manifest_labels
from avpipe.datasets.manifest import write_manifest
from avpipe.features.export import ExportError, Form, export_ave, export_npy, export_webdataset
from avpipe.features.published import import_features
from avpipe.plan.extractor import ImportedConfig

LINES = ["Bark&AAAAAAAAAAA&good&0&10", "Cat&BBBBBBBBBBB&good&2&5", "Bark&CCCCCCCCCCC&good&3&7",
         "Cat&DDDDDDDDDDD&good&0&0", "Bark&EEEEEEEEEEE&good&1&2"]  # fmt: skip
AS_RELEASED = Form("float64")


class Study:
    """A study of five clips in AVE's format whose features come from an h5 file."""

    def __init__(self, folder: Path, noisy: int = 0) -> None:
        self.folder, self.results, self.noisy = folder, folder / "R", noisy
        self.annotations = folder / "annotations"
        self.annotations.mkdir(parents=True)
        sets = {"Annotations": LINES, "trainSet": [LINES[3], LINES[0], LINES[1]], "valSet": LINES[2:3], "testSet": LINES[4:]}  # fmt: skip
        for name, lines in sets.items():
            (self.annotations / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        read = read_annotations("ave", self.annotations, noisy=noisy)
        write_manifest(read, "mine", self.results, 2, [])

    def take(self, name: str, values: np.ndarray, **more: object) -> None:
        """Import `values`, a row a clip (and after them those of the noisy set)."""
        for file, part in (("x.h5", values[:5]), ("noisy.h5", values[5:])):
            with h5py.File(self.folder / file, "w") as opened:
                opened["avadataset"] = part
        settings = {
            "path": str(self.folder / "x.h5"),
            "noisy": str(self.folder / "noisy.h5") if self.noisy else None,
            "rows": "Annotations.txt",
            "format": "h5",
            "shape": values.shape[1:],
            "dtype": values.dtype.name,
        }
        config = ImportedConfig.model_validate({**settings, **more})
        import_features(name, config, self.results, read_row_names(self.annotations / "Annotations.txt"))


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def read(path: Path, key: str = "avadataset") -> np.ndarray:
    with h5py.File(path) as file:
        assert list(file) == [key]
        return file[key][:]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(10, 128), (10, 7, 7, 512)])
def test_ave_s_files_come_back_bit_by_bit(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", noisy=2)
    values = numbers(7, *shape, dtype=dtype)
    study.take("a", values)
    assert export_ave({"a": "audio_feature"}, study.results, tmp_path / "out", AS_RELEASED) == {"a": 7}
    main, noisy = read(tmp_path / "out/audio_feature.h5"), read(tmp_path / "out/audio_feature_noisy.h5")
    assert (main.dtype, noisy.dtype) == (np.float64, np.float64)
    assert main.astype(dtype).tobytes() == values[:5].tobytes()
    assert noisy.astype(dtype).tobytes() == values[5:].tobytes()


def test_labels_and_orders_are_those_that_the_annotations_say(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", noisy=2)
    study.take("a", numbers(7, 10, 128))
    truth = manifest_labels(study.results)
    export_ave({"a": "audio_feature"}, study.results, tmp_path / "out", AS_RELEASED, truth)
    labels = read(tmp_path / "out/labels.h5")
    assert labels.shape == (5, 10, 3)  # Bark, Cat, background
    assert labels.argmax(-1).tolist() == [
        [0] * 10, [2, 2, 1, 1, 1, 2, 2, 2, 2, 2], [2, 2, 2, 0, 0, 0, 0, 2, 2, 2], [2] * 10,
        [2, 0, 2, 2, 2, 2, 2, 2, 2, 2],
    ]  # fmt: skip
    assert (labels.sum(-1) == 1).all()
    assert read(tmp_path / "out/mil_labels.h5").argmax(-1).tolist() == [0, 1, 0, 2, 0]
    assert read(tmp_path / "out/labels_noisy.h5").tolist() == [[0, 0, 1], [0, 0, 1]]
    orders = {split: read(tmp_path / f"out/{split}_order.h5", "order") for split in ("train", "val", "test")}
    assert {split: order.tolist() for split, order in orders.items()} == {
        "train": [3, 0, 1],
        "val": [2],
        "test": [4],
    }
    assert orders["train"].dtype == np.int64
    assert (tmp_path / "out/clips.csv").read_text().split() == ["clip", *(c * 11 for c in "ABCDE")]


def test_the_reader_reads_the_exported_labels_and_orders_in_place_of_the_text(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.take("a", numbers(5, 10, 128))
    export_ave({"a": "a"}, study.results, tmp_path / "out", Form(), manifest_labels(study.results))
    text = read_annotations("ave", study.annotations)
    (tmp_path / "out/Annotations.txt").write_bytes((study.annotations / "Annotations.txt").read_bytes())
    found = read_annotations("ave", tmp_path / "out", labels="labels.h5")
    assert found.clips.equals(text.clips)
    assert found.events.equals(text.events)
    assert Counter(found.issues["code"]) == Counter(text.issues["code"])


def test_the_real_order_files_and_labels_agree_with_the_real_text(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "ave"
    text = read_annotations("ave", data)
    for path in (data / "Annotations.txt", *data.glob("*_order*.h5")):
        (tmp_path / path.name).symlink_to(path)
    assert read_annotations("ave", tmp_path).clips.equals(text.clips)
    write_manifest(text, "ave", tmp_path / "R", 4143, [])
    values = np.arange(4143, dtype="float32").reshape(-1, 1, 1)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["avadataset"] = values
    config = ImportedConfig.model_validate(
        {
            "path": str(tmp_path / "x.h5"),
            "format": "h5",
            "shape": (1, 1),
            "rows": "Annotations.txt",
        }
    )
    import_features("row", config, tmp_path / "R", read_row_names(data / "Annotations.txt"))
    export_ave({"row": "row"}, tmp_path / "R", tmp_path / "out", Form(), manifest_labels(tmp_path / "R"))
    np.testing.assert_array_equal(read(tmp_path / "out/row.h5"), values)
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(
            read(tmp_path / f"out/{split}_order.h5", "order"), read(data / f"{split}_order.h5", "order")
        )
        np.testing.assert_array_equal(
            read(tmp_path / f"out/{split}_order_match.h5", "order"),
            read(data / f"{split}_order_match.h5", "order"),
        )
    # mil_labels.h5 gives the event of no length its category, as the reader's own text says
    differ = read(tmp_path / "out/mil_labels.h5") != read(data / "mil_labels.h5")
    assert text.clips["clip"][differ.any(1)].tolist() == ["VWi2ENBuTbw"]
    np.testing.assert_array_equal(
        read(tmp_path / "out/labels.h5")[:, :, :28].any(-1), read(data / "labels_closs.h5") == 1
    )


def test_clips_without_features_keep_their_row_and_leave_the_orders(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    values = numbers(5, 10, 128)
    values[0] = np.nan
    study.take("a", values)
    values[0], values[4] = 1, np.nan
    study.take("b", values)
    counts = export_ave({"a": "a", "b": "b"}, study.results, tmp_path / "out", Form())
    assert counts == {"a": 4, "b": 4}
    assert np.isnan(read(tmp_path / "out/a.h5")).all((1, 2)).tolist() == [True] + [False] * 4
    assert read(tmp_path / "out/train_order.h5", "order").tolist() == [3, 1]
    assert read(tmp_path / "out/test_order.h5", "order").tolist() == []


def test_npy_files_come_back_in_llp_s_shape(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    values = numbers(5, 80, 2048)
    (tmp_path / "in").mkdir()
    for letter, value in zip("ABCE", values, strict=False):
        np.save(tmp_path / "in" / f"{letter * 11}.npy", value)
    config = ImportedConfig(path=str(tmp_path / "in"), format="npy", shape=(10, 8, 2048))
    import_features("r", config, study.results)
    form = Form(shape=(80, 2048))
    assert export_npy({"r": "res152"}, study.results, tmp_path / "out", form) == {"r": 4}
    files = sorted(path.name for path in (tmp_path / "out" / "res152").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "in").iterdir())
    for name in files:
        assert (tmp_path / "out/res152" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_webdataset_shards_hold_a_npy_and_a_json_a_clip(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    values = numbers(5, 10, 128, dtype="float16")
    values[2] = np.nan
    study.take("a", values)
    for _ in range(2):
        assert export_webdataset({"a": "vggish"}, study.results, tmp_path / "out") == {"a": 4}
        contents = {path.name: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())}
    assert list(contents) == ["vggish-000000.tar", "vggish-000001.tar", "vggish-000002.tar"]
    with tarfile.open(fileobj=io.BytesIO(contents["vggish-000000.tar"])) as archive:
        names = archive.getnames()
        found = np.load(io.BytesIO(archive.extractfile(names[2]).read()))
        about = json.loads(archive.extractfile(names[3]).read())
    assert names == [f"{letter * 11}.{suffix}" for letter in "AB" for suffix in ("npy", "json")]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, values[1])
    assert about == {
        "clip": "BBBBBBBBBBB", "source": "BBBBBBBBBBB", "dataset": "mine", "split": "train", "row": 1,
        "feature": "a",
        "events": [{"modality": "audiovisual", "category": "Cat", "onset": 2.0, "offset": 5.0}],
    }  # fmt: skip


def test_what_a_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.take("a", numbers(5, 10, 128) * 1e6)
    with pytest.raises(ExportError, match=r"\(10, 128\), which cannot become \(80, 2048\)"):
        export_npy({"a": "a"}, study.results, tmp_path / "out", Form(shape=(80, 2048)))
    with pytest.raises(ExportError, match="too large for float16"):
        export_webdataset({"a": "a"}, study.results, tmp_path / "out", Form("float16"))
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))
