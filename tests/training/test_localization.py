"""The localization task: targets, losses and the two rules of prediction, on numbers worked by hand."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from avpipe.models.avel import AVEL
from avpipe.models.avin import AVIN
from avpipe.models.base import EventOutput, LocalizationBatch, SegmentOutput
from avpipe.plan.recipe import Recipe
from avpipe.training.data import read_tables
from avpipe.training.localization import (
    LOSSES,
    NO_BACKGROUND,
    Localization,
    binary_cross_entropy,
    cross_entropy,
    pool_over_time,
    soft_margin,
)

LOG2 = math.log(2)


@pytest.fixture
def task(study, describe):
    def make(setting="supervised", model=AVIN, **recipe):
        experiment = describe(setting=setting, **recipe)
        return Localization(experiment, read_tables(experiment.features, study.results), model)

    return make


def loss_of(task, output, target) -> torch.Tensor:
    """The sum of the terms."""
    return torch.stack(list(task.terms(output, LocalizationBatch(target=target)).values())).sum()


def one_hot(index: int, classes: int) -> torch.Tensor:
    return torch.eye(classes)[index]


def test_soft_margin_is_0_709_for_uniform_scores_and_0_680_at_best():
    """Reference section 5: of 29 classes, about 0.709 at uniform, floor about 0.680."""
    target = one_hot(3, 29)
    uniform, certain = soft_margin(torch.zeros(29), target), soft_margin(1e4 * target, target)
    assert round(uniform.item(), 3) == 0.709
    assert round(certain.item(), 3) == 0.680
    # the sigmoid of probability p: -log s(p) for the true class, -log(1 - s(p)) = log(1 + e^p) for the others
    p = 1 / 29
    assert uniform.item() == pytest.approx((math.log(1 + math.exp(-p)) + 28 * math.log(1 + math.exp(p))) / 29)
    assert certain.item() == pytest.approx((math.log(1 + math.exp(-1)) + 28 * LOG2) / 29)


def test_soft_margin_over_segments_is_torchs_loss_on_probabilities():
    logits, target = torch.randn(4, 10, 29), torch.eye(29)[torch.randint(29, (4, 10))]
    expected = torch.nn.MultiLabelSoftMarginLoss()(logits.softmax(-1), target)
    torch.testing.assert_close(soft_margin(logits, target).mean(), expected)


def test_cross_entropy_is_torchs_and_shares_several_categories():
    logits, labels = torch.randn(4, 10, 5), torch.randint(5, (4, 10))
    expected = torch.nn.CrossEntropyLoss()(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(cross_entropy(logits, torch.eye(5)[labels]).mean(), expected)
    # scores log 1, log 3, log 4 are probabilities 1/8, 3/8, 4/8; two categories, half each
    scores = torch.tensor([1.0, 3.0, 4.0]).log()
    expected = -(math.log(1 / 8) + math.log(4 / 8)) / 2
    assert cross_entropy(scores, torch.tensor([1.0, 0.0, 1.0])).item() == pytest.approx(expected)


def test_binary_cross_entropy_treats_each_class_on_its_own():
    # scores log 1, log 3, log 4 are probabilities 1/8, 3/8, 4/8; the second is there
    loss = binary_cross_entropy(torch.tensor([1.0, 3.0, 4.0]).log(), one_hot(1, 3))
    assert loss.item() == pytest.approx(-(math.log(7 / 8) + math.log(3 / 8) + math.log(4 / 8)) / 3)


def test_pooling_over_time_takes_each_class_by_itself():
    scores = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])
    assert pool_over_time(scores, "max").tolist() == [[3.0, 4.0]]
    assert pool_over_time(scores, "mean").tolist() == [[2.0, 2.0]]


def test_supervised_targets_are_the_category_of_each_segment(study, task):
    target = task().labels("train")["target"]
    assert target.shape == (48, 10, 4)
    assert np.array_equal(target.argmax(-1).numpy(), study.split("train"))
    assert target.sum(-1).eq(1).all()


def test_weak_targets_are_the_clips_category_only_or_background(study, task):
    target = task("weakly-supervised").labels("train")["target"]
    assert target.shape == (48, 4)
    truth = study.split("train")
    for clip in range(48):
        category = 3 if clip % 8 == 7 else truth[clip].min()  # indices of events are below background's
        assert torch.equal(target[clip], one_hot(category, 4))


def test_weak_targets_by_duration_are_the_share_of_segments(study, task):
    """The released weak PSP's label: fraction of event and of background segments (reference, section 13)."""
    target = task("weakly-supervised", weak_labels="durations").labels("train")["target"]
    shares = [np.bincount(row, minlength=4) / 10 for row in study.split("train")]
    np.testing.assert_allclose(target.numpy(), shares, rtol=1e-6)
    assert (target[7] == one_hot(3, 4)).all()  # a clip without an event: background alone
    assert torch.equal(
        task(weak_labels="durations").labels("train")["target"], task().labels("train")["target"]
    )


