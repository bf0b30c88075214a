"""AVE's text files: the counts of the real ones, and what happens to broken or hostile ones."""

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.ave import read_ave
from avpipe.datasets.base import AnnotationError, Annotations
from avpipe.datasets.labels import clip_labels, segment_labels
from avpipe.files import H5Error

ROWS = ["Bark&AAAAAAAAAAA&good&0&10", "Cat&BBBBBBBBBBB&good&2&5", "Bark&-C_CCCCCCCC&good&3&7"]

H5_HEADER = 2144
"""Bytes before the numbers of the released h5 files: each has one dataset, stored in one piece at the end."""


@pytest.fixture(scope="session")
def ave(shared: Path) -> Annotations:
    """The real files."""
    return read_annotations("ave", shared / "data" / "ave")


def write(folder: Path, rows: list[str], train: list[str], val: list[str], test: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in (("Annotations", rows), ("trainSet", train), ("valSet", val), ("testSet", test)):
        (folder / f"{name}.txt").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8", newline=""
        )
    return folder


def small(folder: Path, first: str = ROWS[0]) -> Path:
    """A dataset of three clips, one a split; `first` is the train clip's line."""
    return write(folder, [first, *ROWS[1:]], [first], [ROWS[1]], [ROWS[2]])


# The real files. The numbers are those of the shared reference, section 1 of ave_localization.md, which counted otherwise.


def test_every_line_is_a_clip_in_the_files_order(ave, shared):
    ids = [line.split("&")[1] for line in (shared / "data/ave/Annotations.txt").read_text().splitlines()]
    assert len(ids) == 4143
    assert ave.clips["source"].tolist() == ids
    assert ave.clips["source"].nunique() == 4097
    assert ave.clips["clip"].str.contains("~").sum() == 4143 - 4097
    assert ave.clips[["start", "end"]].isna().all(axis=None)


def test_there_are_28_categories_by_first_appearance(ave, shared):
    assert ave.categories == tuple((shared / "data/ave/categories.txt").read_text().splitlines())
    assert (len(ave.categories), ave.categories[0], ave.categories[27]) == (28, "Church bell", "Mandolin")


def test_splits_are_those_of_the_released_order_files(ave, shared):
    for split in ("train", "val", "test"):
        own = ave.clips[ave.clips["split"] == split].sort_values("split_order")
        released = (shared / f"data/ave/{split}_order.h5").read_bytes()[H5_HEADER:]
        assert own.index.tolist() == np.frombuffer(released, "<i8").tolist()


def test_match_splits_are_those_of_the_released_files(ave, shared):
    """Reference, section 5: the same sizes as the usual splits; all test clips have short events, 792 train clips do."""
    short = set(ave.events["clip"][ave.events["offset"] - ave.events["onset"] < 10])
    for split, count, queries in (("train", 3339, 792), ("val", 402, 198), ("test", 402, 402)):
        own = ave.clips[ave.clips["match_split"] == split].sort_values("match_order")
        released = (shared / f"data/ave/{split}_order_match.h5").read_bytes()[H5_HEADER:]
        assert own.index.tolist() == np.frombuffer(released, "<i8").tolist()
        assert (len(own), own["clip"].isin(short).sum()) == (count, queries)
    usual = ave.clips[ave.clips["split"] == "test"]
    assert usual["clip"].isin(short).sum() == 141
    assert (usual["match_split"] == "test").sum() == 36  # other splits, not a selection of the usual ones


def test_the_two_rows_with_two_labels_can_be_left_out(ave, shared):
    """AVE-ECCV18 issue 10: rows 171 and 2189, both test."""
    dropped = read_annotations("ave", shared / "data" / "ave", conflicts="drop")
    changed = ave.clips["split"] != dropped.clips["split"]
    assert ave.clips.index[changed].tolist() == [171, 2189]
    assert set(ave.clips["split"][changed]) == {"test"}
    for column in ("split", "match_split"):
        assert set(dropped.clips[column][changed]) == {"none"}
    reported = ave.issues[ave.issues["code"] == "two_labels"]["clip"].tolist()
    assert dropped.issues[dropped.issues["code"] == "dropped"]["clip"].tolist() == reported
    assert dropped.clips[["clip", "source"]].equals(ave.clips[["clip", "source"]])


