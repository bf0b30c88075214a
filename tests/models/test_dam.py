"""DAM: global features of event segments, matched across the modalities; true labels only in training."""

import math

import pytest
import torch
from torch.nn import functional

from avpipe.models.base import LocalizationBatch
from avpipe.models.dam import (
    DAM,
    RelevantSelfAttention,
    joint_log_probability,
    matching_score,
    mean_probability_logit,
)

from .builders import fit, random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 6}
TRUTH = torch.tensor([[3, 1, 1, 1, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3, 3, 3]])  # 3 is background


def small(**options) -> DAM:
    torch.manual_seed(0)
    return DAM(**SIZES, **{"attention": False, **options})


def features(targets: torch.Tensor | None = None) -> LocalizationBatch:
    batch = random_clips(4, 5)
    if targets is not None:
        batch.target = torch.eye(4)[targets]
    return batch


def test_matching_is_the_dot_product_over_the_root_of_the_width():
    context, local = torch.tensor([[1.0, 2, 0, 1]]), torch.tensor([[[2.0, 1, 5, 0], [-1, 0, 0, -1]]])
    assert matching_score(context, local).tolist() == [[4 / 2, -2 / 2]]


def test_the_probability_of_an_event_is_the_mean_of_both_directions():
    one, other = torch.tensor([math.log(3), 80.0, -80.0]), torch.tensor([-math.log(3), 80.0, -90.0])
    logit = mean_probability_logit(one, other)
    assert logit[0].item() == pytest.approx(0, abs=1e-6)  # 3/4 and 1/4
    assert logit[1].item() == pytest.approx(80)
    assert logit[2].item() == pytest.approx(-80 - math.log(2), abs=1e-3)  # half of e^-80


def test_a_segment_that_is_not_relevant_counts_for_nothing():
    attention = RelevantSelfAttention(6)
    local, relevance = torch.randn(2, 5, 6), torch.tensor([[1.0, 1, 0, 1, 0]] * 2)
    whole = attention(local, relevance)
    torch.testing.assert_close(whole, attention(local[:, [0, 1, 3]], torch.ones(2, 3)))
    changed = local.clone()
    changed[:, [2, 4]] = 9.0
    torch.testing.assert_close(attention(changed, relevance), whole)


def test_half_relevant_segments_count_half():
    """Of two equal segments and one other, halves of the two weigh as much as one of them alone."""
    attention = RelevantSelfAttention(6)
    pair = torch.randn(1, 2, 6)
    tripled = torch.cat([pair, pair[:, :1]], dim=1)
    torch.testing.assert_close(
        attention(tripled, torch.tensor([[0.5, 1.0, 0.5]])), attention(pair, torch.ones(1, 2))
    )


def test_each_global_feature_is_matched_with_the_other_modality():
    model, batch = small(context="all"), features()
    everywhere = torch.ones(2, 8)
    audio, visual = model.audio_local(batch.audio), model.visual_local(batch.visual)
    seen = model(batch).attention
    heard, watched = model.audio_global(audio, everywhere), model.visual_global(visual, everywhere)
    torch.testing.assert_close(seen["audio_to_visual"], matching_score(heard, visual).sigmoid())
    torch.testing.assert_close(seen["visual_to_audio"], matching_score(watched, audio).sigmoid())
    output = model(batch)
    mean = (seen["audio_to_visual"] + seen["visual_to_audio"]) / 2
    torch.testing.assert_close(output.event_logits.sigmoid(), mean)
    torch.testing.assert_close(output.category_logits, model.classifier(torch.cat([heard, watched], dim=-1)))


def test_audio_guided_attention_takes_the_place_of_the_average_over_cells():
    guided, maps = small(attention=True, visual_cells=4), random_clips(4, (2, 2, 5))
    plain = small()
    plain.load_state_dict(guided.state_dict(), strict=False)
    attended, weights = guided.where(maps.audio, maps.visual)
    torch.testing.assert_close(
        guided(maps).category_logits, plain(LocalizationBatch(maps.audio, attended)).category_logits
    )
    assert torch.equal(guided(maps).attention["visual"], weights)


