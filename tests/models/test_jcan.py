"""JCAN: one recursion written out, and how recursions are chained."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from avpipe.models.base import LocalizationBatch
from avpipe.models.jcan import JCAN, JointCoAttention, MixSegments, RecurrentEncoder

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "visual_cells": 4, "hidden_dim": 8}


features = partial(random_clips, visual=(2, 2, 5), segments=10)


def model(**options) -> JCAN:
    torch.manual_seed(0)
    return JCAN(**{**SIZES, **options}).eval()


def co_attention() -> JointCoAttention:
    torch.manual_seed(0)
    return JointCoAttention(3, dropout=0.3).double().eval()


def test_a_recursion_is_its_definition_written_out():
    layer = co_attention()
    audio, visual = torch.randn(10, 3).double(), torch.randn(10, 3).double()
    out_audio, out_visual = layer(audio[None], visual[None])

    def linear(part: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return x @ part.weight.T + part.bias

    joint = linear(layer.joint, torch.cat([visual, audio], dim=1))  # (10, 6)
    for x, key, value, out, found in (
        (audio, layer.audio_key, layer.audio_value, layer.audio_out, out_audio),
        (visual, layer.visual_key, layer.visual_value, layer.visual_out, out_visual),
    ):
        # channel d of the modality, mixed over time, against channel k of the joint representation
        mixed = torch.stack([linear(key.mix, x[:, d]) for d in range(3)])  # (3, 10)
        agreement = torch.zeros(3, 6).double()
        for d in range(3):
            for k in range(6):
                agreement[d, k] = torch.tanh(mixed[d] @ joint[:, k] / math.sqrt(6))
        attended = torch.tanh(linear(value, x) @ agreement).clamp(min=0)
        torch.testing.assert_close(found[0], x + linear(out, attended).clamp(min=0))


@pytest.mark.parametrize("recursions", [1, 4])
def test_co_attention_recurs_with_weights_of_its_own(recursions):
    network, calls = model(recursions=recursions), []
    for layer in network.recursions:
        layer.register_forward_hook(lambda layer, inputs, outputs: calls.append((layer, inputs, outputs)))
    network(features())
    assert [layer for layer, *_ in calls] == list(network.recursions)
    assert len({id(layer.joint.weight) for layer in network.recursions}) == recursions
    for (_, _, before), (_, after, _) in pairwise(calls):
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_for_another_number_of_segments_the_mix_is_resampled():
    layer = MixSegments()
    with torch.no_grad():
        layer.mix.bias.zero_()
        layer.mix.weight.fill_(0.1)  # the mean
    courses = torch.randn(2, 3, 7)
    torch.testing.assert_close(layer(courses), courses.mean(dim=-1, keepdim=True).expand(2, 3, 7))
    with torch.no_grad():
        layer.mix.weight.zero_()
        layer.mix.bias.copy_(torch.arange(10.0))
    torch.testing.assert_close(layer(torch.zeros(1, 1, 4))[0, 0], torch.tensor([0.0, 3, 6, 9]))


def test_the_encoder_is_bidirectional_and_its_output_has_length_one():
    torch.manual_seed(0)
    encoder = RecurrentEncoder(4, 6, dropout=0.0)
    inputs = torch.randn(2, 5, 4, requires_grad=True)
    encoded = encoder(inputs)
    torch.testing.assert_close(encoded.norm(dim=-1), torch.ones(2, 5))
    encoded[0, 2, 0].backward()
    assert (inputs.grad[0].abs().sum(dim=-1) > 0).all()
    assert not inputs.grad[1].any()
    assert encoder.initial.grad.any()  # the states it starts from are learned


def test_the_scale_of_the_features_does_not_matter():
    network, batch = model(), features()
    louder = LocalizationBatch(audio=3 * batch.audio, visual=0.5 * batch.visual)
    torch.testing.assert_close(network(louder).segment_logits, network(batch).segment_logits)


def test_takes_vectors_where_it_does_not_attend():
    output = model(visual_cells=1, attention=False)(random_clips(4, 5, segments=10))
    assert output.segment_logits.shape == (2, 10, 4)
    assert output.attention == {}
