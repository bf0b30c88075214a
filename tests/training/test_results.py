"""Which checkpoint is kept."""

import math

import numpy as np
import pytest

from avpipe.training.results import Checkpoint, better


def checkpoint(score: float | None) -> Checkpoint:
    return Checkpoint(3, score, {"accuracy": 0.5}, {"prediction": np.arange(4)})


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (0.5, None, True),
        (math.nan, None, False),
        (0.6, 0.5, True),
        (0.5, 0.5, False),
        (0.4, 0.5, False),
        (math.nan, 0.5, False),
    ],
)
def test_the_first_of_equal_scores_stays(new, old, expected):
    assert better(new, None if old is None else checkpoint(old)) is expected


def test_a_checkpoint_survives_being_saved():
    back = Checkpoint.from_state(checkpoint(0.5).to_state())
    assert (back.epoch, back.chosen_by, back.metrics) == (3, 0.5, {"accuracy": 0.5})
    assert np.array_equal(back.predictions["prediction"], np.arange(4))
