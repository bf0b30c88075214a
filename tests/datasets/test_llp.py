"""LLP's csv files: the counts of the real ones, and what happens to broken or hostile ones."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError, Annotations
from avpipe.datasets.labels import clip_labels
from avpipe.datasets.llp import CATEGORIES, read_llp

OLD_AUDIO = "AVVP_eval_audio.pre2024.csv"


@pytest.fixture(scope="session")
def llp(shared: Path) -> Annotations:
    """The real files, with the corrected audio file."""
    return read_annotations("llp", shared / "data" / "llp")


def weak(*rows: str) -> str:
    return "filename\tevent_labels\n" + "".join(f"{row}\n" for row in rows)


def dense(*rows: str) -> str:
    return "filename\tonset\toffset\tevent_labels\n" + "".join(f"{row}\n" for row in rows)


def small(folder: Path, **changed: str) -> Path:
    """A dataset of three clips, one a split; `changed` replaces files by their stem."""
    folder.mkdir(exist_ok=True)
    texts = {
        "AVVP_train": weak("AAAAAAAAAAA_0_10\tDog"),
        "AVVP_val_pd": weak("B_B-BBBBBBB_20_30\tSpeech,Dog"),
        "AVVP_test_pd": weak("-CCCCCCCCCC_9.3_19.3\tCat"),
        "AVVP_eval_audio": dense("B_B-BBBBBBB_20_30\t0\t4\tDog", "-CCCCCCCCCC_9.3_19.3\t1\t10\tCat"),
        "AVVP_eval_visual": dense("B_B-BBBBBBB_20_30\t2\t4\tDog"),
    }
    for stem, text in {**texts, **changed}.items():
        (folder / f"{stem}.csv").write_text(text, encoding="utf-8", newline="")
    return folder


# The real files. The numbers are those of the shared reference, section 1 of video_parsing.md, which counted otherwise.


def test_the_splits_are_the_three_files_in_their_order(llp, shared):
    rows = (shared / "data/llp/AVVP_dataset_full.csv").read_text().splitlines()[1:]
    assert llp.clips["source"].tolist() == [row[:11] for row in rows]
    assert Counter(llp.clips["split"]) == {"train": 10_000, "val": 649, "test": 1_200}
    assert llp.clips.groupby("split")["split_order"].max().to_dict() == {
        "train": 9_999,
        "val": 648,
        "test": 1_199,
    }


def test_clips_are_named_by_id_and_last_ten_seconds(llp):
    assert llp.clips["clip"].equals(llp.clips["source"])
    assert (llp.clips["end"] - llp.clips["start"]).round(6).eq(10).all()
    by_name = llp.clips.set_index("clip")
    assert by_name.loc["4-WjGhtSX-s", ["start", "end"]].tolist() == [270, 280]
    assert by_name.loc["Br4mum2rWtY", "start"] == 9.3


def test_there_are_25_categories_in_the_authors_order(llp):
    assert len(llp.categories) == 25
    assert [llp.categories[i] for i in (0, 13, 24)] == ["Speech", "Violin_fiddle", "Clapping"]


def test_weak_labels_per_video_are_those_of_the_reference(llp):
    labels = clip_labels(llp.events, llp.clips, CATEGORIES, "video")
    train = labels[(llp.clips["split"] == "train").to_numpy()]
    test = labels[(llp.clips["split"] == "test").to_numpy()]
    assert Counter(train.sum(axis=1)) == {1: 4032, 2: 5879, 3: 89}
    # The reference counts 403 videos with one label and 650 with two; `Clapping,Clapping` is one label here.
    assert Counter(test.sum(axis=1)) == {1: 403 + 1, 2: 650 - 1, 3: 118, 4: 25, 5: 3, 7: 1}
    counts = dict(zip(CATEGORIES, train.sum(axis=0), strict=True))
    some = [counts[name] for name in ("Speech", "Violin_fiddle", "Singing", "Dog")]
    assert some == [4988, 1457, 1172, 761]
    assert min(counts.items(), key=lambda item: item[1]) == ("Telephone_bell_ringing", 99)


def grid(annotations: Annotations, split: str, modality: str) -> np.ndarray:
    """(clips, categories, 10) of 0 and 1, second by second."""
    own = annotations.clips[annotations.clips["split"] == split]["clip"].tolist()
    chosen = annotations.events[annotations.events["modality"] == modality]
    marks = np.zeros((len(own), 25, 10), dtype=int)
    position = {clip: index for index, clip in enumerate(own)}
    for event in chosen[chosen["clip"].isin(own)].itertuples():
        marks[
            position[event.clip], CATEGORIES.index(event.category), int(event.onset) : int(event.offset)
        ] = 1
    return marks


def runs(marks: np.ndarray) -> int:
    """Maximal runs of ones along the last axis."""
    return int((np.diff(marks, axis=-1, prepend=0) == 1).sum())


def test_events_merged_on_the_grid_are_those_of_the_reference(llp):
    for split, audio, visual, both in (("val", 1440, 856, 872), ("test", 2638, 1625, 1617)):
        marks = grid(llp, split, "audio"), grid(llp, split, "visual")
        assert (runs(marks[0]), runs(marks[1]), runs(marks[0] * marks[1])) == (audio, visual, both)
    assert (grid(llp, "test", "audio").sum(), grid(llp, "test", "visual").sum()) == (14_576, 11_789)


def test_train_clips_have_weak_labels_only(llp):
    train = llp.clips[llp.clips["split"] == "train"]["clip"]
    assert set(llp.events[llp.events["clip"].isin(train)]["modality"]) == {"video"}


def test_all_irregularities_are_reported(llp):
    assert Counter(llp.issues["code"]) == {
        "unknown_audio_name": 8,
        "unknown_visual_name": 7,
        "zero_length_event": 5,
        "reversed_event": 1,
        "duplicate_event": 8,
        "duplicate_label": 1,
        "audio_outside_label": 76,  # the reference's 90 are these and the 14 rows of names that match no clip
        "visual_outside_label": 51,  # 62 are these and 11 such rows
    }
    messages = "\n".join(llp.issues["message"])
    for name in ("12eWNawPekw_30_40", "19jWnmYnlD8_30_400", "VMTJRpjbE_150_160", "Clapping,Clapping"):
        assert name in messages


def test_the_audio_file_before_april_2024_has_three_broken_rows_more(shared, llp):
    old = read_annotations("llp", shared / "data" / "llp", audio_csv=OLD_AUDIO)
    new_names = set(old.issues["message"]) - {
        m.replace("AVVP_eval_audio.csv", OLD_AUDIO) for m in llp.issues["message"]
    }
    rows = [message.split("left out: ")[1].split(", ") for message in new_names]
    assert sorted(len(places) for places in rows) == [1, 2]  # a wrong name once, a wrong category twice
    assert (llp.events["modality"] == "audio").sum() - (old.events["modality"] == "audio").sum() == 3


def test_both_audio_files_are_found_by_content_under_any_name(shared, tmp_path):
    folder = tmp_path / "llp"
    folder.mkdir()
    for file in (shared / "data" / "llp").iterdir():
        swapped = {"AVVP_eval_audio.csv": OLD_AUDIO, OLD_AUDIO: "AVVP_eval_audio.csv"}
        (folder / swapped.get(file.name, file.name)).write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    for version, name in (("corrected", "AVVP_eval_audio.csv"), ("original", OLD_AUDIO)):
        by_name = read_annotations("llp", shared / "data" / "llp", audio_csv=name)
        assert read_annotations("llp", folder, audio_csv=version).events.equals(by_name.events)


# Small files.


def test_a_missing_version_is_an_error_that_lists_the_files(tmp_path):
    message = r"249122f65501.*AVVP_eval_audio\.csv [0-9a-f]{12}"
    with pytest.raises(AnnotationError, match=message):
        read_llp(small(tmp_path), audio_csv="original")


def test_ids_and_times_are_cut_from_names_by_position(tmp_path):
    found = read_llp(small(tmp_path))
    assert found.clips["clip"].tolist() == ["AAAAAAAAAAA", "B_B-BBBBBBB", "-CCCCCCCCCC"]
    assert found.clips["start"].tolist() == [0, 20, 9.3]
    assert found.issues.empty


def test_clips_and_categories_may_be_ones_own(tmp_path):
    folder = small(
        tmp_path,
        AVVP_train=weak("take_1_0_10\tDoor slam"),
        AVVP_val_pd=weak("my take.2_4.5_14.5\tDoor slam,Cat"),
        AVVP_eval_audio=dense("my take.2_4.5_14.5\t0\t4\tDoor slam"),
        AVVP_eval_visual=dense(),
    )
    (folder / "names.txt").write_text("Cat\nDoor slam\n")
    found = read_annotations("llp", folder, categories="names.txt")
    assert found.categories == ("Cat", "Door slam")
    assert found.clips["source"].tolist() == ["take_1", "my take.2", "-CCCCCCCCCC"]
    assert found.clips["start"].tolist() == [0, 4.5, 9.3]
    assert found.events["category"].tolist() == ["Door slam", "Door slam", "Cat", "Cat", "Door slam"]
    assert found.issues.empty
    with pytest.raises(AnnotationError, match=r"line 2.*'Door slam'.*options: {categories: FILE}"):
        read_llp(folder)


def test_a_second_window_of_a_video_is_a_clip_of_its_own_with_its_own_events(tmp_path):
    folder = small(
        tmp_path,
        AVVP_train=weak("B_B-BBBBBBB_70_80\tDog"),
        AVVP_eval_audio=dense("B_B-BBBBBBB_20_30\t0\t4\tDog"),
    )
    found = read_llp(folder)
    assert found.clips["clip"].tolist() == ["B_B-BBBBBBB", "B_B-BBBBBBB~2", "-CCCCCCCCCC"]
    assert found.events[found.events["modality"] == "audio"]["clip"].tolist() == ["B_B-BBBBBBB~2"]
    assert found.issues["code"].tolist() == ["repeated_id", "id_in_train_and_val"]


def test_a_window_of_another_length_is_read_as_ten_seconds_and_reported(tmp_path):
    found = read_llp(small(tmp_path, AVVP_train=weak("AAAAAAAAAAA_30_400\tDog")))
    assert found.clips.loc[0, ["start", "end"]].tolist() == [30, 40]
    assert found.issues["code"].tolist() == ["odd_window"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AVVP_train": weak("AAAAAAAAAAA_0_10")}, "AVVP_train.csv, line 2"),
        ({"AVVP_train": weak("AAAAAAAAAAA_0_10\tDgo")}, r"line 2.*'Dgo'; did you mean 'Dog'"),
        ({"AVVP_train": weak("AAAAAAAAAAA_0_10\tDog,")}, r"line 2.*where it has ''"),
        (
            {"AVVP_train": weak("AAAAAAAAAAA_0_10\tDog", "AAAAAAAAAAA_0_10\tCat")},
            r"line 3.*AVVP_train.csv:2 has it",
        ),
        ({"AVVP_train": weak(f"AAAAAAAAAAA_{10**300}_10\tDog")}, "AVVP_train.csv, line 2.*number of seconds"),
        ({"AVVP_train": "AAAAAAAAAAA_0_10\tDog\n"}, "line 1.*header"),
        ({"AVVP_train": "filename,event_labels\n"}, r"line 1.*separated by '\\t'"),
        ({"AVVP_eval_audio": dense("B_B-BBBBBBB_20_30\t0\tDog")}, "AVVP_eval_audio.csv, line 2"),
        ({"AVVP_eval_visual": dense("B_B-BBBBBBB_20_30\t0\t12\tDog")}, "AVVP_eval_visual.csv, line 2.*'12'"),
        (
            {"AVVP_dataset_full": weak("AAAAAAAAAAA_0_10\tDog")},
            r"2 are not in AVVP_dataset_full.csv.*cut off",
        ),
        ({f"AVVP_{name}": weak() for name in ("train", "val_pd", "test_pd")}, "list no clip"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(tmp_path, changed, message):
    with pytest.raises(AnnotationError, match=message):
        read_llp(small(tmp_path, **changed))


def test_another_audio_file_can_be_chosen_and_a_wrong_one_is_named(tmp_path):
    folder = small(tmp_path, other=dense("B_B-BBBBBBB_20_30\t5\t6\tSpeech"))
    found = read_llp(folder, audio_csv="other.csv")
    assert found.events[found.events["modality"] == "audio"]["onset"].tolist() == [5]
    with pytest.raises(AnnotationError, match=r"mine\.csv.*AVVP_eval_audio\.csv"):
        read_llp(folder, audio_csv="mine.csv")


@settings(deadline=None)
@given(name=st.text(st.characters(exclude_characters="\t\n", exclude_categories=["Cs"]), max_size=30))
def test_any_text_in_place_of_a_name_keeps_its_row_and_gets_a_safe_name(tmp_path_factory, name):
    found = read_llp(small(tmp_path_factory.mktemp("llp"), AVVP_train=weak(f"{name}\tDog")))
    assert len(found.clips) == 3
    if found.clips.loc[0, "source"]:
        assert name.startswith(f"{found.clips.loc[0, 'source']}_")
    else:
        assert found.clips.loc[0, "clip"].startswith("refused~")
        assert pd.isna(found.clips.loc[0, "start"])
        assert found.issues["code"].tolist() == ["refused_id"]
        assert repr(name) in found.issues["message"][0]
    assert (found.events["clip"] == found.clips.loc[0, "clip"]).sum() == 1


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "../x_0_10",
        "-rf_0_10",
        "AAAAAAAAAAA",
        "A/_0_10",
        "._0_10",
        "_0_10",
        "",
        "A_0_10 ",
    ],
)
def test_hostile_names_are_refused(tmp_path, name):
    found = read_llp(small(tmp_path, AVVP_train=weak(f"{name}\tDog")))
    assert found.issues["code"].tolist() == ["refused_id"]
