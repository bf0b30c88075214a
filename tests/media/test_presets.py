"""Formats other than the canonical one: rates that are no whole number, clips as long as their source, kept proportions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from avpipe.media.convert import Converted, convert_clip
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.media.presets import CANONICAL, LARGE, MULTISENSORY, Preset
from avpipe.media.segments import VideoFrames, decode_audio, decode_frames, frame_indices

NTSC = Fraction(30_000, 1001)


@pytest.fixture
def converted(tmp_path):
    def convert(source, preset, start=math.nan, end=math.nan) -> Converted:
        with FFmpegGroup(1) as group:
            return convert_clip(source, start, end, preset, tmp_path / "made", group, 60)

    return convert


@pytest.mark.parametrize(
    ("given", "rate"), [(29.97, NTSC), ("30000/1001", NTSC), (16, 16), (12.5, Fraction(25, 2))]
)
def test_a_rate_is_a_fraction(given, rate):
    preset = Preset.model_validate({**CANONICAL.model_dump(), "fps": given})
    assert preset.fps == rate
    assert Preset.model_validate(preset.model_dump(mode="json")) == preset


@pytest.mark.parametrize(
    "wrong", [{"fps": 0}, {"fps": "fast"}, {"width": 255}, {"seconds": 9.5}, {"channels": 6}]
)
def test_wrong_formats_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Preset.model_validate({**CANONICAL.model_dump(), **wrong})


def test_pictures_at_29_97_hz_are_found_by_their_time():
    preset = MULTISENSORY.model_copy(update={"seconds": 10.0, "pad": True})
    assert preset.frames == 300, "frame 299 is shown from 9.977 s on, its middle is at 9.993 s"
    indices = frame_indices(2, preset)
    for number, index in enumerate(indices):
        time = 0.25 + number / 2
        assert index / NTSC <= time < (index + 1) / NTSC
    with pytest.raises(ValueError, match="at most"):
        frame_indices(30, preset)


def test_a_clip_of_another_rate_shows_what_its_source_shows_at_each_time(media, converted, tmp_path):
    def level(time):
        return 20 + 20 * int(time)

    source = media.write(
        tmp_path / "a.mkv", times=media.times(25, 10), level=level, sound=np.zeros((1, 160_000))
    )
    preset = MULTISENSORY.model_copy(update={"seconds": 10.0, "pad": True})
    made = converted(source, preset)
    assert made.status == "present", made.reason
    frames = VideoFrames(made.video.read_bytes(), preset).at(np.arange(300))
    middles = (np.arange(300) + 0.5) / float(NTSC)
    inside = np.abs(middles - middles.round()) > 0.03  # not within a source frame of a change
    expected = np.array([level(time) for time in middles])
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3))[inside], expected[inside], atol=3)
    assert decode_audio(made.audio.read_bytes(), preset).shape == (210_000, 2)


@pytest.mark.parametrize(
    ("video", "audio", "audio_start", "lasts"),
    [(4.0, 3.0, 0.0, 3.0), (3.0, 4.0, 0.0, 3.0), (4.0, 3.0, 0.5, 3.0), (12.0, 12.0, 0.0, 10.1)],
)
def test_without_padding_a_clip_is_as_long_as_both_of_its_streams(
    media, converted, tmp_path, video, audio, audio_start, lasts
):
    sound = 0.5 * np.sin(np.arange(int(16_000 * audio)) / 5)[None]
    source = media.write(
        tmp_path / "a.mkv", times=media.times(25, video), sound=sound, audio_start=audio_start
    )
    made = converted(source, MULTISENSORY)
    assert made.status == "present", made.reason
    frames = VideoFrames(made.video.read_bytes(), MULTISENSORY).count
    waveform = decode_audio(made.audio.read_bytes(), MULTISENSORY)
    assert frames / NTSC == pytest.approx(lasts, abs=0.04)
    assert len(waveform) == round(float(frames / NTSC) * 21_000)
    last = waveform[-1050:]  # 50 ms
    assert np.abs(last).max() > 0.3, "no silence was added"


def test_pictures_may_keep_their_proportions(media, converted, tmp_path):
    source = media.write(
        tmp_path / "a.mp4",
        times=media.times(16, 10),
        size=(640, 360),
        sound=np.zeros((1, 160_000)),
        audio_codec="aac",
    )
    made = converted(source, LARGE)
    assert decode_frames(made.video.read_bytes(), 1, LARGE).shape == (10, 340, 604, 3)
    assert decode_audio(made.audio.read_bytes(), LARGE).shape == (480_000, 2)
