"""What a unit of work takes, as measured. `avpipe plan` multiplies; benchmarks of the study's own jobs replace these.

Nothing here is estimated: what was not measured has no entry, and the plan shows a gap.
"""

from typing import NamedTuple


class Rate(NamedTuple):
    """An amount for one unit, and where it was measured."""

    amount: float
    source: str


_ALONE = "benchmarks/README.md: network alone, PyTorch, one core, loaded"
_TABLE = "benchmarks/README.md: network alone, OpenVINO, 2 cores"

NORMALISE = Rate(2 / 6.23, "benchmarks/README.md: 6.23 clips/s on 2 cores")
"""Core seconds a clip, of 10 s."""

PICTURES = {
    "resnet18": Rate(0.0458, _ALONE),
    "resnet50": Rate(0.122, _ALONE),
    "resnet152": Rate(
        2 * 16.5 / (4 * 80), "benchmarks/README.md: whole job, OpenVINO, 4 clips in 16.5 s on 2 cores"
    ),
    "vgg16": Rate(2 * 0.142, _TABLE),
    "vgg19": Rate(0.482, _ALONE),
}
"""2D backbone -> core seconds a picture of 224 x 224, in float32."""

SEGMENTS = {
    "r2plus1d_18": Rate(2 * 0.186, _TABLE),
    "r3d_18": Rate(0.454, _ALONE),
    "vggish": Rate(0.0305, _ALONE),
}
"""3D backbone -> core seconds for 8 pictures of 112 x 112; vggish -> for one second of sound."""

CLIPS_AN_HOUR = Rate(250, "youtube's default `rate`, docs/downloading.md")
"""What one address downloads from YouTube."""

EXTRACTION_MB, OTHER_MB = 8000, 4000
"""What the rules ask for at the first attempt (workflow/rules): extraction; the largest of the others but trainings."""
