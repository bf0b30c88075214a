"""Clips in figures: how clips are chosen, their frames and audio, and how both are drawn over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from avpipe.media.presets import CANONICAL, Preset
from avpipe.media.segments import decode_audio, decode_frames, read_shard
from avpipe.plan.section import ConfigError, Section
from avpipe.report.spec import FigureSpec
from avpipe.report.style import SOFT, WARNING, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 11.0
"""Inches of the whole figure."""
_FRAME = 160
"""Pixels a side at which frames are drawn."""


class ClipsOptions(Section):
    """Which clips are shown, and whose predictions."""

    clips: int | tuple[str, ...] = Field(
        default=1,
        description="names of test clips; or how many typical ones are chosen by the first row's predictions",
    )
    seed: int | None = Field(default=None, description="whose predictions are shown; none: the first seed")


class ClipsFigure(FigureSpec):
    """A figure of test clips over time."""

    options: ClipsOptions = Field(default_factory=ClipsOptions)
    shows_clip: ClassVar[bool] = True

    def no_such_clip(self, clip: str) -> ConfigError:
        """The error for a clip in the options that no run predicts."""
        return ConfigError(f"figure {self.name}: options.clips: {clip!r} is no test clip with predictions")


@dataclass(frozen=True)
class ClipMedia:
    """Frames and audio of a clip. T is the number of segments, one second each.

    Args:
        frames: (T, H, W, 3) uint8, one a segment; or why there are none.
        waveform: (samples,) float32 in -1..1 at `sample_rate`; or why there is none.
        sample_rate: samples a second.
        aspect: width over height of the picture before it was squashed to the canonical square.
    """

    frames: npt.NDArray[np.uint8] | str
    waveform: npt.NDArray[np.floating] | str
    sample_rate: int = CANONICAL.sample_rate
    aspect: float = 1.0

    def heights(self, segments: int) -> list[float]:
        """Inches of the frames, which fill the figure's width, and of the waveform."""
        return [min(1.4, max(0.5, (WIDTH - 1.2) / segments / self.aspect)), 0.6]


def read_clip(clip: str, preset: Preset, results: Path) -> ClipMedia:
    """One frame a second and the waveform of a clip, from its shard of segments."""
    clips = pd.read_parquet(results / "clips.parquet", columns=["clip", "shard", "width", "height"])
    chosen = clips[clips["clip"] == clip]
    if chosen.empty:
        reason = f"clip {clip} is not in clips.parquet"
        return ClipMedia(reason, reason)
    row = chosen.iloc[0]
    path = results / "segments" / preset.name / f"{int(row['shard'])}.tar"
    found = next((m for m in read_shard(path) if m.clip == clip), None) if path.is_file() else None
    if found is None:
        reason = f"clip {clip} is not in {path}" if path.is_file() else f"{path} is missing"
        return ClipMedia(reason, reason)
    audio = "no audio" if found.audio is None else decode_audio(found.audio, preset)
    known = pd.notna(row["width"]) and pd.notna(row["height"]) and row["height"] > 0
    return ClipMedia(
        frames="no video" if found.video is None else decode_frames(found.video, 1, preset),
        waveform=audio if isinstance(audio, str) or audio.ndim == 1 else audio.mean(axis=1),
        sample_rate=preset.sample_rate,
        aspect=float(row["width"] / row["height"]) if known else 1.0,
    )


def draw_clip(frames: "Axes", waveform: "Axes", clip: str, media: ClipMedia) -> None:
    """Name and frames of a clip on one axis, its waveform on another: one second is one unit along x."""
    frames.set_title(f"Clip {clip}", loc="left", size=9, color=SOFT)
    label_row(frames, "Frames")
    if isinstance(media.frames, str):
        write_reason(frames, media.frames)
    else:
        for second, frame in enumerate(media.frames):
            step = max(1, min(frame.shape[:2]) // _FRAME)
            frames.imshow(frame[::step, ::step], extent=(second + 0.02, second + 0.98, 0, 1), aspect="auto")
        frames.set_ylim(0, 1)
    label_row(waveform, "Audio")
    if isinstance(media.waveform, str):
        write_reason(waveform, media.waveform)
    else:
        _draw_waveform(waveform, media.waveform, media.sample_rate)


def _draw_waveform(axis: "Axes", waveform: npt.NDArray[np.floating], sample_rate: int) -> None:
    """The lowest and the highest sample of each fiftieth of a second, scaled to the loudest sample."""
    block = sample_rate // 50
    blocks = waveform[: len(waveform) // block * block].reshape(-1, block)
    peak = max(float(np.abs(waveform).max(initial=0.0)), 1e-6)
    times = (np.arange(len(blocks)) + 0.5) / 50
    axis.fill_between(times, blocks.min(axis=1) / peak, blocks.max(axis=1) / peak, color=SOFT, linewidth=0.3)
    axis.set_ylim(-1.05, 1.05)


def along_time(axes: Sequence["Axes"], seconds: int) -> None:
    """Give all axes the same seconds, written below the last one; take their frames away."""
    for axis in axes:
        last = axis is axes[-1]
        axis.set_xlim(0, seconds)
        axis.tick_params(left=False, labelleft=False, bottom=last, labelbottom=last)
        axis.spines[["left", "bottom"]].set_visible(False)
    axes[-1].set_xticks(range(seconds + 1))
    axes[-1].set_xlabel("seconds")


def label_row(axis: "Axes", text: str) -> None:
    """Write what an axis shows to the left of it."""
    axis.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=8)


def write_reason(axis: "Axes", text: str) -> None:
    """Write why an axis is empty."""
    axis.set_ylim(0, 1)
    axis.text(0.05, 0.5, wrapped(text, WIDTH - 2), va="center", color=WARNING)
