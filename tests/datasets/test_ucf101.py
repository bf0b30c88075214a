"""UCF-101's lists: the counts of the real ones, and what happens to wild lines."""

from pathlib import Path

import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.ucf101 import read_ucf101
from avpipe.plan.registry import UnknownNameError

TRAIN = ["Archery/v_Archery_g08_c01.avi 1", "Jump/v_Leap_g08_c02.avi 2"]
TEST = ["Archery/v_Archery_g01_c01.avi"]


def write(folder: Path, train: list[str] = TRAIN, test: list[str] = TEST) -> Path:
    folder.mkdir(exist_ok=True)
    files = {"classInd": ["1 Archery", "2 Jump"], "trainlist01": train, "testlist01": test}
    for name, lines in files.items():
        text = "".join(f"{line}\r\n" for line in lines)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    return folder


@pytest.mark.parametrize(("split", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_the_real_splits_have_their_counts(shared, split, train, test):
    found = read_annotations("ucf101", shared / "data" / "ucf", split=split)
    assert found.clips["split"].value_counts().to_dict() == {"train": train, "test": test}
    assert (len(found.categories), *found.categories[::100]) == (101, "ApplyEyeMakeup", "YoYo")
    assert len(found.issues) == 0
    assert found.events["clip"].tolist() == found.clips["clip"].tolist()
    assert set(found.events["modality"]) == {"video"}
    assert found.events["category"].nunique() == 101


def test_the_real_splits_divide_the_same_videos(shared):
    read = [read_ucf101(shared / "data" / "ucf", split=split).clips for split in (1, 2, 3)]
    assert {len(clips) for clips in read} == {13320}
    assert set(read[0]["source"]) == set(read[1]["source"]) == set(read[2]["source"])


def test_the_category_is_that_of_the_folder(shared):
    found = read_ucf101(shared / "data" / "ucf")
    odd = found.clips[found.clips["clip"].str.contains("HandStandPushups")]
    assert len(odd) == len(found.events[found.events["category"] == "HandstandPushups"])
    assert odd["source"].str.startswith("HandstandPushups/v_HandStandPushups_").all()


def test_a_clip_is_a_whole_video(tmp_path):
    found = read_ucf101(write(tmp_path))
    assert found.clips["clip"].tolist() == ["v_Archery_g08_c01", "v_Leap_g08_c02", "v_Archery_g01_c01"]
    assert found.clips["source"].tolist() == [line.split(" ")[0] for line in [*TRAIN, *TEST]]
    assert found.clips[["start", "end"]].isna().all(axis=None)
    assert found.events["category"].tolist() == ["Archery", "Jump", "Archery"]


def test_files_of_ones_own_are_named_by_their_paths(tmp_path):
    train = [*TRAIN, "Archery/1.mp4 1", "Jump/1.mp4 2"]
    found = read_ucf101(write(tmp_path, train, [*TEST, "Jump/my jump.mov"]))
    own = found.clips[~found.clips["clip"].str.startswith("v_")]
    assert own["source"].tolist() == ["Archery/1.mp4", "Jump/1.mp4", "Jump/my jump.mov"]
    assert own["clip"].tolist()[:2] == ["Archery~1~mp4", "Jump~1~mp4"]
    assert own["clip"].iloc[2] == "Jump~my_jump~mov"
    assert found.issues.empty


def test_other_splits_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"split.*\[1, 2, 3\]"):
        read_annotations("ucf101", write(tmp_path), split=4)
    with pytest.raises(AnnotationError, match=r"trainlist02\.txt"):
        read_annotations("ucf101", tmp_path, split=2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery/v_Archery_g08_c09.avi", "a path and the number of a class"),
        ("Archery/v_Archery_g08_c09.avi 3", "a path and the number of a class"),
        ("Archery/v_Archery_g08_c09.avi 2", "2 is Jump"),
        ("Biking/v_Biking_g08_c09.avi 1", "a folder that classInd.txt lists"),
        (TRAIN[0], r"trainlist01\.txt:1"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, line, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_ucf101(write(tmp_path, [*TRAIN, line]))
    assert "trainlist01.txt, line 3" in str(caught.value)


def test_broken_classes_are_an_error(tmp_path):
    for content in ("1 Archery\n3 Jump\n", "1 Archery\n2 Archery\n", "1\n", "1 Arch/ery\n"):
        (write(tmp_path) / "classInd.txt").write_text(content)
        with pytest.raises(AnnotationError, match=r"classInd\.txt, line"):
            read_ucf101(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "Archery/../v_Archery_g01_c01.avi",
        "-rf",
        "Archery/.avi",
        "Archery/x.tx t",
        "Archery/x",
    ],
)
def test_a_hostile_path_is_listed_without_a_source(tmp_path, path):
    found = read_ucf101(
        write(tmp_path, [*TRAIN, f"{path} 2" if not path.startswith("Arch") else f"{path} 1"])
    )
    assert found.clips["source"][2] == ""
    assert found.clips["clip"][2].startswith("refused~")
    assert found.issues["code"].tolist() == ["refused_id"]
