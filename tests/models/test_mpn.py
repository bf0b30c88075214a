"""MPN: two subnetworks that share nothing but their inputs, and what each does with time."""

from functools import partial

import pytest
import torch

from avpipe.models.mpn import MPN, BottleneckAttention, CoAttention

from .builders import count_parameters, random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "visual_cells": 4, "hidden_dim": 8}


features = partial(random_clips, visual=(2, 2, 5), segments=6)


def model(**options) -> MPN:
    torch.manual_seed(0)
    return MPN(**{**SIZES, **options}).eval()


def test_has_the_parts_it_names():
    look = 128 * 512 + 512 + 512 * 512 + 512 + 2 * 512 * 49 + 49
    embed = 128 * 256 + 256 + 512 * 256 + 256
    co_attention = 2 * (4 * (256 * 256 + 256) + 2 * 256)
    channels = 512 * 32 + 32 + 32 * 512 + 512
    segments = 512 * 32 + 32 + 2 * (3 * 32 * 32 + 32) + 32 + 1
    heads = 2 * (512 * 64 + 64) + 64 * 28 + 28 + 64 + 1
    expected = look + embed + co_attention + channels + segments + heads
    assert count_parameters(MPN()) == expected


@pytest.mark.parametrize(
    ("score", "own", "other"),
    [
        ("category_logits", ("co_attention", "category"), ("bottleneck", "event")),
        ("event_logits", ("bottleneck", "event"), ("co_attention", "category")),
    ],
)
def test_the_two_subnetworks_share_no_weights_beyond_their_inputs(score, own, other):
    network = model()
    getattr(network(features()), score).square().sum().backward()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {"attention", "embed_audio", "embed_visual", *own}
    assert not trained & set(other)


def test_co_attention_adds_what_a_modality_finds_in_the_other():
    torch.manual_seed(0)
    layer = CoAttention(8, heads=2, dropout=0.1).eval()
    audio, visual = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    layer.audio_asks.in_proj_weight.data[:16] = 0  # queries and keys: every segment is found equally
    out, _ = layer(audio, visual)
    value = visual.mean(dim=1, keepdim=True) @ layer.audio_asks.in_proj_weight[16:].T
    found = value @ layer.audio_asks.out_proj.weight.T
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(audio + found, (8,)))


def test_classification_depends_on_all_segments_but_not_on_their_order():
    network, order = model(), torch.tensor([3, 1, 5, 0, 2, 4])
    audio, visual = torch.randn(1, 6, 8, requires_grad=True), torch.randn(1, 6, 8, requires_grad=True)
    scores = network.classify(audio, visual)
    torch.testing.assert_close(network.classify(audio[:, order], visual[:, order]), scores)
    for gradient in torch.autograd.grad(scores[0, 0], (audio, visual)):
        assert (gradient[0].abs().sum(dim=-1) > 0).all()
    torch.testing.assert_close(network.classify(audio[:, order], visual), scores)


def test_bottleneck_attention_is_its_definition_written_out():
    torch.manual_seed(0)
    layer = BottleneckAttention(4, reduction=2).double()
    x = torch.randn(1, 5, 4).double()
    out, gate = layer(x)
    first, _, last = layer.channels
    channels = last(torch.relu(first(x[0].mean(dim=0))))
    squeeze, one, _, two, _, score = layer.segments
    course = x[0] @ squeeze.weight[:, :, 0].T + squeeze.bias  # (5, 2)
    for convolution in (one, two):  # of width 3 and dilation 2: segments t - 2, t, t + 2
        padded = torch.cat([torch.zeros(2, 2).double(), course, torch.zeros(2, 2).double()])
        course = torch.relu(
            sum(padded[2 * k : 2 * k + 5] @ convolution.weight[:, :, k].T for k in range(3))
            + convolution.bias
        )
    segments = course @ score.weight[0, :, 0] + score.bias
    expected = torch.sigmoid(channels[None] + segments[:, None])
    torch.testing.assert_close(gate[0], expected)
    torch.testing.assert_close(out, x + x * gate)


def test_localization_weighs_segments_and_does_not_mix_them():
    network = model()
    both = torch.randn(1, 6, 16, requires_grad=True)
    weighed, gate = network.bottleneck(both)
    # what comes out of a segment points where the segment pointed, channel by channel, at most twice as far
    assert ((weighed / both > 1) & (weighed / both < 2)).all()
    assert (gate.std(dim=1) > 0).any()
    for part in (network.bottleneck.channels[-1], network.bottleneck.segments[-1]):
        part.weight.data.zero_()  # a gate that is the same everywhere: nothing of another segment is left
    (gradient,) = torch.autograd.grad(network.localize(both[..., :8], both[..., 8:])[0, 2], both)
    assert gradient[0, 2].any()
    assert not gradient[0, [0, 1, 3, 4, 5]].any()


def test_background_is_a_category_only_weakly_supervised():
    assert model()(features()).category_logits.shape == (2, 3)
    assert model(setting="weakly-supervised")(features()).category_logits.shape == (2, 4)
