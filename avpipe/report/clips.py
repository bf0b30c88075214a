"""Which test clips a figure shows, and what is seen, heard, true and predicted in them."""

from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from avpipe.media.presets import CANONICAL, PRESETS
from avpipe.media.segments import decode_audio, decode_frames, read_shard
from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.predictions import Predictions, read_categories, read_rows
from avpipe.report.spec import SegmentsFigure, chosen_seed
from avpipe.report.style import Heading
from avpipe.report.timeline import Timeline, draw_timelines


def draw_segments(spec: SegmentsFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """A timeline of each chosen clip, one below the other.

    Raises:
        ConfigError: if `spec.options` asks for a clip or a seed without predictions.
        NothingToDraw: if no run has predictions.
    """
    return draw_timelines(read_timelines(spec, study, results), heading)


def read_timelines(spec: SegmentsFigure, study: Study, results: Path) -> list[Timeline]:
    """Choose the clips and gather what the figure shows of them; raises as `draw_segments` does."""
    if spec.options.seed is not None:
        chosen_seed(spec, spec.options.seed, study)
    tables = {row.method: _one_seed(row, spec.options.seed) for row in read_rows(spec, study, results)}
    first = next((table for table, _ in tables.values() if table is not None), None)
    if first is None:
        raise ConfigError(
            f"figure {spec.name}: options.seed: no row has predictions of seed {spec.options.seed}"
        )
    categories, clips = read_categories(results), spec.options.clips
    if isinstance(clips, int):
        clips = typical_clips(first, len(categories), clips)
    timelines = []
    for clip in clips:
        if clip not in set(first["clip"]):
            raise ConfigError(f"figure {spec.name}: options.clips: {clip!r} is no test clip with predictions")
        predictions: dict[str, npt.NDArray[np.int64] | str] = {}
        for method, (table, said) in tables.items():
            name = method if table is None else f"{method}, {said}"
            predictions[name] = said if table is None else _labels(table, clip, "prediction")
        truth, content = _labels(first, clip, "truth"), read_clip(clip, study.media.preset, results)
        timelines.append(Timeline(clip, categories, truth, predictions, **content))
    return timelines


def _one_seed(row: Predictions, chosen: int | None) -> tuple[pd.DataFrame | None, str]:
    """The predictions of one seed and "seed n"; or None and why there are none."""
    seeds = [seed for seed in row.seeds if chosen in (None, seed)]
    if seeds:
        return row.seeds[seeds[0]], f"seed {seeds[0]}"
    return None, "; ".join(row.problems)


def _labels(table: pd.DataFrame, clip: str, column: str) -> npt.NDArray[np.int64]:
    """(T,) labels of one clip."""
    return table[table["clip"] == clip].sort_values("segment")[column].to_numpy(dtype=np.int64)


def typical_clips(predictions: pd.DataFrame, background: int, count: int) -> tuple[str, ...]:
    """Clips whose event is shorter than the clip and whose accuracy is nearest to the mean of such clips.

    Each of another category as long as there are others; ties go to the first name. Where too few clips have both event
    and background, other clips are taken too.
    """
    marked = predictions.assign(
        right=predictions["truth"] == predictions["prediction"], event=predictions["truth"] != background
    )
    clips = marked.groupby("clip", sort=True).agg(right=("right", "mean"), event=("event", "mean"))
    events = marked[marked["event"]].groupby("clip")["truth"].agg(lambda truth: truth.mode().iloc[0])
    clips["category"] = events.reindex(clips.index).fillna(background)
    clips["whole"] = ~clips["event"].between(0, 1, inclusive="neither")
    mean = clips[~clips["whole"]]["right"].mean() if not clips["whole"].all() else clips["right"].mean()
    clips["distance"] = (clips["right"] - mean).abs().round(9)
    clips = clips.reset_index().sort_values(["whole", "distance", "clip"])
    clips["turn"] = clips.groupby(["whole", "category"]).cumcount()
    return tuple(clips.sort_values(["whole", "turn", "distance", "clip"])["clip"].head(count))


class ClipContent(TypedDict):
    """Frames (T, H, W, 3) and waveform (samples,) of a clip, or why there are none; and the picture's real aspect."""

    frames: npt.NDArray[np.uint8] | str
    waveform: npt.NDArray[np.float32] | str
    sample_rate: int
    aspect: float


def read_clip(clip: str, preset: str, results: Path) -> ClipContent:
    """One frame a second and the waveform of a clip, from its shard of segments."""
    clips = pd.read_parquet(results / "clips.parquet", columns=["clip", "shard", "width", "height"])
    chosen = clips[clips["clip"] == clip]
    if chosen.empty:
        return _without(f"clip {clip} is not in clips.parquet")
    row = chosen.iloc[0]
    path = results / "segments" / preset / f"{int(row['shard'])}.tar"
    if not path.is_file():
        return _without(f"{path} is missing")
    found = next((member for member in read_shard(path) if member.clip == clip), None)
    if found is None:
        return _without(f"clip {clip} is not in {path}")
    known = pd.notna(row["width"]) and pd.notna(row["height"]) and row["height"] > 0
    format_ = PRESETS[preset]
    return {
        "frames": "no video" if found.video is None else decode_frames(found.video, 1, format_),
        "waveform": "no audio" if found.audio is None else _mono(decode_audio(found.audio, format_)),
        "sample_rate": format_.sample_rate,
        "aspect": float(row["width"] / row["height"]) if known else 1.0,
    }


def _mono(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(samples,) or (samples, channels) -> (samples,)."""
    return waveform if waveform.ndim == 1 else waveform.mean(axis=1)


def _without(reason: str) -> ClipContent:
    return {"frames": reason, "waveform": reason, "sample_rate": CANONICAL.sample_rate, "aspect": 1.0}
