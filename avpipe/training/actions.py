"""Action recognition: one category for a whole clip, from its pictures and its sound.

Owens and Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018, fine-tune the network of
alignment on UCF-101. From the released code (andrewowens/multisensory: src/videocls.py): the head is drawn anew, the factors
gamma of batch normalization are added and start at 1, and all layers train, by cross-entropy. Its settings are not all
released; what the recipe leaves to us, the model card of `multisensory` says.

Clips have their true length. A clip that is shorter than a window is repeated from its beginning, and a clip without sound is
silent: both are in UCF-101.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Experiment
from avpipe.training.alignment import crop_problem, cropped, frames_of, samples_of, stereo
from avpipe.training.data import Data, Loader
from avpipe.training.raw import RawClip, RawClips
from avpipe.training.raw_task import RawTask
from avpipe.training.task import Evaluation


@dataclass
class ActionBatch:
    """Clips with their categories: a window of each in training, all of it in evaluation.

    Args:
        frames: (B, 3, T, H, W) uint8 RGB.
        waveform: (B, 2, L) float32, beside them.
        category: (B,) int64.
        clips: the clips' names.
    """

    frames: Tensor
    waveform: Tensor
    category: Tensor
    clips: "Sequence[str] | str" = ()


class Actions(RawTask):
    """The task of an experiment; see `avpipe.training.task`. The model takes frames and a sound, as `Multisensory` does.

    A clip's category is that of its event of modality "video". A held-out clip is seen in `test_clips` windows, each in
    `test_crops` places; the mean of the probabilities decides. `accuracy` is the share of right clips, `class_accuracy` the
    mean of this share over the categories.
    """

    settings: ClassVar[Sequence[str]] = ("supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ("window", "crop", "audio_jitter", "test_clips", "test_crops")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("Accuracy", "%"),
        "class_accuracy": Metric("Mean of the categories' accuracies", "%"),
    }
    parts = ("mp4",)

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        self.category = categories_of(data)

    def problem(self) -> str | None:
        """A crop that is larger than the frames, or a clip without a category."""
        recipe, preset = self.experiment.recipe, self.experiment.preset
        assert preset is not None  # `check_experiment`
        named = [clip for split in self.data.splits.values() for clip in split.clips["clip"]]
        if unknown := [clip for clip in named if clip not in self.category]:
            return f"{len(unknown)} clips do not have exactly one category, for example {unknown[0]}"
        return crop_problem(recipe, preset)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The category that most training clips have."""
        train, test = (
            self.data.splits[s].clips["clip"].map(self.category).to_numpy() for s in ("train", "test")
        )
        most = np.bincount(train).argmax()
        return {"always the most frequent category": {"accuracy": float((test == most).mean())}}

    def datasets(self) -> dict[str, RawClips]:
        """The splits. Held-out clips come one at a time, since they differ in length."""
        made = super().datasets()
        for name in made.keys() - {"train"}:
            made[name].together = 1
        return made

    def read(self, clip: RawClip) -> ActionBatch:
        """A random window and crop, mirrored for half of the clips; the sound begins a little before or after the pictures."""
        recipe, preset = self.experiment.recipe, clip.preset
        window = frames_of(recipe.window, preset)
        start = _draw(clip.frames.count - window + 1)
        shift = recipe.audio_jitter * float(2 * torch.rand(()) - 1)
        shown, places = np.unique(looped(start, window, clip.frames.count), return_inverse=True)
        frames = torch.from_numpy(clip.frames.at(shown)[places]).permute(3, 0, 1, 2)  # -> (3, T, H, W)
        frames = cropped(frames, recipe.crop, _draw)
        sound = window_of(sound_or_silence(clip), samples_of(start, window, preset), self._samples(shift))
        return ActionBatch(
            frames.contiguous(), sound.contiguous(), torch.tensor(self.category[clip.clip]), clip.clip
        )

    def read_held_out(self, clip: RawClip) -> ActionBatch:
        """All of a clip."""
        frames = torch.from_numpy(clip.frames.at(np.arange(clip.frames.count))).permute(3, 0, 1, 2)
        return ActionBatch(frames, sound_or_silence(clip), torch.tensor(self.category[clip.clip]), clip.clip)

    def options(self) -> dict[str, Any]:
        """One logit a category, and gamma."""
        return {"num_logits": len(self.data.categories), "gamma": True, **super().options()}

    def model(self) -> nn.Module:
        """Of the network that it starts from, all but the head."""
        if self.start:
            kept = {name: w for name, w in self.start.weights.items() if not name.startswith("head.")}
            self.start = replace(self.start, weights=kept)
        return super().model()

    def loss(self, model: nn.Module, batch: ActionBatch, progress: float) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"category": functional.cross_entropy(model(batch.frames, batch.waveform), batch.category)}

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """All `metrics`. The table has a row for each clip: its name, its category, the prediction and its probability."""
        names, rows = self.data.categories, []
        for batch in loader:
            probabilities = self._probabilities(model, batch.frames[0], batch.waveform[0])
            found = int(probabilities.argmax())
            own = {"clip": batch.clips[0], "category": names[int(batch.category[0])]}
            rows.append({**own, "prediction": names[found], "probability": float(probabilities[found])})
        table = pd.DataFrame(rows)
        right = table["category"] == table["prediction"]
        of_each = right.groupby(table["category"]).mean()
        return Evaluation({"accuracy": float(right.mean()), "class_accuracy": float(of_each.mean())}, table)

    def _probabilities(self, model: nn.Module, frames: Tensor, waveform: Tensor) -> Tensor:
        """Means over a clip's windows and crops, (C,); frames (3, T, H, W), waveform (2, L)."""
        recipe, preset = self.experiment.recipe, self.experiment.preset
        assert preset is not None  # `check_experiment`
        count, height, width = frames.shape[1:]
        window = frames_of(recipe.window, preset)
        starts = window_starts(count, window, recipe.test_clips)
        views = list(product(starts, crops(height, width, recipe.crop, recipe.test_crops)))
        found = []
        for first in range(0, len(views), recipe.batch_size):
            seen, heard = [], []
            for start, (top, left, mirrored) in views[first : first + recipe.batch_size]:
                part = frames[:, torch.from_numpy(looped(start, window, count)).to(frames.device)]
                part = part[..., top : top + recipe.crop, left : left + recipe.crop]
                seen.append(part.flip(-1) if mirrored else part)
                heard.append(window_of(waveform, samples_of(start, window, preset)))
            found.append(model(torch.stack(seen), torch.stack(heard)).float().softmax(-1))
        return torch.cat(found).mean(0)

    def _samples(self, frames: float) -> int:
        """Samples beside so many frames."""
        preset = self.experiment.preset
        assert preset is not None  # `check_experiment`
        return round(frames * float(preset.sample_rate / preset.fps))


