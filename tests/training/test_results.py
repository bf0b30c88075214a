"""Which checkpoint is kept, and how it is written."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe import files
from avpipe.files import OutputError
from avpipe.models import create_model, load_model
from avpipe.training.results import Checkpoint, RunOutcome, better, weights_of, write_run


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


def write_trained(folder):
    """Write a run of a model whose weights are always the same."""
    torch.manual_seed(0)
    model = create_model("avel", num_classes=2)
    outcome = RunOutcome(weights=weights_of(model))
    write_run(
        folder, outcome, pd.DataFrame({"clip": []}), {"experiment": {"model": "avel"}}, {"num_classes": 2}
    )
    return folder / "checkpoint.pt"


def test_the_same_weights_give_the_same_bytes(tmp_path):
    first, second = (write_trained(tmp_path / name) for name in ("seed0", "seed1"))
    assert first.read_bytes() == second.read_bytes()


def test_a_full_disk_is_named_with_advice(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "x")
    (tmp_path / f".checkpoint.pt.{os.getpid()}.x.tmp").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"checkpoint\.pt: the disk is full: free some space"):
        write_trained(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "one bit", "foreign", "other options"])
def test_a_file_that_is_no_whole_checkpoint_is_named(damage, tmp_path):
    path = write_trained(tmp_path)
    whole = path.read_bytes()
    assert load_model(path)
    if damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "other options":
        torch.save(torch.load(path) | {"options": {"num_classes": 3}}, path)
    else:
        half = len(whole) // 2
        bit = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]  # of a weight
        path.write_bytes({"empty": b"", "cut": whole[:half], "text": b"hello " * 99, "one bit": bit}[damage])
    with pytest.raises(ValueError, match=r"checkpoint\.pt (is|does not fit)") as caught:
        load_model(path)
    assert "weights_only" not in str(caught.value)
