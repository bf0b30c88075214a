"""Video parsing with labels refined for each modality: Wu and Yang, CVPR 2021 (MA).

A clip's weak label does not say in which modality a category occurs. A base model is trained first. Then each training
clip is combined once with the audio and once with the visual features of an unrelated clip. A category that the base
model no longer finds with the clip's own visual features and foreign audio is removed from the visual label, and the
other way round. A new model is trained with the remaining labels. Thresholds are those of the released code
(Modaily-Aware-Audio-Visual-Video-Parsing: step2_find_exchange/main_avvp.py).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch
from avpipe.training.logs import say
from avpipe.training.parsing import Parsing
from avpipe.training.task import Batches

PRESENT = 0.5
"""Smallest probability of a category that counts as found."""
SLAB = 256
"""Clips a step, in the search for unrelated clips."""


class RefinedParsing(Parsing):
    """The task of an experiment; see `avpipe.training.task.RefiningTask` and, for all but the labels, `Parsing`."""

    recipe_keys: ClassVar[Sequence[str]] = (
        "loss_weights", "label_smoothing", "threshold", "gate", "gate_threshold", "refine_epochs",
    )  # fmt: skip

    def refine(
        self, targets: dict[str, Tensor], model: nn.Module, batches: Batches, seed: int
    ) -> dict[str, Tensor]:
        """`audio` and `visual` without the labels absent from that modality; `clip` unchanged."""
        random = torch.Generator().manual_seed(seed)
        return targets | refine_labels(targets["clip"], model, batches, random)


def refine_labels(
    labels: Tensor, model: nn.Module, batches: Batches, random: torch.Generator
) -> dict[str, Tensor]:
    """The labels that remain for audio and for visual.

    Args:
        labels: (N, C), 0 or 1, on the model's device: the clips' weak labels.
        model: a parsing model in evaluation mode.
        batches: features of training clips.
        random: draws the unrelated clips, on the CPU.

    Returns:
        "audio" and "visual", (N, C), 0 or 1. A clip that shares a label with every other clip keeps its labels.
    """
    partners, found = (x.to(labels.device) for x in unrelated_clips(labels.cpu(), random))
    own = torch.arange(len(labels), device=labels.device)
    unswapped = modality_probabilities(model, batches, own, own)
    exchanged = {
        "audio": modality_probabilities(model, batches, own, partners),
        "visual": modality_probabilities(model, batches, partners, own),
    }
    refined = {}
    for index, (modality, probabilities) in enumerate(exchanged.items()):
        removed = not_there(probabilities, labels, difficulty(unswapped[:, index], labels)) & found[:, None]
        refined[modality] = labels.masked_fill(removed, 0.0)
        say(f"{modality} loses {int(removed.sum())} of {int(labels.sum())} labels")
    return refined


def modality_probabilities(model: nn.Module, batches: Batches, audio: Tensor, visual: Tensor) -> Tensor:
    """(N, 2, C): the model's `modality_probabilities` for audio and visual features of the clips at positions (N,) each."""
    probabilities = []
    for audio_batch, visual_batch in zip(batches(audio), batches(visual), strict=True):
        exchanged = AVBatch(audio=audio_batch.audio, visual=visual_batch.visual, motion=visual_batch.motion)
        probabilities.append(model(exchanged).in_float32().modality_probabilities)
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
