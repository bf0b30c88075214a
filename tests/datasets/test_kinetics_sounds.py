"""Kinetics-Sounds: the paper's classes out of Kinetics' csv files, OGM-GE's lists, and what happens to wild lines."""

from collections import Counter
from pathlib import Path

import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.kinetics_sounds import CLASSES, RENAMED, read_kinetics_sounds
from avpipe.plan.registry import UnknownNameError

HEADER = "label,youtube_id,time_start,time_end,split"
TRAIN = ["tap dancing,--3ouPhoy2A,20,30,train", '"mowing lawn",-9B_tR1Z3yQ,4,14,train', "yoga,abcdefghijk,0,10,train"]  # fmt: skip
VALIDATE = ["tap dancing,_dbcJuKJQNs,40,50,validate"]


def write(folder: Path, files: dict[str, list[str]]) -> Path:
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\r\n" for line in lines), encoding="utf-8", newline="")
    return folder


def kinetics(folder: Path, train: list[str] = TRAIN) -> Path:
    return write(folder, {"train.csv": [HEADER, *train], "validate.csv": [f"{HEADER},is_cc", *VALIDATE]})


def test_there_are_34_classes_of_which_four_are_renamed():
    assert len(set(CLASSES)) == 34
    assert set(RENAMED) < set(CLASSES)


def test_the_papers_classes_are_taken_out_of_kinetics(tmp_path):
    found = read_annotations("kinetics_sounds", kinetics(tmp_path))
    assert found.categories == ("mowing lawn", "tap dancing")  # in the paper's order
    assert found.clips.to_dict("list") == {
        "clip": [
            "--3ouPhoy2A_000020_000030",
            "-9B_tR1Z3yQ_000004_000014",
            "_dbcJuKJQNs_000040_000050",
        ],
        "split": ["train", "train", "val"],
        "source": ["--3ouPhoy2A", "-9B_tR1Z3yQ", "_dbcJuKJQNs"],
        "start": [20, 4, 40],
        "end": [30, 14, 50],
    }
    assert found.events["category"].tolist() == ["tap dancing", "mowing lawn", "tap dancing"]
    assert set(found.events["modality"]) == {"video"}
    assert Counter(found.issues["code"]) == {"no_such_class": 32}


def test_classes_of_ones_own_replace_the_papers(tmp_path):
    write(tmp_path, {"mine.txt": ["yoga", "zumba"]})
    found = read_kinetics_sounds(kinetics(tmp_path), categories="mine.txt")
    assert found.categories == ("yoga", "zumba")
    assert found.clips["clip"].tolist() == ["abcdefghijk_000000_000010"]
    assert found.issues["message"].tolist() == ["no line has the class 'zumba'"]


OGM = {
    "my_train.txt": ["U6P-Fcdb410_000002_000012,10,16", "V5_-JDW8dQ__000440_000450,10,30"],
    "my_test.txt": ["-3Mwkq-7TV4_2,10,23", "U6P-Fcdb410_2,10,16"],
}


def test_ogms_lists_have_numbers_for_categories(tmp_path):
    found = read_annotations("kinetics_sounds", write(tmp_path, OGM), lists="ogm")
    assert (len(found.categories), found.categories[30]) == (31, "class 30")
    assert found.clips["clip"].tolist() == [
        "U6P-Fcdb410_000002_000012",
        "V5_-JDW8dQ__000440_000450",
        "-3Mwkq-7TV4_000002_000012",
        "U6P-Fcdb410_000002_000012~2",
    ]
    assert found.clips["split"].tolist() == ["train", "train", "test", "test"]
    assert found.events["category"].tolist() == ["class 16", "class 30", "class 23", "class 16"]
    assert found.issues["code"].tolist() == ["repeated_id", "id_in_train_and_test"]


def test_names_for_ogms_numbers_come_from_a_file(tmp_path):
    write(tmp_path, {**OGM, "names.txt": [f"name {number}" for number in range(31)]})
    found = read_kinetics_sounds(tmp_path, lists="ogm", categories="names.txt")
    assert found.events["category"].tolist()[0] == "name 16"
    write(tmp_path, {"names.txt": ["one", "two"]})
    with pytest.raises(AnnotationError, match=r"my_train\.txt, line 1: .*the label 0 to 1"):
        read_kinetics_sounds(tmp_path, lists="ogm", categories="names.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tap dancing,--3ouPhoy2A,20,30", "label,youtube_id"),
        ("tap dancing,--3ouPhoy2A,20,30,other", "one of train, validate, val, test"),
        ("tap dancing,--3ouPhoy2A,30,20,train", "a start before the end"),
        ("tap dancing,--3ouPhoy2A,x,20,train", "a number of seconds"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, line, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_kinetics_sounds(kinetics(tmp_path, [*TRAIN, line]))
    assert "train.csv, line 5" in str(caught.value)


@pytest.mark.parametrize("line", ["U6P-Fcdb410,10,16", "U6P-Fcdb410_2,10,31", "U6P-Fcdb410_9_2,10,1", "_2,10,1"])  # fmt: skip
def test_a_malformed_line_of_ogm_is_an_error(tmp_path, line):
    with pytest.raises(AnnotationError, match=r"my_test\.txt, line 1"):
        read_kinetics_sounds(write(tmp_path, {**OGM, "my_test.txt": [line]}), lists="ogm")


def test_missing_files_and_other_headers_are_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"none of Kinetics' csv files: train\.csv"):
        read_kinetics_sounds(tmp_path)
    with pytest.raises(AnnotationError, match=r"train\.csv, line 1: .*the header label,"):
        read_kinetics_sounds(write(tmp_path, {"train.csv": ["youtube_id,label", "x,y"]}))
    with pytest.raises(UnknownNameError, match="lists"):
        read_annotations("kinetics_sounds", tmp_path, lists="ogn")


def test_a_hostile_id_is_listed_without_a_source(tmp_path):
    found = read_kinetics_sounds(kinetics(tmp_path, [*TRAIN, "singing,../../etc/x,0,10,train"]))
    assert found.clips["source"].tolist()[2] == ""
    assert found.clips["clip"].tolist()[2].startswith("refused~")
    assert "refused_id" in found.issues["code"].tolist()
