"""Where a video is cut: pictures that differ much from those before."""

import numpy as np

from avpipe.media.segments import VideoFrames

THRESHOLD = 0.1


def shot_cuts(frames: VideoFrames, threshold: float = THRESHOLD) -> list[float]:
    """The seconds at which a new shot begins, as ffmpeg's filter scdet finds them with its default threshold.

    A picture's change is its mean absolute difference from the picture before, as a share of the range of a pixel. At a cut, it
    is at least the threshold, and differs from the change before by as much. (The filter compares brightness, this function
    the three colours.) A second of pictures is in memory at a time.

    Args:
        frames: of a canonical clip.
        threshold: from 0 to 1.
    """
    cuts: list[float] = []
    last, before = None, 0.0
    for first in range(0, frames.count, frames.preset.group):
        indices = np.arange(first, min(first + frames.preset.group, frames.count))
        for index, picture in zip(indices, frames.at(indices).astype(np.float32), strict=True):
            if last is not None:
                change = float(np.abs(picture - last).mean()) / 256
                if min(change, abs(change - before)) >= threshold:
                    cuts.append(float(int(index) / frames.preset.fps))
                before = change
            last = picture
    return cuts
