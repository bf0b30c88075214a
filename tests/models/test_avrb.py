"""AVRB: the fusion block and the segment-wise attention block."""

import math
from functools import partial

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


def test_the_fused_feature_is_bilinear_in_the_outputs_of_both_lstms():
    model, batch = small(), features()
    attended, _ = model.look(batch.audio, batch.visual)
    h_audio, h_visual = model.audio_lstm(batch.audio)[0], model.visual_lstm(attended)[0]
    fused = model.fusion(h_visual, h_audio)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(model.segments(fused)[0]))
    z, doubled = model.fusion.bilinear(h_visual, h_audio), model.fusion.bilinear(2 * h_visual, 3 * h_audio)
    torch.testing.assert_close(doubled, 6 * z)
