"""Separation of on-screen from off-screen sound: the sounds of two clips are mixed, and the pictures of one are shown.

Owens and Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018, on the network
`avpipe.models.multisensory_separation`. Lengths, losses and loudness are those of the released code
(andrewowens/multisensory: src/sep_params.py, src/sourcesep.py).

Each clip is on-screen once an epoch. In training, where clips are cut is drawn anew each time, and the clips of a batch are
mixed with one another, as in the released code (`mixed_in_batch`). In evaluation the other clip and the cuts follow from the
clips' names, so every model separates the same mixtures; or the other clip is the one that `annotations/pairs.csv` names
(columns clip, other). Both clips are of the same split, so if the splits have different speakers, so have the mixtures.

With `off_screen: NAME`, half of the other clips in training are of another dataset, as the slides' "VoxCeleb + AudioSet" has
it; the rest are then drawn from all training clips. The evaluated mixtures stay the same.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.media.presets import Preset
from avpipe.metrics.metric import Metric
from avpipe.metrics.separation import on_off_error, separation_scores, si_sdr
from avpipe.models.base import model_default
from avpipe.models.multisensory_separation import UNet, any_order_loss, mix, on_off_loss
from avpipe.models.spectrogram import (
    EDGE,
    HOP,
    RATE,
    WINDOW,
    Spectrogram,
    by_ideal_ratio_mask,
    magnitude_in_decibels,
    spectrogram,
    waveform,
)
from avpipe.plan.experiment import Experiment
from avpipe.training.alignment import generator_of, stereo
from avpipe.training.data import Loader, in_order
from avpipe.training.raw import RawClip
from avpipe.training.raw_task import RawData, RawTask
from avpipe.training.task import Evaluation

STEPS = 128
"""Frames of a spectrogram in a window, or a multiple of them."""
GREY = 128
"""What stands in place of pictures that are not shown."""
SCORES = ("sdr", "sir", "sar", "si_sdr")
PICTURED = 4
"""Mixtures of which the table of predictions has pictures, for figures."""
BANDS = 64
"""Of a spectrogram in the table of predictions: each is the loudest of so many neighbouring frequencies."""
BOTH = [f"{name}{track}" for name in ("on_off", *SCORES) for track in ("", "_off")]
"""Columns of the table of predictions, for the on-screen and the off-screen sound."""
SPECTROGRAMS = ("mixture", "on", "true_on", "off", "true_off")
PICTURES = ["frame", "height", "width", *SPECTROGRAMS]
"""Columns of the table of predictions, of its first rows only (`_pictures`)."""

Side = Literal["left", "right"]


@dataclass
class SeparationBatch:
    """Mixtures of two sounds, and the pictures of the first.

    Args:
        frames: (B, 3, T, H, W) uint8 RGB.
        parts: (B, 2, 2, L) float32, the two sounds with their channels, on-screen first. Their sum is the mixture.
        clips, others: names of the on-screen and of the other clips.
    """

    frames: Tensor
    parts: Tensor
    clips: "Sequence[str] | str" = ()
    others: "Sequence[str] | str" = ()


@dataclass(frozen=True)
class SeparationData(RawData):
    """`RawData` with the mixtures that are evaluated.

    Args:
        usable: split -> names of its clips, also of those that no mixture of the list has on-screen.
        pairs: on-screen clip -> the other one; None if the dataset has no list of them.
        off_screen: training clips of another dataset, whose sounds are mixed in; most studies have none.
    """

    usable: dict[str, list[str]]
    pairs: dict[str, str] | None
    off_screen: list[RawClip]


class Separation(RawTask):
    """The task of an experiment; see `avpipe.training.task`. The model is `MultisensorySeparation`.

    SDR, SIR, SAR and SI-SDR are those of the on-screen sound (`avpipe.metrics.separation`), as a mono sound; their means leave
    mixtures out in which one of the sounds is silent, so that they are not defined. `on_off` is the mean over both sounds. A
    network that is trained by the loss `any_order` alone may give its sounds in any order. `nearer` is the share of mixtures
    whose on-screen sound is nearer to the true one (SI-SDR) than to the other sound; by guessing, it is a half.

    Controls for a trained network, by the recipe's `frames`, in evaluation only. `other_clip`: pictures of a third clip.
    `grey`: none. `side_by_side`: the pictures of both clips, each squeezed to half of the width, the on-screen clip left; once
    with the right half grey, and once with the left one, where the other clip's sound counts as on-screen.
    """

    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ("window", "crop", "loss_weights", "frames", "phase", "off_screen")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "on_off": Metric("On/off error", "dB", higher_is_better=False),
        "sdr": Metric("SDR", "dB"),
        "sir": Metric("SIR", "dB"),
        "sar": Metric("SAR", "dB"),
        "si_sdr": Metric("SI-SDR", "dB"),
        "nearer": Metric("Nearer to its own sound", "%"),
    }
    data: SeparationData

    def __init__(self, experiment: Experiment, data: SeparationData, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        self.weights = {**model_default(model, "default_loss_weights"), **experiment.recipe.loss_weights}
        self.any_order = not self.weights.get("on_off")
        self.same_split = {clip: names for names in data.usable.values() for clip in names}

    @classmethod
    def open(
        cls, experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None
    ) -> SeparationData:
        """As `RawTask.open`, with `annotations/pairs.csv`, whose clips are evaluated, and the clips of `off_screen`.

        Raises:
            ValueError: a line of the list names a clip that is not usable, is not in the same split, or is listed already.
        """
        data = super().open(experiment, results, device, resident_bytes)
        usable = {name: split.clips["clip"].tolist() for name, split in data.splits.items()}
        off_screen: list[RawClip] = []
        if beside := experiment.recipe.off_screen:
            others = super().open(experiment, results.resolve().parent / beside, device, None)
            off_screen = [others.raw[clip] for clip in others.splits["train"].clips["clip"]]
            data = replace(data, digest=f"{data.digest} {others.digest}")
        file = results / "annotations" / "pairs.csv"
        if not file.is_file():
            return SeparationData(**vars(data), usable=usable, pairs=None, off_screen=off_screen)
        splits = {clip: name for name, clips in usable.items() for clip in clips}
        pairs = read_pairs(file, splits)
        chosen = [clip in pairs or split == "train" for clip, split in splits.items()]
        return SeparationData(
            **vars(data.keep(np.array(chosen))), usable=usable, pairs=pairs, off_screen=off_screen
        )

    @classmethod
    def least_seconds(cls, experiment: Experiment) -> float:
        """A window, and a frame for rounding."""
        assert experiment.preset is not None  # `check_experiment`
        pictures, _ = window_of(experiment.recipe.window, experiment.preset)
        return float((pictures + 1) / experiment.preset.fps)

    def problem(self) -> str | None:
        """Another sample rate than that of the spectrograms, a crop larger than the frames, or too few clips."""
        recipe, preset = self.experiment.recipe, self.experiment.preset
        assert preset is not None  # `check_experiment`
        if preset.sample_rate != RATE:
            return f"separation's spectrograms are of {RATE} Hz, but the clips of {preset.name} have {preset.sample_rate} Hz"
        if recipe.crop > min(preset.height, preset.width):
            return f"recipe.crop: {recipe.crop} pixels, but the clips of {preset.name} have {preset.width} x {preset.height}"
        for name, clips in self.data.usable.items():
            if len(clips) in (1, 2):
                return f"the split {name} has {len(clips)} usable clips; a mixture needs two, and a control a third"
        if recipe.off_screen and not self.data.off_screen:
            return f"recipe.off_screen: {recipe.off_screen} has no usable training clip"
        return None

    def read(self, clip: RawClip) -> SeparationBatch:
        """A random window, crop, and a horizontal flip for half of the items; and a random window of a random other clip, which is
        heard in a batch of one, or with `off_screen`."""
        return self._item(clip, torch.default_generator, augment=True)

    def read_held_out(self, clip: RawClip) -> SeparationBatch:
        """The clip's own mixture, and the centre of the frames, or what `frames` says in their place."""
        return self._item(clip, generator_of(clip.clip), augment=False)

    def model(self) -> nn.Module:
        """The fused network has the weights of an alignment network, if the experiment starts from one."""
        if self.start and not any(name.startswith("unet.") for name in self.start.weights):
            named = {f"multisensory.{name}": weight for name, weight in self.start.weights.items()}
            self.start = replace(self.start, weights=named)
        return super().model()

    def loss(self, model: nn.Module, batch: SeparationBatch, progress: float) -> dict[str, Tensor]:
        """`on_off`, `any_order` and `l2` (`_penalty`), each times its factor; only those with a factor are computed."""
        parts = batch.parts if self.data.off_screen else mixed_in_batch(batch.parts)
        predicted = model(batch.frames, parts.sum(1))
        truth = spectrogram(parts.mean(2))  # (B, 2, T, 1025)
        terms: dict[str, Callable[[], Tensor]] = {
            "on_off": lambda: on_off_loss(predicted, truth),
            "any_order": lambda: any_order_loss(predicted, truth),
            "l2": lambda: _penalty(model),
        }
        return {name: factor * terms[name]() for name, factor in self.weights.items() if factor}

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """All `metrics`. The table has a row for each mixture: clip, other, hidden (left, right or none); the scores of both
        sounds (`_off`); and `to_on` and `to_off`, how near the on-screen sound is to the two true ones (SI-SDR). The first
        mixtures, `PICTURED` at most, also have pictures (`_pictures`)."""
        rows: list[dict[str, Any]] = []
        for batch in loader:
            sides, pictured = [], len(rows) < PICTURED
            for hidden, shown in self._shown(batch):
                predicted = model(shown.frames, shown.parts.sum(1))
                scored = self._scored(shown, self._sounds(predicted, shown), predicted.magnitude, hidden)
                for i, row in enumerate(scored[: PICTURED * pictured]):
                    row |= _pictures(shown, predicted.magnitude, i)
                sides.append(scored)
            # Both sides of a mixture one after the other.
            rows += chain.from_iterable(zip(*sides, strict=True))
        return self._evaluation(rows)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The mixture in place of both sounds, and, as a ceiling, masks that know the true sounds (`by_ideal_ratio_mask`)."""
        if self.experiment.recipe.frames != "own":
            return {}
        mixtures, masked = [], []
        for batch in in_order(self.datasets()["test"], torch.device("cpu")):
            truth = batch.parts.mean(2)  # (B, 2, L)
            mixed = truth.sum(1, keepdim=True).expand_as(truth)
            ideal, magnitude = by_ideal_ratio_mask(truth), spectrogram(mixed).magnitude
            mixtures += self._scored(batch, mixed[..., EDGE : EDGE + ideal.shape[-1]], magnitude)
            masked += self._scored(batch, ideal, magnitude)
        defined = (
            "on_off",
            "sdr",
            "sir",
            "si_sdr",
        )  # SAR of the mixture is infinite: nothing in it is an artifact
        of_mixture, of_masks = (self._evaluation(rows).scores for rows in (mixtures, masked))
        return {
            "the mixture": {name: of_mixture[name] for name in defined},
            "ideal ratio mask (ceiling)": {name: of_masks[name] for name in SCORES},
        }

    def _item(self, clip: RawClip, random: torch.Generator, augment: bool) -> SeparationBatch:
        """Draws from `random`: the other clip, where both are cut, the clip of the control; with `augment` crop and flip, too."""
        recipe, pairs = self.experiment.recipe, self.data.pairs
        names = self.same_split[clip.clip]

        def draw(below: int) -> int:
            return int(torch.randint(max(below, 1), (), generator=random))

        def another(*taken: RawClip) -> RawClip:
            name = clip.clip
            while name in [each.clip for each in taken]:
                name = names[draw(len(names))]
            return self.data.raw[name].for_one_item()

        def pictures(shown: RawClip, start: int) -> Tensor:
            """(3, T, crop, crop)"""
            frames = torch.from_numpy(shown.frames.at(start + np.arange(count))).permute(3, 0, 1, 2)
            spare = [side - recipe.crop for side in frames.shape[-2:]]
            top, left = (draw(n + 1) if augment else n // 2 for n in spare)
            return frames[..., top : top + recipe.crop, left : left + recipe.crop]

        count, samples = window_of(recipe.window, clip.preset)
        of_a_frame = clip.preset.sample_rate / clip.preset.fps
        if augment and self.data.off_screen and draw(2):
            other = self.data.off_screen[draw(len(self.data.off_screen))].for_one_item()
        elif augment or pairs is None:
            other = another(clip)
        else:
            other = self.data.raw[pairs[clip.clip]].for_one_item()
        starts, sounds = [], []
        for each in (clip, other):
            sound = stereo(each.waveform)
            starts.append(draw(int(sound.shape[1] / of_a_frame + 0.5) - count + 1))
            first = round(of_a_frame * starts[-1])
            sounds.append(sound[:, first : first + samples])
        if augment or recipe.frames == "own":
            frames = pictures(clip, starts[0])
        elif recipe.frames == "side_by_side":
            halves = zip((clip, other), starts, strict=True)
            frames = side_by_side(*(pictures(each, start) for each, start in halves))
        elif recipe.frames == "grey":
            frames = torch.full_like(pictures(clip, starts[0]), GREY)
        else:
            frames = pictures(another(clip, other), starts[0])
        if augment and draw(2):
            frames = frames.flip(-1)
        return SeparationBatch(frames.contiguous(), mix(*sounds).parts, clip.clip, other.clip)

    def _shown(self, batch: SeparationBatch) -> Iterator[tuple[Side | None, SeparationBatch]]:
        """What the network is shown of a batch: which half is hidden, and the batch with the visible half's clip first."""
        if self.experiment.recipe.frames != "side_by_side":
            yield None, batch
            return
        yield "right", replace(batch, frames=hide_half(batch.frames, "right"))
        frames, parts = hide_half(batch.frames, "left"), batch.parts.flip(1)
        yield "left", SeparationBatch(frames, parts, batch.others, batch.clips)

    def _sounds(self, predicted: Spectrogram, batch: SeparationBatch) -> Tensor:
        """(B, 2, L') mono, with the phases that the recipe says."""
        if self.experiment.recipe.phase == "predicted":
            return waveform(*predicted)
        return waveform(predicted.magnitude, spectrogram(batch.parts.sum(1).mean(1)).phase.unsqueeze(1))

    def _scored(
        self, batch: SeparationBatch, sounds: Tensor, magnitude: Tensor, hidden: Side | None = None
    ) -> list[dict[str, Any]]:
        """A row of the table for each mixture of a batch, by its separated sounds (B, 2, L') and their magnitudes."""
        truth = batch.parts.mean(2)  # (B, 2, L)
        decibels = [
            magnitude_in_decibels(each).cpu().numpy() for each in (spectrogram(truth).magnitude, magnitude)
        ]
        true = truth[..., EDGE : EDGE + sounds.shape[-1]].cpu().numpy()
        rows = []
        for i, found in enumerate(sounds.float().cpu().numpy()):
            row: dict[str, Any] = {"clip": batch.clips[i], "other": batch.others[i], "hidden": hidden}
            row["on_off"], row["on_off_off"] = on_off_error(decibels[0][i], decibels[1][i], self.any_order)
            if true[i].any(axis=1).all():
                for name, both in separation_scores(true[i], found, self.any_order).items():
                    row[name], row[f"{name}_off"] = both
                row["to_on"], row["to_off"] = si_sdr(true[i], np.stack([found[0]] * 2))
            rows.append(row)
        return rows

    def _evaluation(self, rows: Sequence[Mapping[str, Any]]) -> Evaluation:
        """Means over the rows of `_scored`."""
        columns = ["clip", "other", "hidden", *BOTH, "to_on", "to_off", *PICTURES]
        table = pd.DataFrame(rows).reindex(columns=columns)
        scores = {name: float(table[name].mean()) for name in SCORES}
        scores["on_off"] = float(table[["on_off", "on_off_off"]].to_numpy().mean())
        defined = table.dropna(subset=["to_on", "to_off"])
        scores["nearer"] = float((defined["to_on"] > defined["to_off"]).mean())
        return Evaluation({name: scores[name] for name in self.metrics}, table)


