"""Video parsing with labels refined a modality at a time: Wu and Yang, CVPR 2021 (MA), sections 3.3 and 3.4.

A clip's weak label does not say whether a category is heard or seen. So a base model is trained first. Then each training clip gets,
once, the audio of an unrelated clip and, once, its pictures: what the base model no longer finds with the clip's own pictures and a foreign
sound cannot be seen in it, and the other way round. A fresh model is then trained with what is left of the labels.
Thresholds are those of the released code (Modaily-Aware-Audio-Visual-Video-Parsing: step2_find_exchange/main_avvp.py).
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch
from avpipe.training.logs import say

PRESENT = 0.5
"""From which probability a category counts as found."""
SLAB = 256
"""Clips whose possible partners are looked up together."""

Batches = Callable[[Tensor], Iterator[AVBatch]]
"""Positions among the training clips -> their features, batch by batch."""


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
