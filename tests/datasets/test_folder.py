"""Any folder of videos: what is a clip, what it is called, what is left out and why, and the windows of a long file."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.clips import CLIP_NAME, MEDIA_SUFFIXES, local_file
from avpipe.datasets import read_annotations
from avpipe.datasets.base import AnnotationError
from avpipe.datasets.folder import clip_names, read_folder, window_name
from avpipe.datasets.manifest import inventory
from avpipe.media.ffmpeg import ffmpeg_binary


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_the_real_clips_are_all_listed(shared):
    folder = shared / "data" / "clips"
    found = read_annotations("folder", folder)
    on_disk = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in MEDIA_SUFFIXES]
    assert sorted(set(found.clips["source"])) == sorted(on_disk)
    assert {"flower~mp4", "flower~webm", "edge~rotated_90~mov"} <= set(found.clips["clip"])
    assert (found.categories, len(found.events)) == ((), 0)
    assert set(found.clips["split"]) == {"none"}


def test_names_do_not_depend_on_the_neighbours(tmp_path):
    alone = read_folder(fill(tmp_path, "flower.mp4")).clips["clip"].tolist()
    together = read_folder(fill(tmp_path, "a.mp4", "flower.webm", "sub/flower.mp4")).clips
    assert alone == ["flower~mp4"]
    assert together["clip"].tolist() == ["a~mp4", "flower~mp4", "flower~webm", "sub~flower~mp4"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my talks/day 1 (final).mp4", "my_talks~day_1_final~mp4"),
        ("-rf.mp4", "rf~mp4"),
        ("a.b.MP4", "a_b~mp4"),
        ("a~b.mp4", "a_b~mp4"),
        ("日本/花 2.webm", "2~webm"),
        ("$(rm -rf x);`ls`|&.mkv", "rm_-rf_x_ls~mkv"),
        ("../x\nbreak.mov", "x_break~mov"),
        ("{clip}.mp4", "clip~mp4"),
    ],
)
def test_the_readable_part_of_a_name_is_kept(path, name):
    assert clip_names([path]) == [name]


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("..mp4", "clip~mp4~"),
        (".mp4", "clip~mp4~"),
        ("日本/花.MP4", "clip~mp4~"),
        (f"{'x' * 99}-{'y' * 99}.mp4", f"{'y' * 99}~mp4~"),
        (f"{'x' * 240}.mp4", f"{'x' * 100}~mp4~"),
    ],
)
def test_a_long_path_and_one_without_readable_characters_get_a_hash(path, start):
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{10}", *clip_names([path]))


def test_of_files_that_would_have_one_name_only_the_plain_one_has_no_hash():
    plain, spaced, dotted, alone = clip_names(["day_1.mp4", "day 1.mp4", "day.1.mp4", "day 2.mp4"])
    assert (plain, alone) == ("day_1~mp4", "day_2~mp4")
    for name in (spaced, dotted):
        assert re.fullmatch("day_1~mp4~[0-9a-f]{10}", name)
    assert spaced != dotted


paths = st.builds(
    lambda parts, extension: "/".join(parts) + "." + extension,
    st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8) | st.sampled_from(["a", "b", "a~b", "a.b", "a_b"]), min_size=1, max_size=3),
    st.sampled_from(["mp4", "webm", "MP4", "wav"]),
)  # fmt: skip


@given(st.sets(paths, max_size=20))
def test_names_are_safe_and_differ_whenever_paths_do(several):
    names = clip_names(list(several))
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


def test_containers_of_sound_and_video_count_in_any_case(tmp_path):
    known = "mp4 webm mov mkv avi mpg flv dv m2ts vob mp3 wav flac m4a ogg opus caf wv"
    assert {f".{extension}" for extension in known.split(" ")} <= MEDIA_SUFFIXES
    assert read_folder(fill(tmp_path, "A.MP4")).clips["clip"].tolist() == ["A~MP4"]


def test_what_macos_writes_beside_a_file_is_no_clip(tmp_path):
    found = read_folder(fill(tmp_path, "a.mp4", "._a.mp4", "__MACOSX/._a.mp4"))
    assert found.clips["clip"].tolist() == ["a~mp4"]
    assert "2 ._*" in found.issues["message"][0]


def test_links_are_followed_to_files_and_folders_on_another_disk(tmp_path):
    outside = fill(tmp_path / "outside", "far.mp4", "deep/deeper.mp4")
    folder = fill(tmp_path / "videos", "real.mp4")
    (folder / "out.mp4").symlink_to(outside / "far.mp4")
    (folder / "gone.mp4").symlink_to(folder / "nothing.mp4")
    (folder / "other").symlink_to(outside)
    found = read_folder(folder)
    sources = ["other/deep/deeper.mp4", "other/far.mp4", "out.mp4", "real.mp4"]
    assert found.clips["source"].tolist() == sources
    assert found.issues["code"].tolist() == ["broken_link"]
    assert "gone.mp4" in found.issues["message"][0]


def test_a_real_folder_is_entered_once_under_its_own_name(tmp_path):
    folder = fill(tmp_path / "videos", "b/a.mp4")
    for link, to in (("a", folder / "b"), ("loop", folder), ("b/up", folder), ("c", folder / "b")):
        (folder / link).symlink_to(to)
    assert read_folder(folder).clips["source"].tolist() == ["b/a.mp4"]


def test_a_change_behind_a_linked_folder_changes_the_inventory(tmp_path):
    outside = fill(tmp_path / "outside", "a.mp4")
    (fill(tmp_path / "videos", "b.mp4") / "link").symlink_to(outside)
    before = inventory([tmp_path / "videos"])
    (outside / "a.mp4").write_bytes(b"longer")
    assert inventory([tmp_path / "videos"]) != before


def test_a_name_that_is_not_utf8_is_listed_without_source(tmp_path):
    fill(tmp_path, "a.mp4")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = read_folder(tmp_path)
    assert found.clips["source"].tolist() == ["a.mp4", ""]
    assert found.clips["clip"][1] == "caf~mp4"
    assert found.issues["code"].tolist() == ["refused_id"]


def test_results_and_hidden_folders_are_no_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = (
        fill(tmp_path, "a.mp4", ".venv/b.wav", "results/demo/source/c.mp4") / "results" / "mine" / "source"
    )
    source.parent.mkdir()
    source.symlink_to(tmp_path)  # folder=.
    before = inventory([source])
    found = read_folder(source)
    assert found.clips["source"].tolist() == ["a.mp4"]
    assert found.issues["code"].tolist() == ["ignored_folders"]
    assert "'.venv', 'results'" in found.issues["message"][0]
    fill(tmp_path, "results/mine/new.mp4", ".snakemake/d.mp4")
    assert inventory([source]) == before
    assert read_folder(tmp_path / "results" / "demo").clips["source"].tolist() == ["source/c.mp4"]


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


def test_a_subfolder_that_cannot_be_listed_is_an_issue(tmp_path, monkeypatch):
    fill(tmp_path, "a.mp4", "lost+found/b.mp4")
    really = os.scandir

    def scandir(path: str) -> object:  # root, who may run the tests, reads every folder
        if "lost+found" in str(path):
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = read_folder(tmp_path)
    assert found.clips["source"].tolist() == ["a.mp4"]
    assert found.issues["code"].tolist() == ["unreadable_folder"]
    assert re.search("lost.found.*Permission denied", found.issues["message"][0])
    assert len(inventory([tmp_path])) == 16


# The windows of a long file.


def make(path: Path, seconds: float, *more: str) -> Path:
    """A video of this length with a tone."""
    pictures, sound = f"testsrc=size=32x32:rate=5:duration={seconds}", f"sine=440:duration={seconds}"
    generated = ["-f", "lavfi", "-i"]
    command = [ffmpeg_binary(), "-v", "error", "-y", *generated, pictures, *generated, sound]
    subprocess.run([*command, "-shortest", *more, str(path)], check=True)
    return path


def windows(folder: Path, **options: float) -> list[tuple[str, float, float]]:
    clips = read_annotations("folder", folder, **options).clips
    return [(row.clip, row.start, row.end) for row in clips.itertuples()]


def test_every_second_of_a_minute_is_in_a_window(tmp_path):
    make(tmp_path / "minute.mp4", 60)
    expected = [(f"minute~mp4~w{start:04d}", start, start + 10) for start in range(0, 60, 10)]
    assert windows(tmp_path) == expected
    assert read_folder(tmp_path).issues.empty
    assert set(read_folder(tmp_path).clips["source"]) == {"minute.mp4"}


def test_the_last_window_ends_with_the_file_and_that_is_said(tmp_path):
    make(tmp_path / "a.mp4", 24.4)
    found = windows(tmp_path)
    assert [name for name, *_ in found] == ["a~mp4~w0000", "a~mp4~w0010", "a~mp4~w0014_400"]
    assert found[-1][1:] == (14.4, 24.4)
    issues = read_folder(tmp_path).issues
    assert issues[["code", "clip"]].values.tolist() == [["shifted_window", "a~mp4~w0014_400"]]


@pytest.mark.parametrize(
    ("seconds", "options", "starts"),
    [
        (10.4, {}, [None]),  # a rest of less than half a second
        (20.4, {}, [0, 10]),
        (19.98, {}, [0, 10]),  # a picture less than two windows
        (4, {}, [None]),
        (30, {"window": 0}, [None]),
        (12, {"window": 5, "stride": 5}, [0, 5, 7]),
        (20, {"stride": 5}, [0, 5, 10]),
        (22, {"stride": 5}, [0, 5, 10, 12]),
        (65, {"stride": 20}, [0, 20, 40, 55]),
        (55, {"stride": 20}, [0, 20, 40]),  # the next window would begin after the end
    ],
)
def test_windows_begin_every_stride(tmp_path, seconds, options, starts):
    make(tmp_path / "a.mp4", seconds)
    found = [None if start != start else start for _, start, _ in windows(tmp_path, **options)]
    assert found == starts
    if starts == [None]:
        assert windows(tmp_path, **options)[0][0] == "a~mp4", "today's name"


@given(
    path=paths, starts=st.sets(st.integers(0, 10**8), min_size=1, max_size=5), other=paths
)  # thousandths of a second
def test_names_of_windows_are_safe_and_tell_file_and_second(path, starts, other):
    both = sorted({path, other})
    names = clip_names(both)
    name = names[both.index(path)]
    found = [window_name(name, start / 1000) for start in starts]
    assert len({*found, *names}) == len(starts) + len(both)
    for window, start in zip(found, starts, strict=True):
        assert re.fullmatch(CLIP_NAME, window)
        stem, _, second = window.rpartition("~w")
        assert name.endswith(stem)
        assert float(second.replace("_", ".")) == start / 1000


@pytest.mark.parametrize("bad", [{"window": -1}, {"stride": 0}])
def test_a_window_without_length_or_step_is_an_error(tmp_path, bad):
    with pytest.raises(AnnotationError, match="window"):
        read_annotations("folder", fill(tmp_path, "a.mp4"), **bad)


@pytest.mark.parametrize(
    "name", ["a.mkv", "a.ts", "a.webm", "a.avi", "a.mp3", "a.ogg", "a.aac", "a.flv", "a.wav"]
)
def test_the_length_is_found_in_every_container(tmp_path, name):
    make(tmp_path / name, 25)
    starts = [start for _, start, _ in windows(tmp_path)]
    assert starts[:2] == [0, 10]
    assert starts[2] == pytest.approx(15, abs=0.25), "what encoders put before and after counts as well"


def test_what_can_be_read_counts_not_what_the_header_says(tmp_path):
    whole = make(tmp_path / "a.mp4", 60, "-movflags", "faststart", "-g", "5", "-x264-params", "bframes=0")
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    found = read_folder(tmp_path)
    assert 20 < found.clips["end"].max() < 45
    assert "wrong_length" in found.issues["code"].tolist()
    assert "60.0" in found.issues["message"][0]


def test_a_header_without_a_length_hides_nothing(tmp_path):
    with (tmp_path / "live.mkv").open("wb") as file:  # written to a pipe, a header cannot be completed
        piped = subprocess.Popen(
            [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", "testsrc=size=32x32:rate=5:duration=30", "-f", "matroska", "-"],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert piped.stdout is not None
        file.write(piped.stdout.read())
        piped.wait()
    assert [start for _, start, _ in windows(tmp_path)] == [0, 10, 20]


def test_recordings_that_were_joined_are_as_long_as_their_parts(tmp_path):
    part = make(tmp_path / "a.ts", 20).read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    end = max(end for *_, end in windows(tmp_path))
    assert end == pytest.approx(40, abs=1.5), "the time stamps of the second part begin again at 0"


def test_a_file_that_cannot_be_opened_is_one_clip(tmp_path):
    fill(tmp_path, "empty.mp4", "list.mp4")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:100,\nother.ts\n#EXT-X-ENDLIST\n")
    assert [name for name, *_ in windows(tmp_path)] == ["empty~mp4", "list~mp4"]


def test_a_time_stamp_far_away_makes_no_windows_up_to_it(tmp_path):
    make(
        tmp_path / "a.mkv", 4, "-vf", "setpts='PTS+gte(N,19)*1e6/TB'", "-fps_mode", "passthrough", "-shortest"
    )
    assert len(windows(tmp_path)) < 5


def test_the_same_folder_gives_the_same_clips_again(tmp_path):
    make(tmp_path / "a.mp4", 30)
    make(tmp_path / "b.mkv", 15)
    first, second = (read_folder(tmp_path).clips.to_csv() for _ in range(2))
    assert first == second
