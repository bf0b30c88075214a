"""The cross-modality task: which clips make queries, both directions by hand, and whole runs on the toy study."""

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe.metrics.cross_modality import query_intervals
from avpipe.models.avdln import AVDLN
from avpipe.models.base import CrossModalityBatch, QueryOutput, SimilarityOutput
from avpipe.models.layers import intervals
from avpipe.plan.experiment import Experiment
from avpipe.training.cross_modality import CrossModality
from avpipe.training.data import read_tables

from .conftest import read, run

SMALL = {
    "avdln": {"hidden_dim": 16, "embedding_dim": 8},
    "dam_matching": {"hidden_dim": 16},
    "dcca": {"hidden_dim": 16, "embedding_dim": 4},
}


@pytest.fixture
def matching(describe):
    def make(model: str = "avdln", **recipe) -> Experiment:
        changes = {"task": "cross_modality", "options": SMALL[model]}
        return describe(model=model, **recipe).model_copy(update=changes)

    return make


@pytest.fixture
def task(study, matching):
    def make(**recipe) -> CrossModality:
        experiment = matching(**recipe)
        return CrossModality(experiment, read_tables(experiment.features, study.results), AVDLN)

    return make


def assess(task, study, predictions, split="test"):
    """The evaluation of these predictions for the toy study's clips."""
    clips = study.clips[study.clips["split"] == split]["clip"].to_numpy()
    return task.assess(clips, {"event": study.split(split) < 3}, predictions)


def queries(study, split: str) -> tuple[np.ndarray, np.ndarray]:
    return query_intervals(study.split(split) < 3)


def test_targets_are_the_segments_of_events(study, task):
    event = task().labels("train")["event"]
    assert event.dtype == torch.float32
    assert np.array_equal(event.numpy() == 1, study.split("train") < 3)


def test_always_predicting_an_end_of_the_clip_scores_as_often_as_events_are_there(study, task):
    onset, length = queries(study, "test")
    asked = length > 0
    baselines = task().baselines()
    assert baselines == {
        "always the first segments": {"accuracy": np.mean(onset[asked] == 0)},
        "always the last segments": {
            "accuracy": np.mean((onset + length)[asked] == study.split("test").shape[1])
        },
    }


def test_similarities_that_follow_the_event_score_1(study, task):
    """Similarity is 1 where both segments are of the event, or neither is."""
    event = study.split("test") < 3
    alike = (event[:, :, None] == event[:, None, :]).astype(float)
    found = assess(task(), study, {"similarity": alike}).scores
    lengths = event.sum(axis=1)
    chance = np.mean([1 / (10 - length + 1) for length in lengths if length])  # all events are short
    assert found == {"accuracy_a2v": 1, "accuracy_v2a": 1, "accuracy": 1, "chance": pytest.approx(chance)}


def test_the_query_is_audio_in_one_direction_and_visual_in_the_other(study, task):
    """Only the first second's pictures resemble anything, so both directions answer position 0."""
    onset, length = queries(study, "test")
    onset = onset[length > 0]
    similarity = np.zeros((16, 10, 10))
    similarity[:, :, 0] = 1  # each sound goes with the first picture
    found = assess(task(), study, {"similarity": similarity}).scores
    assert found["accuracy_a2v"] == np.mean(onset == 0)
    # the first picture matches every sound equally, the others match nothing: position 0 in both cases
    assert found["accuracy_v2a"] == np.mean(onset == 0)
    assert found["accuracy"] == (found["accuracy_a2v"] + found["accuracy_v2a"]) / 2


def test_clips_without_a_query_do_not_count(study, task):
    _, length = queries(study, "test")
    assert 0 < (length > 0).sum() < 16  # every eighth clip has no event
    table = assess(task(), study, {"similarity": np.zeros((16, 10, 10))}).table
    assert len(table) == 2 * (length > 0).sum()
    clips = study.clips[study.clips["split"] == "test"]["clip"].to_numpy()
    assert set(table["clip"]) == set(clips[length > 0])


def test_of_answers_to_whole_queries_the_one_for_the_event_counts(study, task):
    """Only the row of the true interval points at the event; all others point at the first second."""
    event, members = study.split("test") < 3, intervals(10).numpy()
    rows = np.zeros((16, 55, 10))
    rows[:, :, 0] = 1
    for clip, own in enumerate(event):
        rows[clip, (members == own).all(axis=1)] = own
    both = {"audio_to_visual": rows, "visual_to_audio": np.zeros_like(rows)}
    found = assess(task(), study, both).scores
    onset, length = queries(study, "test")
    assert found["accuracy_a2v"] == 1
    assert found["accuracy_v2a"] == np.mean(onset[length > 0] == 0)


