"""Self-supervised training of Multisensory: is the sound in step with the pictures, or was it shifted in time?

Owens and Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018; examples, loss and
stages are those of the released code (andrewowens/multisensory: src/shift_dset.py, shift_net.py, shift_params.py).

From each clip a window of pictures is drawn. One example has the sound of the same window, the other one that of another
window of the same clip. Clips last longer than a window, so no end of a clip tells the two apart. The windows' start frames
are drawn together, uniformly among all pairs whose windows have few frames in common. So each is distributed alike, and
neither the sound alone nor the pictures alone say whether they are in step.

The paper trains twice: with every fourth frame, then at the full rate (`frame_step`), starting from the first network
(`pretraining`). The second blocks of each size are then drawn anew, as in the released code, and all else is carried over.

In a comparison of the paper, random pairing, the wrong sound is that of another clip (`negatives`). No code for it is
released: here, everything else stays as it is.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.media.presets import Preset
from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.data import Loader
from avpipe.training.raw import RawClip
from avpipe.training.raw_task import RawTask
from avpipe.training.task import Evaluation

RESTARTED = ("image.conv2_2.", "fused.conv3_2.", "fused.conv4_2.", "fused.conv5_2.")
"""The layers im/conv{2,3,4,5}_2, which the training at the full rate draws anew."""


@dataclass
class AlignmentBatch:
    """Clips, each with two sounds for the same pictures.

    Args:
        frames: (B, 3, T, H, W) uint8 RGB.
        sounds: (B, 2, 2, L) float32; axis 1: the two sounds, axis 2: the channels.
        aligned: (B, 2) float32: 1 for the sound that is in step, 0 for the shifted one.
        starts: (B, 2) int64, the first frames of the pictures' window and of that of the shifted sound.
        clips: the clips' names.
    """

    frames: Tensor
    sounds: Tensor
    aligned: Tensor
    starts: Tensor
    clips: "Sequence[str] | str" = ()


class Alignment(RawTask):
    """The task of an experiment; see `avpipe.training.task`. The model takes frames and two sounds, as `Multisensory` does.

    The score is the share of right answers, in step or not, over both examples of each clip; chance is 0.5. The pairs of
    windows of held-out clips follow from the clips' names, so every model sees the same.
    """

    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ("window", "overlap", "frame_step", "crop", "control", "negatives")
    metrics: ClassVar[Mapping[str, Metric]] = {"accuracy": Metric("Accuracy", "%")}

    @classmethod
    def least_seconds(cls, experiment: Experiment) -> float:
        """A clip with two windows that share no more than they may; and two frames for rounding."""
        recipe, preset = experiment.recipe, experiment.preset
        assert preset is not None  # `check_experiment`
        return float((2 * frames_of(recipe.window, preset) - recipe.overlap + 2) / preset.fps)

    def problem(self) -> str | None:
        """A crop that is larger than the frames, or an overlap that would leave a sound where it is."""
        recipe, preset = self.experiment.recipe, self.experiment.preset
        assert preset is not None  # `check_experiment`
        if problem := crop_problem(recipe, preset):
            return problem
        window = frames_of(recipe.window, preset)
        if recipe.overlap >= window:
            return (
                f"recipe.overlap: {recipe.overlap} frames, but it must be less than a window, {window} frames"
            )
        return None

    def baselines(self) -> dict[str, dict[str, float]]:
        """Chance."""
        return {"guessing": {"accuracy": 0.5}}

    def read(self, clip: RawClip) -> AlignmentBatch:
        """A random pair of windows, a random crop, and a horizontal flip for half of the clips; either example comes first."""
        return self._item(clip, torch.default_generator, augment=True)

    def read_held_out(self, clip: RawClip) -> AlignmentBatch:
        """The clip's own pair of windows, and the centre of the frames."""
        return self._item(clip, generator_of(clip.clip), augment=False)

    def model(self) -> nn.Module:
        """At another rate than that of its `pretraining`, the network's second blocks are drawn anew."""
        recipe, before, start = self.experiment.recipe, self.experiment.pretraining, self.start
        if start and before and before.recipe.frame_step != recipe.frame_step:
            kept = {name: w for name, w in start.weights.items() if not name.startswith(RESTARTED)}
            self.start = replace(start, weights=kept)
        return super().model()

    def loss(self, model: nn.Module, batch: AlignmentBatch, progress: float) -> dict[str, Tensor]:
        """The mean cross-entropy of both examples of all clips."""
        logits = model(batch.frames, batch.sounds).squeeze(-1)  # (B, 2, 1) -> (B, 2)
        return {"alignment": functional.binary_cross_entropy_with_logits(logits, batch.aligned)}

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """`accuracy`. The table has a row for each example: clip, picture_start and sound_start (frames), aligned (bool), and
        the logit, positive for in step."""
        tables = []
        for batch in loader:
            logits = model(batch.frames, batch.sounds).squeeze(-1)
            for column, aligned in enumerate((True, False)):  # the order of `read_held_out`
                own = {"clip": batch.clips, "picture_start": batch.starts[:, 0].cpu().numpy()}
                own["sound_start"] = batch.starts[:, 0 if aligned else 1].cpu().numpy()
                tables.append(pd.DataFrame({**own, "aligned": aligned, "logit": logits[:, column].cpu()}))
        table = pd.concat(tables, ignore_index=True)
        return Evaluation({"accuracy": float(((table["logit"] > 0) == table["aligned"]).mean())}, table)

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """The clips from which that of a sound that does not belong to a clip is drawn: those of training, and the others."""
        names = {split: own.clips["clip"].tolist() for split, own in self.data.splits.items()}
        return {"train": names["train"], "held out": [*names["val"], *names["test"]]}

    def _another(self, clip: RawClip, draw: Callable[[int], int], part: str) -> RawClip:
        """A random other clip."""
        names = self._names[part]
        place = draw(len(names))
        if names[place] == clip.clip:
            place = (place + 1) % len(names)
        return self.data.raw[names[place]].for_one_item()

    def _item(self, clip: RawClip, random: torch.Generator, augment: bool) -> AlignmentBatch:
        """Draws from `random`: the pair of windows, the frame that stands still; with `augment` crop, flip and order, too."""
        recipe, preset = self.experiment.recipe, clip.preset

        def draw(below: int) -> int:
            return int(torch.randint(max(below, 1), (), generator=random))

        count, window = clip.frames.count, frames_of(recipe.window, preset)
        pairs = shift_pairs(count, window, recipe.overlap)
        if not len(pairs):
            raise ValueError(
                f"clip {clip.clip}: {count} frames have no two windows of {window} that share at most {recipe.overlap}"
            )
        starts = pairs[draw(len(pairs))]
        shown = int(starts[0]) + np.arange(0, window, recipe.frame_step)
        if recipe.control == "one_frame":
            # Of the whole clip: one of a known instant would say how loud the sound of that instant is.
            shown = np.full_like(shown, draw(count))
        frames = torch.from_numpy(clip.frames.at(shown)).permute(3, 0, 1, 2)  # (T, H, W, 3) -> (3, T, H, W)
        frames = cropped(frames, recipe.crop, draw if augment else None)
        wrong = clip
        if recipe.negatives == "other_clip":
            wrong = self._another(clip, draw, "train" if augment else "held out")
            starts = torch.stack([starts[0], torch.tensor(draw(frames_beside(wrong) - window))])
        sounds = torch.stack(
            [sound_of(c, int(s), window) for c, s in zip((clip, wrong), starts, strict=True)]
        )
        aligned = torch.tensor([1.0, 0.0])
        if augment and draw(2):
            sounds, aligned = sounds.flip(0), aligned.flip(0)
        frames = torch.zeros_like(frames) if recipe.control == "sound" else frames
        sounds = torch.zeros_like(sounds) if recipe.control == "frames" else sounds
        return AlignmentBatch(frames.contiguous(), sounds, aligned, starts, clip.clip)


