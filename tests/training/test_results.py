"""Which checkpoint is kept, and how it is written."""

import math
import os
from pathlib import Path

import pytest
import torch

from avpipe import files
from avpipe.files import OutputError
from avpipe.metrics.metric import Metric
from avpipe.models import create_model, load_model
from avpipe.training.fit import Fitted, weights_of
from avpipe.training.results import write_run


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
def test_the_first_of_equal_scores_stays_and_lower_may_be_better(new, old, expected):
    assert Metric("accuracy", "%").better(new, old) is expected
    mirrored = None if old is None else -old
    assert Metric("error", "dB", higher_is_better=False).better(-new, mirrored) is expected


def write_trained(folder):
    """Write a run of a model whose weights are always the same."""
    torch.manual_seed(0)
    model = create_model("avel", num_classes=2)
    fitted = Fitted(model, weights_of(model), parameters=0)
    facts = {"experiment": {"model": "avel", "recipe": {"protocol": "last"}}}
    write_run(folder, fitted, None, {}, facts, {"num_classes": 2})
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