def test_ids_of_a_later_split_can_be_left_out_of_the_earlier_ones(ave, shared):
    """Reference, section 1: 10 ids shared by train and val, 8 by train and test."""
    dropped = read_annotations("ave", shared / "data" / "ave", shared_ids="drop")
    for column in ("split", "match_split"):
        kept = dropped.clips[dropped.clips[column] != "none"]
        assert (kept.groupby("source")[column].nunique() == 1).all()
        moved = ave.clips[ave.clips[column] != dropped.clips[column]]
        later = ave.clips[ave.clips["source"].isin(moved["source"]) & ~ave.clips["clip"].isin(moved["clip"])]
        assert set(later["source"]) == set(moved["source"])
        assert "test" not in set(moved[column])
        if column == "split":
            assert set(moved["split"]) == {"train"}
            assert moved["source"].nunique() == 18
    assert (dropped.issues["code"] == "id_in_train_and_val").sum() == 10  # still reported
    assert (dropped.clips["split"] == "test").sum() == 402


def test_all_irregularities_are_reported(ave):
    assert Counter(ave.issues["code"]) == {
        "repeated_id": 45,
        "conflicting_labels": 45,
        "id_in_train_and_val": 10,
        "id_in_train_and_test": 8,
        "zero_length_event": 1,
        "two_labels": 2,
    }
    (empty,) = ave.issues[ave.issues["code"] == "zero_length_event"]["clip"]
    assert empty == "VWi2ENBuTbw"
    assert empty not in set(ave.events["clip"])


def test_event_lengths_are_those_of_the_reference(ave):
    lengths = Counter((ave.events["offset"] - ave.events["onset"]).astype(int))
    assert lengths == {2: 214, 3: 220, 4: 217, 5: 196, 6: 200, 7: 139, 8: 111, 9: 95, 10: 2750}


def test_segments_are_those_of_the_released_label_file(ave, shared):
    released = (shared / "data/ave/labels_closs.h5").read_bytes()[H5_HEADER:]
    has_event = np.frombuffer(released, "<f4").reshape(4143, 10)
    assert np.array_equal(segment_labels(ave.events, ave.clips, ave.categories) < 28, has_event == 1)


def test_weak_labels_are_those_of_the_released_file_except_for_the_event_of_length_zero(ave, shared):
    released = (shared / "data/ave/mil_labels.h5").read_bytes()[H5_HEADER:]
    theirs = np.frombuffer(released, "<f4").reshape(4143, 29)
    ours = clip_labels(ave.events, ave.clips, ave.categories)
    differ = np.flatnonzero((theirs[:, :28] != ours).any(axis=1))
    assert ave.clips["clip"][differ].tolist() == ["VWi2ENBuTbw"]  # theirs: Church bell, in no second


# Small files.


def test_the_same_line_twice_is_two_clips_each_in_its_own_set(tmp_path):
    found = read_ave(write(tmp_path, [ROWS[0], ROWS[1], ROWS[0]], [ROWS[0]], [ROWS[1]], [ROWS[0]]))
    assert found.clips["clip"].tolist() == ["AAAAAAAAAAA", "BBBBBBBBBBB", "AAAAAAAAAAA~2"]
    assert found.clips["split"].tolist() == ["train", "val", "test"]
    # no conflict: the category is the same
    assert Counter(found.issues["code"]) == {"repeated_id": 1, "id_in_train_and_test": 1}


def test_a_line_in_no_set_is_kept_and_reported(tmp_path):
    found = read_ave(write(tmp_path, [*ROWS, "Cat&DDDDDDDDDDD&good&0&1"], [ROWS[0]], [ROWS[1]], [ROWS[2]]))
    assert found.clips["split"].tolist() == ["train", "val", "test", "none"]
    assert found.issues[["code", "clip"]].to_numpy().tolist() == [["no_split", "DDDDDDDDDDD"]]


def write_match_files(folder: Path, **rows: list[int]) -> Path:
    """Adds the files of cross-modality localization's splits."""
    for split, numbers in rows.items():
        with h5py.File(folder / f"{split}_order_match.h5", "w") as file:
            file["order"] = np.array(numbers, dtype=np.int64)
    return folder


