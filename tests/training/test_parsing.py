"""The parsing task: targets, loss and both gates worked by hand; the training loop runs it beside localization."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from avpipe.datasets import read_annotations
from avpipe.datasets.manifest import write_manifest
from avpipe.media.clips import gather_clips
from avpipe.metrics.parsing import METRICS, parsing_scores
from avpipe.models.base import ParsingBatch, ParsingOutput
from avpipe.models.han import HAN
from avpipe.training.data import read_tables
from avpipe.training.parsing import Parsing, clamped_binary_cross_entropy, smooth_labels

from .conftest import read, run, write_features

WEAK = "weakly-supervised"


@pytest.fixture
def task(study, describe):
    def make(setting=WEAK, model=HAN, **recipe):
        experiment = describe("han", setting, task="parsing", **recipe)
        return Parsing(experiment, read_tables(experiment.features, study.results), model)

    return make


def says(segments, of_modality, of_clip, **losses) -> ParsingOutput:
    """One clip, two segments, one category: [[audio, visual], [audio, visual]], [audio, visual], the clip's."""
    return ParsingOutput(
        parsing_probabilities=torch.tensor(segments).view(1, 2, 2, 1),
        modality_probabilities=torch.tensor(of_modality).view(1, 2, 1),
        clip_probabilities=torch.tensor([[of_clip]]),
        losses={name: torch.tensor(value) for name, value in losses.items()},
    )


def labels(clip=1.0, audio=1.0, visual=1.0) -> ParsingBatch:
    given = {"clip_labels": clip, "audio_labels": audio, "visual_labels": visual}
    return ParsingBatch(**{name: torch.tensor([[label]]) for name, label in given.items()})


def loss_of(task, *given) -> torch.Tensor:
    """The sum of the terms."""
    return torch.stack(list(task.terms(*given).values())).sum()


class Weighted(HAN):
    default_loss_weights = {"clip": 1.0, "audio": 0.6, "visual": 0.6, "extra": 0.4}  # noqa: RUF012


