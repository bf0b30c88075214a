"""Standardized input features. The scales are part of the trained model: its weights are of no use without them."""

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from avpipe.models.base import FeatureBatch

Scales = Mapping[str, tuple[Tensor, Tensor]]
"""Role ("audio", "visual", ...) -> mean and standard deviation of its features, both (D,)."""


def standardize_inputs(model: nn.Module, scales: Scales) -> None:
    """Make the model standardize its inputs: (feature - mean) / sd in each dimension; a constant dimension gives 0.

    The scales become the model's buffers `input_{role}_mean` and `input_{role}_sd`, and so part of its state.

    Args:
        model: takes an `FeatureBatch`; changed in place.
        scales: features without an entry are left as they are.
    """
    for role, (mean, sd) in scales.items():
        model.register_buffer(f"input_{role}_mean", mean.clone())
        model.register_buffer(f"input_{role}_sd", torch.where(sd > 0, sd, torch.ones_like(sd)))
    if scales:
        model.register_forward_pre_hook(partial(_standardize, tuple(scales)))


def _standardize(
    roles: tuple[str, ...], model: nn.Module, inputs: tuple[FeatureBatch]
) -> tuple[FeatureBatch]:
    batch = copy.copy(inputs[0])  # keeps targets and progress
    for role in roles:
        feature = getattr(batch, role)
        if feature is not None:
            mean, sd = (getattr(model, f"input_{role}_{part}") for part in ("mean", "sd"))
            setattr(batch, role, (feature - mean) / sd)
    return (batch,)
