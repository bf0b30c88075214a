"""What tests of models share: random clips, the number of parameters, a short training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from avpipe.models.base import FeatureBatch, LocalizationBatch


def random_clips(
    audio: int = 4,
    visual: int | tuple[int, ...] = 5,
    motion: int = 0,
    *,
    clips: int = 2,
    segments: int = 8,
    seed: int = 0,
    kind: type[FeatureBatch] = LocalizationBatch,
) -> Any:
    """Random features: audio (clips, segments, audio), visual (clips, segments, *visual), motion if its size is given.

    `kind` is the batch type of the model's task.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(clips, segments, *shape, generator=random)

    shape = visual if isinstance(visual, tuple) else (visual,)
    return kind(draw(audio), draw(*shape), draw(motion) if motion else None)


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lstm_parameters(inputs: int, hidden: int = 128) -> int:
    """Both directions: four gates, each with input and recurrent weights and two biases."""
    return 2 * 4 * (hidden * (inputs + hidden) + 2 * hidden)


def untrained(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient is missing or zero everywhere."""
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def fit(model: nn.Module, loss: Callable[[], torch.Tensor], *, steps: int, lr: float = 0.01) -> float:
    """Train by Adam for some steps; the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    return value.item()