def test_in_supervised_training_a_global_feature_depends_on_event_segments_only():
    model = small()
    one, other = features(TRUTH), features(TRUTH)
    other.audio[0, 4:] += 3.0
    other.visual[0, 4:] -= 3.0  # background of clip 0
    torch.testing.assert_close(model(one).category_logits[0], model(other).category_logits[0])
    assert not torch.allclose(
        small(context="all")(one).category_logits, small(context="all")(other).category_logits
    )


def test_in_training_all_segments_of_a_clip_without_event_are_relevant():
    relevance = small()(features(TRUTH)).attention["relevance"]
    assert relevance.tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [1] * 8]


def test_without_the_truth_event_segments_are_estimated_by_matching_all():
    model, batch = small(), features()
    estimate = small(context="all")(batch).event_logits.sigmoid()
    torch.testing.assert_close(model(batch).attention["relevance"], estimate)


def test_without_labels_training_and_testing_give_the_same():
    model = small()
    assert model.train()(features()).losses == model.eval()(features()).losses == {}
    torch.testing.assert_close(model.train()(features()).event_logits, model.eval()(features()).event_logits)


def test_weakly_supervised_training_uses_no_event_segments():
    model = small(setting="weakly-supervised")
    clip_labels = torch.tensor([1, 3])
    trained, tested = model(features(clip_labels)), model(features())
    torch.testing.assert_close(trained.segment_logits, tested.segment_logits)
    assert trained.losses == {}
    assert (trained.attention["relevance"] > 0).all()


def test_weakly_supervised_probabilities_are_event_times_category():
    event, category = torch.tensor([[math.log(3), -math.log(4)]]), torch.tensor([[0.0, math.log(4)]])
    # p(event) 3/4 and 1/5, p(category) 1/5 and 4/5
    expected = torch.tensor([[[3 / 20, 12 / 20, 5 / 20], [1 / 25, 4 / 25, 20 / 25]]])
    torch.testing.assert_close(joint_log_probability(event, category).exp(), expected)
    supervised, weak = small()(features()), small(setting="weakly-supervised")(features())
    joint = joint_log_probability(supervised.event_logits, supervised.category_logits)
    torch.testing.assert_close(weak.segment_logits, joint)


def test_the_estimate_learns_from_the_true_segments():
    model = small()
    output = model(features(TRUTH))
    estimate = small(context="all")(features()).event_logits
    expected = functional.binary_cross_entropy_with_logits(estimate, (TRUTH != 3).float())
    torch.testing.assert_close(output.losses["estimate"], expected)


def test_training_raises_the_matching_score_on_event_segments():
    """Measured on clips that were not trained on, without their labels."""
    torch.manual_seed(0)
    model = small()
    sounds, looks = 2 * torch.randn(4, 4), 2 * torch.randn(4, 5)

    def clips() -> tuple[LocalizationBatch, torch.Tensor]:
        labels = torch.where(torch.rand(32, 8) < 0.5, torch.randint(3, (32, 1)), 3)
        batch = LocalizationBatch(
            sounds[labels] + 0.3 * torch.randn(32, 8, 4), looks[labels] + 0.3 * torch.randn(32, 8, 5)
        )
        return batch, labels

    def contrast() -> float:
        batch, labels = clips()
        score = model(batch).event_logits.sigmoid().detach()
        return (score[labels != 3].mean() - score[labels == 3].mean()).item()

    before = contrast()

    def loss() -> torch.Tensor:
        batch, labels = clips()
        batch.target = torch.eye(4)[labels]
        output = model(batch)
        event = (labels != 3).float()
        return (
            functional.binary_cross_entropy_with_logits(output.event_logits, event)
            + output.losses["estimate"]
        )

    fit(model, loss, steps=60)
    assert abs(before) < 0.3
    assert contrast() > 0.8
