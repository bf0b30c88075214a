"""Any folder of videos: what is a clip, what it is called, what is left out and why."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.clips import CLIP_NAME, local_file
from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.folder import AUDIO, VIDEO, clip_name, read_folder


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_real_clips_are_all_listed(shared):
    found = read_annotations("folder", shared / "data" / "clips")
    folder = shared / "data" / "clips"
    on_disk = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix[1:] in VIDEO | AUDIO]
    assert found.clips["source"].tolist() == sorted(on_disk)
    assert {"flower~mp4", "flower~webm", "edge~rotated_90~mov", "edge~nasa_audio_only~mp3"} <= set(
        found.clips["clip"]
    )
    assert (found.categories, len(found.events)) == ((), 0)
    assert set(found.clips["split"]) == {"none"}
    assert found.clips[["start", "end"]].isna().all(axis=None)


def test_names_do_not_depend_on_the_neighbours(tmp_path):
    alone = read_folder(fill(tmp_path, "flower.mp4")).clips["clip"].tolist()
    together = read_folder(fill(tmp_path, "a.mp4", "flower.webm", "sub/flower.mp4")).clips
    assert alone == ["flower~mp4"]
    assert together["clip"].tolist() == ["a~mp4", "flower~mp4", "flower~webm", "sub~flower~mp4"]


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("-rf.mp4", "rf~mp4~"),
        ("..mp4", "clip~mp4~"),
        (".mp4", "clip~mp4~"),
        ("a b.mp4", "a_b~mp4~"),
        ("a.b.mp4", "a_b~mp4~"),
        ("a~b.mp4", "a_b~mp4~"),
        ("日本/花.MP4", "clip~mp4~"),
        ("$(rm -rf x);`ls`|&.mkv", "rm_-rf_x_ls~mkv~"),
        ("line\nbreak.mov", "line_break~mov~"),
        (f"{'x' * 99}-{'y' * 99}.mp4", f"{'y' * 99}~mp4~"),
        (f"{'x' * 240}.mp4", f"{'x' * 100}~mp4~"),
    ],
)
def test_a_name_that_is_not_plain_gets_a_hash(path, start):
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{10}", clip_name(path))


paths = st.builds(
    lambda parts, extension: "/".join(parts) + "." + extension,
    st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8) | st.sampled_from(["a", "b", "a~b", "a.b", "a_b"]), min_size=1, max_size=3),
    st.sampled_from(["mp4", "webm", "MP4", "wav"]),
)  # fmt: skip


@given(st.sets(paths, max_size=20))
def test_names_are_safe_and_differ_whenever_paths_do(several):
    names = [clip_name(path) for path in several]
    assert len(set(names)) == len(several)
    for name in names:
        assert re.fullmatch(CLIP_NAME, name)
        assert not name.startswith("-")


def test_other_files_are_counted_but_not_listed(tmp_path):
    found = read_folder(fill(tmp_path, "a.mp4", "notes.txt", "sub/more.txt", "README", "cover.jpg"))
    assert found.clips["source"].tolist() == ["a.mp4"]
    (message,) = found.issues["message"]
    assert found.issues["code"].tolist() == ["ignored_files"]
    assert message.startswith("4 files")
    assert "2 .txt" in message


def test_links_are_followed_only_inside_the_folder(tmp_path):
    outside = fill(tmp_path / "outside", "secret.mp4")
    folder = fill(tmp_path / "videos", "real.mp4")
    (folder / "inside.mp4").symlink_to(folder / "real.mp4")
    (folder / "out.mp4").symlink_to(outside / "secret.mp4")
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")
    (folder / "folder.mp4").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be a link
    found = read_folder(tmp_path / "link")
    assert found.clips["source"].tolist() == ["inside.mp4", "real.mp4"]
    assert sorted(found.issues["code"]) == ["broken_link", "ignored_files", "outside_link", "outside_link"]


def test_a_name_that_is_not_utf8_is_listed_without_source(tmp_path):
    fill(tmp_path, "a.mp4")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = read_folder(tmp_path)
    assert found.clips["source"].tolist() == ["a.mp4", ""]
    assert found.clips["clip"][1].startswith("caf~mp4~")
    assert found.issues["code"].tolist() == ["refused_id"]


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(fill(tmp_path, "a.mp4") / "pipe.mp4")
    assert read_folder(tmp_path).clips["source"].tolist() == ["a.mp4"]


def test_the_pattern_of_the_folder_study_finds_every_listed_file(tmp_path):
    fill(tmp_path, "-rf.mp4", "..mp4", "a b/ü.mp4", "{clip}.mp4", "line\nbreak.mp4")
    for row in read_folder(tmp_path).clips.itertuples():
        path = local_file(tmp_path, "{source}", row.clip, row.source)
        assert path is not None
        assert path.is_file()


def test_a_folder_without_videos_is_an_error(tmp_path):
    with pytest.raises(AnnotationError, match="no video or audio file"):
        read_folder(fill(tmp_path, "notes.txt"))
    with pytest.raises(AnnotationError, match="is not a folder"):
        read_folder(tmp_path / "notes.txt")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    fill(tmp_path, "a.mp4", "closed/b.mp4")
    really = os.scandir

    def scandir(path: Path) -> object:  # root, who may run the tests, reads every folder
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(AnnotationError, match=r"closed.*Permission denied"):
        read_folder(tmp_path)
