"""Canonical formats: what every clip looks like after normalising."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from avpipe.plan.registry import suggest
from avpipe.plan.section import NAME, Section

_NTSC = {round(n * 1000 / 1001, 2): Fraction(n * 1000, 1001) for n in (24, 30, 60)}


def _to_fraction(value: Any) -> Fraction:
    """16, "30000/1001", or 29.97, which means 30000/1001."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError("a number, or a fraction such as 30000/1001")
    try:
        return _NTSC.get(float(value), Fraction(str(value))) if isinstance(value, float) else Fraction(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError("a number, or a fraction such as 30000/1001") from None


Rate = Annotated[Fraction, BeforeValidator(_to_fraction), PlainSerializer(str, return_type=str)]


class Preset(Section):
    """A canonical format. A segment is one second; frame i is what a player shows at (i + 1/2) / fps."""

    name: str = Field(pattern=NAME, description="the clips are written to segments/{name}")
    seconds: float = Field(
        gt=0, le=3600, description="length of a clip; with `pad: false` the longest: shorter files stay short"
    )
    fps: Rate = Field(
        description="frames a second, constant: a number, or a fraction (29.97 means 30000/1001)"
    )
    width: int = Field(ge=16, le=4096, multiple_of=2, description="pixels, even")
    height: int = Field(ge=16, le=4096, multiple_of=2, description="pixels, even")
    aspect: Literal["squash", "keep"] = Field(
        "squash",
        description="squash: every picture is stretched to width x height; keep: it is scaled until it just covers them, and keeps its proportions",
    )
    sample_rate: int = Field(ge=4000, le=192_000, description="of the sound, Hz")
    channels: Literal[1, 2] = Field(1, description="of the sound")
    pad: bool = Field(
        True,
        description="whether the last picture and silence fill a clip up to its length; false: the clip ends where its video or its audio ends, whichever is first",
    )
    crf: int = Field(
        18, ge=0, le=51, description="constant rate factor of libx264; 18 is visually almost lossless"
    )
    x264: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = Field(
        "veryfast",
        description="libx264's speed; at 256x256 superfast saves a tenth of the time for files 25 to 90 % larger",
    )
    keyframes: int = Field(
        1,
        ge=1,
        le=240,
        description="key frames a second; with more, single frames are read faster, and files are larger",
    )
    shortest: float = Field(
        0.1, gt=0, description="seconds; a file with less of them inside the clip's interval is too short"
    )

    @model_validator(mode="after")
    def _whole_segments(self) -> "Preset":
        if not 1 <= self.fps <= 240:
            raise ValueError(f"fps: from 1 to 240, found {self.fps}")
        if self.pad and self.seconds != int(self.seconds):
            raise ValueError(
                f"seconds: a whole number, because segments are seconds (or pad: false), found {self.seconds}"
            )
        return self

    @property
    def segments(self) -> int:
        """T, segments of a full clip."""
        return int(self.seconds)

    @property
    def frames(self) -> int:
        """Frames of a full clip."""
        return self.frames_in(self.seconds)

    @property
    def samples(self) -> int:
        """Samples of a full clip in each channel."""
        return self.samples_beside(self.frames)

    @property
    def decoded_bytes(self) -> int:
        """Memory for a full clip's frames (uint8) and sound (float32)."""
        return self.frames * self.width * self.height * 3 + self.samples * self.channels * 4

    @property
    def group(self) -> int:
        """Frames of a closed group of pictures: reading one frame decodes at most so many."""
        return math.ceil(self.fps / self.keyframes)

    def check_picks(self, fps: int) -> None:
        """Raise ValueError if `fps` pictures cannot be taken from each second: the rate must be a multiple, or no whole number."""
        if not self.pad:
            raise ValueError(
                f"preset: clips of {self.name} have no fixed number of segments; take one with `pad: true`"
            )
        whole = self.fps.denominator == 1
        if fps < 1 or (self.fps % fps if whole else fps > self.fps):
            rule = "divide" if whole else "be at most"
            raise ValueError(
                f"fps: must {rule} {float(self.fps):g}, the rate of {self.name} clips; found {fps}"
            )

    def frames_in(self, seconds: float) -> int:
        """Frames whose middle lies within the first `seconds`."""
        return math.ceil(Fraction(seconds).limit_denominator(10**6) * self.fps - Fraction(1, 2))

    def samples_beside(self, frames: int) -> int:
        """Samples of each channel of a clip with so many frames; without padding both last equally long."""
        return round((self.seconds if self.pad else float(frames / self.fps)) * self.sample_rate)


CANONICAL = Preset(name="canonical", seconds=10, fps=Fraction(16), width=256, height=256, sample_rate=16_000)
MULTISENSORY = Preset(
    name="multisensory", seconds=10.1, fps=Fraction(30_000, 1001), width=256, height=256,
    sample_rate=21_000, channels=2, pad=False,
)  # fmt: skip
"""Owens and Efros (2018). A held picture or silence would be learned, so nothing is padded."""
LARGE = Preset(
    name="large", seconds=10, fps=Fraction(16), width=340, height=340, aspect="keep",
    sample_rate=48_000, channels=2,
)  # fmt: skip
"""For today's backbones: pictures that keep their proportions, sound at 48 kHz."""

PRESETS = {preset.name: preset for preset in (CANONICAL, MULTISENSORY, LARGE)}
"""The formats that every study has; its `presets` may add others."""


def _by_name(value: Any) -> Any:
    if isinstance(value, str) and value not in PRESETS:
        raise ValueError(f"no preset {value!r}; {suggest(value, list(PRESETS))}, or describe it in `presets`")
    return PRESETS[value] if isinstance(value, str) else value


def named(preset: Preset) -> Any:
    """The name of a preset that every study has; else its settings, as json knows them."""
    return preset.name if PRESETS.get(preset.name) == preset else preset.model_dump(mode="json")


NamedPreset = Annotated[Preset, BeforeValidator(_by_name), PlainSerializer(named)]
"""A preset that may be given by its name, and is written as its name if every study has it."""
