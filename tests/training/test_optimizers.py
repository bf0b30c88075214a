"""Optimizers and schedules are the recipe's."""

import pytest
import torch

from avpipe.training.optimizers import make_optimizer, make_schedule


def test_a_plateau_of_the_validation_score_lowers_the_rate(describe):
    recipe = describe(schedule="plateau", step=1, gamma=0.1, lr=1.0).recipe
    optimizer = make_optimizer(recipe, torch.nn.Linear(1, 1))
    schedule = make_schedule(recipe, optimizer)
    rates = []
    for score in (0.5, 0.6, 0.6, 0.6):
        schedule.step(score)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.1]  # one epoch of patience


def test_a_plateau_of_the_loss_lowers_the_rate_when_the_loss_stays(describe):
    recipe = describe(schedule="plateau", watch="loss", step=1, gamma=0.5, lr=1.0).recipe
    optimizer = make_optimizer(recipe, torch.nn.Linear(1, 1))
    schedule = make_schedule(recipe, optimizer)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0):
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimizers_are_the_recipes(describe, name, kind):
    optimizer = make_optimizer(
        describe(optimizer=name, lr=0.5, weight_decay=0.25).recipe, torch.nn.Linear(1, 1)
    )
    group = optimizer.param_groups[0]
    assert (type(optimizer).__name__, group["lr"], group["weight_decay"]) == (kind, 0.5, 0.25)
    assert group.get("momentum", 0.9) == 0.9
