"""Canonical frames and samples are those of the right moments, whatever the source's rate, container or start."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avpipe.download import Status
from avpipe.media.convert import Converted, convert_clip
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.media.presets import CANONICAL
from avpipe.media.segments import decode_audio, decode_frames

NAN = math.nan
Levels = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def group() -> Iterator[FFmpegGroup]:
    with FFmpegGroup() as running:
        yield running


def convert(
    source: Path, group: FFmpegGroup, start: float = NAN, end: float = NAN, timeout: float = 60
) -> Converted:
    return convert_clip(source, start, end, CANONICAL, source.with_name("canonical"), group, timeout)


def frames_of(converted: Converted) -> npt.NDArray[np.uint8]:
    assert converted.video is not None, converted.reason
    return decode_frames(converted.video.read_bytes(), 16)


def levels_of(converted: Converted) -> Levels:
    """Grey level in the middle of each frame, (160,)."""
    return frames_of(converted)[:, 128, 128, 1].astype(np.int64)


def samples_of(converted: Converted) -> npt.NDArray[np.float32]:
    assert converted.audio is not None, converted.reason
    return decode_audio(converted.audio.read_bytes())


def level(time: float) -> int:
    """A grey level a second, 30 apart, that goes round after seven."""
    return 30 + 30 * (math.floor(time + 1e-6) % 7)


def on_screen(times: Sequence[float], start: float) -> Levels:
    """What a player shows in the middle of each canonical frame: the last picture whose time has come."""
    moments = start + (np.arange(160) + 0.5) / 16
    shown = np.searchsorted(np.asarray(times), moments + 1e-6, side="right") - 1
    return np.array([level(times[max(0, index)]) for index in shown])


def beeps(seconds: float, at: Sequence[int], rate: int = 16_000) -> npt.NDArray[np.float64]:
    """(1, samples): a 1 kHz tone of a tenth of a second, 0.4 s after each second in `at`."""
    time = np.arange(round(seconds * rate)) / rate
    inside = (time % 1 >= 0.4) & (time % 1 < 0.5) & np.isin(np.floor(time), at)
    return (0.5 * np.sin(2 * np.pi * 1000 * time) * inside)[None]


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(10), Fraction(60)])
@pytest.mark.parametrize("start", [NAN, 1.37])
def test_each_frame_and_each_sample_is_that_of_its_moment(media, group, tmp_path, fps, start):
    times = media.times(fps, 12)  # one key frame, at 0: cutting at 1.37 s must decode what is before
    sound = beeps(12, range(0, 12, 3))
    source = media.write(tmp_path / "a.mp4", times=times, level=level, sound=sound)
    converted = convert(source, group, start, start + 10)
    first = 0 if math.isnan(start) else start
    np.testing.assert_allclose(levels_of(converted), on_screen(times, first), atol=3)
    expected = sound[0, round(16_000 * first) :][:160_000]
    np.testing.assert_allclose(samples_of(converted), expected, atol=1 / 32_768)


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    gaps=st.lists(st.integers(1, 60), min_size=20, max_size=120),
    start=st.sampled_from([NAN, 0.5, 2.0]),
    size=st.tuples(st.integers(8, 60), st.integers(8, 60)).map(lambda size: (2 * size[0], 2 * size[1])),
)
def test_a_variable_rate_shows_each_picture_when_its_time_has_come(media, group, tmp_path, gaps, start, size):
    times = (np.cumsum([0, *gaps, 60, 60, 60]) / 60).tolist()
    source = media.write(tmp_path / "vfr.mp4", times=times, level=level, size=size)
    converted = convert(source, group, start)
    first = 0 if math.isnan(start) else start
    end = min(10, times[-1] - first)  # how long the last picture is shown depends on the file
    frames = math.floor(end * 16)
    np.testing.assert_allclose(levels_of(converted)[:frames], on_screen(times, first)[:frames], atol=3)
    assert converted.status is Status.NO_AUDIO
    assert (converted.width, converted.height) == size
    assert converted.duration == pytest.approx(min(10, times[-1] + 0.5 - first), abs=0.6)


@pytest.mark.parametrize("start", [NAN, 2.25])
@pytest.mark.parametrize(
    ("name", "video", "audio", "rate"),
    [
        ("a.webm", "libvpx-vp9", "libopus", 48_000),
        ("a.mkv", "libx264", "aac", 44_100),
        ("a.ts", "libx264", "aac", 48_000),
        ("a.avi", "mpeg4", "pcm_s16le", 16_000),
        ("a.mov", "mjpeg", "pcm_s16le", 44_100),
    ],
)
def test_containers_and_codecs_keep_time(media, group, tmp_path, start, name, video, audio, rate):
    times = media.times(25, 13)
    options = {"deadline": "realtime", "cpu-used": "8"} if "vp9" in video else {"g": "50"}
    sound = beeps(13, range(13), rate)
    source = media.write(
        tmp_path / name,
        times=times,
        level=level,
        video_codec=video,
        video_options=options,
        sound=sound,
        sample_rate=rate,
        audio_codec=audio,
        ticks=25 if name == "a.avi" else 90_000,
    )
    first = 0 if math.isnan(start) else start
    converted = convert(source, group, start, first + 10)
    assert (converted.status, converted.reason) == (Status.PRESENT, "complete")
    moments = first + (np.arange(160) + 0.5) / 16
    borders = np.abs((moments + 0.5) % 1 - 0.5) < 0.05  # rounded time stamps, lossy codecs
    np.testing.assert_allclose(levels_of(converted)[~borders], on_screen(times, first)[~borders], atol=12)
    loud = np.abs(samples_of(converted)) > 0.2
    beeping = first + np.flatnonzero(loud) / 16_000
    # An MPEG transport stream begins with the AAC encoder's 1024 empty samples, and so does its time.
    begun = 1024 / 48_000 if name == "a.ts" else 0.0
    assert np.all((beeping % 1 > 0.39 + begun) & (beeping % 1 < 0.51 + begun))


def test_before_late_pictures_the_first_is_shown(media, group, tmp_path):
    times = media.times(30, 6, start=2.0)
    source = media.write(tmp_path / "late.mp4", times=times, level=level, sound=beeps(10, range(10)))
    converted = convert(source, group)
    levels = levels_of(converted)
    np.testing.assert_allclose(levels[:32], level(2.0), atol=3)
    np.testing.assert_allclose(levels[: 8 * 16], on_screen(times, 0)[: 8 * 16], atol=3)
    np.testing.assert_allclose(levels[8 * 16 :], level(7.9), atol=3, err_msg="the last picture is held")
    assert converted.reason == "last picture held from 8.00 s"
    assert converted.duration == 10.0


def test_before_late_sound_there_is_silence(media, group, tmp_path):
    source = media.write(
        tmp_path / "late.mp4",
        times=media.times(30, 10),
        level=level,
        sound=np.full((1, 32_000), 0.25),
        audio_start=1.5,
    )
    converted = convert(source, group)
    expected = np.zeros(160_000)
    expected[24_000:56_000] = 0.25
    np.testing.assert_allclose(samples_of(converted), expected, atol=1e-4)
    assert converted.reason == "silence from 3.50 s"


def test_a_short_clip_holds_its_last_picture_then_silence(media, group, tmp_path):
    source = media.write(
        tmp_path / "short.mp4", times=media.times(30, 3), level=level, sound=np.full((1, 48_000), 0.25)
    )
    converted = convert(source, group)
    assert converted.status is Status.PRESENT
    assert converted.reason == "last picture held from 3.00 s; silence from 3.00 s"
    assert converted.duration == 3.0
    np.testing.assert_allclose(levels_of(converted)[48:], level(2.9), atol=3)
    np.testing.assert_allclose(samples_of(converted)[:48_000], 0.25, atol=1e-4)
    assert not samples_of(converted)[48_000:].any()


def test_a_sample_too_few_is_no_silence_worth_a_word(media, group, tmp_path):
    source = media.write(
        tmp_path / "almost.mkv", times=media.times(30, 10), level=level, sound=np.full((1, 159_990), 0.25)
    )
    assert convert(source, group).reason == "complete"


def test_the_annotations_end_is_an_end(media, group, tmp_path):
    source = media.write(
        tmp_path / "a.mp4", times=media.times(30, 12), level=level, sound=np.full((1, 192_000), 0.25)
    )
    converted = convert(source, group, 2.0, 6.0)
    assert converted.duration == 4.0
    np.testing.assert_allclose(levels_of(converted)[64:], level(5.9), atol=3)
    assert np.count_nonzero(samples_of(converted)) == 4 * 16_000


def test_stereo_becomes_the_mean_of_its_channels(media, group, tmp_path):
    sound = np.stack([np.full(160_000, 0.5), np.full(160_000, -0.1)])
    source = media.write(tmp_path / "a.mkv", times=media.times(5, 10), sound=sound)
    np.testing.assert_allclose(samples_of(convert(source, group)), 0.2, atol=1e-4)


def test_a_picture_keeps_its_colours_and_fills_the_square(group, tmp_path):
    """Red left, blue right, in HD's own colour matrix: red and blue in a square, in the matrix of decoders' default."""
    image = np.zeros((90, 160, 3), np.uint8)
    image[:, :80], image[:, 80:] = (200, 30, 30), (30, 30, 200)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709
        stream.codec_context.color_range = 1
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    frame = frames_of(convert(tmp_path / "a.mp4", group))[0]
    np.testing.assert_allclose(frame[128, 60], (200, 30, 30), atol=8)
    np.testing.assert_allclose(frame[128, 196], (30, 30, 200), atol=8)


def test_a_change_of_picture_size_keeps_the_times(media, group, tmp_path):
    times = media.times(25, 10)
    parts = []
    for name, size, some in (("a.ts", (64, 48), times[:75]), ("b.ts", (96, 80), times[75:])):
        path = media.write(tmp_path / name, times=some, level=level, size=size, video_options={"bf": "0"})
        parts.append(path.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    converted = convert(tmp_path / "both.ts", group)
    assert converted.duration == pytest.approx(10, abs=0.1), converted.reason
    np.testing.assert_allclose(levels_of(converted), on_screen(times, 0), atol=3)


def test_a_rotated_phone_video_is_upright(shared, group, tmp_path):
    source = shared / "data/clips/edge/rotated_90.mov"
    converted = convert_clip(source, NAN, NAN, CANONICAL, tmp_path / "canonical", group, 60)
    assert (converted.width, converted.height) == (320, 568)
    with av.open(str(source)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    upright = np.rot90(stored, -1)  # the file says: turn it a quarter clockwise
    rows = np.linspace(0, len(upright) - 1, 256).astype(int)
    columns = np.linspace(0, upright.shape[1] - 1, 256).astype(int)
    expected = upright[rows][:, columns].astype(float)
    difference = [np.abs(np.rot90(expected, turn) - frames_of(converted)[0]).mean() for turn in range(4)]
    assert int(np.argmin(difference)) == 0
    assert difference[0] < 8


def test_an_interval_after_the_files_end_is_too_short(media, group, tmp_path):
    source = media.write(tmp_path / "a.mp4", times=media.times(30, 3), sound=beeps(3, [1]))
    converted = convert(source, group, 30.0, 40.0)
    assert converted.status is Status.TOO_SHORT
    assert "30 s" in converted.reason
    assert (converted.video, converted.audio) == (None, None)
    assert convert(source, group, 5.0, 5.0).status is Status.TOO_SHORT


def test_sound_beyond_the_pictures_is_a_clip_without_video(media, group, tmp_path):
    source = media.write(tmp_path / "a.mp4", times=media.times(30, 2), sound=beeps(12, range(12)))
    converted = convert(source, group, 4.0, 12.0)
    assert converted.status is Status.NO_VIDEO, converted.reason
    assert converted.video is None
    np.testing.assert_allclose(
        samples_of(converted)[: 8 * 16_000], beeps(12, range(12))[0, 64_000:], atol=1e-4
    )


def test_cover_art_is_no_video(media, group, tmp_path):
    source = tmp_path / "song.m4a"
    media.write(tmp_path / "plain.m4a", sound=beeps(3, [0]), audio_codec="aac")
    with av.open(str(tmp_path / "plain.m4a")) as plain, av.open(str(source), "w", format="mp4") as container:
        audio = container.add_stream_from_template(plain.streams.audio[0])
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(
            cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
        )
        for packet in plain.demux(plain.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = audio
                container.mux(packet)
        container.mux(cover.encode())
    converted = convert(source, group)
    assert converted.status is Status.NO_VIDEO
    assert "cover art" in converted.reason


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_download_is_corrupt(media, group, tmp_path, name):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 160_000))
    options = {"g": "25"}
    whole = media.write(
        tmp_path / name, times=media.times(25, 10), level=level, sound=noise, video_options=options
    )
    content = whole.read_bytes()
    if name == "a.mp4":  # its index stands at the end: move it to the front first, as downloads have it
        front = tmp_path / "front.mp4"
        with av.open(str(whole)) as old, av.open(str(front), "w", options={"movflags": "faststart"}) as new:
            streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
            for packet in old.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    new.mux(packet)
        content = front.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    converted = convert(whole, group)
    assert converted.status is Status.CORRUPT
    assert "can be decoded" in converted.reason
    assert "0x" not in converted.reason, "the same words in every run"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not a video</html>" * 100,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        np.random.default_rng(1).bytes(50_000),
    ],
    ids=["empty", "web page", "playlist", "concat script", "noise"],
)
def test_files_that_are_no_media_are_corrupt_with_a_reason(group, tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    converted = convert(tmp_path / "a.mp4", group)
    assert converted.status is Status.CORRUPT
    assert converted.reason


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1000))
def test_damaged_bytes_never_raise(media, group, tmp_path, seed):
    whole = tmp_path / "whole.mp4"
    if not whole.exists():
        media.write(whole, times=media.times(10, 4), level=level, sound=beeps(4, [1]), audio_codec="aac")
    content = bytearray(whole.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 40):
        content[place] = rng.integers(256)
    (tmp_path / "damaged.mp4").write_bytes(content)
    converted = convert(tmp_path / "damaged.mp4", group)
    assert converted.reason
    assert converted.status.in_shard == (converted.video is not None or converted.audio is not None)


def test_a_name_that_looks_like_an_option_or_a_protocol_is_a_file(media, group, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-y.mp4", "concat:a|b.mp4", "a%03d.mp4", "a'b;[c],d=e.mp4"):
        media.write(tmp_path / name, times=media.times(10, 1), level=level)
        converted = convert_clip(Path(name), NAN, NAN, CANONICAL, tmp_path / "out", group, 60)
        assert converted.status is Status.NO_AUDIO, (name, converted.reason)


def test_a_run_over_the_time_limit_is_stopped(media, group, tmp_path):
    source = media.write(tmp_path / "a.mp4", times=media.times(30, 10), level=level)
    converted = convert(source, group, timeout=0.02)
    assert converted.status is Status.TIMED_OUT
    assert not converted.status.final
