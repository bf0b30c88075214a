"""The cross-modal parser: each of its parts against its definition, and the released sizes."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from avpipe.models.base import ParsingBatch
from avpipe.models.crossmodal_parser import (
    AttentionLayer,
    CrossModalParser,
    GlobalContextAttention,
    reversal_strength,
    reverse_gradient,
)

from .builders import count_parameters, fit, random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "motion_dim": 6, "hidden_dim": 8}
BASE = {"context": "none", "skip": False, "adversarial": False}


features = partial(random_clips, visual=(8, 5), motion=6, segments=5, kind=ParsingBatch)


def small(**options) -> CrossModalParser:
    torch.manual_seed(0)
    return CrossModalParser(**SIZES, **{"dropout": 0.0, **options})


def sequence(segments: int = 5) -> torch.Tensor:
    return torch.randn(1, segments, 8, generator=torch.Generator().manual_seed(3))


DISCRIMINATOR = (512 * 128 + 128) + 2 * 128 + (128 * 10 + 10) + 2 * 10 + (10 + 1)
NORMS = 2 * (512 + 512)
"""Two layer norms: those of the skip connections, and as many that the released encoder never uses."""


@pytest.mark.parametrize(
    ("options", "released"),
    [
        ({}, 8_591_104 - NORMS),
        ({"adversarial": False}, 8_591_104 - NORMS - DISCRIMINATOR),
        ({"context": "first_segment"}, 8_591_104 - NORMS),
        ({"context": "none"}, 7_009_012 - NORMS),
        (BASE, 7_009_012 - 2 * NORMS - DISCRIMINATOR),
    ],
)
def test_has_the_parameters_that_the_released_code_uses(options, released):
    assert count_parameters(CrossModalParser(**options)) == released


# GCAA


def test_context_attention_is_its_definition_written_out():
    layer, asking, asked = GlobalContextAttention(8, 0.0).double(), sequence(4).double(), sequence(5).double()
    out, weights = layer(asking, asked, asked)

    def lean(x, own, context, lean_own, lean_context):
        c = context(sum(x) / len(x))
        mapped = []
        for segment in x:
            q = own(segment)
            share = 1 / (1 + math.exp(-(lean_own(q) + lean_context(c)).item()))
            mapped.append((1 - share) * q + share * c)
        return mapped

    q = lean(asking[0], layer.query, layer.query_context, layer.query_lean, layer.query_context_lean)
    k = lean(asked[0], layer.key, layer.key_context, layer.key_lean, layer.key_context_lean)
    for t in range(4):
        scores = [math.exp((q[t] @ k[s]).item() / math.sqrt(8)) for s in range(5)]
        expected = sum(scores[s] / sum(scores) * layer.value(asked[0, s]) for s in range(5))
        torch.testing.assert_close(out[0, t], layer.out(expected))
        torch.testing.assert_close(weights[0, t], torch.tensor(scores).double() / sum(scores))


@pytest.mark.parametrize(("context", "global_"), [("none", False), ("global", True)])
def test_with_context_the_rest_of_the_clip_decides_what_a_segment_attends_to(context, global_):
    torch.manual_seed(0)
    layer, x = AttentionLayer(8, 0.0, context), sequence()
    other = x.clone()
    other[0, 4] += 3.0
    before, after = (layer(clip, clip)[1][0, 0] for clip in (x, other))
    # how segment 0 shares its attention between segments 1 and 2 is, without context, theirs and its own alone
    changed = not torch.isclose(before[1] / before[2], after[1] / after[2], rtol=1e-4)
    assert changed is global_


def test_first_segment_gives_every_segment_what_the_first_attends_to_as_the_released_code_does():
    torch.manual_seed(0)
    correct, slip = AttentionLayer(8, 0.0, "global"), AttentionLayer(8, 0.0, "first_segment")
    slip.load_state_dict(correct.state_dict())
    x = sequence()
    attended = correct.attention(x, x, x)[0][:, :1].expand(1, 5, 8)
    hidden = correct.attention_norm(x + attended)
    torch.testing.assert_close(slip(x, x)[0], correct.norm(hidden + correct.feed_forward(hidden)))
    torch.testing.assert_close(slip(x, x)[0][:, 0], correct(x, x)[0][:, 0])
    assert not torch.isclose(slip(x, x)[0][:, 1:], correct(x, x)[0][:, 1:]).any(dim=-1).all()


# The order of self-attention and cross-modal attention


@pytest.mark.parametrize("context", ["none", "global"])
def test_audio_reaches_visual_scores_only_through_the_cross_modal_layer(context):
    model = small(**{**BASE, "context": context}).eval()
    batch, other = features(), features()
    other.audio = other.audio + 1.0
    assert not torch.equal(
        model(batch).parsing_probabilities[:, :, 1], model(other).parsing_probabilities[:, :, 1]
    )
    out = model.cross_layer.attention.out_proj if context == "none" else model.cross_layer.attention.out
    for parameter in out.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(
        model(batch).parsing_probabilities[:, :, 1], model(other).parsing_probabilities[:, :, 1]
    )


def test_self_attention_has_weights_for_each_modality_and_cross_attention_shares_them():
    model = small(**BASE)
    model(features()).parsing_probabilities[:, :, 0].sum().backward()  # audio alone
    assert model.audio_layer.feed_forward[0].weight.grad.any()
    assert model.cross_layer.feed_forward[0].weight.grad.any()
    model.zero_grad()
    model.visual_layer.register_forward_hook(lambda *a: (a[2][0].detach(), a[2][1]))
    model(features()).parsing_probabilities[:, :, 1].sum().backward()
    assert model.visual_layer.feed_forward[0].weight.grad is None  # its own way is cut
    assert model.cross_layer.feed_forward[0].weight.grad.any()


# Skip


@pytest.mark.parametrize("skip", [True, False])
def test_the_skip_connection_carries_the_self_attended_features(skip):
    model = small(context="none", skip=skip, adversarial=False).eval()
    for parameter in model.joint.parameters():
        nn.init.zeros_(parameter)  # nothing passes the cross-modal part any more
    found = {}
    model.audio_layer.register_forward_hook(lambda *a: found.update(audio=a[2][0]))
    model.head.register_forward_hook(lambda *a: found.update(into=a[1][0]))
    model(features())
    expected = model.audio_norm(found["audio"]) if skip else torch.zeros_like(found["audio"])
    torch.testing.assert_close(found["into"], expected)


# Adv


def test_the_gradient_is_reversed_and_scaled():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    out = reverse_gradient(x, 0.25)
    assert torch.equal(out, x)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-0.75, -1.0]


@pytest.mark.parametrize(("progress", "strength"), [(0.0, 0.0), (0.1, math.tanh(0.5)), (1.0, math.tanh(5))])
def test_the_strength_of_the_reversal_grows_from_0_to_almost_1(progress, strength):
    # 2 / (1 + e^-x) - 1 = (1 - e^-x) / (1 + e^-x) = tanh(x / 2)
    assert reversal_strength(progress) == pytest.approx(strength)


def gradients(model: CrossModalParser, batch: ParsingBatch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(batch).losses["adversarial"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_network_learns_the_opposite_of_what_the_discriminator_learns(monkeypatch):
    model, batch = small(), features()
    batch.progress = 0.2
    found = gradients(model, batch)
    monkeypatch.setattr("avpipe.models.crossmodal_parser.reverse_gradient", lambda x, strength: x)
    straight = gradients(model, batch)
    assert found.keys() == straight.keys()
    for name, gradient in found.items():
        factor = 1 if name.startswith("discriminator") else -math.tanh(1)
        torch.testing.assert_close(gradient, factor * straight[name], rtol=1e-4, atol=1e-6)
    assert found["encoder.audio.weight"].any()


def test_the_released_codes_reversal_is_an_epoch_ahead():
    """Epochs count from 1 there: in the middle of the fifth of 40 the progress is 5.5 / 40, not 4.5 / 40."""
    batch = features()
    batch.progress = 4.5 / 40
    torch.manual_seed(0)
    ours = gradients(small(), batch)
    torch.manual_seed(0)
    released = gradients(small(reversal_start=0.025), batch)
    factor = math.tanh(5 * 5.5 / 40) / math.tanh(5 * 4.5 / 40)
    for name, gradient in released.items():
        expected = ours[name] * (1 if name.startswith("discriminator") else factor)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def play(model: CrossModalParser, discriminator: bool) -> float:
    """Train the discriminator, or all else, by the adversarial loss; the discriminator's accuracy at the end."""
    batch, right = features(clips=8, seed=1), {}
    batch.progress = 0.5

    def keep(module, given, logits):
        half = len(logits) // 2  # audio first
        right["share"] = torch.cat([logits[:half] < 0, logits[half:] > 0]).float().mean().item()

    hook = model.discriminator.register_forward_hook(keep)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("discriminator") == discriminator)
    fit(model, lambda: model(batch).losses["adversarial"], steps=60)
    hook.remove()
    return right["share"]


def test_the_discriminator_learns_to_tell_modalities_apart_and_the_network_to_prevent_it():
    model = small(context="none", skip=False)
    assert play(model, discriminator=True) > 0.95
    assert play(model, discriminator=False) < 0.5


def test_the_adversarial_loss_is_the_mean_binary_cross_entropy_of_equation_2():
    model, batch, found = small(), features(), {}
    model.discriminator.register_forward_hook(lambda *a: found.update(logits=a[2].squeeze(-1)))
    loss = model(batch).losses["adversarial"]
    p = found["logits"].sigmoid()
    audio, visual = p.chunk(2)
    expected = -torch.cat([(1 - audio).log(), visual.log()]).mean()
    torch.testing.assert_close(loss, expected)


def test_the_adversarial_loss_exists_in_training_only():
    model = small()
    assert model(features()).losses.keys() == {"adversarial"}
    assert model.eval()(features()).losses == {}
    assert small(adversarial=False)(features()).losses == {}


def test_the_losses_are_weighted_as_in_equation_3():
    weights = CrossModalParser.default_loss_weights
    assert weights == {"clip": 1, "audio": 0.6, "visual": 0.6, "adversarial": 0.4}
