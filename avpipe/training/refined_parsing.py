"""Video parsing with labels refined for each modality: Wu and Yang, CVPR 2021 (MA).

A clip's weak label does not say in which modality a category occurs. A base model is trained first. Then each training
clip is combined once with the audio and once with the visual features of an unrelated clip. A category that the base
model no longer finds with the clip's own visual features and foreign audio is removed from the visual label, and the
other way round. A new model is trained with the remaining labels. Thresholds are those of the released code
(Modaily-Aware-Audio-Visual-Video-Parsing: step2_find_exchange/main_avvp.py).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from avpipe.models.base import ParsingBatch
from avpipe.plan.experiment import Experiment
from avpipe.training.data import EVALUATION_BATCH, Data, Loader
from avpipe.training.fit import Fitted, fit
from avpipe.training.logs import say
from avpipe.training.parsing import Parsing
from avpipe.training.resume import States

PRESENT = 0.5
"""Smallest probability of a category that counts as found."""
SLAB = 256
"""Clips a step, in the search for unrelated clips."""


class RefinedParsing(Parsing):
    """The task of an experiment, which trains twice; for all but the labels see `Parsing`."""

    recipe_keys: ClassVar[Sequence[str]] = (
        "loss_weights", "label_smoothing", "threshold", "gate", "gate_threshold", "refine_epochs", "clip_target",
    )  # fmt: skip

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        recipe = experiment.recipe
        self.first_epochs = recipe.epochs if recipe.refine_epochs == "same" else recipe.refine_epochs
        self.refined: dict[str, Tensor] = {}

    def labels(self, split: str) -> dict[str, Tensor]:
        """As `Parsing`'s; once refined, `audio_labels` and `visual_labels` lack those absent from that modality."""
        given = super().labels(split)
        return given | self.refined if split == "train" else given

    def train(
        self, seed: int, *, fabric: Any, states: States | None, folder: Path | None, name: str
    ) -> Fitted:
        """Train a base model, refine the labels by it, train a new model. See `fit`."""
        base, second = copy.copy(self), copy.copy(self)
        base.splits = ("train",)
        recipe = self.experiment.recipe.model_copy(update={"epochs": self.first_epochs})
        of_first = replace(states, folder=states.folder / "first") if states else None
        first = fit(base, recipe, seed, fabric=fabric, states=of_first, name=f"{name}, first training")
        if first.reason:
            first.reason = (
                "the loss of the first training became infinite or NaN; try a smaller lr, or clip_norm"
            )
            return first
        clips = base.dataset("train")
        labels = clips.labels["clip_labels"]
        with torch.no_grad():
            second.refined = refine_labels(
                labels, first.model.eval(), clips, torch.Generator().manual_seed(seed)
            )
        second.made = {split: dataset for split, dataset in self.made.items() if split != "train"}
        return fit(
            second, self.experiment.recipe, seed, fabric=fabric, states=states, folder=folder, name=name
        )


def refine_labels(
    labels: Tensor, model: nn.Module, clips: Dataset[Any], random: torch.Generator
) -> dict[str, Tensor]:
    """The labels that remain for audio and for visual.

    Args:
        labels: (N, C), 0 or 1, on the model's device: the clips' weak labels.
        model: a parsing model in evaluation mode.
        clips: the training clips.
        random: draws the unrelated clips, on the CPU.

    Returns:
        "audio_labels" and "visual_labels", (N, C), 0 or 1. A clip that shares a label with every other clip keeps its labels.
    """
    partners, found = (x.to(labels.device) for x in unrelated_clips(labels.cpu(), random))
    own = torch.arange(len(labels), device=labels.device)
    unswapped = modality_probabilities(model, clips, own, own)
    exchanged = {
        "audio": modality_probabilities(model, clips, own, partners),
        "visual": modality_probabilities(model, clips, partners, own),
    }
    refined = {}
    for index, (modality, probabilities) in enumerate(exchanged.items()):
        removed = not_there(probabilities, labels, difficulty(unswapped[:, index], labels)) & found[:, None]
        refined[f"{modality}_labels"] = labels.masked_fill(removed, 0.0)
        say(f"{modality} loses {int(removed.sum())} of {int(labels.sum())} labels")
    return refined


def modality_probabilities(model: nn.Module, clips: Dataset[Any], audio: Tensor, visual: Tensor) -> Tensor:
    """(N, 2, C): the model's `modality_probabilities` for audio and visual features of the clips at positions (N,) each."""
    probabilities = []
    orders = [[p.tolist() for p in positions.split(EVALUATION_BATCH)] for positions in (audio, visual)]
    for own, other in zip(*(Loader(clips, order, audio.device) for order in orders), strict=True):
        exchanged = ParsingBatch(own.audio, other.visual, other.motion, clips=own.clips)
        probabilities.append(model(exchanged).modality_probabilities)
    return torch.cat(probabilities)  # (N, 2, C)


def unrelated_clips(labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each clip a random clip that shares no label with it: labels (N, C), 0 or 1 -> positions (N,) int64.

    The second result, (N,) bool, says whether there is such a clip. Without one, the position is the clip's own.
    """
    partners, found = torch.arange(len(labels)), torch.zeros(len(labels), dtype=torch.bool)
    for first in range(0, len(labels), SLAB):
        unrelated = (labels[first : first + SLAB] @ labels.T == 0).float()  # (n, N)
        some = unrelated.any(dim=1)
        rows = first + some.nonzero().squeeze(1)
        partners[rows] = torch.multinomial(unrelated[some], 1, generator=random).squeeze(1)
        found[rows] = True
    return partners, found


def difficulty(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The base model's error rate in each category, divided by the largest one; zeros if it is never wrong.

    Probabilities (N, C) of one modality, labels (N, C), 0 or 1 -> (C,), 0 to 1.
    """
    errors = ((probabilities > PRESENT) != labels.bool()).float().mean(dim=0)
    return errors / errors.max().clamp(min=torch.finfo(errors.dtype).tiny)


def not_there(exchanged: Tensor, labels: Tensor, hard: Tensor) -> Tensor:
    """Labels that a modality loses: neither probability of the clip, with a foreign other modality, supports them.

    Each probability is first divided by the category's `difficulty`, so that labels of easy categories are removed
    only at low probabilities.

    Args:
        exchanged: (N, 2, C), `modality_probabilities` of the clip, with the other modality of an unrelated clip.
        labels: (N, C), 0 or 1.
        hard: (C,), `difficulty` of the clip's own modality.

    Returns:
        (N, C) bool; False where there is no label.
    """
    return labels.bool() & (exchanged < PRESENT * hard).all(dim=1)
