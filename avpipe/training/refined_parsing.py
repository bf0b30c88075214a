"""Video parsing with labels refined a modality at a time: Wu and Yang, CVPR 2021 (MA).

A clip's weak label does not say whether a category is heard or seen. So a base model is trained first. Then each training clip gets,
once, the audio of an unrelated clip and, once, its pictures: what the base model no longer finds with the clip's own pictures and a foreign
sound cannot be seen in it, and the other way round. A fresh model is then trained with what is left of the labels.
Thresholds are those of the released code (Modaily-Aware-Audio-Visual-Video-Parsing: step2_find_exchange/main_avvp.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch
from avpipe.plan.experiment import Experiment
from avpipe.training.data import Data
from avpipe.training.logs import say
from avpipe.training.parsing import Parsing
from avpipe.training.task import Batches

PRESENT = 0.5
"""From which probability a category counts as found."""
SLAB = 256
"""Clips whose possible partners are looked up together."""


class RefinedParsing(Parsing):
    """The task of an experiment; see `avpipe.training.task.RefiningTask` and, for all but the labels, `Parsing`.

    Raises:
        ValueError: for a recipe without a first training.
    """

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        if not experiment.recipe.refine_epochs:
            raise ValueError(
                "refined_parsing needs a first training to refine the labels by: set `refine_epochs` in the recipe, "
                "or use the task parsing"
            )

    def refine(
        self, targets: dict[str, Tensor], model: nn.Module, batches: Batches, seed: int
    ) -> dict[str, Tensor]:
        """`audio` and `visual` without the labels that are absent; `clip` as it is."""
        random = torch.Generator().manual_seed(seed)
        return targets | refine_labels(targets["clip"], model, batches, random)


def refine_labels(
    labels: Tensor, model: nn.Module, batches: Batches, random: torch.Generator
) -> dict[str, Tensor]:
    """What is left of the clips' labels for audio and for visual.

    Args:
        labels: (N, C), 0 or 1, on the model's device: the clips' weak labels.
        model: a parsing model in evaluation mode.
        batches: features of training clips.
        random: what draws the unrelated clips, on the CPU.

    Returns:
        "audio" and "visual", (N, C), 0 or 1. A clip that shares a label with every other keeps its own.
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
        gone = not_there(probabilities, labels, difficulty(unswapped[:, index], labels)) & found[:, None]
        refined[modality] = labels.masked_fill(gone, 0.0)
        say(f"{modality} loses {int(gone.sum())} of {int(labels.sum())} labels")
    return refined


def modality_probabilities(model: nn.Module, batches: Batches, audio: Tensor, visual: Tensor) -> Tensor:
    """(N, 2, C): what the model says of the audio of some clips with the pictures of others, positions (N,) both."""
    said = []
    for heard, seen in zip(batches(audio), batches(visual), strict=True):
        exchanged = AVBatch(audio=heard.audio, visual=seen.visual, motion=seen.motion)
        said.append(model(exchanged).in_float32().modality_probabilities)
    return torch.cat(said)


def unrelated_clips(labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each clip a random clip that shares no label with it.

    Args:
        labels: (N, C), 0 or 1.
        random: what draws.

    Returns:
        Positions (N,) int64, and (N,) bool: whether there is such a clip. Where there is none, the clip itself.
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
    """How often the base model is wrong about a category, as a share of the category that it is wrong about most.

    Args:
        probabilities: (N, C), of one modality.
        labels: (N, C), 0 or 1.

    Returns:
        (C,), 0 to 1; zeros where it is never wrong.
    """
    errors = ((probabilities > PRESENT) != labels.bool()).float().mean(dim=0)
    return errors / errors.max().clamp(min=torch.finfo(errors.dtype).tiny)


def not_there(exchanged: Tensor, labels: Tensor, hard: Tensor) -> Tensor:
    """Which labels a modality loses: those that neither probability of the clip with a foreign other modality supports.

    A probability is divided by the category's `difficulty` first: what the base model finds easily, it must be sure not
    to find.

    Args:
        exchanged: (N, 2, C), the clip's `modality_probabilities`, its other modality being that of an unrelated clip.
        labels: (N, C), 0 or 1.
        hard: (C,), `difficulty` of the modality that is the clip's own.

    Returns:
        (N, C) bool; never where there is no label.
    """
    return labels.bool() & (exchanged < PRESENT * hard).all(dim=1)
