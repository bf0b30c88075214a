"""The recipe's optimizer and learning-rate schedule."""

import math
from typing import Any, Literal

import torch
from torch import nn

from avpipe.plan.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer, in torch's fused form."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            _groups(model, weight_decay=0.0),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    if recipe.optimizer == "lars":
        return _lars(recipe, model)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), recipe.lr, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True)


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, best: Literal["max", "min"]) -> Any:
    """The learning rate's schedule, stepped once an epoch; None if it is constant. `best` validation scores are such."""
    schedules = torch.optim.lr_scheduler
    if recipe.schedule == "step":
        return schedules.StepLR(optimizer, recipe.step, recipe.gamma)
    if recipe.schedule == "milestones":
        return schedules.MultiStepLR(optimizer, list(recipe.milestones), recipe.gamma)
    if recipe.schedule == "plateau":
        mode = "min" if recipe.watch == "loss" else best
        return schedules.ReduceLROnPlateau(optimizer, mode=mode, factor=recipe.gamma, patience=recipe.step)
    if recipe.schedule == "cosine":
        return schedules.LambdaLR(optimizer, lambda epoch: _cosine(recipe, epoch))
    return None


def _groups(model: nn.Module, **of_vectors: Any) -> list[dict[str, Any]]:
    """The trained weights, those that are vectors (biases, normalisation) apart, with settings of their own."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim > 1]},
        {"params": [w for w in weights if w.ndim <= 1], **of_vectors},
    ]
    return [group for group in groups if group["params"]]


def _lars(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """LARS (You et al., 2017). Vectors have a rate of their own, and neither weight decay nor adaptation, as in Barlow Twins."""
    from timm.optim.lars import Lars  # importing timm takes seconds

    return Lars(
        _groups(model, lr=recipe.lr_vectors or recipe.lr, weight_decay=0.0),
        recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        trust_coeff=0.001,
    )


def _cosine(recipe: Recipe, epoch: int) -> float:
    """The factor of the learning rate in an epoch, counted from 0: linear up to 1, then along a cosine to `final`."""
    if epoch < recipe.warmup:
        return (epoch + 1) / recipe.warmup
    share = (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1)
    return recipe.final + (1 - recipe.final) * (1 + math.cos(math.pi * share)) / 2
