"""Frames and audio of a clip come from its shard; missing ones are replaced by the reason."""

import numpy as np
import pytest

from avpipe.media.presets import CANONICAL
from avpipe.report.clips import read_clip

from .conftest import SHADES, Toy


def test_a_clips_frames_and_audio_come_from_its_shard(toy_with_clips: Toy) -> None:
    media = read_clip("a", CANONICAL, toy_with_clips.results)
    assert isinstance(media.frames, np.ndarray)
    assert media.frames.shape == (10, 64, 64, 3)
    assert np.allclose(media.frames.mean(axis=(1, 2, 3)), SHADES, atol=6)
    assert isinstance(media.waveform, np.ndarray)
    assert media.waveform.shape == (160_000,)
    assert media.aspect == pytest.approx(16 / 9)


def test_what_is_missing_is_named(toy_with_clips: Toy) -> None:
    results = toy_with_clips.results
    assert read_clip("mute", CANONICAL, results).waveform == "no audio"
    assert "clip gone is not in" in read_clip("gone", CANONICAL, results).frames
    assert read_clip("other", CANONICAL, results).frames == "clip other is not in clips.parquet"
    assert (
        "other/3.tar is missing"
        in read_clip("a", CANONICAL.model_copy(update={"name": "other"}), results).frames
    )
