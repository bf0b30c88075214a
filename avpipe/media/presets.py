"""Canonical formats: what every clip looks like after normalising, whatever it was before."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A canonical format.

    Args:
        seconds: length of a clip, T; a segment is one second.
        fps: frames a second, F, constant; a second is a closed group of pictures of its own.
        width, height: pixels; the picture is squashed to them, its real size is recorded.
        sample_rate, channels: of the sound.
        crf: constant rate factor of libx264 (18: hardly to be told from the source).
        x264: libx264's speed preset. Measured at 256x256: "superfast" saves a tenth of the time, for files that
            are a fourth to nine tenths larger; "faster" takes a third more encoding time and saves nothing.
        shortest: seconds; a file with less than this inside the clip's interval is too short to be a clip.
    """

    seconds: int
    fps: int
    width: int
    height: int
    sample_rate: int
    channels: int
    crf: int = 18
    x264: str = "veryfast"
    shortest: float = 0.1

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.seconds * self.fps

    @property
    def samples(self) -> int:
        """Samples of a clip, in each channel."""
        return self.seconds * self.sample_rate


CANONICAL = Preset(seconds=10, fps=16, width=256, height=256, sample_rate=16_000, channels=1)

PRESETS: dict[str, Preset] = {"canonical": CANONICAL}
"""The formats that `media.preset` of the configuration may name."""
