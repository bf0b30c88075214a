"""AVRB: the fusion block and the segment-wise attention block at work."""

import math

import pytest
import torch

from avpipe.models import AVBatch
from avpipe.models.avrb import AVRB, SegmentWiseAttention

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


def features(seed: int = 0) -> AVBatch:
    random = torch.Generator().manual_seed(seed)
    return AVBatch(
        audio=torch.randn(2, 8, 4, generator=random), visual=torch.randn(2, 8, 2, 3, 5, generator=random)
    )


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


def test_the_fused_feature_is_bilinear_in_what_the_two_lstms_say():
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


def test_without_attention_a_map_counts_by_its_average():
    model, batch = small(attention=False), features()
    averaged = AVBatch(audio=batch.audio, visual=batch.visual.mean(dim=(2, 3)))
    torch.testing.assert_close(model(batch).segment_logits, model(averaged).segment_logits)
    assert model(batch).attention.keys() == {"segments"}


@pytest.mark.parametrize("role", ["audio", "visual"])
def test_silence_or_darkness_leaves_no_fused_feature(role):
    """A product needs both: where one LSTM says nothing, every segment is classified alike."""
    model = small(attention=False)
    lstm = model.audio_lstm if role == "audio" else model.visual_lstm
    for parameter in lstm.parameters():
        parameter.data.zero_()
    logits = model(features()).segment_logits
    torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits))


def test_attention_over_vectors_is_refused():
    with pytest.raises(ValueError, match="attention: false"):
        AVRB(visual_cells=1)
