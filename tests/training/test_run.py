"""Training: the same seed gives the same numbers, also after a kill; what every run records."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avpipe.metrics.localization import segment_accuracy
from avpipe.models import MODELS, load_model
from avpipe.models.avel import AVEL
from avpipe.models.psp import PSP
from avpipe.plan import registry
from avpipe.plan.plan import train_code
from avpipe.plan.section import ConfigError
from avpipe.training import fit
from avpipe.training import run as run_module
from avpipe.training.data import FeatureClips
from avpipe.training.localization import Localization
from avpipe.training.resume import States
from avpipe.training.run import open_task

from .conftest import Stop, assert_same, read, run, seed_folder, write_features


def test_an_experiment_that_its_task_cannot_train_is_refused_at_once(study, describe):
    with pytest.raises(ConfigError, match=r"recipe\.refine_epochs: found 2 for the task localization"):
        run(describe("avel", refine_epochs=2), study.results)


# Reproducible


@pytest.mark.parametrize("model", ["avel", "avin"])
def test_the_same_seed_gives_the_same_numbers(study, describe, model):
    experiment = describe(model)
    run(experiment, study.results)
    first = read(experiment, study.results)
    run(experiment, study.results)
    assert_same(first, read(experiment, study.results))


def test_a_seed_does_not_depend_on_the_seeds_before_it(study, describe):
    experiment = describe()
    run(experiment, study.results, [3, 5])
    together = read(experiment, study.results, 5)
    run(experiment, study.results, [5])
    assert_same(together, read(experiment, study.results, 5))
    losses = [read(experiment, study.results, seed)["log.csv"][0]["loss"] for seed in (3, 5)]
    assert losses[0] != losses[1]


def test_the_callers_random_state_and_settings_do_not_change(study, describe):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(describe(), study.results)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_features_read_from_disk_give_the_same_numbers(study, describe):
    experiment = describe(batch_size=7)
    run(experiment, study.results)
    resident = read(experiment, study.results)
    run(experiment, study.results, resident_bytes=0)
    assert_same(resident, read(experiment, study.results))


# Killed and run again


@pytest.mark.parametrize(
    "recipe",
    [
        {"schedule": "plateau", "step": 1},
        {"schedule": "plateau", "step": 1, "watch": "loss"},
        {"schedule": "cosine", "optimizer": "sgd", "clip_norm": 0.5},
        {"evaluate_every": 2, "protocol": "last"},
        {"standardize": True},
    ],
    ids=["plateau", "plateau of the loss", "cosine", "last", "standardize"],
)
def test_a_stopped_run_continues_with_the_same_numbers(study, describe, stop_after, recipe):
    experiment = describe(epochs=6, **recipe)  # AVIN has dropout: the random state matters too
    run(experiment, study.results)
    uninterrupted = read(experiment, study.results)
    stop_after(4, experiment, study.results)
    run(experiment, study.results)
    assert_same(uninterrupted, read(experiment, study.results))


@pytest.mark.parametrize("model", ["avin", "psp"])
@pytest.mark.parametrize("saved", [1, 3, 5])
def test_a_run_stopped_in_the_middle_of_an_epoch_continues_with_the_same_numbers(
    study, describe, monkeypatch, model, saved
):
    experiment = describe(
        model, epochs=3, batch_size=8, evaluate_every=2, **({"accumulate": 2} if saved == 3 else {})
    )
    run(experiment, study.results)
    uninterrupted, original, done = read(experiment, study.results), States.save, []

    def stopping(self, at, state):
        original(self, at, state)
        done.append(at)
        if len(done) == saved:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(States, "save", stopping)
        with pytest.raises(Stop):
            run(experiment, study.results, save_steps=2, save_seconds=1e9)
    # six batches an epoch: states after steps 2, 4 and 6, where the epoch ends
    assert done[-1] == {1: (0, 2), 3: (1, 0), 5: (1, 4)}[saved]
    run(experiment, study.results)
    assert_same(uninterrupted, read(experiment, study.results))


def test_only_unfinished_epochs_are_trained_again(study, describe, monkeypatch, stop_after, capsys):
    experiment = describe(epochs=4)
    stop_after(3, experiment, study.results, [0, 1])
    for file in (study.results / "runs" / experiment.id).glob("seed*/*.json"):
        file.unlink()  # Snakemake deletes the outputs of a failed job
    epochs = []
    original = fit._Training._epoch
    monkeypatch.setattr(
        fit._Training, "_epoch", lambda self, n: epochs.append(self.name) or original(self, n)
    )
    assert [m["status"] for m in run(experiment, study.results, [0, 1])] == ["ok", "ok"]
    assert [name[-6:] for name in epochs] == [
        "seed 1"
    ] * 2  # of 4: two were saved, the third was not recorded
    assert "seed 1: going on after epoch 2" in capsys.readouterr().err


def test_no_saved_state_remains_when_all_seeds_are_finished(study, describe):
    experiment = describe()
    run(experiment, study.results, [0, 1], save_seconds=0)
    assert not (study.results / "runs" / experiment.id / ".resume").exists()


def written_when(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in results.glob("runs/*/seed*/metrics.json")}


@pytest.mark.parametrize("changed", ["nothing", "code", "a file is missing"])
def test_a_run_that_another_process_has_written_meanwhile_is_adopted_if_it_is_the_same(
    make_study, describe, monkeypatch, changed
):
    study = make_study()
    experiment = describe("avel")
    run_module.train_experiment(experiment, study.results, [0, 1], "cpu")
    before = written_when(study.results)
    if changed == "code":
        monkeypatch.setattr("avpipe.training.run.code_fingerprint", lambda experiment: "another")
    if changed == "a file is missing":
        for path in before:
            (path.parent / "checkpoint.pt").unlink()
    run_module.train_experiment(experiment, study.results, [0, 1], "cpu", adopt=True)
    assert len(before) == 2
    assert (written_when(study.results) == before) == (changed == "nothing")


def test_a_run_that_was_deleted_while_the_other_seeds_were_trained_is_not_trained_again(
    make_study, describe, monkeypatch, capsys
):
    """As a restarted Snakemake does it, before its own job waits for this one."""
    study = make_study()
    experiment, write = describe("avel"), run_module.write_run

    def deleted_later(folder, *arguments):
        write(folder, *arguments)
        if folder.name == "seed1":
            (folder.parent / "seed0" / "metrics.json").unlink()

    monkeypatch.setattr(run_module, "write_run", deleted_later)
    run_module.train_experiment(experiment, study.results, [0, 1], "cpu")
    monkeypatch.setattr(run_module, "write_run", write)
    capsys.readouterr()
    run_module.train_experiment(experiment, study.results, [0, 1], "cpu", adopt=True)
    said = capsys.readouterr().err
    assert "seed 1: another process has trained it" in said
    assert f"seed 0: going on after epoch {experiment.recipe.epochs}" in said
    assert len(written_when(study.results)) == 2
    assert not list(study.results.glob("runs/*/.resume"))


def test_a_state_of_other_code_is_not_used(study, describe, monkeypatch, stop_after, capsys):
    experiment = describe(epochs=4)
    stop_after(3, experiment, study.results)
    monkeypatch.setattr(run_module, "code_fingerprint", lambda experiment: "other")
    run(experiment, study.results)
    said = capsys.readouterr().err
    assert "belongs to another code" in said
    assert "going on" not in said


def test_a_state_of_other_features_is_not_used(make_study, describe, stop_after, capsys):
    study, experiment = make_study(), describe(epochs=4)
    stop_after(3, experiment, study.results)
    write_features(study.results, "ears", np.ones((80, 10, 6), np.float32))
    run(experiment, study.results)
    assert "belongs to another data" in capsys.readouterr().err


def test_a_state_that_cannot_be_read_is_not_used(study, describe, capsys):
    experiment = describe(epochs=2)
    folder = study.results / "runs" / experiment.id / ".resume" / "seed0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "000001-000000.pt").write_bytes(b"half a file")
    assert run(experiment, study.results)[0]["status"] == "ok"
    assert "cannot be read" in capsys.readouterr().err


CHILD = """
import sys
from pathlib import Path
from avpipe.plan.experiment import Experiment
from avpipe.training.run import train_experiment
train_experiment(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2]), [0], "cpu", threads=1, save_seconds=0)
"""


@pytest.mark.slow
def test_a_run_killed_and_started_again_gives_the_numbers_of_an_uninterrupted_one(study, describe):
    experiment = describe(epochs=20, batch_size=4)
    arguments = [sys.executable, "-c", CHILD, experiment.to_json(), str(study.results)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as child:
        for line in child.stderr:
            if "epoch 3/20" in line:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    folder = study.results / "runs" / experiment.id
    assert list((folder / ".resume" / "seed0").glob("*.pt"))
    assert not (folder / "seed0" / "metrics.json").exists()
    run(experiment, study.results)
    resumed = read(experiment, study.results)
    run(experiment, study.results)
    assert_same(resumed, read(experiment, study.results))


def test_the_two_newest_states_are_kept_and_the_older_one_is_used_if_the_newest_is_damaged(
    study, describe, stop_after, capsys
):
    experiment = describe(epochs=6)
    run(experiment, study.results)
    uninterrupted = read(experiment, study.results)
    stop_after(5, experiment, study.results)
    _older, newest = sorted((study.results / "runs" / experiment.id / ".resume" / "seed0").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    run(experiment, study.results)
    assert f"{newest} cannot be read" in capsys.readouterr().err
    assert_same(uninterrupted, read(experiment, study.results))


# What a run records


def first_best(files: dict, split: str) -> int:
    """The first epoch with the best accuracy, from the log."""
    return int(np.argmax([float(row[f"{split}_accuracy"]) for row in files["log.csv"]])) + 1


def test_all_protocols_are_recorded_and_predictions_follow_the_recipes(make_study, describe):
    study = make_study(noise=3.0)
    for protocol in ("validation", "last", "best_test"):
        experiment = describe(epochs=8, protocol=protocol)
        (metrics,) = run(experiment, study.results)
        files = read(experiment, study.results)
        epochs = {"validation": first_best(files, "val"), "last": 8}
        if protocol == "best_test":
            epochs["best_test"] = first_best(files, "test")
            test = [float(row["test_accuracy"]) for row in files["log.csv"]]
            assert metrics["metrics"] == {p: {"accuracy": test[e - 1]} for p, e in epochs.items()}
        else:  # the test split is looked at for the reported checkpoints only
            assert not any(name.startswith("test") for name in files["log.csv"][0])
        assert metrics["epochs"] == epochs
        table = files["predictions.parquet"]
        assert (
            segment_accuracy(table["truth"], table["prediction"]) == metrics["metrics"][protocol]["accuracy"]
        )
        assert np.array_equal(table["truth"], study.split("test").ravel())
        assert table["confidence"].between(0, 1).all()


def test_metrics_describe_the_run(study, describe):
    experiment = describe()
    (metrics,) = run(experiment, study.results, [4], log=Path("logs/train.log"))
    assert metrics["experiment"] == experiment.model_dump(mode="json")
    assert (metrics["experiment_id"], metrics["seed"], metrics["device"]) == (experiment.id, 4, "cpu")
    assert (metrics["status"], metrics["reason"]) == ("ok", None)
    assert metrics["units"] == {
        "accuracy": {"heading": "Accuracy", "unit": "%", "higher_is_better": True, "decimals": 1}
    }
    counts = {"train": 48, "val": 16, "test": 16}
    assert metrics["counts"] == counts | {f"{split}_named": count for split, count in counts.items()}
    assert metrics["features"]["audio"] == {"extractor": "ears", "weights": "random", "sha256": "0" * 64}
    assert metrics["log"] == "logs/train.log"
    assert metrics["code"] == train_code(experiment)  # what the workflow watches
    model = registry.load(MODELS, "avin", "model")(
        num_classes=3, audio_dim=6, visual_dim=8, visual_cells=4, hidden_dim=8, fusion_dim=8
    )
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    folder = seed_folder(experiment, study.results, 4)
    assert {"environment", "seconds"} <= json.loads((folder / "metrics.json").read_text()).keys()
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_the_log_has_a_row_an_epoch_and_scores_where_it_was_evaluated(study, describe):
    experiment = describe(epochs=5, evaluate_every=2)
    run(experiment, study.results)
    log = read(experiment, study.results)["log.csv"]
    assert [row["epoch"] for row in log] == ["1", "2", "3", "4", "5"]
    assert [bool(row["val_accuracy"]) for row in log] == [False, True, False, True, True]  # always the last
    assert float(log[4]["loss"]) < float(log[0]["loss"])


def test_a_size_given_as_option_overrides_that_of_the_data(study, describe):
    with pytest.raises(ValueError, match=r"audio features \(B, T, 7\)"):
        run(describe(options={"audio_dim": 7}), study.results)


# Failed runs


def assert_failed(experiment, results: Path, says: str, seed: int = 0) -> None:
    files = read(experiment, results, seed)
    metrics, table = files["metrics.json"], files["predictions.parquet"]
    assert metrics["status"] == "failed"
    assert says in metrics["reason"]
    assert metrics["metrics"] == {}
    assert len(table) == 0


def test_a_loss_that_is_not_finite_is_a_failed_run_without_weights(study, describe):
    experiment = describe("avel", lr=1e38, optimizer="sgd", loss="cross_entropy", epochs=5)
    run(experiment, study.results)
    assert_failed(experiment, study.results, "the loss became")
    with pytest.raises(ValueError, match="holds no weights"):
        load_model(seed_folder(experiment, study.results) / "checkpoint.pt")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_usable_clips_is_a_failed_run(make_study, describe, split):
    study = make_study(splits=[("train", 10), ("val", 10), ("test", 10)])
    audio = np.ones((30, 10, 6), np.float32)
    audio[(study.clips["split"] == split).to_numpy()] = np.nan
    write_features(study.results, "ears", audio)
    experiment = describe()
    for seed, metrics in enumerate(run(experiment, study.results, [0, 1])):
        assert_failed(experiment, study.results, f"in the split {split}: 10 named", seed)
        assert metrics["counts"][split] == 0


def test_validation_clips_are_needed_only_for_the_validation_protocol(make_study, describe):
    study = make_study(splits=[("train", 16), ("val", 0), ("test", 8)])
    (metrics,) = run(describe(protocol="last"), study.results)
    assert metrics["status"] == "ok"
    assert metrics["epochs"].keys() == {"last"}


def test_too_few_clips_for_one_whole_batch_are_a_failed_run(study, describe):
    experiment = describe(batch_size=49, drop_last=True)
    run(experiment, study.results)
    assert_failed(experiment, study.results, "48 training clips make no batch of 49")


# Learning (of every model: test_ave_study.py)


@pytest.mark.parametrize("setting", ["supervised", "weakly-supervised"])
def test_learns_in_bfloat16_with_losses_and_weights_in_float32(make_study, describe, monkeypatch, setting):
    study = make_study(splits=[("train", 96), ("val", 16), ("test", 32)])
    experiment = describe("avel", setting, epochs=15, loss="cross_entropy", precision="bfloat16")
    model_dtypes, loss_dtypes = set(), set()
    forward, terms = AVEL.forward, Localization.terms

    def watched_forward(self, batch):
        output = forward(self, batch)
        model_dtypes.add(output.segment_logits.dtype)
        return output

    def watched_terms(self, output, batch):
        loss_dtypes.add(output.segment_logits.dtype)
        return terms(self, output, batch)

    monkeypatch.setattr(AVEL, "forward", watched_forward)
    monkeypatch.setattr(Localization, "terms", watched_terms)
    run(experiment, study.results)
    assert (model_dtypes, loss_dtypes) == ({torch.bfloat16}, {torch.float32})
    written = read(experiment, study.results)
    assert {weight.dtype for weight in written["checkpoint.pt"]["weights"].values()} == {torch.float32}
    events = written["predictions.parquet"].query("truth != 3")
    assert (events["truth"] == events["prediction"]).mean() > 0.9


# Recipe


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "step", "step": 2, "gamma": 0.5}, [1, 1, 0.5, 0.5]),
        ({"schedule": "milestones", "milestones": (1, 3), "gamma": 0.1}, [1, 0.1, 0.1, 0.01]),
        ({"schedule": "cosine"}, [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2]),
    ],
)
def test_learning_rates_follow_the_schedule(describe, study, recipe, expected):
    experiment = describe(epochs=4, lr=0.001, **recipe)
    run(experiment, study.results)
    rates = [float(row["lr"]) for row in read(experiment, study.results)["log.csv"]]
    np.testing.assert_allclose(rates, 0.001 * np.array(expected))


@pytest.mark.parametrize(
    ("recipe", "sizes", "in_order"),
    [
        ({}, [20, 20, 8], False),
        ({"shuffle": False}, [20, 20, 8], True),
        ({"drop_last": True}, [20, 20], False),
    ],
)
def test_batches_are_shuffled_and_cut_as_the_recipe_says(
    study, describe, monkeypatch, recipe, sizes, in_order
):
    batches = []
    original = FeatureClips.__getitems__

    def recording(self, indices):
        if len(self) == 48:
            batches.append(indices)
        return original(self, indices)

    monkeypatch.setattr(FeatureClips, "__getitems__", recording)
    run(describe(epochs=2, batch_size=20, **recipe), study.results)
    assert [len(batch) for batch in batches] == sizes * 2
    clips = [clip for batch in batches for clip in batch]
    first, second = clips[: sum(sizes)], clips[sum(sizes) :]
    assert (first == list(range(sum(sizes)))) == in_order
    assert (first == second) == in_order


def test_the_gradient_is_clipped_to_the_recipes_norm(study, describe, monkeypatch):
    experiment = describe(epochs=1, batch_size=48, optimizer="sgd", momentum=0.0, lr=1.0, clip_norm=1e-3)
    moved, original = [], fit._Training._epoch

    def watching(self, epoch):
        before = torch.nn.utils.parameters_to_vector(self.network.parameters()).detach().clone()
        row = original(self, epoch)
        after = torch.nn.utils.parameters_to_vector(self.network.parameters()).detach()
        moved.append((after - before).norm().item())
        return row

    monkeypatch.setattr(fit._Training, "_epoch", watching)
    run(experiment, study.results)
    assert moved == [pytest.approx(1e-3, rel=1e-2)]  # one batch, one step of length lr x clip_norm


# Targets


@pytest.mark.parametrize(("setting", "shape"), [("supervised", (48, 10, 4)), ("weakly-supervised", (48, 4))])
def test_a_model_receives_targets_in_training_only(study, describe, monkeypatch, setting, shape):
    seen = []
    original = AVEL.forward

    def watching(self, batch):
        seen.append((self.training, None if batch.target is None else batch.target.shape))
        return original(self, batch)

    monkeypatch.setattr(AVEL, "forward", watching)
    run(describe("avel", setting, epochs=1, batch_size=48), study.results)
    assert seen == [(True, shape), (False, None), (False, None)]  # one batch, then val and test


@pytest.mark.parametrize("setting", ["supervised", "weakly-supervised"])
def test_a_model_is_built_for_the_setting(study, describe, setting):
    sizes = {"num_classes": 3, "audio_dim": 6, "visual_dim": 8, "visual_cells": 4, "hidden_dim": 8}
    expected = sum(p.numel() for p in PSP(setting=setting, **sizes).parameters())
    (metrics,) = run(describe("psp", setting, epochs=1), study.results)
    assert metrics["parameters"] == expected


# The weights that a run leaves


@pytest.mark.parametrize("standardize", [False, True])
def test_the_checkpoint_is_the_model_whose_predictions_were_written(make_study, describe, standardize):
    study = make_study(noise=6.0)
    experiment = describe(epochs=10, standardize=standardize)
    (metrics,) = run(experiment, study.results)
    assert metrics["epochs"]["validation"] < 10, "the last epoch's weights would do as well"
    model = load_model(seed_folder(experiment, study.results) / "checkpoint.pt")
    _, task = open_task(experiment, study.results, torch.device("cpu"))
    batch = task.dataset("test").__getitems__(range(16))
    with torch.inference_mode():
        prediction = model(batch).segment_logits.argmax(dim=-1)
    table = read(experiment, study.results)["predictions.parquet"]
    assert prediction.flatten().tolist() == table["prediction"].tolist()