def entropy(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


OUTPUT = ([[0.9, 0.6], [0.5, 0.4]], [0.7, 0.3], 0.5)


# Targets


def test_every_target_is_the_weak_label(study, task):
    targets = task().labels("train")
    expected = torch.zeros(48, 3)
    for i in range(48):
        if i % 8 != 7:
            expected[i, i % 3] = 1
    assert targets.keys() == {"clip_labels", "audio_labels", "visual_labels"}
    assert all(torch.equal(target, expected) for target in targets.values())


def test_truth_has_the_events_of_both_modalities(study, task):
    truth = task().labels("test")["segment_labels"].numpy()
    assert truth.shape == (16, 10, 2, 3)
    expected = np.eye(4, dtype=bool)[study.split("test")][:, :, :3]
    assert np.array_equal(truth[:, :, 0], expected)
    assert np.array_equal(truth[:, :, 1], expected)


def test_a_dataset_without_weak_labels_is_refused(make_study, describe):
    study = make_study()
    events = pd.read_parquet(study.results / "events.parquet")
    events[events["modality"] != "video"].to_parquet(study.results / "events.parquet")
    experiment = describe("han", WEAK, task="parsing")
    parsing = Parsing(experiment, read_tables(experiment.features, study.results), HAN)
    with pytest.raises(ValueError, match="labels of whole clips"):
        parsing.labels("train")


# Loss


def test_smoothing_pulls_both_labels_towards_a_half():
    assert smooth_labels(torch.tensor([0.0, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.95])


def test_the_loss_is_hans_three_cross_entropies(task):
    loss = loss_of(task(), says(*OUTPUT), labels())
    assert loss.item() == pytest.approx(entropy(0.5, 1) + entropy(0.7, 1) + entropy(0.3, 0.95))
    absent = loss_of(task(), says(*OUTPUT), labels(0.0, 0.0, 0.0))
    assert absent.item() == pytest.approx(entropy(0.5, 0) + entropy(0.7, 0) + entropy(0.3, 0.05))


def test_a_label_removed_from_a_modality_is_0_there(task):
    loss = loss_of(task(), says(*OUTPUT), labels(visual=0.0))
    assert loss.item() == pytest.approx(entropy(0.5, 1) + entropy(0.7, 1) + entropy(0.3, 0))


def test_a_label_removed_from_audio_is_lost_for_the_clip_in_mas_released_code(task):
    released = task(clip_target="audio")
    for batch, clip, audio, visual in (
        (labels(audio=0.0), 0, 0, 0.95),
        (labels(visual=0.0), 1, 1, 0),
        (labels(audio=0.0, visual=0.0), 0, 0, 0),
    ):
        expected = entropy(0.5, clip) + entropy(0.7, audio) + entropy(0.3, visual)
        assert loss_of(released, says(*OUTPUT), batch).item() == pytest.approx(expected)


def test_losses_are_weighted_by_name(task):
    found = loss_of(task(model=Weighted), says(*OUTPUT, extra=2.0, more=3.0), labels())
    plain = entropy(0.5, 1) + 0.6 * (entropy(0.7, 1) + entropy(0.3, 0.95)) + 0.4 * 2 + 3
    assert found.item() == pytest.approx(plain)
    found = task(model=Weighted, loss_weights={"extra": 0.3, "clip": 2.0}, label_smoothing=(0.2, 0.0))
    changed = 2 * entropy(0.5, 1) + 0.6 * (entropy(0.7, 0.9) + entropy(0.3, 1)) + 0.3 * 2
    assert loss_of(found, says(*OUTPUT, extra=2.0), labels()).item() == pytest.approx(changed)


def test_a_weight_of_an_unknown_loss_is_refused(task):
    with pytest.raises(ValueError, match="did you mean 'visual'"):
        loss_of(task(loss_weights={"vidual": 1.0}), says(*OUTPUT), labels())


def test_a_weight_of_a_loss_that_is_switched_off_is_accepted(task):
    plain = loss_of(task(model=Weighted), says(*OUTPUT), labels())
    assert loss_of(task(model=Weighted, loss_weights={"extra": 0.3}), says(*OUTPUT), labels()) == plain


@pytest.mark.parametrize("p", [0.0, 1.0, 1.7])
def test_probabilities_at_and_beyond_the_ends_have_a_finite_loss(p):
    for y in (0.0, 1.0):
        assert clamped_binary_cross_entropy(torch.tensor([[p]]), torch.tensor([[y]])).isfinite()


# Prediction


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, [[1, 1], [1, 0]]),  # the clip's 0.5 lets both modalities through; 0.5 is enough
        ({"gate": "modality"}, [[1, 0], [1, 0]]),  # audio's 0.7 does, visual's 0.3 does not
        ({"threshold": 0.55}, [[1, 1], [0, 0]]),
        ({"gate_threshold": 0.55}, [[0, 0], [0, 0]]),
        ({"gate": "modality", "gate_threshold": 0.25, "threshold": 0.4}, [[1, 1], [1, 1]]),
    ],
)
def test_an_event_is_predicted_above_the_threshold_and_the_gate(task, recipe, expected):
    found = task(**recipe).predict(says(*OUTPUT))
    assert found["prediction"][0, :, :, 0].int().tolist() == expected
    torch.testing.assert_close(found["confidence"][0, :, :, 0], torch.tensor(OUTPUT[0]))


def test_scores_and_table_of_a_split(task):
    parsing = task()
    truth = parsing.labels("test")["segment_labels"].numpy()
    prediction = truth.copy()
    prediction[0, :, 0] = False  # clip 64: no audio events
    prediction[3, 9, 1, 2] = True  # clip 67: a false visual event at the end
    predictions = {"prediction": prediction, "confidence": np.full(truth.shape, 0.5, np.float32)}
    clips = np.array([f"clip{i}" for i in range(64, 80)])
    found = parsing.assess(clips, {"segment_labels": truth}, predictions)
    assert found.scores.keys() == parsing.metrics.keys() == set(METRICS)
    arrays = (truth[:, :, 0], truth[:, :, 1], prediction[:, :, 0], prediction[:, :, 1])
    assert found.scores == parsing_scores(*arrays)
    table = found.table
    columns = ["clip", "modality", "segment", "category", "truth", "prediction", "confidence"]
    assert table.columns.tolist() == columns
    assert len(table) == (truth | prediction).sum()
    assert (table["truth"] | table["prediction"]).all()
    missed = table[table["truth"] & ~table["prediction"]]
    assert set(zip(missed["clip"], missed["modality"], missed["category"], strict=True)) == {
        ("clip64", "audio", "Bell")
    }
    wrong = table[~table["truth"]]
    assert wrong[["clip", "modality", "segment", "category"]].values.tolist() == [
        ["clip67", "visual", 9, "Horn"]
    ]


# In the loop


def trained(experiment, study) -> tuple[dict, pd.DataFrame]:
    (metrics,) = run(experiment, study.results)
    return metrics, read(experiment, study.results)["predictions.parquet"]