def test_supervised_loss_is_the_mean_over_segments_and_the_models_own_terms(task):
    loc = task(loss="cross_entropy")
    logits, target = torch.randn(2, 10, 4), torch.eye(4)[torch.randint(4, (2, 10))]
    plain = loss_of(loc, SegmentOutput(segment_logits=logits), target)
    torch.testing.assert_close(plain, cross_entropy(logits, target).mean())
    more = loss_of(loc, SegmentOutput(segment_logits=logits, losses={"x": torch.tensor(2.0)}), target)
    torch.testing.assert_close(more, plain + 2)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_weak_loss_is_that_of_pooled_scores(task, pooling):
    loc = task("weakly-supervised", loss="cross_entropy", pooling=pooling)
    logits, target = torch.randn(2, 10, 4), torch.eye(4)[[1, 3]]
    expected = torch.nn.functional.cross_entropy(pool_over_time(logits, pooling), torch.tensor([1, 3]))
    torch.testing.assert_close(loss_of(loc, SegmentOutput(segment_logits=logits), target), expected)


def test_default_losses_and_pooling_are_the_models(task):
    assert task(model=AVEL).criterion is soft_margin
    assert task(model=AVIN).criterion is cross_entropy
    assert task(model=AVEL, loss="cross_entropy").criterion is cross_entropy
    two = type("Two", (), {"default_loss": "cross_entropy", "default_weak_loss": "binary_cross_entropy", "default_pooling": "mean"})  # fmt: skip
    assert task(model=two).criterion is cross_entropy
    assert task("weakly-supervised", model=two).criterion is binary_cross_entropy
    assert task(model=AVEL).pooling == "max"
    assert task(model=AVEL, pooling="mean").pooling == "mean"


def test_a_recipe_may_ask_for_each_loss_that_there_is():
    assert {*get_args(Recipe.model_fields["loss"].annotation)} == {"default", *LOSSES}


def test_a_segment_is_its_largest_class(task):
    logits = torch.tensor([[[0.0, math.log(3), 0.0, 0.0], [0.0, 0.0, 0.0, math.log(5)]]])
    found = task().predict(SegmentOutput(segment_logits=logits))
    assert found["prediction"].tolist() == [[1, 3]]
    torch.testing.assert_close(found["confidence"], torch.tensor([[3 / 6, 5 / 8]]))


def test_two_part_models_predict_the_clips_category_where_there_is_an_event(task):
    event = torch.tensor([[math.log(3), 0.0, -math.log(4)], [2.0, -2.0, 0.1]])  # sigmoid 3/4, 1/2, 1/5
    category = torch.tensor([[0.0, math.log(2), 0.0], [9.0, 0.0, 0.0]])  # best: 1 with 2/4; 0
    found = task().predict(EventOutput(event_logits=event, category_logits=category))
    assert found["prediction"].tolist() == [[1, 3, 3], [0, 3, 0]]  # exactly 0.5 is background
    torch.testing.assert_close(found["confidence"][0], torch.tensor([3 / 4 * 2 / 4, 1 / 2, 4 / 5]))


