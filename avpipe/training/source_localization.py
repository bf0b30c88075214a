"""Where does a network that was trained for alignment find the source of a sound? Its class activation maps are scored.

Owens and Efros (ECCV 2018) show such maps and do not score them. The task trains nothing: its experiments start from a
training (`pretraining`) and have `epochs: 0`. Its data are the held-out clips of a dataset. They are scored where its folder
has `annotations/sources.csv`; for maps of other annotations there is `avpipe results score-sources`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.media.presets import Preset
from avpipe.metrics.metric import Metric
from avpipe.metrics.source_annotations import AnnotatedFrame, read_source_csv
from avpipe.metrics.source_localization import (
    Map,
    Threshold,
    at_positions,
    centre,
    enlarged,
    frame_difference,
    map_at,
    score_sources,
    whole_image,
)
from avpipe.models.multisensory import Multisensory
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.alignment import frames_of, samples_of, stereo
from avpipe.training.data import Loader
from avpipe.training.raw import RawClip, RawClips
from avpipe.training.raw_task import RawData, RawTask
from avpipe.training.task import Evaluation

THRESHOLD: Threshold = "adaptive"
"""As many pixels count as found as the source has: with the field's median, a small source cannot reach a cIoU of 0.5."""


@dataclass
class WholeClips:
    """Clips from beginning to end.

    Args:
        frames: (B, 3, T, H, W) uint8 RGB.
        waveform: (B, 2, L) float32.
        clips: the clips' names.
    """

    frames: Tensor
    waveform: Tensor
    clips: "Sequence[str] | str" = ()


@dataclass(frozen=True)
class SourceData(RawData):
    """`RawData` with the sources of sound.

    Args:
        sources: of all annotated clips; None if the dataset has no such annotations.
    """

    sources: list[AnnotatedFrame] | None


class SourceLocalization(RawTask):
    """The task of an experiment; see `avpipe.training.task`. The model is `Multisensory`.

    The scores are those of `avpipe.metrics.source_localization` with an adaptive threshold, over all annotated instants of
    the held-out clips. With `pairs: other_clip` each clip has the next clip's sound, which is a baseline.
    """

    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ("pairs",)
    metrics: ClassVar[Mapping[str, Metric]] = {
        "pointing": Metric("Pointing", "%"),
        "mean_ciou": Metric("Mean cIoU", "%"),
        "ciou_50": Metric("cIoU@0.5", "%"),
        "auc": Metric("AUC", "%"),
        "ap": Metric("AP", "%"),
        "max_f1": Metric("Max-F1", "%"),
    }
    data: SourceData

    @classmethod
    def open(
        cls, experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None
    ) -> SourceData:
        """As `RawTask.open`, with `annotations/sources.csv`."""
        data = super().open(experiment, results, device, resident_bytes)
        file = results / "annotations" / "sources.csv"
        return SourceData(**vars(data), sources=read_source_csv(file) if file.is_file() else None)

    def problem(self) -> str | None:
        """Nothing to start from, or a training that this task does not have."""
        if self.experiment.pretraining is None or self.experiment.recipe.epochs:
            return "source_localization trains nothing: give a `pretraining`, and the recipe {epochs: 0, protocol: last}"
        return None

    def datasets(self) -> dict[str, RawClips]:
        """The held-out clips, one at a time, since they may differ in length."""
        test = super().datasets()["test"]
        test.together = 1
        return {"test": test}

    def read(self, clip: RawClip) -> WholeClips:
        """All of a clip, with its own sound or with the next clip's, cut or repeated to the same length."""
        sound = stereo(clip.waveform)
        if self.experiment.recipe.pairs == "other_clip":
            names = self.data.splits["test"].clips["clip"].tolist()
            other = self.data.raw[names[(names.index(clip.clip) + 1) % len(names)]]
            places = torch.arange(sound.shape[1])
            sound = stereo(other.for_one_item().waveform)
            sound = sound[:, places % sound.shape[1]]
        frames = torch.from_numpy(clip.frames.at(np.arange(clip.frames.count))).permute(3, 0, 1, 2)
        return WholeClips(frames, sound, clip.clip)

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """All `metrics`; none if the dataset has no annotations of sources.

        The table has a row for each clip: its name; `response`, the largest value of its maps; `second`, when it is that
        large; `map`, the map at that time, row by row, and its `height` and `width`.
        """
        before, preset, maps, rows = self.experiment.pretraining, self.experiment.preset, {}, []
        assert before is not None  # `problem`
        assert preset is not None  # `check_experiment`
        for batch in loader:
            found = sound_maps(model, batch.frames[0], batch.waveform[0], before.recipe, preset)
            clip, frame = batch.clips[0], int(found.reshape(len(found), -1).max(axis=1).argmax())
            maps[clip], strongest = found, found[frame]
            when = {"response": float(strongest.max()), "second": (frame + 0.5) / float(preset.fps)}
            size = {"height": strongest.shape[0], "width": strongest.shape[1]}
            rows.append({"clip": clip, **when, **size, "map": strongest.ravel().tolist()})
        return Evaluation(self._scores(maps), pd.DataFrame(rows))

    def baselines(self) -> dict[str, dict[str, float]]:
        """The whole image, its centre, and where the clip's frames differ most."""
        if self.data.sources is None:
            return {}
        clips = self.datasets()["test"].clips
        frames = {clip.clip: clip.for_one_item().frames for clip in clips}
        moving = {name: frame_difference(f.at(np.arange(f.count))) for name, f in frames.items()}
        return {
            "the whole image": self._scores(dict.fromkeys(moving, whole_image())),
            "the centre": self._scores(dict.fromkeys(moving, centre())),
            "mean difference of frames": self._scores(moving),
        }

    def _scores(self, maps: Mapping[str, Map]) -> dict[str, float]:
        """`score_sources` of maps (H, W) or, one for each frame, (T, H, W); none without annotations."""
        preset, sources = self.experiment.preset, self.data.sources
        assert preset is not None  # `check_experiment`
        if sources is None:
            return {}
        truth, shown = [], {}
        for number, frame in enumerate(source for source in sources if source.clip in maps):
            found, name = maps[frame.clip], f"{number} {frame.clip}"
            if found.ndim == 3:
                found = enlarged(map_at(found, frame.time, len(found) / float(preset.fps)))
            truth.append(replace(frame, clip=name, time=None))
            shown[name] = found
        scores = score_sources(truth, shown, threshold=THRESHOLD)
        return {name: scores[name] for name in self.metrics}