def test_from_weak_labels_it_learns_segments_better_than_labels_everywhere(study, describe):
    experiment = describe("han", WEAK, {"hidden_dim": 32}, task="parsing", epochs=20)
    metrics, table = trained(experiment, study)
    assert metrics["status"] == "ok"
    found = metrics["metrics"]["validation"]
    assert found.keys() == Parsing.metrics.keys() == set(METRICS)
    weak = study_weak_scores(study)
    assert found["segment_type"] > weak["segment_type"] + 0.1
    assert found["event_type"] > weak["event_type"] + 0.1
    assert set(table["modality"]) == {"audio", "visual"}


def study_weak_scores(study) -> dict[str, float]:
    """What the weak labels on every segment score on the test split."""
    truth = np.eye(4, dtype=bool)[study.split("test")][:, :, :3]
    weak = np.broadcast_to(truth.any(axis=1, keepdims=True), truth.shape)
    return parsing_scores(truth, truth, weak, weak)


def test_one_results_folder_serves_both_tasks(study, describe):
    localization, _ = trained(describe("avel", WEAK), study)
    parsing, _ = trained(describe("han", WEAK, task="parsing"), study)
    assert localization["metrics"]["last"].keys() == {"accuracy"}
    assert parsing["metrics"]["last"].keys() == set(METRICS)


def test_a_model_receives_the_progress_of_training(study, describe, monkeypatch):
    seen = []
    forward = HAN.forward

    def watching(self, batch):
        seen.append((batch.progress, batch.clip_labels is not None))
        return forward(self, batch)

    monkeypatch.setattr(HAN, "forward", watching)
    trained(describe("han", WEAK, task="parsing", epochs=2, batch_size=24), study)
    assert [progress for progress, trained in seen if trained] == [0, 0.25, 0.5, 0.75]
    assert {progress for progress, trained in seen if not trained} == {None}


def test_a_run_records_the_score_of_weak_labels_on_every_segment(study, describe):
    metrics, _ = trained(describe("han", WEAK, task="parsing", epochs=1), study)
    (scores,) = metrics["baselines"].values()
    assert set(scores) == set(METRICS)
    # the toy's clips have one category: precision is the share of segments in which it happens, recall 1
    assert 0.3 < scores["segment_audio"] < 1.0


# The real splits and labels of LLP, with random features


@pytest.fixture(scope="module")
def llp(shared, tmp_path_factory):
    """The real annotations with two small random features; frames a segment as published."""
    folder = tmp_path_factory.mktemp("llp")
    found = read_annotations("llp", shared / "data" / "llp")
    write_manifest(found, "llp", folder, 512, [])
    gather_clips(folder / "manifest.parquet", None, folder / "clips.parquet")
    random, clips = np.random.default_rng(0), len(found.clips)
    write_features(folder, "ears", random.normal(size=(clips, 10, 4)).astype(np.float32), shard=512)
    write_features(folder, "eyes", random.normal(size=(clips, 10, 8, 4)).astype(np.float32), shard=512)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "changes"),
    [("han", {}), ("crossmodal_parser", {}), ("ma", {"task": "refined_parsing", "refine_epochs": 1})],
)
def test_the_real_splits_of_llp_can_be_trained_on(llp, describe, model, changes):
    """No probability reaches 0.999 after an epoch on noise, so the scores are those of predicting nothing."""
    experiment = describe(
        model, WEAK, **{"task": "parsing", **changes}, epochs=1, batch_size=500, threshold=0.999
    )
    (metrics,) = run(experiment, llp)
    assert [metrics["counts"][split] for split in ("train", "val", "test")] == [10_000, 649, 1_200]
    zeros = [0.005, 0.100833, 0.145, 0.083611, 0.0]
    assert [metrics["metrics"]["last"][name] for name in METRICS] == pytest.approx(zeros * 2, abs=1e-6)


@pytest.mark.slow
def test_pretraining_and_its_parser_can_be_trained_on_the_real_splits_of_llp(llp, describe):
    small = {"layers": 1, "heads": 2, "feed_forward_dim": 8}
    once = {"epochs": 1, "batch_size": 500}
    before = describe("avg", "self-supervised", small, task="pretraining", **once)
    parser = describe("avg_parser", WEAK, {**small, "head_dim": 8}, task="parsing", threshold=0.999, **once)
    for experiment in (before, parser.model_copy(update={"pretraining": before})):
        (metrics,) = run(experiment, llp)
        assert [metrics["counts"][split] for split in ("train", "val", "test")] == [10_000, 649, 1_200]
        assert metrics["status"] == "ok"
    zeros = [0.005, 0.100833, 0.145, 0.083611, 0.0]
    assert [metrics["metrics"]["last"][name] for name in METRICS] == pytest.approx(zeros * 2, abs=1e-6)
