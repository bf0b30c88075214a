"""A shard becomes a tar and a table: whole, in order, with the same bytes also after a kill."""

import errno
import io
import json
import math
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.clips import MEDIA_SUFFIXES
from avpipe.files import OutputError
from avpipe.media import ffmpeg, normalise
from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL, Preset
from avpipe.media.segments import VideoFrames, decode_audio, decode_frames, read_shard

COLUMNS = [
    *("clip", "status", "reason", "duration", "video_seconds", "audio_seconds"),
    *("source_video_seconds", "source_audio_seconds", "fps", "width", "height"),
    *("sample_rate", "channels", "bytes", "sha256"),
]
EXPECTED = {
    # clip: status, display size, frame rate, sample rate, channels, length in s: as ffmpeg and exiftool show the files
    "bbb_480p_5s": ("present", (854, 480), 24, 48_000, 6, 5.0),
    "flower_mp4": ("present", (960, 540), 29.97, 48_000, 2, 5.055),
    "flower_webm": ("present", (960, 540), 29.97, 44_100, 2, 5.059),
    "friday": ("present", (640, 480), 30, 44_100, 2, 6.166),
    "nasa_13013": ("present", (480, 270), 29.97, 16_000, 2, 10.0),
    "stream-of-water_mp4": ("present", (480, 360), 29.97, 44_100, 1, 3.158),
    "stream-of-water_webm": ("present", (480, 360), 29.97, 44_100, 1, 3.119),
    "toy_crystal": ("present", (720, 480), 30, 44_100, 2, 10.0),
    "corrupted": ("no_audio", (1280, 720), 10, None, None, 5.0),
    "nasa_audio_only": ("no_video", None, None, 8_000, 2, 10.0),
    "no_audio_bug_640": ("no_audio", (640, 360), 30, None, None, 6.767),
    "non_zero_start": ("no_audio", (199, 112), 30, None, None, 0.4),
    "rotated_90": ("no_audio", (320, 568), 30, None, None, 0.1),
    "vp9_testsrc": ("no_audio", (1280, 720), 30, None, None, 1.0),
    "audio_stereo_then_mono": ("present", (96, 64), 10, 48_000, 2, 8.0),
    "good_4k": ("present", (3840, 2160), 30, 48_000, 1, 10.0),
    "no_video_packets": ("no_video", (96, 64), 10, 48_000, 1, 4.0),
    "too_large": ("corrupt", (8400, 4700), 2, None, None, 0.0),
}


def run(
    folder: Path,
    manifest: Path,
    downloads: Path,
    workers: int = 2,
    out: str = "out",
    preset: Preset = CANONICAL,
) -> tuple[Path, Path]:
    tar, table = folder / out / "0.tar", folder / out / "0.parquet"
    normalise_shard(downloads, manifest, 0, preset, tar, table, 60, workers)
    return tar, table


@pytest.fixture(scope="module")
def real(shared, shard_of, tmp_path_factory):
    """The shard of all real clips, `edge/` and `failing/` included: a folder with its 0.tar and 0.parquet."""
    folder = tmp_path_factory.mktemp("real")
    files = sorted(path for path in (shared / "data" / "clips").rglob("*.*") if path.suffix in MEDIA_SUFFIXES)
    names = [path.stem for path in files]
    clips = {
        path.stem if names.count(path.stem) == 1 else f"{path.stem}_{path.suffix[1:]}": path for path in files
    }
    manifest, downloads = shard_of(folder, clips)
    run(folder, manifest, downloads, out=".")
    return folder


def test_every_real_file_ends_with_an_outcome_and_a_reason(real):
    table = pd.read_parquet(real / "0.parquet").set_index("clip", drop=False)
    assert list(table.columns) == COLUMNS
    assert set(table.index) == set(EXPECTED)
    assert table["reason"].str.len().min() > 0
    for clip, (status, size, fps, rate, channels, duration) in EXPECTED.items():
        row = table.loc[clip]
        assert row["status"] == status, clip
        assert row["duration"] == pytest.approx(duration, abs=0.03), clip
        assert (row["fps"] == pytest.approx(fps, abs=0.02)) if fps else math.isnan(row["fps"]), clip
        assert ((row["width"], row["height"]) == size) if size else math.isnan(row["width"]), clip
        assert (row["sample_rate"] == rate) if rate else math.isnan(row["sample_rate"]), clip
        assert (row["channels"] == channels) if channels else math.isnan(row["channels"]), clip
    assert "6 decoding errors" in table.loc["corrupted"]["reason"]
    assert "8400x4700 exceeds" in table.loc["too_large"]["reason"]
    assert table.loc["nasa_13013", "source_video_seconds"] == pytest.approx(13.013, abs=0.001)
    assert table.loc["nasa_13013", "video_seconds"] == 10
    assert table.loc["friday", ["video_seconds", "audio_seconds"]].tolist() == pytest.approx(
        [6.17, 6.15], abs=0.03
    )


