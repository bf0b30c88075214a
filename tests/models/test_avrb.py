"""AVRB: the fusion block and the segment-wise attention block."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.avrb import AVRB, SegmentWiseAttention

from .builders import random_clips

SIZES = {
    "num_classes": 3,
    "audio_dim": 4,
    "visual_dim": 5,
    "visual_cells": 6,
    "hidden_dim": 6,
    "fusion_dim": 7,
}


def small(**options) -> AVRB:
    torch.manual_seed(0)
    return AVRB(**SIZES, **options).eval()


features = partial(random_clips, visual=(2, 3, 5))


def test_segments_are_strengthened_by_their_learned_score():
    block = SegmentWiseAttention(1, hidden_dim=1)
    block.score[0].weight.data, block.score[0].bias.data = torch.ones(1, 1), torch.zeros(1)
    block.score[2].weight.data = torch.full((1, 1), 2.0)
    strengthened, weights = block(torch.tensor([[[0.0], [1.0]]]))
    # scores 0 and 2 tanh 1 = 1.523188, so the second weight is 1 / (1 + e^-1.523188)
    second = 1 / (1 + math.exp(-2 * math.tanh(1)))
    torch.testing.assert_close(weights, torch.tensor([[1 - second, second]]))
    torch.testing.assert_close(strengthened, torch.tensor([[[0.0], [1 + 2 * second]]]))


def test_equal_segments_are_doubled_whatever_their_number():
    for count in (1, 4, 10):
        fused = torch.randn(1, 1, 5).expand(1, count, 5)
        strengthened, weights = SegmentWiseAttention(5)(fused)
        torch.testing.assert_close(weights, torch.full((1, count), 1 / count))
        torch.testing.assert_close(strengthened, 2 * fused)


def test_the_fused_feature_is_bilinear_in_the_outputs_of_both_lstms():
    model, batch = small(), features()
    attended, _ = model.look(batch.audio, batch.visual)
    h_audio, h_visual = model.audio_lstm(batch.audio)[0], model.visual_lstm(attended)[0]
    fused = model.fusion(h_visual, h_audio)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(model.segments(fused)[0]))
    z, doubled = model.fusion.bilinear(h_visual, h_audio), model.fusion.bilinear(2 * h_visual, 3 * h_audio)
    torch.testing.assert_close(doubled, 6 * z)


def test_attention_sums_to_one_over_segments_and_over_cells():
    seen = small()(features()).attention
    torch.testing.assert_close(seen["segments"].sum(dim=1), torch.ones(2))
    torch.testing.assert_close(seen["visual"].sum(dim=(2, 3)), torch.ones(2, 8))


@pytest.mark.parametrize("role", ["audio", "visual"])
def test_with_one_lstm_at_zero_all_segments_are_scored_alike(role):
    """The fusion is a product: without one factor nothing is left of the other."""
    model = small(attention=False)
    lstm = model.audio_lstm if role == "audio" else model.visual_lstm
    for parameter in lstm.parameters():
        parameter.data.zero_()
    logits = model(features()).segment_logits
    torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits))