def test_two_part_supervised_loss_leaves_the_category_of_clips_without_event_open(task):
    loc = task(loss="cross_entropy")
    target = torch.eye(4)[torch.tensor([[2, 3], [3, 3]])]  # clip 1 is background only
    event, category = torch.randn(2, 2), torch.randn(2, 3)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(event, torch.tensor([[1.0, 0], [0, 0]]))
    expected = expected + torch.nn.functional.cross_entropy(category[:1], torch.tensor([2]))
    loss = loss_of(loc, EventOutput(event_logits=event, category_logits=category), target)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("labels", "categories", "clips"),
    [("categories", 3, 1), ("durations", 3, 1), ("categories", 4, 2)],
    ids=["events only", "a short event counts like a long one", "background scored"],
)
def test_two_part_weak_loss_is_cross_entropy_of_pooled_products(task, labels, categories, clips):
    """Clip 1 has no event: it counts only if background is scored."""
    loc = task("weakly-supervised", loss="cross_entropy", pooling="mean", weak_labels=labels)
    event, category = torch.randn(2, 5), torch.randn(2, categories)
    scores = event.sigmoid().mean(dim=1, keepdim=True) * category
    expected = torch.nn.functional.cross_entropy(scores[:clips], torch.tensor([1, 3])[:clips])
    durations = torch.tensor([[0, 0.2, 0, 0.8], [0, 0, 0, 1]])
    target = durations if labels == "durations" else torch.eye(4)[[1, 3]]
    output = EventOutput(event_logits=event, category_logits=category)
    torch.testing.assert_close(loss_of(loc, output, target), expected)


def test_two_part_models_can_predict_background_as_the_clips_category(task):
    category = torch.tensor([[0.0, 0, 0, 1], [0, 1, 0, 0]])
    output = EventOutput(event_logits=torch.tensor([[1.0, -1], [1, -1]]), category_logits=category)
    found = task("weakly-supervised").predict(output)
    assert found["prediction"].tolist() == [[3, 3], [1, 3]]


@pytest.mark.parametrize(
    ("setting", "weak_labels", "all_have_an_event", "shown"),
    [
        ("weakly-supervised", "categories", True, True),
        ("weakly-supervised", "categories", False, False),
        ("weakly-supervised", "durations", True, False),
        ("supervised", "categories", True, False),
    ],
)
def test_the_best_without_background_is_a_baseline_where_labels_do_not_teach_background(
    setting, weak_labels, all_have_an_event, shown, study, describe
):
    experiment = describe(setting=setting, weak_labels=weak_labels)
    data = read_tables(experiment.features, study.results)
    if all_have_an_event:
        data = data.keep(
            np.concatenate([(study.split(s) != 3).any(axis=1) for s in ("train", "val", "test")])
        )
    loc = Localization(experiment, data, AVIN)
    events = float((loc.truth("test", "target").argmax(axis=-1) != 3).mean())
    assert 0.2 < events < 0.8
    expected = {"background everywhere": {"accuracy": pytest.approx(1 - events)}}
    assert loc.baselines() == expected | ({NO_BACKGROUND: {"accuracy": events}} if shown else {})


def test_a_batch_without_any_event_has_a_finite_two_part_loss(task):
    output = EventOutput(event_logits=torch.zeros(1, 2), category_logits=torch.zeros(1, 3))
    target = torch.eye(4)[torch.tensor([[3, 3]])]
    assert loss_of(task(), output, target).item() == pytest.approx(LOG2)


def test_a_model_without_defaults_gets_those_of_its_task(task):
    plain = task("weakly-supervised", model=type("Plain", (), {}))
    assert (plain.criterion, plain.pooling) == (cross_entropy, "max")


def test_accuracy_and_table_of_a_split(study, task):
    loc, truth = task(), study.split("test")
    wrong = truth.copy()
    wrong[0, :4] = (wrong[0, :4] + 1) % 4
    predictions = {"prediction": wrong, "confidence": np.full(truth.shape, 0.5, np.float32)}
    clips = np.array([f"clip{i}" for i in range(64, 80)])
    found = loc.assess(clips, {"target": np.eye(4)[truth]}, predictions)
    assert found.scores == {"accuracy": 156 / 160}
    assert set(loc.metrics) == {"accuracy"}
    assert loc.baselines() == {"background everywhere": {"accuracy": pytest.approx((truth == 3).mean())}}
    table = found.table
    assert table.columns.tolist() == ["clip", "segment", "truth", "prediction", "confidence"]
    assert table["clip"].tolist() == [clip for clip in clips for _ in range(10)]
    assert table["segment"].tolist() == list(range(10)) * 16
    assert (table["truth"] != table["prediction"]).sum() == 4
