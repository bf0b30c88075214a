"""Optimizers and schedules are the recipe's, and a job imports neither torch's compiler nor torchvision."""

import subprocess
import sys

import pytest
import torch

from avpipe.training.optimizers import make_optimizer, make_schedule


@pytest.mark.parametrize(
    ("recipe", "watched", "expected"),
    [
        ({"gamma": 0.1}, (0.5, 0.6, 0.6, 0.6), [1.0, 1.0, 1.0, 0.1]),  # one epoch of patience
        ({"gamma": 0.5, "watch": "loss"}, (3.0, 2.0, 2.0, 2.0), [1.0, 1.0, 1.0, 0.5]),
    ],
    ids=["validation score", "loss"],
)
def test_a_plateau_lowers_the_learning_rate(describe, recipe, watched, expected):
    recipe = describe(schedule="plateau", step=1, lr=1.0, **recipe).recipe
    optimizer = make_optimizer(recipe, torch.nn.Linear(1, 1))
    schedule = make_schedule(recipe, optimizer)
    rates = []
    for value in watched:
        schedule.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == expected


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimizers_are_the_recipes(describe, name, kind):
    optimizer = make_optimizer(
        describe(optimizer=name, lr=0.5, weight_decay=0.25).recipe, torch.nn.Linear(1, 1)
    )
    group = optimizer.param_groups[0]
    assert (type(optimizer).__name__, group["lr"], group["weight_decay"]) == (kind, 0.5, 0.25)
    assert group.get("momentum", 0.9) == 0.9


ALONE = """
import sys, torch
from avpipe.plan.recipe import Recipe
from avpipe.training.loop import deterministic, make_optimizer
layer = torch.nn.Linear(2, 2)
with deterministic(torch.device("cpu")):
    optimizer = make_optimizer(Recipe(), layer)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert "torchvision" not in sys.modules
assert not any(name.startswith("torch._dynamo.") for name in sys.modules), "the compiler was imported"
import torch._dynamo.config
assert torch._dynamo.config.verbose in (True, False)
assert callable(torch._dynamo.optimize)
assert "_AbsentCompiler" not in type(sys.modules["torch._dynamo"]).__name__
"""


@pytest.mark.slow
def test_a_job_imports_neither_torchvision_nor_the_compiler_until_someone_asks_for_it():
    subprocess.run([sys.executable, "-c", ALONE], check=True)