def test_every_clip_in_the_shard_is_canonical(real):
    rows = []
    for clip in read_shard(real / "0.tar"):
        rows.append(clip.row)
        status = EXPECTED[clip.clip][0]
        assert (clip.video is None, clip.audio is None) == (status == "no_video", status == "no_audio")
        if clip.video is not None:
            assert decode_frames(clip.video, 1).shape == (10, 256, 256, 3)
            with av.open(io.BytesIO(clip.video)) as container:
                stream = container.streams.video[0]
                keys = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
                assert (len(keys), stream.average_rate, stream.codec_context.has_b_frames) == (160, 16, 0)
                assert keys == ([True] + [False] * 15) * 10, "each second is a closed group of pictures"
        if clip.audio is not None:
            assert decode_audio(clip.audio).shape == (160_000,)
            assert soundfile.info(io.BytesIO(clip.audio)).format == "FLAC"
        assert clip.meta["clip"] == clip.clip
    table = pd.read_parquet(real / "0.parquet")
    assert rows == table.index[table["status"] != "corrupt"].tolist()


def test_the_tar_depends_neither_on_the_machine_nor_on_the_time(real):
    with tarfile.open(real / "0.tar") as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [m.name for m in members[:3]] == ["bbb_480p_5s.mp4", "bbb_480p_5s.flac", "bbb_480p_5s.json"]
    meta = next(read_shard(real / "0.tar")).meta
    added = {"row", "dataset", "split", "source", "start", "end", "preset", "ffmpeg"}
    assert set(meta) == {*COLUMNS} - {"reason"} | added
    assert "/" not in json.dumps(meta)


def test_nothing_temporary_is_left(real):
    names = sorted(path.name for path in real.iterdir())
    assert names == ["0.parquet", "0.tar", "downloads.parquet", "manifest.parquet"]


@pytest.fixture
def small(media, shard_of, tmp_path):
    """Manifest and downloads of six short clips, one of them absent and one garbage."""
    files: dict[str, Path | None] = {}
    for number in range(4):
        sound = None if number == 1 else noise(number)
        path = media.write(tmp_path / f"{number}.mp4", times=media.times(10, 2 + number), sound=sound)
        files[f"clip{number}"] = path
    (tmp_path / "garbage.mp4").write_bytes(b"garbage")
    return shard_of(tmp_path, {**files, "absent": None, "garbage": tmp_path / "garbage.mp4"})


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 0.1, (1, 32_000))


def test_clips_that_failed_are_rows_of_the_table_only(small, tmp_path):
    tar, table = run(tmp_path, *small)
    rows = pd.read_parquet(table).set_index("clip")
    assert rows["status"].tolist() == ["present", "no_audio", "present", "present", "unavailable", "corrupt"]
    assert rows.loc["absent", "reason"] == "HTTP 404"
    assert [clip.clip for clip in read_shard(tar)] == ["clip0", "clip1", "clip2", "clip3"]


def test_the_number_of_workers_changes_no_byte(small, tmp_path):
    for one, three in zip(
        run(tmp_path, *small, workers=1, out="one"),
        run(tmp_path, *small, workers=3, out="three"),
        strict=True,
    ):
        assert one.read_bytes() == three.read_bytes()


