"""ffmpeg is read whatever it writes, and stopped when its time is over."""

import time
from pathlib import Path

import pytest

from avpipe.media import ffmpeg
from avpipe.media.ffmpeg import FFmpegGroup, FFmpegKilledError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A script that stands for ffmpeg."""
    path = tmp_path / "ffmpeg"
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: str(path))
    return path


def run(program: Path, script: str, timeout: float = 10) -> ffmpeg.Finished:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with FFmpegGroup() as group:
        return group.run([], timeout)


def test_messages_lose_their_addresses_and_frames_are_counted(program):
    finished = run(
        program,
        r"""
        {
        echo '[Parsed_fps_2 @ 0x55d1] [verbose] 0 frames in, 0 frames out; 0 frames dropped, 0 frames duplicated.'
        echo '[Parsed_fps_2 @ 0x66e2] [verbose] 30 frames in, 17 frames out; 13 frames dropped, 0 frames duplicated.'
        echo '[info]     title           : [Parsed_fps_2 @ 0x1] [verbose] 9 frames in, 9 frames out;'
        echo '[Parsed_ashowinfo_3 @ 0x55d1] [info] n:0 pts:0 pts_time:0 fmt:s16 rate:16000 nb_samples:700 checksum:1'
        echo '[Parsed_ashowinfo_3 @ 0x55d1] [info] n:1 pts:700 pts_time:0 fmt:s16 rate:16000 nb_samples:50 checksum:1'
        echo '[h264 @ 0x55d1] [error] bad NAL'
        echo '[vist#0:0/h264 @ 0x1] [dec:h264 @ 0x2] [error] bad NAL'
        echo '[h264 @ 0x66e2] [error] bad NAL'
        echo '[out#0/mp4 @ 0x66e2] [error] nothing was written'
        echo '[info] error is only a word here'
        } >&2; exit 3""",
    )
    assert finished.code == 3
    assert (finished.frames, finished.samples) == (17, 750)
    assert dict(finished.errors) == {"h264: bad NAL": 2, "vist#0:0/h264: bad NAL": 1}
    assert finished.message() == "h264: bad NAL"


def test_a_flood_of_messages_is_read_and_not_kept(program):
    flood = 'i=0; while [ $i -lt 3000 ]; do echo "[h264 @ 0x1] [error] number $i" >&2; i=$((i+1)); done'
    finished = run(program, f"{flood}; head -c 1000000 /dev/zero >&2")
    assert len(finished.errors) == ffmpeg.MESSAGES
    assert finished.message() == "h264: number 0"


def test_the_message_of_a_run_that_gave_up_is_the_cause_whichever_part_reports_first(program):
    lines = (
        "[mjpeg @ 0x55] [IMGUTILS @ 0x7f] [error] Picture size 8400x4700 exceeds the limit",
        "[mjpeg @ 0x55] [error] get_buffer() failed",
        "[fc#0 @ 0x66] [error] Error initializing filters!",
        "[vost#0:0/libx264 @ 0x77] [error] Could not open encoder before EOF",
        "[error] Conversion failed!",
    )
    for order in (lines, (*lines[2:], *lines[:2])):
        said = "; ".join(f"echo '{line}' >&2" for line in order)
        assert run(program, f"{said}; exit 69").message() == "mjpeg: Picture size 8400x4700 exceeds the limit"


KILLED_ONCE = """
    [ -e {marker} ] && exit 0
    touch {marker}
    {death}
"""


@pytest.mark.parametrize(
    "death",
    ["kill -KILL $$", "echo '[info] Exiting normally, received signal 15.' >&2; exit 255"],
    ids=["SIGKILL", "SIGTERM, after which ffmpeg tidies up"],
)
def test_a_run_that_a_signal_ended_is_tried_again(program, tmp_path, death):
    finished = run(program, KILLED_ONCE.format(marker=tmp_path / "marker", death=death))
    assert finished.code == 0


@pytest.mark.parametrize(
    ("death", "name"),
    [
        ("kill -KILL $$", "SIGKILL"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo '[info] Exiting normally, received signal 15.' >&2; exit 255", "SIGTERM"),
    ],
)
def test_a_signal_that_comes_again_is_named_and_is_no_outcome(program, death, name):
    with pytest.raises(FFmpegKilledError, match=name):
        run(program, death)


def test_a_run_over_its_time_is_killed(program):
    started = time.monotonic()
    finished = run(program, "exec sleep 60", timeout=0.2)
    assert finished.timed_out
    assert time.monotonic() - started < 10


def test_outside_its_block_a_group_runs_nothing():
    with FFmpegGroup() as group:
        pass
    with pytest.raises(RuntimeError, match="guard"):
        group.run([], 1)