def test_the_table_has_a_row_a_query_and_direction(study, task):
    event = study.split("test") < 3
    alike = (event[:, :, None] == event[:, None, :]).astype(float)
    table = assess(task(), study, {"similarity": alike}).table
    assert table.columns.tolist() == ["clip", "direction", "onset", "length", "prediction"]
    assert (table["onset"] == table["prediction"]).all()
    assert table["direction"].unique().tolist() == ["audio_to_visual", "visual_to_audio"]


def test_predictions_are_the_models_similarities(task):
    similarity = torch.randn(2, 10, 10)
    assert torch.equal(task().predict(SimilarityOutput(similarity=similarity))["similarity"], similarity)
    both = {"audio_to_visual": torch.randn(2, 55, 10), "visual_to_audio": torch.randn(2, 55, 10)}
    assert task().predict(QueryOutput(**both)) == both


def test_the_loss_is_the_model_s_own(task):
    losses = {"one": torch.tensor(1.5), "two": torch.tensor(2.0)}
    similarity, batch = torch.zeros(1, 10, 10), CrossModalityBatch()
    assert task().terms(SimilarityOutput(similarity=similarity, losses=losses), batch) == losses
    with pytest.raises(ValueError, match="must give its loss"):
        task().terms(SimilarityOutput(similarity=similarity), batch)


def test_a_needed_split_without_a_query_fails_the_run(make_study, matching):
    study = make_study(splits=(("train", 16), ("val", 8), ("test", 8)))
    events = pd.read_parquet(study.results / "events.parquet")
    val = set(study.clips["clip"][study.clips["split"] == "val"])
    events[~events["clip"].isin(val)].to_parquet(study.results / "events.parquet")

    def problem(**recipe) -> str | None:
        experiment = matching(**recipe)
        data = read_tables(experiment.features, study.results)
        task = CrossModality(experiment, data, AVDLN)
        nothing = {"event": np.zeros((8, 10))}
        found = task.assess(np.arange(8), nothing, {"similarity": np.zeros((8, 10, 10))})
        assert np.isnan(found.scores["accuracy"])
        return task.problem()

    assert problem() == "no clip of the split val has one event that is shorter than the clip"
    assert problem(protocol="last") is None
    (failed,) = run(matching(epochs=1), study.results)
    assert failed["status"] == "failed"
    assert "no clip of the split val" in failed["reason"]
    assert len(read(matching(epochs=1), study.results)["predictions.parquet"]) == 0
    assert run(matching(epochs=1, protocol="last"), study.results)[0]["status"] == "ok"


def test_the_tasks_own_splits_are_used_if_the_manifest_has_them(make_study, matching):
    study = make_study(splits=(("train", 16), ("val", 8), ("test", 8)))
    usual = pd.read_parquet(study.results / "manifest.parquet")
    match = usual.assign(match_split=["test"] * 8 + ["val"] * 8 + ["train"] * 16, match_order=range(32)[::-1])
    match.to_parquet(study.results / "manifest.parquet")
    data = read_tables(matching().features, study.results, CrossModality.split_set)
    assert data.splits["test"].clips["clip"].tolist() == [f"clip{i}" for i in reversed(range(8))]
    assert len(data.splits["train"]) == 16
    assert len(read_tables(matching().features, study.results).splits["test"]) == 8
    (metrics,) = run(matching(epochs=2), study.results)
    assert metrics["counts"]["train"] == 16
    predictions = read(matching(epochs=2), study.results)["predictions.parquet"]
    assert set(predictions["clip"]) <= {f"clip{i}" for i in range(8)}


@pytest.mark.parametrize("model", sorted(SMALL))
def test_every_model_learns_to_find_the_events(model, study, matching):
    experiment = matching(model, epochs=30)
    (metrics,) = run(experiment, study.results)
    found = metrics["metrics"]["validation"]
    assert found.keys() == CrossModality.metrics.keys()
    assert found["chance"] < 0.25
    assert found["accuracy_a2v"] > 2 * found["chance"]
    assert found["accuracy_v2a"] > 2 * found["chance"]
