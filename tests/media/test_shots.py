"""Shot cuts of videos whose cuts are known."""

import numpy as np
import pytest

from avpipe.media.presets import Preset
from avpipe.media.segments import VideoFrames
from avpipe.media.shots import shot_cuts
from tests.builders import encode_video

SMALL = Preset(name="small", seconds=60, fps=10, width=32, height=32, sample_rate=21_000, pad=False)


def video(levels: list[int]) -> VideoFrames:
    """Pictures of one grey level each, with a bright square that moves."""
    pictures = np.repeat(np.array(levels, np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3)
    for index, picture in enumerate(pictures):
        picture[4:8, index % 28 : index % 28 + 4] = 255
    return VideoFrames(encode_video(pictures, 10), SMALL)


def test_a_shot_begins_where_the_picture_changes_at_once():
    assert shot_cuts(video([40] * 13 + [140] * 10 + [60] * 12)) == pytest.approx([1.3, 2.3])


def test_motion_and_slow_fades_are_no_cuts():
    assert shot_cuts(video([40 + 6 * i for i in range(30)])) == []