def sound_maps(model: nn.Module, frames: Tensor, waveform: Tensor, recipe: Recipe, preset: Preset) -> Map:
    """The absolute values of a network's class activation maps at every frame of a video: high where the sound comes from.

    The network sees windows as long as those of its training, the next one half a window later; where windows overlap, the
    mean counts. Frames are squashed to the size of the training's crops, as in the released code.

    Args:
        model: `Multisensory`, or a wrapper of it, in evaluation mode.
        frames: (3, T, H, W) uint8.
        waveform: (2, L), beside them.
        recipe: of its training: window, frame_step, crop.
        preset: of the video.

    Returns:
        (T, h, w).
    """
    network = next(part for part in model.modules() if isinstance(part, Multisensory))
    count = frames.shape[1]
    window = min(frames_of(recipe.window, preset), count)
    starts = np.linspace(0, count - window, -(-2 * (count - window) // window) + 1).round().astype(int)
    at_frames = []
    for start in starts:
        pictures = squashed(frames[:, start : start + window : recipe.frame_step], recipe.crop)
        sound = waveform[:, samples_of(start, window, preset)]
        maps = network.activation(network.fuse(network.image(pictures[None]), sound[None]))
        found = maps[0, 0].abs().float().cpu().numpy()  # (T'', h, w)
        at_frames.append(at_positions(found, (np.arange(window) + 0.5) / window * len(found) - 0.5))
    total, windows = np.zeros((count, *at_frames[0].shape[1:])), np.zeros((count, 1, 1))
    for start, found in zip(starts, at_frames, strict=True):
        total[start : start + window] += found
        windows[start : start + window] += 1
    return (total / windows).astype(np.float32)


def squashed(frames: Tensor, side: int) -> Tensor:
    """(3, T, H, W) uint8 -> (3, T, side, side) float32, 0 to 255."""
    return functional.interpolate(
        frames.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
