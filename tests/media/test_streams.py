"""Sound that changes, streams without content, sizes and colours that are lost: the same outcome with every ffmpeg."""

import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from avpipe.clips import Status
from avpipe.media.convert import Converted, convert_clip
from avpipe.media.ffmpeg import FFmpegGroup, ffmpeg_binary
from avpipe.media.presets import CANONICAL
from avpipe.media.segments import decode_audio, decode_frames

BEEPS = r"aevalsrc='0.5*sin(2*PI*880*t)*lt(mod(t,1),0.1)'"
"""A tenth of a second of tone at the begin of each second."""


@pytest.fixture(scope="module")
def group():
    with FFmpegGroup() as running:
        yield running


def convert(source: Path, group: FFmpegGroup, start: float = math.nan, end: float = math.nan) -> Converted:
    return convert_clip(source, start, end, CANONICAL, source.with_name("canonical"), group, 60)


def run(*arguments: object, binary: str | None = None) -> None:
    command = [binary or ffmpeg_binary(), "-v", "error", "-y", *map(str, arguments)]
    environment = {"GCONV_PATH": "/dev/null"}  # see avpipe.media.ffmpeg
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def onsets(samples: npt.NDArray[Any]) -> list[float]:
    """Where beeps begin, seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    return [float(loud[n]) / 16_000 for n in range(len(loud)) if n == 0 or loud[n] - loud[n - 1] > 4000]


PARTS = {
    "layout": ((48_000, 2), (48_000, 1)),
    "rate": ((48_000, 2), (44_100, 1)),
    "rate up": ((44_100, 1), (48_000, 2)),
}


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """{change}.{extension}: 10 s whose sound changes after 4 s, with pictures where the container takes them."""
    folder = tmp_path_factory.mktemp("changing")
    pictures = ["-f", "lavfi", "-i", "testsrc=size=32x32:rate=10:duration=10"]
    run(*pictures, "-c:v", "libx264", "-bf", "0", folder / "v.mp4")
    for change, parts in PARTS.items():
        for extension, codec in (("mp3", "libmp3lame"), ("aac", "aac"), ("ac3", "ac3"), ("ts", "aac")):
            whole = b""
            for (rate, channels), seconds in zip(parts, (4, 6), strict=True):
                sound = ["-f", "lavfi", "-i", f"{BEEPS}:d={seconds}:s={rate}"]
                pictures = ["-t", seconds, "-i", folder / "v.mp4", "-map", "0", "-map", "1", "-c:v", "copy"]
                coding = ["-ac", channels, "-c:a", codec, folder / f"part.{extension}"]
                run(*sound, *(pictures if extension == "ts" else []), *coding)
                whole += (folder / f"part.{extension}").read_bytes()
            (folder / f"{change}.{extension}").write_bytes(whole)
        for extension in ("mkv", "mp4"):
            both = ["-i", folder / "v.mp4", "-i", folder / f"{change}.ac3", "-c", "copy"]
            run(*both, folder / f"{change}.{extension}")
    return folder


@pytest.mark.parametrize("extension", ["mp3", "aac", "ac3", "ts", "mkv", "mp4"])
@pytest.mark.parametrize("change", list(PARTS))
def test_sound_that_changes_is_the_sound_that_ffmpeg_gives(
    changing, group, tmp_path, each_ffmpeg, change, extension
):
    source = changing / f"{change}.{extension}"
    run("-i", source, "-vn", "-ac", "1", "-ar", "16000", tmp_path / "plain.wav", binary=each_ffmpeg)
    expected = onsets(soundfile.read(tmp_path / "plain.wav")[0][:160_000])
    converted = convert(source, group)
    pictures = extension in ("ts", "mkv", "mp4")
    assert converted.status is (Status.PRESENT if pictures else Status.NO_VIDEO), converted.reason
    assert converted.audio is not None
    found = onsets(decode_audio(converted.audio.read_bytes()))
    assert len(expected) == 10
    np.testing.assert_allclose(found, expected, atol=0.04)
    assert converted.audio_seconds == pytest.approx(10, abs=0.1)
    if pictures:
        assert converted.video is not None
        assert len(decode_frames(converted.video.read_bytes(), 16)) == 160


def test_the_interval_of_sound_that_changes_is_cut_at_its_times(changing, group):
    for extension in ("mkv", "aac"):
        converted = convert(changing / f"rate.{extension}", group, 3.5, 8.5)
        assert converted.audio is not None
        found = onsets(decode_audio(converted.audio.read_bytes()))
        np.testing.assert_allclose(found, [0.5, 1.5, 2.5, 3.5, 4.5], atol=0.06)


@pytest.mark.parametrize(
    "coding", [["-q:a", "6", "a.mp3"], ["-write_xing", "0", "a.mp3"], ["a.aac"], ["a.ogg"]]
)
def test_a_window_late_in_a_long_sound_begins_at_its_time(group, tmp_path, coding):
    """Reading from the start would take longer the later the window is; so this one is sought."""
    source = tmp_path / coding[-1]
    run("-f", "lavfi", "-i", f"{BEEPS}:d=700:s=16000", *coding[:-1], source)
    late, early = convert(source, group, 660, 670), convert(source, group, 500, 510)
    assert late.audio is not None
    assert early.audio is not None
    found, expected = (onsets(decode_audio(made.audio.read_bytes())) for made in (late, early))
    assert len(found) == 10
    np.testing.assert_allclose(found, expected, atol=0.002)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """{drop,garbage} {v,a}.{mkv,avi,mp4,mov}: 4 s in which the packets of one stream are left out, or noise."""
    folder = tmp_path_factory.mktemp("without")
    pictures, sound = (
        "testsrc=size=96x64:rate=10:duration=4",
        "sine=frequency=440:duration=4:sample_rate=48000",
    )
    both = ["-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound]
    for extension, codecs in {
        "mkv": ("libx264", "aac"), "mp4": ("libx264", "aac"), "mov": ("libx264", "aac"), "avi": ("mpeg4", "libmp3lame")
    }.items():  # fmt: skip
        good = folder / f"good.{extension}"
        run(*both, "-c:v", codecs[0], "-c:a", codecs[1], good)
        for stream in "va":
            for name, how in (("drop", "drop=1"), ("garbage", "amount=1")):
                output = folder / f"{name} {stream}.{extension}"
                run("-i", good, "-c", "copy", f"-bsf:{stream}", f"noise={how}", output)
    return folder


@pytest.mark.parametrize("extension", ["mkv", "avi", "mp4", "mov"])
@pytest.mark.parametrize("how", ["drop", "garbage"])
def test_a_stream_without_content_leaves_the_other_one(without, group, each_ffmpeg, how, extension):
    converted = convert(without / f"{how} v.{extension}", group)
    assert converted.status is Status.NO_VIDEO, converted.reason
    assert converted.reason.startswith("no ")
    assert converted.audio_seconds == pytest.approx(4, abs=0.1)
    assert converted.audio is not None
    samples = decode_audio(converted.audio.read_bytes())
    assert np.abs(samples[1600:60_000]).max() == pytest.approx(0.125, abs=0.02), "ffmpeg's sine"
    converted = convert(without / f"{how} a.{extension}", group)
    assert converted.status is Status.NO_AUDIO, converted.reason
    assert converted.reason.startswith("no ")
    assert converted.video_seconds == pytest.approx(4, abs=0.25)
    assert converted.video is not None
    assert decode_frames(converted.video.read_bytes(), 1)[0].std() > 30, "the test picture"


def test_a_picture_that_is_too_large_is_refused_in_the_same_words_each_time(group, tmp_path, each_ffmpeg):
    source = tmp_path / "large.mp4"
    run(
        "-f",
        "lavfi",
        "-i",
        "color=size=8400x4700:rate=2:duration=1",
        "-c:v",
        "mjpeg",
        "-strict",
        "-1",
        source,
    )
    reasons = {convert(source, group).reason for _ in range(3)}
    assert len(reasons) == 1
    assert "Picture size 8400x4700 exceeds" in reasons.pop()


def test_channels_that_cancel_each_other_are_noted(media, group, tmp_path):
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(160_000) / 16_000)
    for sound, noted in (
        (np.stack([tone, -tone]), True),
        (np.stack([tone, tone]), False),
        (np.zeros((2, 160_000)), False),
    ):
        source = media.write(tmp_path / "a.mkv", times=media.times(5, 10), sound=sound)
        converted = convert(source, group)
        assert converted.status is Status.PRESENT
        assert ("2 channels cancel each other" in converted.reason) is noted
    # a sine of amplitude 0.25 has a mean power of 0.25^2 / 2: -15 decibels
    source = media.write(tmp_path / "a.mkv", times=media.times(5, 10), sound=np.stack([tone, -tone]))
    assert "-15 dB apart" in convert(source, group).reason


@pytest.mark.parametrize(("curve", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG"), ("bt709", None)])
def test_pictures_with_a_high_dynamic_range_are_noted(group, tmp_path, curve, name):
    colours = f"setparams=color_trc={curve}:color_primaries=bt2020:colorspace=bt2020nc,format=yuv420p"
    pictures = ["-f", "lavfi", "-i", "testsrc=size=32x32:rate=5:duration=1", "-c:v", "libx264"]
    run(*pictures, "-vf", colours, tmp_path / "a.mp4")
    reason = convert(tmp_path / "a.mp4", group).reason
    assert ("HDR" in reason) is (name is not None)
    assert name is None or f"({name})" in reason


def test_lengths_of_both_streams_are_known_of_the_interval_and_of_the_file(media, group, tmp_path):
    sound = np.full((1, 16_000 * 27), 0.25)
    source = media.write(tmp_path / "a.mkv", times=media.times(10, 33), sound=sound)
    converted = convert(source, group, 20, 30)
    assert (converted.video_seconds, converted.audio_seconds) == (10, 7)
    assert converted.source_video_seconds == pytest.approx(33, abs=0.11)
    assert converted.source_audio_seconds == pytest.approx(27, abs=0.01)


def test_a_window_of_joined_recordings_is_found_by_counting_on(media, group, tmp_path):
    """Time stamps of the second part begin again at 0: where its 45th second is, only reading from the start tells."""
    levels = [40, 200]
    parts = []
    for value in levels:
        path = media.write(
            tmp_path / "part.ts",
            times=media.times(5, 40),
            level=lambda time, value=value: value,
            video_options={"bf": "0"},
        )
        parts.append(path.read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    converted = convert(tmp_path / "a.ts", group, 60, 70)
    assert converted.video is not None, converted.reason
    assert decode_frames(converted.video.read_bytes(), 1).mean() == pytest.approx(200, abs=4)
    assert converted.video_seconds == 10


def test_a_short_matroska_file_with_damage_keeps_what_can_be_decoded(media, group, tmp_path):
    """Its header does not tell how long its streams are; the file is 4 s long, not the 10 s of a clip."""
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 64_000))
    source = media.write(tmp_path / "a.mkv", times=media.times(10, 4), sound=sound, video_options={"g": "5"})
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    source.write_bytes(content)
    converted = convert(source, group)
    assert converted.status is Status.PRESENT, converted.reason
