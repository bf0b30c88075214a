"""VoxCeleb's lists and folders: forms of lines, splits by speaker."""

import pytest

from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.voxceleb import read_voxceleb


@pytest.mark.parametrize("before", ["id00012 ", "1 ", ""])
def test_lists_of_both_datasets_name_a_path_at_the_end(tmp_path, before):
    (tmp_path / "list.txt").write_text(
        f"{before}id00012/21Uxsk56VDQ/00001.wav\n{before}id00013/-_abcdefghi/00002.wav\n"
    )
    found = read_annotations("voxceleb", tmp_path, lists="list.txt")
    assert found.clips["clip"].tolist() == ["id00012_21Uxsk56VDQ_00001", "id00013_-_abcdefghi_00002"]
    assert found.clips["source"].tolist() == [
        "id00012/21Uxsk56VDQ/00001.mp4",
        "id00013/-_abcdefghi/00002.mp4",
    ]
    assert found.events["category"].tolist() == list(found.categories) == ["id00012", "id00013"]


@pytest.mark.parametrize("line", ["id00012/../00001.wav", "id1/21Uxsk56VDQ/00001.wav", "id00012/21Uxsk56VDQ/00001",
                                  "id00012/21Uxsk56VDQ/00001.wav 1"])  # fmt: skip
def test_other_lines_are_named(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"id00012/21Uxsk56VDQ/00001.wav\n{line}\n")
    with pytest.raises(AnnotationError, match=r"list\.txt.*2"):
        read_voxceleb(tmp_path, lists="list.txt")


def test_an_utterance_is_listed_once(tmp_path):
    (tmp_path / "list.txt").write_text("id00012/a/00001.wav\nid00012/a/00001.m4a\n")
    with pytest.raises(AnnotationError, match="listed once"):
        read_voxceleb(tmp_path, lists="list.txt")


def write_list(folder, speakers, utterances):
    lines = [f"id{n:05d}/video/{u:05d}.wav" for n in range(speakers) for u in range(utterances)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")


def splits(folder, **options) -> dict[str, set[str]]:
    """Speaker -> the splits of the speaker's utterances."""
    clips = read_voxceleb(folder, lists="list.txt", **options).clips
    speakers = clips["source"].str.partition("/")[0]
    return clips.groupby(speakers)["split"].agg(set).to_dict()


def test_a_speaker_is_in_one_split_and_stays_there_when_the_list_grows(tmp_path):
    write_list(tmp_path, 300, 2)
    few = splits(tmp_path)
    assert all(len(found) == 1 for found in few.values())
    counts = [sum(found == {name} for found in few.values()) for name in ("train", "val", "test")]
    # Three standard deviations of the larger number: 3 sqrt(300 * 0.8 * 0.2) = 21.
    assert counts == pytest.approx([240, 30, 30], abs=21)
    assert splits(tmp_path, seed=1) != few
    write_list(tmp_path, 400, 3)
    assert few.items() <= splits(tmp_path).items()
    assert set().union(*splits(tmp_path, val=0.0, test=0.0).values()) == {"train"}
    with pytest.raises(ValueError, match="sum below 1"):
        splits(tmp_path, val=0.5, test=0.5)


def test_some_utterances_of_each_speaker_are_kept_and_more_keep_all_of_fewer(tmp_path):
    write_list(tmp_path, 5, 6)
    two, three = (read_voxceleb(tmp_path, lists="list.txt", per_speaker=count) for count in (2, 3))
    assert two.events["category"].value_counts().to_dict() == {f"id{n:05d}": 2 for n in range(5)}
    assert set(two.clips["clip"]) < set(three.clips["clip"])
    assert two.issues["message"].tolist() == ["20 of 30 utterances are left out"]


def test_a_folder_needs_no_list(tmp_path):
    for path in ("id00012/b/00002.mp4", "id00012/a/00001.mp4", "id00012/a/00001.txt", "other/a/00001.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert read_voxceleb(tmp_path).clips["source"].tolist() == ["id00012/a/00001.mp4", "id00012/b/00002.mp4"]
    with pytest.raises(AnnotationError, match=r"has no files .*\.avi"):
        read_voxceleb(tmp_path, ending="avi")
