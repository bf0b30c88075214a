"""Optimizers and schedules are the recipe's."""

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
    schedule = make_schedule(recipe, optimizer, "max")
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


def test_keras_adam_adds_1e_7_to_the_denominator(describe):
    """After one step, the corrected moments of a gradient g are g and g^2: a weight moves by lr g / (|g| + eps)."""
    weight = torch.nn.Linear(1, 1, bias=False)
    moved = []
    for recipe in ({}, {"eps": 1e-7}):
        torch.nn.init.zeros_(weight.weight)
        optimizer = make_optimizer(describe(lr=0.5, **recipe).recipe, weight)
        weight.weight.grad = torch.tensor([[1e-7]])
        optimizer.step()
        moved.append(-weight.weight.item())
    assert moved == pytest.approx([0.5 * 1e-7 / (1e-7 + 1e-8), 0.25])


def test_lars_steps_matrices_relative_to_their_norm_and_vectors_by_a_rate_of_their_own(describe):
    """You et al.'s rule for one step from zero momentum: w - lr eta |w| / (|g| + decay |w|) (g + decay w); vectors: b - lr g."""
    layer = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(layer.weight, 3.0)
    torch.nn.init.constant_(layer.bias, 3.0)
    recipe = describe(optimizer="lars", lr=0.5, lr_vectors=0.25, weight_decay=0.1).recipe
    optimizer = make_optimizer(recipe, layer)
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([2.0])
    optimizer.step()
    norm = 18**0.5
    trust = 0.001 * norm / (2 + 0.1 * norm)
    expected = [3 - 0.5 * trust * 0.1 * 3, 3 - 0.5 * trust * (2 + 0.1 * 3)]
    assert layer.weight.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert layer.bias.item() == pytest.approx(3 - 0.25 * 2)


def test_the_cosine_rises_over_the_warm_up_and_falls_to_its_last_share(describe):
    recipe = describe(schedule="cosine", lr=2.0, epochs=6, warmup=2, final=0.1).recipe
    optimizer = make_optimizer(recipe, torch.nn.Linear(1, 1))
    schedule, rates = make_schedule(recipe, optimizer, "max"), []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    middle = 2 * (0.1 + 0.9 / 2)
    assert rates == pytest.approx([1.0, 2.0, 2.0, *rates[3:4], middle, *rates[5:6], 0.2])
    assert rates[3] + rates[5] == pytest.approx(2 * middle)
