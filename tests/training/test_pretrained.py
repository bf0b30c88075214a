"""Runs that start from a pretrained model: which weights and seed, and what happens if it is missing, failed or changed."""

import json

import pytest
import torch
from torch import nn

from avpipe.plan.experiment import Experiment
from avpipe.training import fit
from avpipe.training.pretrained import (
    Pretrained,
    checkpoint_before,
    read_pretrained,
    start_from,
    weights_digest,
)

from .conftest import assert_same, read, run, write_study

SMALL = {"hidden_dim": 16, "layers": 1, "heads": 2, "feed_forward_dim": 16}


@pytest.fixture
def dependent(describe):
    """A parser that starts from AVG; keyword arguments are the pretraining's recipe."""

    def make(epochs=2, options=None, **recipe) -> Experiment:
        before = describe(
            "avg",
            "self-supervised",
            {**SMALL, **(options or {})},
            task="pretraining",
            **{"epochs": 2, **recipe},
        )
        own = describe(
            "avg_parser", "weakly-supervised", {**SMALL, "head_dim": 8}, task="parsing", epochs=epochs
        )
        return own.model_copy(update={"pretraining": before})

    return make


class Small(nn.Module):
    """Two layers by name."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(width, 2), nn.Linear(2, 1)


def left(weights) -> Pretrained:
    return Pretrained("avg-1", weights, weights_digest(weights))


def test_weights_of_the_same_name_are_copied_and_others_stay():
    model, other = Small(), Small()
    head = model.head.weight.clone()
    body = {name: weight for name, weight in other.state_dict().items() if name.startswith("body")}
    assert start_from(model, left(body | {"unknown": torch.ones(3)})) == ["body.weight", "body.bias"]
    assert torch.equal(model.body.weight, other.body.weight)
    assert torch.equal(model.head.weight, head)


def test_a_model_that_has_nothing_in_common_or_another_size_is_refused():
    with pytest.raises(ValueError, match="Small"):
        start_from(Small(), left({"unknown": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"body.weight is \(2, 3\)"):
        start_from(Small(), left(Small(3).state_dict()))


def test_the_digest_depends_on_names_and_values_of_the_weights():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    assert weights_digest(one) == weights_digest(dict(reversed(one.items())))
    changed = [one | {"a": torch.tensor([1.0, 2.5])}, {"c": one["a"], "b": one["b"]}, {"a": one["a"]}]
    assert len({weights_digest(weights) for weights in [one, *changed]}) == 4


def test_a_run_starts_from_the_weights_of_the_same_seed(make_study, dependent, monkeypatch):
    experiment, started = dependent(), {}
    study = make_study()
    run(experiment.pretraining, study.results, [0, 1])
    original = fit._Training._epoch

    def first_step(self, epoch):
        started.setdefault(self.name[-1], {n: w.clone() for n, w in self.network.state_dict().items()})
        return original(self, epoch)

    monkeypatch.setattr(fit._Training, "_epoch", first_step)
    records = run(experiment, study.results, [0, 1])
    for seed, record in enumerate(records):
        left_behind = torch.load(checkpoint_before(experiment, study.results, seed), weights_only=True)
        for name, weight in left_behind["weights"].items():
            assert torch.equal(started[str(seed)][name], weight)
        assert record["pretraining"]["experiment_id"] == experiment.pretraining.id
        assert record["pretraining"]["weights"] == weights_digest(left_behind["weights"])
    assert not torch.equal(started["0"]["head.time.weight"], started["1"]["head.time.weight"])


def test_pretraining_that_is_missing_is_named(make_study, dependent):
    experiment = dependent()
    with pytest.raises(FileNotFoundError, match=f"runs/{experiment.pretraining.id}/seed0/checkpoint.pt"):
        run(experiment, make_study().results)


def test_after_failed_pretraining_the_run_fails_with_its_reason(make_study, dependent):
    experiment, study = dependent(lr=1e18), make_study()
    assert run(experiment.pretraining, study.results)[0]["status"] == "failed"
    record = run(experiment, study.results)[0]
    assert record["status"] == "failed"
    assert f"its pretraining {experiment.pretraining.id} has no model: the loss became" in record["reason"]
    assert record["metrics"] == {}


def test_a_file_that_is_no_checkpoint_is_named(make_study, dependent):
    experiment, study = dependent(), make_study()
    path = checkpoint_before(experiment, study.results, 0)
    path.parent.mkdir(parents=True)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no checkpoint of avpipe"):
        read_pretrained(experiment, study.results, 0)


def test_models_of_different_sizes_are_refused(make_study, dependent):
    experiment, study = dependent(options={"hidden_dim": 8}), make_study()
    run(experiment.pretraining, study.results)
    with pytest.raises(ValueError, match="same options"):
        run(experiment, study.results)


def test_a_stopped_run_continues_with_the_same_numbers(make_study, dependent, stop_after):
    experiment, study = dependent(epochs=4), make_study()
    run(experiment.pretraining, study.results)
    run(experiment, study.results)
    uninterrupted = read(experiment, study.results)
    stop_after(2, experiment, study.results)
    run(experiment, study.results)
    assert_same(uninterrupted, read(experiment, study.results))


def test_a_saved_state_is_not_used_after_another_pretraining(make_study, dependent, stop_after, capsys):
    experiment, study = dependent(epochs=4), make_study()
    run(experiment.pretraining, study.results)
    stop_after(2, experiment, study.results)
    path = checkpoint_before(experiment, study.results, 0)
    saved = torch.load(path, weights_only=True)
    saved["weights"]["transformer.kind.weight"] += 1
    torch.save(saved, path)
    run(experiment, study.results)
    assert "belongs to another pretraining" in capsys.readouterr().err


def test_runs_without_pretraining_do_not_mention_it(study, describe):
    experiment = describe(epochs=1)
    record = run(experiment, study.results)[0]
    assert "pretraining" not in record
    assert "pretraining" not in json.dumps(record["experiment"])


def test_pretraining_may_be_that_of_another_dataset(make_study, dependent, tmp_path):
    study = make_study()
    experiment = dependent().model_copy(update={"pretrained_on": "sounds"})
    with pytest.raises(FileNotFoundError, match="sounds/runs/"):
        run(experiment, study.results)
    other = write_study(tmp_path / "results" / "sounds", splits=(("train", 32), ("val", 8), ("test", 8)))
    run(experiment.pretraining, other.results)
    record = run(experiment, study.results)[0]
    assert record["pretraining"]["experiment_id"] == experiment.pretraining.id
    assert record["experiment"]["pretrained_on"] == "sounds"
    left_behind = torch.load(checkpoint_before(experiment, study.results, 0), weights_only=True)
    assert record["pretraining"]["weights"] == weights_digest(left_behind["weights"])
