"""What readers share: lines of files, names of clips, tables that hold together."""

import re
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.clips import CLIP_NAME
from avpipe.datasets.base import (
    CLIP_COLUMNS,
    EVENT_COLUMNS,
    ISSUE_COLUMNS,
    AnnotationError,
    Annotations,
    Line,
    number_repeats,
    read_lines,
    shared_id_issues,
    source_name,
    table,
)

NAN = float("nan")
HOSTILE = [
    *("../../etc/passwd", "/etc/passwd", "..", ".hidden", "a\\b", "-rf", "--exec=rm -rf", "", " ", "a "),
    *("a\nb", "abc\0efghijk", "a\u202eb", "a" * 129, "é" * 65),
]


def annotations(
    clips=(("a", "train", "a", NAN, NAN),), events=(), issues=(), categories=("Bark",)
) -> Annotations:
    return Annotations(
        categories, table(clips, CLIP_COLUMNS), table(events, EVENT_COLUMNS), table(issues, ISSUE_COLUMNS)
    )


def test_byte_order_marks_carriage_returns_and_empty_lines_do_not_matter(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeffBark&ä\r\n\r\nCat\r\n".encode())
    assert [(line.number, line.text) for line in read_lines(file)] == [(1, "Bark&ä"), (3, "Cat")]


def test_only_line_feeds_end_a_line(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("a\x0bb\x85c\u2028d\re".encode())
    assert [line.text for line in read_lines(file)] == ["a\x0bb\x85c\u2028d\re"]


def test_a_missing_file_is_reported_with_its_neighbours(tmp_path):
    (tmp_path / "annotations.txt").touch()
    with pytest.raises(AnnotationError, match=r"Annotations\.txt: .*annotations\.txt"):
        list(read_lines(tmp_path / "Annotations.txt"))
    with pytest.raises(AnnotationError, match="no such folder"):
        list(read_lines(tmp_path / "nowhere" / "Annotations.txt"))


def test_an_empty_file_and_one_that_is_not_utf8_are_broken(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes(b"\n\n")
    with pytest.raises(AnnotationError, match="is empty"):
        list(read_lines(file))
    file.write_bytes(b"Bark\nCaf\xe9\n")
    with pytest.raises(AnnotationError, match=r"line 2.*not UTF-8"):
        list(read_lines(file))


@pytest.mark.parametrize("text", ["", "-1", "11", "1e1", "nan", "inf", "3 ", "٣", "1.", "0x1"])
def test_a_wrong_time_is_an_error_that_shows_the_line(text):
    with pytest.raises(AnnotationError, match=re.escape(repr(f"Bark {text}"))):
        Line(Path("f.txt"), 3, f"Bark {text}").seconds(text)


def test_times_may_have_fractions():
    assert Line(Path("f.txt"), 1, "").seconds("9.25") == 9.25


@pytest.mark.parametrize("identifier", HOSTILE)
def test_a_hostile_id_becomes_a_safe_name_and_no_source(identifier):
    name, source = source_name(identifier)
    assert source == ""
    assert re.fullmatch(CLIP_NAME, name)
    assert name.startswith("refused~")


@given(st.text())
def test_a_source_is_the_name_of_a_file_in_the_folder_or_nothing(identifier):
    name, source = source_name(identifier)
    assert re.fullmatch(CLIP_NAME, name)
    assert source in ("", identifier)
    inside = Path("/videos", f"{source}.mp4").resolve()
    assert source == "" or (inside.parent, inside.stem) == (Path("/videos"), source)


@pytest.mark.parametrize("identifier", ["-ccciEuH9FE", "take_1", "kitchen-2024", "a", "a" * 100])
def test_plain_ids_are_names_and_those_of_youtube_may_start_with_a_dash(identifier):
    assert source_name(identifier) == (identifier, identifier)


@pytest.mark.parametrize(
    ("identifier", "readable"),
    [
        ("my take.2", "my_take_2"),
        ("küche", "k_che"),
        ("a~2", "a_2"),
        ("x..y", "x_y"),
        ("猫", "clip"),
        ("a" * 101, "a" * 100),
    ],
)
def test_other_names_of_files_keep_what_is_readable_and_get_a_hash(identifier, readable):
    digest = sha256(identifier.encode()).hexdigest()[:10]
    assert source_name(identifier) == (f"{readable}~{digest}", identifier)


@given(st.lists(st.sampled_from(["x", "y", "z"])))
def test_repeats_are_numbered_in_order(names):
    unique = number_repeats(names)
    assert len(set(unique)) == len(names)
    for position, (name, new) in enumerate(zip(names, unique, strict=True)):
        earlier = names[:position].count(name)
        assert new == (name if earlier == 0 else f"{name}~{earlier + 1}")


def test_an_id_in_three_splits_is_three_issues():
    clips = table([(f"x~{s}", s, "x", NAN, NAN) for s in ("test", "train", "val")], CLIP_COLUMNS)
    pairs = ["train_and_val", "train_and_test", "val_and_test"]
    assert [code for code, *_ in shared_id_issues(clips)] == [f"id_in_{pair}" for pair in pairs]


def test_refused_clips_and_clips_without_split_cause_no_issue():
    clips = [("a", "train", ""), ("b", "test", ""), ("c", "none", "x"), ("d", "test", "x")]
    assert shared_id_issues(table([(*clip, NAN, NAN) for clip in clips], CLIP_COLUMNS)) == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"clips": [("a", "train", "a", NAN, NAN)] * 2}, "clip names repeat"),
        ({"clips": [("a.b", "train", "a", NAN, NAN)]}, "clip names must match"),
        ({"clips": [("a\n", "train", "a", NAN, NAN)]}, "clip names must match"),
        ({"clips": [("", "train", "a", NAN, NAN)]}, "clip names must match"),
        ({"clips": [("a", "validation", "a", NAN, NAN)]}, "split is one of"),
        ({"clips": [("a", "train", "a", 3.0, 3.0)]}, "start < end"),
        ({"clips": [("a", "train", "a", 3.0, NAN)]}, "start < end"),
        ({"events": [("a", "audio", "Meow", 0.0, 1.0)]}, "category is one of"),
        ({"events": [("a", "sound", "Bark", 0.0, 1.0)]}, "modality is one of"),
        ({"events": [("b", "audio", "Bark", 0.0, 1.0)]}, "events belong to clips"),
        ({"events": [("a", "audio", "Bark", 1.0, 1.0)]}, "onset < offset"),
        ({"events": [("a", "audio", "Bark", NAN, NAN)]}, "onset < offset"),
        ({"events": [("a", "video", "Bark", 0.0, 1.0)]}, "NaN for modality video"),
        ({"categories": ("Bark", "Bark")}, "categories repeat"),
    ],
)
def test_inconsistent_tables_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        annotations(**parts)


def test_a_table_without_rows_keeps_its_types():
    assert annotations().events["onset"].dtype == "float64"
    assert annotations().issues.empty
