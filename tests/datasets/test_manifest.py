"""Rows and shards never move, digests change when their clips do, paths stay inside their folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe import files
from avpipe.clips import RowsError, local_file
from avpipe.datasets import manifest as manifest_module
from avpipe.datasets.base import CLIP_COLUMNS, EVENT_COLUMNS, ISSUE_COLUMNS, Annotations, table
from avpipe.datasets.labels import manifest_labels, read_categories
from avpipe.datasets.manifest import assign_rows, inventory, link_folder, write_manifest
from avpipe.features.store import open_features, write_shard
from avpipe.plan.extractor import ImportedConfig
from avpipe.plan.plan import manifest_index

NAN = float("nan")


def annotations(clips: Sequence[str], split: str = "train", events: Sequence[tuple] = ()) -> Annotations:
    rows = [(clip, split, f"{clip}.mp4", NAN, NAN) for clip in clips]
    issues = table([("quirk", "", "line 1: 'a,\"b\"'")], ISSUE_COLUMNS)
    return Annotations(
        ("Bark", "Cat, purring"), table(rows, CLIP_COLUMNS), table(events, EVENT_COLUMNS), issues
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(out: Path) -> dict[str, int]:
    frame = pd.read_parquet(out / "manifest.parquet")
    return dict(zip(frame["clip"], frame["row"], strict=True))


def test_the_files_are_as_described(tmp_path):
    event = ("b", "audiovisual", "Bark", 0.5, 3.0)
    index = write_manifest(annotations(["a", "b", "c"], events=[event]), "mine", tmp_path, 2, [])
    frame = pd.read_parquet(tmp_path / "manifest.parquet")
    columns = ["clip", "dataset", "split", "source", "start", "end", "shard", "row", "split_order"]
    assert frame.columns.tolist() == columns
    assert frame["shard"].tolist() == [0, 0, 1]
    assert frame.loc[1].drop(["start", "end"]).tolist() == ["b", "mine", "train", "b.mp4", 0, 1, 1]
    assert frame["start"].isna().all()
    assert [tuple(row) for row in pd.read_parquet(tmp_path / "events.parquet").to_numpy()] == [event]
    assert (tmp_path / "rows.csv").read_text() == "clip\na\nb\nc\n"
    assert pd.read_csv(tmp_path / "categories.csv").to_numpy().tolist() == [[0, "Bark"], [1, "Cat, purring"]]
    assert pd.read_csv(tmp_path / "issues.csv", keep_default_na=False).to_numpy().tolist() == [
        ["quirk", "", "line 1: 'a,\"b\"'"]
    ]
    assert json.loads((tmp_path / "manifest.json").read_text()) == index
    assert list(index.pop("shards")) == ["0", "1"]
    assert len(index.pop("labels")) == 16
    assert index.pop("sha256") == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("rows.csv", "events.parquet", "categories.csv")
    }
    assert index == {
        "dataset": "mine", "clips": 3, "rows": 3, "shard_size": 2, "splits": {"train": 3}, "categories": 2, "issues": {"quirk": 1},
    }  # fmt: skip


def test_the_same_input_gives_the_same_bytes(tmp_path):
    some = annotations(["a", "b"], events=[("a", "video", "Bark", NAN, NAN)])
    for name in ("one", "two", "two"):
        write_manifest(some, "mine", tmp_path / name, 256, [])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert b"pandas" not in (tmp_path / "one" / "manifest.parquet").read_bytes()  # no versions of libraries


def test_adding_clips_appends_and_leaves_full_shards_alone(tmp_path):
    first = write_manifest(annotations(["b", "d", "f"]), "mine", tmp_path, 2, [])
    then = write_manifest(annotations(["a", "b", "c", "d", "f"]), "mine", tmp_path, 2, [])
    assert rows_of(tmp_path) == {"b": 0, "d": 1, "f": 2, "a": 3, "c": 4}
    assert then["shards"]["0"] == first["shards"]["0"]
    assert then["shards"]["1"] != first["shards"]["1"]
    assert (then["clips"], then["rows"]) == (5, 5)


def test_removed_clips_keep_their_row_for_when_they_come_back(tmp_path):
    first = write_manifest(annotations(["a", "b", "c", "d"]), "mine", tmp_path, 2, [])
    then = write_manifest(annotations(["b"]), "mine", tmp_path, 2, [])
    assert (then["clips"], then["rows"], list(then["shards"])) == (1, 4, ["0"])
    assert then["shards"]["0"] != first["shards"]["0"]
    assert write_manifest(annotations(["a", "b", "c", "d"]), "mine", tmp_path, 2, []) == first


def test_the_order_in_splits_is_that_of_the_annotations(tmp_path):
    write_manifest(annotations(["b"]), "mine", tmp_path, 2, [])
    write_manifest(annotations(["a", "b"]), "mine", tmp_path, 2, [])
    frame = pd.read_parquet(tmp_path / "manifest.parquet")
    assert dict(zip(frame["clip"], frame["split_order"], strict=True)) == {"a": 0, "b": 1}


def test_further_splits_change_no_shard(tmp_path):
    first = write_manifest(annotations(["a", "b"]), "mine", tmp_path, 2, [])
    divided = annotations(["a", "b"])
    more = divided.clips.assign(split_order=[1, 0], match_split=["test", "none"], match_order=[0, 0])
    again = write_manifest(replace(divided, clips=more), "mine", tmp_path, 2, [])
    frame = pd.read_parquet(tmp_path / "manifest.parquet")
    found = frame[["split_order", "match_split", "match_order"]].to_numpy().tolist()
    assert found == [[1, "test", 0], [0, "none", 0]]
    assert again["shards"] == first["shards"]


def test_a_changed_split_or_source_changes_its_shard_only(tmp_path):
    first = write_manifest(annotations(["a", "b", "c", "d"]), "mine", tmp_path, 2, [])
    changed = annotations(["a", "b", "c", "d"])
    changed.clips.loc[3, "split"] = "test"
    then = write_manifest(changed, "mine", tmp_path, 2, [])
    assert [then["shards"][k] == first["shards"][k] for k in "01"] == [True, False]


def test_a_local_file_that_changes_or_appears_changes_its_shard_only(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"1")
    some = annotations(["a", "b", "c", "d"])

    def digests() -> dict[str, str]:
        return write_manifest(
            some, "mine", tmp_path / "out", 2, [(tmp_path / "missing", "{clip}.mp4"), (videos, "{source}")]
        )["shards"]

    first = digests()
    assert digests() == first
    (videos / "a.mp4").write_bytes(b"12")
    longer = digests()
    os.utime(videos / "a.mp4", ns=(1, 1))
    touched = digests()
    assert len({first["0"], longer["0"], touched["0"]}) == 3
    assert first["1"] == longer["1"] == touched["1"]
    (videos / "d.mp4").touch()
    assert (digests()["0"], digests()["1"] == first["1"]) == (touched["0"], False)


def test_a_changed_archive_changes_the_clips_that_no_earlier_folder_has(tmp_path):
    folder, archive = tmp_path / "folder", tmp_path / "clips.zip"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"1")
    archive.write_bytes(b"zip")
    sources = [(folder, "{clip}.mp4"), (archive, "{clip}.mp4")]

    def digests() -> dict[str, str]:
        return write_manifest(annotations(["a", "b"]), "mine", tmp_path / "out", 1, sources)["shards"]

    before = digests()
    archive.write_bytes(b"another zip")
    after = digests()
    assert before["0"] == after["0"]
    assert before["1"] != after["1"]


def test_a_project_copied_elsewhere_keeps_its_digests(tmp_path):
    found = []
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        (place / "a.mp4").write_bytes(b"1")
        os.utime(place / "a.mp4", ns=(5, 5))
        found.append(write_manifest(annotations(["a"]), "mine", place / "out", 2, [(place, "{source}")]))
    assert found[0] == found[1]


def test_killed_between_two_files_a_second_run_gives_the_same(tmp_path, monkeypatch):
    write_manifest(annotations(["a", "c"]), "mine", tmp_path / "killed", 2, [])
    write_manifest(annotations(["a", "c"]), "mine", tmp_path / "whole", 2, [])
    write_manifest(annotations(["a", "b", "c"]), "mine", tmp_path / "whole", 2, [])
    for place, victim in ((manifest_module, "_write_parquet"), (files, "write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(place, victim, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                write_manifest(annotations(["a", "b", "c"]), "mine", tmp_path / "killed", 2, [])
    write_manifest(annotations(["a", "b", "c"]), "mine", tmp_path / "killed", 2, [])
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut off"),
        ("clip", "cut off"),
        ("clip\na\nb", "cut off"),
        ("a\nb\n", "cut off or not written by avpipe"),
        ("clip\na\n\nb\n", "line 3: ''"),
        ("clip\na\n../b\n", "line 3: '../b'"),
        ("clip\na\nb\na\n", "'a' has two rows"),
    ],
)
def test_a_damaged_row_list_is_not_continued(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(RowsError, match=message):
        write_manifest(annotations(["a"]), "mine", tmp_path, 2, [])
    assert (tmp_path / "rows.csv").read_text() == text
    assert not (tmp_path / "manifest.json").exists()


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=6))
def test_rows_are_appended_and_never_renumbered(versions):
    known: list[str] = []
    given_rows: dict[str, int] = {}
    for clips in versions:
        rows, longer = assign_rows(known, clips)
        assert longer[: len(known)] == known
        assert longer[len(known) :] == [clip for clip in clips if clip not in known]
        assert [longer[row] for row in rows] == clips
        for clip, row in zip(clips, rows, strict=True):
            assert given_rows.setdefault(clip, row) == row
        known = longer


def test_a_shard_size_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="shard_size"):
        write_manifest(annotations(["a"]), "mine", tmp_path, 0, [])


# Where the file of a clip lies.


@given(
    source=st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(["..", "../x", "a/../../x", "/x", "a\0b", "{clip}"])
)
def test_no_source_leads_outside_its_folder(source):
    root = Path("/somewhere/videos")
    path = local_file(root, "{source}", "clip", source)
    if path is not None:
        assert Path(os.path.normpath(path)).is_relative_to(root)
        assert "\0" not in str(path)


def test_patterns_are_filled_with_source_and_clip():
    root = Path("videos")
    assert local_file(root, "{source}.mp4", "x~2", "-x") == root / "-x.mp4"
    assert local_file(root, "{clip}/{source}.mkv", "x~2", "{clip}") == root / "x~2" / "{clip}.mkv"


def test_a_refused_source_has_no_file():
    assert local_file(Path("videos"), "{source}.mp4", "refused~1", "") is None
    assert local_file(Path("videos"), "{clip}.mp4", "refused~1", "") == Path("videos/refused~1.mp4")


@pytest.mark.parametrize("pattern", ["x.mp4", "{}", "{id}.mp4", "{source.__class__}", "{source!r}", "{clip:>9}", "{source", "/{source}", "../{source}"])  # fmt: skip
def test_patterns_with_anything_else_than_source_and_clip_are_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="pattern"):
        write_manifest(annotations(["a"]), "mine", tmp_path, 2, [(tmp_path, pattern)])


# The inventory.


def test_the_inventory_changes_with_names_sizes_and_times(tmp_path):
    folder = tmp_path / "videos"
    assert inventory([folder]) == "absent"
    (folder / "sub").mkdir(parents=True)
    seen = [inventory([folder])]
    for change in (
        lambda: (folder / "sub" / "a.mp4").touch(),
        lambda: (folder / "sub" / "a.mp4").write_bytes(b"1"),
        lambda: os.utime(folder / "sub" / "a.mp4", ns=(7, 7)),
        lambda: (folder / "sub" / "a.mp4").rename(folder / "a.mp4"),
        lambda: (folder / "b.mp4").symlink_to("nowhere"),
    ):
        change()
        assert inventory([folder]) == inventory([folder])
        seen.append(inventory([folder]))
    assert len(set(seen)) == len(seen)


def test_the_inventory_depends_neither_on_the_place_nor_on_the_order_of_creation(tmp_path):
    for place, names in (("one", "ab"), ("two", "ba")):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / name).touch()
            os.utime(tmp_path / place / name, ns=(3, 3))
    assert inventory([tmp_path / "one"]) == inventory([tmp_path / "two"])


def test_the_inventory_takes_files_missing_roots_odd_names_and_ends_where_links_form_a_circle(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "line\nbreak ü").touch()
    (tmp_path / "list.txt").write_text("x")
    roots = [tmp_path, tmp_path / "list.txt", tmp_path / "missing"]
    *found, missing = inventory(roots).split("+")
    assert [len(part) for part in found] == [16, 16]
    assert missing == "absent"


def test_the_labels_digest_follows_events_and_categories_only(tmp_path):
    event = ("b", "audiovisual", "Bark", 0.5, 3.0)
    first = write_manifest(annotations(["a", "b"], events=[event]), "mine", tmp_path / "1", 2, [])
    more_clips = write_manifest(annotations(["a", "b", "c"], events=[event]), "mine", tmp_path / "2", 2, [])
    later = ("b", "audiovisual", "Bark", 0.5, 4.0)
    moved = write_manifest(annotations(["a", "b"], events=[later]), "mine", tmp_path / "3", 2, [])
    assert first["labels"] == more_clips["labels"]
    assert first["labels"] != moved["labels"]


@pytest.fixture
def linked(tmp_path):
    """The folder A with two files, and the results of its study."""
    (tmp_path / "A").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "A" / name).write_bytes(b"content")
    results = tmp_path / "results"
    link_folder(tmp_path / "A", results)
    write_manifest(annotations(["a", "b"]), "mine", results, 8, [(results / "source", "{source}")])
    return tmp_path / "A", results


def test_a_moved_folder_with_all_its_files_is_the_same_folder(linked, tmp_path):
    folder, results = linked
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "new.mp4").write_bytes(b"content")
    link_folder(moved, results)
    assert (results / "source" / "a.mp4").is_file()


@pytest.mark.parametrize("lost", ["a file", "manifest.json"])
def test_a_folder_without_the_files_of_the_results_is_refused_until_the_link_is_removed(
    lost, linked, tmp_path
):
    folder, results = linked
    other = tmp_path / "B"
    shutil.copytree(folder, other)  # copytree keeps the times of files
    (other / "b.mp4" if lost == "a file" else results / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"another folder.*A.*--config folder=.*B"):
        link_folder(other, results)
    assert (results / "source").readlink() == folder
    (results / "source").unlink()
    link_folder(other, results)
    assert (results / "source").readlink() == other


def test_before_a_manifest_is_made_any_folder_may_follow(tmp_path):
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        link_folder(tmp_path / name, tmp_path / "results")
    assert (tmp_path / "results" / "source").readlink() == tmp_path / "B"


def read_features(results):
    """Open an array whose rows are those of the manifest in `results`."""
    config = ImportedConfig(path="x", format="h5", shape=(1, 1))
    array = results / "features" / "a.zarr"
    write_shard(array, config, 0, 2, np.zeros((2, 1, 1), "float32"), {}, {"environment": {}})
    return open_features(array)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("rows.csv", read_features),
        ("events.parquet", manifest_labels),
        ("categories.csv", manifest_labels),
        ("categories.csv", read_categories),
    ],
)
def test_a_changed_byte_in_a_file_of_the_manifest_is_noticed_when_it_is_read(name, read, tmp_path):
    event = ("b", "audiovisual", "Bark", 0.5, 3.0)
    write_manifest(annotations(["a", "b"], events=[event]), "mine", tmp_path, 2, [])
    read(tmp_path)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    place = content.index(b"a\n") if name == "rows.csv" else len(content) // 2
    content[place] ^= 2  # in rows.csv, clip a becomes clip c
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged.*delete .*manifest.json"):
        read(tmp_path)


def test_a_cut_manifest_json_is_named(tmp_path):
    write_manifest(annotations(["a"]), "mine", tmp_path, 2, [])
    file = tmp_path / "manifest.json"
    file.write_bytes(file.read_bytes()[:30])
    for read in (manifest_index, lambda path: read_features(path.parent)):
        with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
            read(file)
