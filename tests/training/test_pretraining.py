"""Pretraining: scores worked by hand; the loop trains it without a label, and what it learns can be seen."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe.models.avg import AVG
from avpipe.models.base import FeatureBatch, GroundingOutput
from avpipe.training.data import read_tables
from avpipe.training.pretraining import Pretraining, balanced_accuracy

from .conftest import assert_same, read, run

SMALL = {"hidden_dim": 16, "layers": 1, "heads": 2, "feed_forward_dim": 16, "dropout": 0.0}
THRESHOLDS = {"audio_threshold": 0.9, "visual_threshold": 0.9, "negative_margin": 0.3}


@pytest.fixture
def pretraining(describe):
    """An experiment; keyword arguments are options of AVG."""

    def make(setting="self-supervised", recipe=None, **options):
        given = {**SMALL, **THRESHOLDS, **options}
        return describe("avg", setting, given, task="pretraining", **(recipe or {}))

    return make


@pytest.fixture
def task(study, pretraining):
    def make(**options):
        experiment = pretraining(**options)
        return Pretraining(experiment, read_tables(experiment.features, study.results), AVG)

    return make


def predictions(audio, visual, across, groups) -> dict[str, np.ndarray]:
    """One clip of two segments: cosines (2, 2) within audio, within visual, of sound with picture."""
    cosines = [[audio, across], [np.transpose(across), visual]]
    return {"grounding": np.array([cosines], np.float32), "groups": np.array([groups])}


def assess(task, said) -> dict[str, float]:
    return task.assess(np.array(["clip"]), {}, said).scores


def test_pairs_of_one_group_and_of_two_count_half_each():
    truth = np.array([True, True, True, True, False])
    assert balanced_accuracy(np.array([True] * 5), truth) == 0.5
    assert balanced_accuracy(np.array([True, True, True, False, False]), truth) == (0.75 + 1) / 2
    assert balanced_accuracy(np.array([True, False]), np.array([True, True])) == 0.5
    assert np.isnan(balanced_accuracy(np.array([], bool), np.array([], bool)))


@pytest.mark.parametrize(("objective", "score"), [("uni", 0.5), ("cross", 0.75), ("multi", 0.625)])
def test_the_score_covers_what_the_objective_compares(task, objective, score):
    # Two groups; the middle of the margins is 0.5. Within audio the pair is said to be apart (right), within visual not.
    # Across, sound 0 and picture 0 are together (right), 1 and 1 are not; 0 with 1 and 1 with 0 are apart (right).
    said = predictions([[1, 0.1], [0.1, 1]], [[1, 0.9], [0.9, 1]], [[0.8, 0.2], [0.3, 0.4]], [0, 1])
    scores = assess(task(objective=objective), said)
    assert scores == {"grounding_uni": 0.5, "grounding_cross": 0.75, "grounding": score, "one_group": 0.0}


def test_a_segment_is_not_compared_with_itself_within_a_modality(task):
    said = predictions([[1, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 0], [0, 0]], [0, 0])
    assert assess(task(), said)["grounding_uni"] == 0.0
    assert assess(task(), said)["one_group"] == 1.0


def test_the_loss_is_the_model_s(task):
    said = {"grounding": torch.zeros(1, 2, 2, 2, 2), "groups": torch.zeros(1, 2, dtype=torch.int64)}
    losses = {"grounding": torch.tensor(0.25)}
    assert task().terms(GroundingOutput(**said, losses=losses), FeatureBatch()) == losses
    with pytest.raises(ValueError, match="its loss in `losses`"):
        task().terms(GroundingOutput(**said), FeatureBatch())


def test_training_improves_what_the_objective_compares(study, pretraining):
    record = run(pretraining(objective="cross", recipe={"epochs": 12, "lr": 0.005}), study.results)[0]
    other = run(pretraining(objective="uni", recipe={"epochs": 12, "lr": 0.005}), study.results)[0]
    assert record["metrics"]["validation"].keys() == Pretraining.metrics.keys()
    assert record["metrics"]["validation"]["grounding_cross"] > 0.9
    assert other["metrics"]["validation"]["grounding_cross"] < 0.7


def test_predictions_have_every_pair_of_segments(study, pretraining):
    experiment = pretraining(recipe={"epochs": 1})
    run(experiment, study.results)
    table = read(experiment, study.results)["predictions.parquet"]
    assert len(table) == 16 * 10 * 10
    own = table[table["segment"] == table["other"]]
    assert own["same_group"].all()
    assert own["audio_audio"].to_numpy() == pytest.approx(1.0, abs=1e-5)
    one = table[table["clip"] == table["clip"].iloc[0]].pivot(index="segment", columns="other")
    assert np.array_equal(one["same_group"], one["same_group"].T)


def test_labels_change_no_number(study, pretraining, tmp_path):
    experiment, unlabelled = pretraining(), tmp_path / "toy"
    shutil.copytree(study.results, unlabelled, ignore=shutil.ignore_patterns("runs"))
    events = pd.read_parquet(unlabelled / "events.parquet")
    events.head(0).to_parquet(unlabelled / "events.parquet")
    run(experiment, study.results)
    run(experiment, unlabelled)
    labelled, other = read(experiment, study.results), read(experiment, unlabelled)
    assert labelled["metrics.json"].pop("data") != other["metrics.json"].pop(
        "data"
    )  # a hash, labels included
    assert_same(labelled, other)