def test_more_key_frames_are_more_groups_and_the_same_pictures(small, tmp_path):
    many = CANONICAL.model_copy(update={"keyframes": 4})
    shards = run(tmp_path, *small, out="one")[0], run(tmp_path, *small, out="many", preset=many)[0]
    usual, clip = (next(read_shard(shard)).video for shard in shards)
    with av.open(io.BytesIO(clip)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [True, False, False, False] * 40
    single = VideoFrames(clip, many).at(np.array([7]))[0]
    np.testing.assert_array_equal(single, VideoFrames(clip, many).at(np.arange(160))[7])
    assert np.abs(single - VideoFrames(usual, CANONICAL).at(np.array([7]))[0].astype(float)).mean() < 2


def test_an_unsafe_clip_name_is_refused(media, shard_of, tmp_path):
    source = media.write(tmp_path / "a.mp4", times=media.times(10, 1))
    tar, table = run(tmp_path, *shard_of(tmp_path, {"../../evil": source, "a.b": source, "good": source}))
    assert pd.read_parquet(table)["status"].tolist() == ["refused_id", "refused_id", "no_audio"]
    assert [clip.clip for clip in read_shard(tar)] == ["good"]


def test_a_file_deleted_after_fetching_is_missing(small, tmp_path):
    (tmp_path / "0.mp4").unlink()
    row = pd.read_parquet(run(tmp_path, *small)[1]).iloc[0]
    assert row["status"] == "missing"
    assert "fetch it again" in row["reason"]


KILLED = """
import signal, sys, avpipe.media.normalise as n
from avpipe.media.presets import CANONICAL, Preset
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
downloads, manifest, tar, table = map(Path, sys.argv[1:])
n.normalise_shard(downloads, manifest, 0, CANONICAL, tar, table, 60, 2)
"""


@pytest.fixture(scope="module")
def five(media, shard_of, tmp_path_factory):
    """Manifest and downloads of five clips, and the bytes of tar and table when nobody kills anything."""
    folder = tmp_path_factory.mktemp("five")
    source = media.write(folder / "a.mp4", times=media.times(30, 10), size=(160, 120), sound=noise(0))
    manifest, downloads = shard_of(folder, {f"clip{number}": source for number in range(5)})
    return manifest, downloads, [path.read_bytes() for path in run(folder, manifest, downloads)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(five, tmp_path, how):
    manifest, downloads, untouched = five
    tar, table = tmp_path / "out" / "0.tar", tmp_path / "out" / "0.parquet"
    command = [sys.executable, "-c", KILLED, *map(str, (downloads, manifest, tar, table))]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    killed = psutil.Process(process.pid)
    wait_for(lambda: any("ffmpeg" in child.name() for child in killed.children(recursive=True)))
    children = killed.children(recursive=True)
    process.send_signal(how)
    process.wait(20)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "no ffmpeg runs on"
    assert not tar.exists()
    assert not table.exists()
    run(tmp_path, manifest, downloads)
    assert sorted(path.name for path in tar.parent.iterdir()) == ["0.parquet", "0.tar"], "leftovers are swept"
    assert [tar.read_bytes(), table.read_bytes()] == untouched


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_second_writer_of_a_shard_waits_and_writes_the_same(small, tmp_path):
    (tmp_path / "out").mkdir()
    with ThreadPoolExecutor(1) as pool:
        with normalise._scratch(tmp_path / "out" / "0.tar", tmp_path / "out" / "0.parquet"):
            second = pool.submit(run, tmp_path, *small)
            time.sleep(1)
            assert not (tmp_path / "out" / "0.tar").exists()
        second.result()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.parquet", "0.tar"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(small, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="folder is needed"):
        run(tmp_path, *small)


def test_a_full_disk_is_an_error_of_the_job_not_of_the_clip(small, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(
        "#!/bin/sh\necho '[out#0/mp4 @ 0x1] [error] av_write: No space left on device' >&2\nexit 228\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(program))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "of the node"))
    (tmp_path / "of the node").mkdir()
    with pytest.raises(OutputError, match=r"of the node/.*disk is full") as raised:
        run(tmp_path, *small)
    assert raised.value.errno == errno.ENOSPC
    assert list((tmp_path / "out").iterdir()) == list((tmp_path / "of the node").iterdir()) == []


def test_a_killed_ffmpeg_is_the_jobs_failure_not_the_clips(small, tmp_path, monkeypatch):
    """A real ffmpeg whose run on one clip is killed each time, as by a kernel without memory."""
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *2.mp4*) kill -KILL $$;; esac\nexec "{ffmpeg.ffmpeg_binary()}" "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(program))
    options = {
        "downloads": small[1],
        "manifest": small[0],
        "shard": 0,
        "tar": tmp_path / "out/0.tar",
        "table": tmp_path / "out/0.parquet",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    result = CliRunner().invoke(app, ["media", "normalise", *words])
    assert result.exit_code == 1
    assert re.search("error: clip clip2 .*SIGKILL", result.output)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_clip_whose_conversion_was_killed_once_is_the_clip_it_always_is(
    shared, shard_of, tmp_path, monkeypatch
):
    failing = shared / "data" / "clips" / "failing"
    shard = shard_of(tmp_path, {"good": failing / "good_4k.mp4"})
    untouched = [path.read_bytes() for path in run(tmp_path, *shard)]
    monkeypatch.setenv("REAL_FFMPEG", ffmpeg.ffmpeg_binary())
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(failing / "dying_ffmpeg" / "ffmpeg"))
    again = [path.read_bytes() for path in run(tmp_path, *shard, out="again")]
    assert (tmp_path / "killed").exists()
    assert again == untouched


def test_downloads_of_another_shard_are_refused(small, tmp_path):
    pd.read_parquet(small[1]).iloc[1:].to_parquet(small[1])
    with pytest.raises(ValueError, match=re.escape("['clip0']")):
        run(tmp_path, *small)