def test_match_splits_are_read_beside_the_usual_ones(tmp_path):
    assert "match_split" not in read_ave(small(tmp_path / "without")).clips
    folder = write_match_files(small(tmp_path / "with"), train=[2, 1], val=[], test=[0])
    found = read_annotations("ave", folder, noisy=1)
    assert found.clips["match_split"].tolist() == ["test", "train", "train", "none"]
    assert found.clips["match_order"].tolist() == [0, 1, 0, 0]
    assert found.clips["split"].tolist() == ["train", "val", "test", "weak"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train": [0], "val": [1]}, "test_order_match.h5"),
        (
            {"train": [0], "val": [1], "test": [3]},
            "test_order_match.h5, entry 0: 3 is not the number of a line",
        ),
        ({"train": [0, 0], "val": [1], "test": [2]}, "entry 1: 0"),
    ],
)
def test_wrong_match_files_are_an_error(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_ave(write_match_files(small(tmp_path), **rows))


def test_a_clip_shared_by_splits_is_removed_from_the_earlier_one(tmp_path):
    again = "Cat&AAAAAAAAAAA&good&6&8"
    folder = write(tmp_path, [*ROWS, again], [ROWS[0]], [ROWS[1]], [ROWS[2], again])
    write_match_files(folder, train=[3, 1], val=[0], test=[2])
    found = read_ave(folder, shared_ids="drop")
    assert found.clips["split"].tolist() == ["none", "val", "test", "test"]
    assert found.clips["match_split"].tolist() == ["val", "train", "test", "none"]
    assert found.issues[found.issues["code"] == "dropped"][["clip", "message"]].to_numpy().tolist() == [
        ["AAAAAAAAAAA", "left out of split: its id is in test"],
        ["AAAAAAAAAAA~2", "left out of match_split: its id is in val"],
    ]


def test_clips_with_names_of_their_own_have_their_files_as_sources(tmp_path):
    found = read_ave(small(tmp_path, "Door slam&kitchen 01.take2&good&0&10"))
    assert found.clips["source"].tolist() == ["kitchen 01.take2", "BBBBBBBBBBB", "-C_CCCCCCCC"]
    assert found.clips["clip"][0].startswith("kitchen_01_take2~")
    assert found.categories == ("Door slam", "Cat", "Bark")
    assert found.issues.empty


def test_a_file_of_categories_gives_their_order_and_finds_typos(tmp_path):
    (small(tmp_path) / "names.txt").write_text("Meow\nCat\nBark\n")
    assert read_annotations("ave", tmp_path, categories="names.txt").categories == ("Meow", "Cat", "Bark")
    (tmp_path / "names.txt").write_text("Barks\nCat\n")
    with pytest.raises(AnnotationError, match=r"Annotations\.txt, line 1.*'Bark'; did you mean 'Barks'"):
        read_ave(tmp_path, categories="names.txt")
    (tmp_path / "names.txt").write_text("Bark\nBark\n")
    with pytest.raises(AnnotationError, match=r"names\.txt, line 2"):
        read_ave(tmp_path, categories="names.txt")


def test_a_reversed_event_leaves_background(tmp_path):
    found = read_ave(small(tmp_path, "Bark&AAAAAAAAAAA&good&7&3"))
    assert found.issues["code"].tolist() == ["reversed_event"]
    assert (segment_labels(found.events, found.clips.head(1), found.categories) == 2).all()


def test_the_same_id_with_another_category_at_another_time_is_no_conflict(tmp_path):
    later = "Cat&AAAAAAAAAAA&good&6&8"
    first = "Bark&AAAAAAAAAAA&good&0&6"
    found = read_ave(write(tmp_path, [first, later, ROWS[1], ROWS[2]], [first, later], [ROWS[1]], [ROWS[2]]))
    assert found.issues["code"].tolist() == ["repeated_id"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Bark&AAAAAAAAAAA&good&0", "not 4"),
        ("Bark&AAAAAAAAAAA&good&0&10&", "not 6"),
        ("Bark&AAAAAAAAAAA&good&zero&10", "'zero'"),
        ("Bark&AAAAAAAAAAA&good&0&11", "'11'"),
        ("&AAAAAAAAAAA&good&0&10", "a category's name"),
        ("B\0rk&AAAAAAAAAAA&good&0&10", "a category's name"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_line_and_content(tmp_path, line, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_ave(write(tmp_path, [ROWS[0], line], [ROWS[0]], [ROWS[0]], [ROWS[0]]))
    assert "Annotations.txt, line 2" in str(caught.value)
    assert repr(line) in str(caught.value)


def test_a_set_with_an_unknown_line_is_an_error(tmp_path):
    with pytest.raises(AnnotationError, match=r"valSet\.txt, line 1.*Annotations\.txt"):
        read_ave(write(tmp_path, ROWS, ROWS[:2], [ROWS[1]], [ROWS[2]]))  # named by train before


@pytest.mark.parametrize("name", ["Annotations.txt", "trainSet.txt", "valSet.txt", "testSet.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    (small(tmp_path) / name).unlink()
    with pytest.raises(AnnotationError, match=name):
        read_ave(tmp_path)


def test_different_refused_ids_are_different_clips_and_cause_no_leak(tmp_path):
    rows = ["Bark&../../x&good&0&10", "Bark&&good&0&10", "Bark&../../x&good&0&10"]
    found = read_ave(write(tmp_path, rows, [rows[0]], [rows[1]], [rows[2]]))
    first, second, third = found.clips["clip"]
    assert first != second
    assert third == f"{first}~2"
    assert not found.issues["code"].str.startswith("id_in").any()


# The authors' h5 files.


def h5(path: Path, key: str, values: object) -> None:
    with h5py.File(path, "w") as file:
        file[key] = np.asarray(values)


def test_labels_of_a_file_replace_the_intervals_and_differences_are_reported(tmp_path):
    folder = small(tmp_path)  # Bark 0-10, Cat 2-5, Bark 3-7
    labels = np.zeros((3, 10, 3))
    labels[0, :, 0] = 1
    labels[1, [0, 1, 6], 1] = 1  # Cat twice
    labels[1, [2, 3, 4, 5, 7, 8, 9], 2] = 1
    labels[2, 3:7, 0] = labels[2, 5:7, 1] = 1  # Bark, and Cat inside it
    h5(folder / "labels.h5", "avadataset", labels)
    found = read_ave(folder, labels="labels.h5")
    assert list(found.events[["clip", "category", "onset", "offset"]].itertuples(index=False, name=None)) == [
        ("AAAAAAAAAAA", "Bark", 0, 10),
        ("BBBBBBBBBBB", "Cat", 0, 2),
        ("BBBBBBBBBBB", "Cat", 6, 7),
        ("-C_CCCCCCCC", "Bark", 3, 7),
        ("-C_CCCCCCCC", "Cat", 5, 7),
    ]
    assert found.issues["code"].tolist() == ["other_labels", "other_labels"]
    assert found.issues["message"][0] == "labels.h5: Cat 0-2, Cat 6-7; Annotations.txt: Cat 2-5"


def test_labels_of_another_dataset_are_refused(tmp_path):
    h5(small(tmp_path) / "labels.h5", "avadataset", np.zeros((3, 10, 29)))
    with pytest.raises(H5Error, match=r"\(3, 10, 29\), expected \(3, segments, 3\)"):
        read_ave(tmp_path, labels="labels.h5")


def test_the_noisy_set_is_a_split_of_background_clips(tmp_path):
    plain, found = read_ave(small(tmp_path)), read_ave(tmp_path, noisy=2)
    assert found.clips[:3].equals(plain.clips)
    assert found.clips[3:].to_dict("list") == {
        "clip": ["noisy~0", "noisy~1"], "split": ["weak"] * 2, "source": [""] * 2,
        "start": [pytest.approx(np.nan, nan_ok=True)] * 2, "end": [pytest.approx(np.nan, nan_ok=True)] * 2,
        "split_order": [0, 1],
    }  # fmt: skip
    assert (segment_labels(found.events, found.clips[3:], found.categories) == 2).all()


def test_order_files_are_read_where_the_set_files_are_missing(tmp_path):
    plain = read_ave(small(tmp_path))
    for split in ("train", "val", "test"):
        h5(tmp_path / f"{split}_order.h5", "order", {"train": [0], "val": [1], "test": [2]}[split])
        (tmp_path / f"{split}Set.txt").unlink()
    assert read_ave(tmp_path).clips.equals(plain.clips)
    h5(tmp_path / "val_order.h5", "order", [])
    h5(tmp_path / "test_order.h5", "order", [2, 1])
    assert read_ave(tmp_path).clips["split_order"].tolist() == [0, 1, 0]
    for wrong in ([3], [-1], [0], [0.5]):
        h5(tmp_path / "test_order.h5", "order", wrong)
        with pytest.raises(H5Error, match=r"entry 0: .*\(0 to 2\)"):
            read_ave(tmp_path)
