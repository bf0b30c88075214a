"""The recipe's optimizer and learning-rate schedule."""

from typing import Any, Literal

import torch
from torch import nn

from avpipe.plan.recipe import Recipe


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer, in torch's fused form."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
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
        return schedules.CosineAnnealingLR(optimizer, recipe.epochs)
    return None