def _pictures(batch: SeparationBatch, magnitude: Tensor, i: int) -> dict[str, Any]:
    """Of mixture i of a batch: the middle frame, and spectrograms in decibels, row by row.

    `frame` is (height, width, 3) as bytes, with `height` and `width`. `mixture`, `on`, `true_on`, `off` and `true_off` are
    (`BANDS`, T), the lowest frequencies first.
    """
    frame = batch.frames[i, :, batch.frames.shape[2] // 2].permute(1, 2, 0).cpu().numpy()
    parts = batch.parts[i].mean(1)  # (2, L)
    true, mixture = spectrogram(parts).magnitude, spectrogram(parts.sum(0)).magnitude
    shown = {
        "mixture": mixture,
        "on": magnitude[i, 0],
        "true_on": true[0],
        "off": magnitude[i, 1],
        "true_off": true[1],
    }
    bands = {
        name: functional.adaptive_max_pool1d(magnitude_in_decibels(each.float()), BANDS).T.cpu().numpy().ravel()
        for name, each in shown.items()
    }  # fmt: skip
    return {"frame": frame.tobytes(), "height": frame.shape[0], "width": frame.shape[1], **bands}


def mixed_in_batch(parts: Tensor) -> Tensor:
    """The off-screen sound of item i becomes the on-screen one of item i + B // 2; after the last item comes the first.

    So each sound is on-screen once and off-screen once, and in an even batch each mixture is there for the pictures of either
    clip. A batch of one keeps the sound that was drawn for it. With several processes, each mixes its own part.

    Args:
        parts: (B, 2, 2, L), on-screen first.

    Returns:
        The same shape.
    """
    if len(parts) == 1:
        return parts
    on_screen = parts[:, 0]
    return torch.stack([on_screen, on_screen.roll(-(len(parts) // 2), 0)], dim=1)


def _penalty(model: nn.Module) -> Tensor:
    """Half of the sum of the u-net's squared weights, without its vectors."""
    unet = next(part for part in model.modules() if isinstance(part, UNet))
    return torch.stack([w.square().sum() for w in unet.parameters() if w.ndim > 1]).sum() / 2


def window_of(seconds: float, preset: Preset) -> tuple[int, int]:
    """Pictures and samples of the window nearest to a length: 63 and 44,144 (2.1 s) for 2.135 s at 29.97 pictures a second.

    A spectrogram of the samples has 128 frames, or a multiple of them: 256 for 4 s.
    """
    steps = STEPS * max(1, round((seconds * RATE - WINDOW + HOP) / (HOP * STEPS)))
    of_a_picture = preset.sample_rate / preset.fps
    least = WINDOW + HOP * (steps - 1)
    pictures = math.ceil(least / of_a_picture)
    return pictures, min(round(pictures * of_a_picture), least + HOP - 1)


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two videos (3, T, H, W) uint8, each squeezed to half of the width, beside each other: (3, T, H, W)."""
    width = left.shape[-1]
    size = ((left.shape[-2], width // 2), (left.shape[-2], width - width // 2))
    halves = [
        functional.interpolate(frames.float(), size=each, mode="bilinear", antialias=True)
        for frames, each in zip((left, right), size, strict=True)
    ]
    return torch.cat(halves, dim=-1).round().clamp(0, 255).to(left.dtype)


def hide_half(frames: Tensor, side: Side) -> Tensor:
    """A copy of frames (..., H, W) whose left or right half is grey, as the released code hides a speaker."""
    middle, hidden = frames.shape[-1] // 2, frames.clone()
    hidden[..., slice(None, middle) if side == "left" else slice(middle, None)] = GREY
    return hidden


def read_pairs(path: Path, splits: Mapping[str, str]) -> dict[str, str]:
    """The mixtures of a csv file with the columns clip, other: on-screen clip -> the other one.

    Args:
        path: of the file.
        splits: usable clip -> its split.

    Raises:
        ValueError: a line names a clip that is not usable, or clips of two splits, or an on-screen clip again.
    """
    pairs: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"clip", "other"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns clip,other, found {reader.fieldnames}")
        for row in reader:
            clip, other, where = row["clip"], row["other"], f"{path}, line {reader.line_num}"
            for name in (clip, other):
                if name not in splits:
                    raise ValueError(f"{where}: {name!r} is none of the usable clips")
            if clip == other or splits[clip] != splits[other]:
                raise ValueError(f"{where}: {clip} and {other} must be two clips of one split")
            if clip in pairs:
                raise ValueError(f"{where}: {clip} is on-screen twice; a list has each on-screen clip once")
            pairs[clip] = other
    return pairs
