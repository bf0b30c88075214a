"""Heat maps over pictures: where a network finds the source of the sound, as pictures, videos with sound, and galleries.

The look is that of Owens and Efros's released code (multisensory, src/sep_video.py, `heatmap`): the absolute values of a
class activation map, colours of "jet" from half of a clip's 97th percentile to the percentile, and an opacity that rises with
the value up to 0.35.

The paper shows the held-out clips with the strongest and the weakest response, and the strongest of each category (Kinetics).
It does not say how a response becomes one number; here it is the largest absolute value.
"""

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from avpipe.files import whole_file
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.metrics.source_localization import at_positions, resized
from avpipe.report.style import Heading, framed_figure, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frames = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.floating]

PERCENTILE = 97
OPACITY = 0.35
"""The highest one."""
_PICTURE = 1.7
"""Inches of a picture in a gallery."""


def heat_limits(maps: Maps) -> tuple[float, float]:
    """The values from which and to which the colour changes: half of the 97th percentile of |maps|, and the percentile."""
    high = float(np.percentile(np.abs(maps), PERCENTILE))
    return high / 2, high


def overlay(frames: Frames, maps: Maps, limits: tuple[float, float] | None = None) -> Iterator[Frames]:
    """The frames with the heat map over them, one after another, each (H, W, 3) uint8.

    Args:
        frames: (T, H, W, 3).
        maps: (T', h, w); map k is about the k-th of T' equal parts of the clip. Between the middles of two parts the maps are
            interpolated in time (the released code draws each map half a part earlier), and bilinearly over the picture, with
            the corner cells on its corners, as they are scored. The same values everywhere are drawn as no heat.
        limits: see `heat_limits`; default: those of `maps`.

    Raises:
        ValueError: if a shape is wrong or a value is not finite.
    """
    import matplotlib

    maps = np.abs(maps)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are (T, H, W, 3) uint8, found {frames.shape} {frames.dtype}")
    if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
        raise ValueError(f"maps are (T, h, w) of finite numbers, found {maps.shape} {maps.dtype}")
    low, high = heat_limits(maps) if limits is None else limits
    span = max(high - low, np.finfo(float).tiny)
    jet, even = matplotlib.colormaps["jet"], maps.min() == maps.max()
    for i, frame in enumerate(frames):
        if even:
            yield frame
            continue
        now = at_positions(maps, np.array([(i + 0.5) / len(frames) * len(maps) - 0.5]))[0]
        heat = (resized(now, *frame.shape[:2]) - low) / span
        colours = 255 * jet(np.clip(heat, 0, 1))[..., :3]
        opacity = np.clip(heat, 0, OPACITY)[..., None]
        yield np.rint(frame * (1 - opacity) + colours * opacity).astype(np.uint8)


def write_heat_picture(
    path: Path, frame: Frames, heat: Maps, limits: tuple[float, float] | None = None
) -> None:
    """Write a picture (H, W, 3) uint8 with its heat map (h, w) over it as a png file of the same size, whole or not at all."""
    from matplotlib.image import imsave

    with whole_file(path) as temporary:
        imsave(temporary, next(overlay(frame[None], heat[None], limits)), format="png")


def write_heat_video(
    path: Path,
    frames: Frames,
    maps: Maps,
    fps: Fraction | float,
    waveform: npt.NDArray[np.floating],
    sample_rate: int,
    limits: tuple[float, float] | None = None,
) -> None:
    """Write a clip with its heat map over it and its sound as mp4 (H.264, yuv420p, and AAC), whole or not at all.

    Args:
        path: of the file.
        frames: (T, H, W, 3) uint8. An odd width or height becomes even by a black line at the right or below.
        maps: (T', h, w), see `overlay`.
        fps: frames a second.
        waveform: (samples,) or (samples, channels), in -1 .. 1.
        sample_rate: samples a second.
        limits: see `overlay`.

    Raises:
        ValueError: as `overlay`.
        ChildProcessError: if ffmpeg cannot write it.
    """
    import soundfile

    height, width = frames.shape[1:3]
    with (
        tempfile.TemporaryDirectory() as folder,
        whole_file(path) as temporary,
        FFmpegGroup() as group,
    ):
        pictures, sound = Path(folder, "pictures"), Path(folder, "sound.wav")
        with pictures.open("wb") as file:
            for picture in overlay(frames, maps, limits):
                file.write(picture.tobytes())
        soundfile.write(sound, waveform, sample_rate)
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
        coding = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p", "-c:v", "libx264", "-crf", "18"]
        inputs = [*raw, "-i", f"file:{pictures}", "-i", f"file:{sound}"]
        output = [*coding, "-c:a", "aac", "-movflags", "+faststart", "-f", "mp4", "-y", f"file:{temporary}"]
        finished = group.run([*inputs, *output], timeout=60 + 2 * len(frames))
        if finished.code or finished.timed_out:
            raise ChildProcessError(f"ffmpeg cannot write {path}: {finished.message()}")


def clip_response(maps: Maps) -> float:
    """How strongly a network responds to a clip: the largest absolute value of its maps, any shape."""
    return float(np.abs(maps).max())


def strongest_and_weakest(responses: Mapping[str, float], count: int) -> tuple[list[str], list[str]]:
    """The `count` clips with the strongest response, strongest first, and those with the weakest, weakest first.

    Equal responses are in the order of the clips' names.
    """
    ordered = sorted(responses, key=lambda clip: (-responses[clip], clip))
    weakest = sorted(responses, key=lambda clip: (responses[clip], clip))
    return ordered[:count], weakest[:count]


def strongest_by_category(
    responses: Mapping[str, float], categories: Mapping[str, str], count: int
) -> dict[str, list[str]]:
    """Category -> the `count` clips of it with the strongest response, strongest first; categories in alphabetical order.

    Args:
        responses: clip -> its response.
        categories: clip -> its category, for every clip of `responses`.
        count: clips of a category.
    """
    clips: dict[str, dict[str, float]] = defaultdict(dict)
    for clip, response in responses.items():
        clips[categories[clip]][clip] = response
    return {name: strongest_and_weakest(clips[name], count)[0] for name in sorted(clips)}


def gallery(rows: Mapping[str, Sequence[tuple[str, Frames]]], heading: Heading, caption: str) -> "Figure":
    """Pictures in rows, one row a category, with the row's name at its left.

    Args:
        rows: name of the row -> what stands below each picture (the clip, its response), and the picture (H, W, 3) uint8.
        heading: above.
        caption: below.
    """
    columns = max(len(pictures) for pictures in rows.values())
    size = (max(4.0, 1.3 + columns * _PICTURE), len(rows) * (_PICTURE + 0.15))
    figure = framed_figure(size, heading, [caption])
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(wrapped(name, 1.2), rotation=0, ha="right", va="center", labelpad=8)
        for axis, shown in itertools.zip_longest(line, pictures):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[["left", "bottom"]].set_visible(False)
            if shown is not None:
                axis.set_xlabel(shown[0], size=7)
                axis.imshow(shown[1])
    return figure
