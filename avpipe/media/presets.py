"""Canonical formats: what every clip looks like after normalising."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A canonical format.

    Args:
        seconds: length of a clip, T; a segment is one second.
        fps: frames a second, F, constant; each second is a closed group of pictures.
        width, height: pixels; the picture is squashed to them, its original size is recorded.
        sample_rate, channels: of the sound.
        crf: constant rate factor of libx264 (18: visually almost lossless).
        x264: libx264's speed preset. Measured at 256x256: "superfast" saves a tenth of the time for files 25 to 90 %
            larger; "faster" takes a third more encoding time for no smaller files.
        shortest: seconds; a file with less than this inside the clip's interval is too short.
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
        """Samples of a clip in each channel."""
        return self.seconds * self.sample_rate


CANONICAL = Preset(seconds=10, fps=16, width=256, height=256, sample_rate=16_000, channels=1)

PRESETS: dict[str, Preset] = {"canonical": CANONICAL}
"""The formats that the configuration's `media.preset` may name."""