def cropped(frames: Tensor, side: int, draw: Callable[[int], int] | None = None) -> Tensor:
    """(..., H, W) -> (..., side, side): the centre; with `draw`, a random place, and half of the clips mirrored.

    `draw(n)` gives a random number from 0 to n - 1, and 0 for n = 0.
    """
    spare = [size - side for size in frames.shape[-2:]]
    top, left = (draw(n) if draw else n // 2 for n in spare)
    frames = frames[..., top : top + side, left : left + side]
    return frames.flip(-1) if draw and draw(2) else frames


def crop_problem(recipe: Recipe, preset: Preset) -> str | None:
    """A crop that is larger than the frames."""
    if recipe.crop <= min(preset.height, preset.width):
        return None
    return f"recipe.crop: {recipe.crop} pixels, but the clips of {preset.name} have {preset.width} x {preset.height}"


def frames_beside(clip: RawClip) -> int:
    """Whole frames for which a clip's sound lasts."""
    return int(len(clip.waveform) * clip.preset.fps / clip.preset.sample_rate)


def frames_of(seconds: float, preset: Preset) -> int:
    """Whole frames in a window: 125 in 4.2 s at 29.97 a second."""
    return int(Fraction(str(seconds)) * preset.fps)


@cache
def shift_pairs(frames: int, window: int, overlap: int) -> Tensor:
    """The pairs of start frames of windows that have at most `overlap` frames in common, (N, 2) int64, in both orders.

    Start frames are 0 to frames - window - 1; the released code leaves the last possible one out. With the paper's 302, 125
    and 60 frames there are 12,656 pairs, 65 to 176 frames (2.2 to 5.9 s) apart.
    """
    starts = torch.arange(max(frames - window, 0))
    pairs = torch.cartesian_prod(starts, starts)
    return pairs[(pairs[:, 0] - pairs[:, 1]).abs() >= window - overlap]


def sound_of(clip: RawClip, start: int, window: int) -> Tensor:
    """The sound beside `window` frames from frame `start` on, (2, L) float32; both channels are the same for mono."""
    return stereo(clip.waveform)[:, samples_of(start, window, clip.preset)]


def stereo(waveform: Any) -> Tensor:
    """(samples,) or (samples, 2) -> (2, samples)."""
    sound = torch.from_numpy(waveform)
    return sound.expand(2, -1) if sound.ndim == 1 else sound.T


def samples_of(start: int, window: int, preset: Preset) -> slice:
    """The samples beside `window` frames from frame `start` on: both numbers times the samples of a frame, rounded."""
    of_a_frame = preset.sample_rate / preset.fps
    first = round(of_a_frame * start)
    return slice(first, first + round(of_a_frame * window))


def generator_of(clip: str) -> torch.Generator:
    """Random numbers that follow from a clip's name."""
    digest = hashlib.sha256(clip.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