def categories_of(data: Data) -> dict[str, int]:
    """Clip -> index of its category, for the clips that have exactly one event of modality "video"."""
    events = data.events[data.events["modality"] == "video"].drop_duplicates("clip", keep=False)
    number = {name: index for index, name in enumerate(data.categories)}
    return {clip: number[name] for clip, name in zip(events["clip"], events["category"], strict=True)}


def sound_or_silence(clip: RawClip) -> Tensor:
    """A clip's sound, (2, L); zeros beside its frames if it has none."""
    if "flac" in clip.parts:
        return stereo(clip.waveform)
    return torch.zeros(2, clip.preset.samples_beside(clip.frames.count))


def looped(start: int, window: int, count: int) -> np.ndarray:
    """Indices of the `window` frames from frame `start` on, (T,) int64; after the last frame of `count` comes the first one."""
    return (start + np.arange(window)) % count


def window_of(sound: Tensor, samples: slice, shift: int = 0) -> Tensor:
    """These samples of a sound (2, L), all moved by `shift`, but not beyond its ends; a shorter sound is repeated."""
    length, whole = samples.stop - samples.start, sound.shape[1]
    start = samples.start + shift
    if length <= whole:
        start = min(max(start, 0), whole - length)
        return sound[:, start : start + length]
    return sound[:, torch.arange(start, start + length, device=sound.device) % whole]


def window_starts(count: int, window: int, number: int) -> list[int]:
    """First frames of a clip's windows, evenly spaced.

    The possible first frames are divided into `number` equal parts, and the one in the middle of each part is taken. If there
    are fewer of them than `number`, each is taken once: a clip no longer than a window has one, frame 0.
    """
    possible = max(count - window, 0) + 1
    parts = min(number, possible)
    return [(2 * part + 1) * possible // (2 * parts) for part in range(parts)]


def crops(height: int, width: int, side: int, number: int) -> list[tuple[int, int, bool]]:
    """Top, left, and whether it is mirrored: the centre for number 1, else the corners and the centre, each in both ways."""
    down, across = height - side, width - side
    centre = down // 2, across // 2
    if number == 1:
        return [(*centre, False)]
    places = [*product((0, down), (0, across)), centre]
    return [(top, left, mirrored) for top, left in places for mirrored in (False, True)]


def _draw(below: int) -> int:
    """A random number from 0 to below - 1; 0 if there is none."""
    return int(torch.randint(max(below, 1), ()))
