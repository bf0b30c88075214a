"""AudioSet's csv files: every clip and label, subsets that stay when they grow, and what happens to wild lines."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpipe.clips import CLIP_NAME
from avpipe.datasets import read_annotations
from avpipe.datasets.audioset import read_audioset
from avpipe.datasets.base import AnnotationError, source_name
from avpipe.plan.registry import UnknownNameError

CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/t/dd00088,"Gush"\n'
HEAD = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3, num_segs=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
TRAIN = [
    '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"',
    '--ZhevVpy1s, 50.000, 60.000, "/m/05zppz"',
    'abcdefghijk, 0.000, 7.000, "/m/09x0r"',
]
EVAL = ['--ZhevVpy1s, 2.500, 12.500, "/t/dd00088"']


def write(folder: Path, balanced: list[str] = TRAIN, evaluated: list[str] = EVAL) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "class_labels_indices.csv").write_text(CLASSES)
    for name, lines in (("balanced_train", balanced), ("eval", evaluated)):
        (folder / f"{name}_segments.csv").write_text(
            HEAD + "".join(f"{line}\n" for line in lines), newline=""
        )
    return folder


def many(count: int) -> list[str]:
    """Clips of two classes: every fifth gushes."""
    mids = ["/t/dd00088" if number % 5 == 0 else "/m/09x0r" for number in range(count)]
    return [f'id{number:09d}, 0.000, 10.000, "{mid}"' for number, mid in enumerate(mids)]


def test_a_line_is_a_clip_with_weak_labels(tmp_path):
    found = read_annotations("audioset", write(tmp_path))
    assert found.categories == ("Speech", "Male speech, man speaking", "Gush")
    assert found.clips.to_dict("list") == {
        "clip": ["--PJHxphWEs_30", "--ZhevVpy1s_50", "abcdefghijk_0", "--ZhevVpy1s_2500ms"],
        "split": ["train", "train", "train", "test"],
        "source": ["--PJHxphWEs", "--ZhevVpy1s", "abcdefghijk", "--ZhevVpy1s"],
        "start": [30.0, 50.0, 0.0, 2.5],
        "end": [40.0, 60.0, 7.0, 12.5],
    }
    assert list(found.events[["clip", "category"]].itertuples(index=False, name=None)) == [
        ("--PJHxphWEs_30", "Speech"), ("--PJHxphWEs_30", "Gush"), ("--ZhevVpy1s_50", "Male speech, man speaking"),
        ("abcdefghijk_0", "Speech"), ("--ZhevVpy1s_2500ms", "Gush"),
    ]  # fmt: skip
    assert set(found.events["modality"]) == {"video"}
    assert found.events[["onset", "offset"]].isna().all(axis=None)
    assert Counter(found.issues["code"]) == {"odd_window": 1, "id_in_train_and_test": 1}


def test_a_set_needs_only_its_own_file(tmp_path):
    (write(tmp_path) / "balanced_train_segments.csv").unlink()
    assert read_audioset(tmp_path, sets=["eval"]).clips["split"].tolist() == ["test"]
    with pytest.raises(AnnotationError, match=r"balanced_train_segments\.csv"):
        read_audioset(tmp_path)


@pytest.mark.parametrize("wanted", [["Gush", "Speech"], ["/t/dd00088", "Speech"]])
def test_chosen_classes_keep_only_their_clips_and_labels(tmp_path, wanted):
    lines = [*TRAIN, 'both_______, 0.000, 10.000, "/m/05zppz,/m/09x0r"']
    found = read_audioset(write(tmp_path, lines), classes=wanted)
    assert found.categories == ("Speech", "Gush")
    kept = ["--PJHxphWEs_30", "abcdefghijk_0", "both________0", "--ZhevVpy1s_2500ms"]
    assert found.clips["clip"].tolist() == kept
    assert found.events[found.events["clip"] == "both________0"]["category"].tolist() == ["Speech"]
    (left_out,) = found.issues[found.issues["code"] == "left_out"]["message"]
    assert left_out.startswith("balanced_train_segments.csv: 1 of 4 clips")


def test_sizes_are_kept_by_set_and_class(tmp_path):
    write(tmp_path, many(100))
    assert Counter(read_audioset(tmp_path, total=10).clips["split"]) == {"train": 10, "test": 1}
    few = read_audioset(tmp_path, sets=["balanced"], per_class=7)
    assert Counter(few.events["category"]) == {"Speech": 7, "Gush": 7}
    rare = read_audioset(tmp_path, sets=["balanced"], per_class=30)  # there are 20 gushes
    assert Counter(rare.events["category"]) == {"Speech": 30, "Gush": 20}


def test_a_larger_subset_contains_the_smaller_one_and_seeds_differ(tmp_path):
    write(tmp_path, many(100))

    def names(**options: int) -> list[str]:
        return read_audioset(tmp_path, sets=["balanced"], **options).clips["clip"].tolist()

    assert names(total=10) == names(total=10)
    assert set(names(total=10)) < set(names(total=11))
    assert names(total=10) != names(total=10, seed=1)
    assert names(total=10) == sorted(names(total=10))  # in the file's order
    write(tmp_path, many(90))
    assert set(names(total=90)) == set(names())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": ["balance"]}, "did you mean 'balanced'"),
        ({"sets": "eval"}, "balanced, unbalanced, eval"),
        ({"classes": ["Spech"]}, "did you mean 'Speech'"),
        ({"classes": ["xyzzy"]}, "'xyzzy'.*class_labels_indices.csv"),
        ({"classes": "Speech"}, "a list of names or mids"),
        ({"total": -1}, "total is 0 or more, not -1"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises((UnknownNameError, ValueError), match=message):
        read_annotations("audioset", write(tmp_path), **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--PJHxphWEs, 30.000, 40.000, /m/09x0r", "expected YTID, start, end"),
        ('--PJHxphWEs, 30.000, "/m/09x0r"', "expected YTID, start, end"),
        ('--PJHxphWEs, 40.000, 30.000, "/m/09x0r"', "a start before the end"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/nothing"', "where it has '/m/nothing'"),
        ('--PJHxphWEs, 30.000, 40.000, ""', "where it has ''"),
        ('--PJHxphWEs, 30.000, 9999999.000, "/m/09x0r"', "a number of seconds"),
    ],
)
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, line, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read_audioset(write(tmp_path, [*TRAIN, line]))
    assert "balanced_train_segments.csv, line 7" in str(caught.value)


@pytest.mark.parametrize("content", ["", "index,mid\n", CLASSES + "4,/m/x,X\n", CLASSES + '3,/m/x,"Gush"\n', CLASSES + "3,/m/x\n"])  # fmt: skip
def test_a_broken_list_of_classes_is_an_error(tmp_path, content):
    (write(tmp_path) / "class_labels_indices.csv").write_text(content)
    with pytest.raises(AnnotationError, match=r"class_labels_indices\.csv"):
        read_audioset(tmp_path)


def test_an_id_that_a_spreadsheet_destroyed_is_an_issue_not_a_comment(tmp_path):
    found = read_audioset(
        write(tmp_path, [TRAIN[0], '#NAME?, 30.000, 40.000, "/m/09x0r"']), sets=["balanced"]
    )
    assert found.clips["source"].tolist() == ["--PJHxphWEs", ""]
    ((code, message),) = found.issues[["code", "message"]].to_numpy().tolist()
    assert code == "refused_id"
    assert "balanced_train_segments.csv:5: '#NAME?'" in message


def test_a_file_of_comments_is_cut_off(tmp_path):
    with pytest.raises(AnnotationError, match="no clip"):
        read_audioset(write(tmp_path, []))


def test_a_clip_listed_twice_is_two_rows(tmp_path):
    found = read_audioset(write(tmp_path, [TRAIN[0], TRAIN[0]]), sets=["balanced"])
    assert found.clips["clip"].tolist() == ["--PJHxphWEs_30", "--PJHxphWEs_30~2"]
    assert found.issues["code"].tolist() == ["repeated_id"]


@settings(max_examples=50, deadline=None)
@given(identifier=st.text(st.characters(exclude_characters=",\n\r", exclude_categories=["Cs"]), max_size=30))
def test_any_text_in_place_of_an_id_gets_a_safe_name(tmp_path_factory, identifier):
    folder = write(
        tmp_path_factory.mktemp("audioset"), [f'{identifier}, 0.000, 10.000, "/m/09x0r"', TRAIN[1]]
    )
    if identifier.startswith("#"):
        return  # a comment
    found = read_audioset(folder, sets=["balanced"])
    clip, source = found.clips.loc[0, ["clip", "source"]]
    assert len(found.clips) == 2
    assert found.clips["clip"].str.fullmatch(CLIP_NAME).all()
    if source:
        assert (f"{source_name(identifier)[0]}_0", source) == (clip, identifier)
    else:
        assert clip.startswith("refused~")
        assert found.issues["code"].tolist() == ["refused_id"]
