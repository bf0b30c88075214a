"""The recipe's optimizer and learning-rate schedule."""

import importlib
import sys
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from avpipe.plan.recipe import Recipe

_COMPILER = "torch._dynamo"


class _AbsentCompiler(ModuleType):
    """Stands in for torch's compiler until someone compiles.

    torch.optim imports torch._dynamo only to tell it to keep out (`disable`, `graph_break`). That takes longer than
    importing torch itself, a large part of a small job, and means nothing where nothing is compiled. Whoever asks
    for anything else gets the real module.
    """

    @staticmethod
    def disable(function: Any, recursive: bool = True, **options: Any) -> Any:
        """Nothing to keep out of."""
        return function

    @staticmethod
    def graph_break() -> None:
        """No graph to break."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer, in torch's fused form."""
    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = torch._dynamo = _AbsentCompiler(_COMPILER)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    """The learning rate's schedule, stepped once an epoch; None if it is constant."""
    schedules = torch.optim.lr_scheduler
    if recipe.schedule == "step":
        return schedules.StepLR(optimizer, recipe.step, recipe.gamma)
    if recipe.schedule == "milestones":
        return schedules.MultiStepLR(optimizer, list(recipe.milestones), recipe.gamma)
    if recipe.schedule == "plateau":
        better: Literal["min", "max"] = "min" if recipe.watch == "loss" else "max"
        return schedules.ReduceLROnPlateau(optimizer, mode=better, factor=recipe.gamma, patience=recipe.step)
    if recipe.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, recipe.epochs)
    return None
