"""CMAN: attention on where, when and which, each against its definition and seen at work."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.cman import CMAN, AdaptiveCoAttention, ContextAwareSelfAttention, ContextGate

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "visual_cells": 6, "hidden_dim": 7}


def small(**options) -> CMAN:
    torch.manual_seed(0)
    return CMAN(**SIZES, **options)


features = partial(random_clips, visual=(2, 3, 5))


def test_a_gate_mixes_a_segment_with_the_clips_mean():
    gate = ContextGate(1)
    for layer, weight in (
        (gate.segment, 2.0),
        (gate.context, 3.0),
        (gate.segment_gate, 0.5),
        (gate.context_gate, -1.0),
    ):
        layer.weight.data = torch.full((1, 1), weight)
    gate.segment_gate.bias.data.zero_()
    # segments 1 and 3: W x = 2, 6; the mean is 2, so U c = 6; gates sigmoid(1 - 6), sigmoid(3 - 6)
    g = [1 / (1 + math.exp(5)), 1 / (1 + math.exp(3))]
    expected = torch.tensor([[[(1 - g[0]) * 2 + g[0] * 6], [6.0]]])
    torch.testing.assert_close(gate(torch.tensor([[[1.0], [3.0]]])), expected)


def test_when_is_self_attention_with_a_residual_where_gates_are_closed():
    torch.manual_seed(0)
    attention = ContextAwareSelfAttention(3)
    for gate in (attention.query, attention.key):
        gate.segment_gate.bias.data.fill_(-1e4)
    x = torch.randn(1, 4, 3)
    q, k = x[0] @ attention.query.segment.weight.T, x[0] @ attention.key.segment.weight.T
    weights = torch.softmax(q @ k.T / math.sqrt(3), dim=-1)
    found, seen = attention(x)
    torch.testing.assert_close(seen[0], weights)
    torch.testing.assert_close(found[0], x[0] + weights @ attention.value(x[0]))


def test_which_finds_the_match_of_a_segment_at_another_time():
    """An audio segment finds its image at a later time: the modalities need not be aligned."""
    block = AdaptiveCoAttention(2)
    block.affinity.weight.data = 100 * torch.eye(2)
    block.gate.weight.data.zero_()
    block.gate.bias.data = torch.tensor([1e4, 0.0])  # trust what is heard
    audio, visual = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[0.0, 1], [1, 0]]])
    fused, which = block(audio, visual)
    assert which[..., 0].tolist() == [[1, 1]]
    torch.testing.assert_close(fused, audio + visual.flip(1))  # each with its match of the other time


@pytest.mark.parametrize(("bias", "audio_share"), [([math.log(3), 0.0], 0.75), ([0.0, math.log(4)], 0.2)])
def test_which_weighs_the_modalities(bias, audio_share):
    block = AdaptiveCoAttention(2)
    block.affinity.weight.data.zero_()  # then each looks everywhere alike
    block.gate.weight.data.zero_()
    block.gate.bias.data = torch.tensor(bias)
    audio, visual = torch.randn(1, 4, 2), torch.randn(1, 4, 2)
    heard, watched = audio + visual.mean(dim=1, keepdim=True), visual + audio.mean(dim=1, keepdim=True)
    fused, which = block(audio, visual)
    torch.testing.assert_close(which, torch.tensor([audio_share, 1 - audio_share]).expand(1, 4, 2))
    torch.testing.assert_close(fused, audio_share * heard + (1 - audio_share) * watched)


def test_the_modules_are_chained_as_the_paper_orders_them():
    model, batch = small(), features()
    looked_at, _ = model.where(batch.audio, batch.visual)
    heard, _ = model.when_audio(model.embed_audio(batch.audio))
    watched, _ = model.when_visual(model.embed_visual(looked_at))
    expected = model.classifier(model.which(heard, watched)[0])
    torch.testing.assert_close(model(batch).segment_logits, expected)
