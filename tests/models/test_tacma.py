"""TACMA: equations 3 to 7 on numbers worked by hand, and what theta and time do."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.base import LocalizationBatch
from avpipe.models.tacma import TACMA, TemporallyAdaptiveAttention, cross_modal_attention, temporal_weights

from .builders import count_parameters, lstm_parameters, random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 3}


def attention(theta: float, equation_6: str = "cross-modal", dim: int = 6) -> TemporallyAdaptiveAttention:
    torch.manual_seed(0)
    return TemporallyAdaptiveAttention(dim, theta, equation_6).double()


def encoded(dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, 10, dim, generator=random, dtype=torch.float64) for _ in range(2))


features = partial(random_clips, visual=(2, 2, 5), segments=10)


def test_equation_3_compares_every_audio_with_every_visual_segment():
    audio = torch.tensor([[[2.0, 0], [0, 2]]])
    visual = torch.tensor([[[1.0, 1], [-1, 3]]])
    by_audio, by_visual = cross_modal_attention(audio, visual, scale=2.0)
    # products 2, -2 and 2, 6; halved 1, -1 and 1, 3; after ReLU 1, 0 and 1, 3
    e = math.e
    expected = torch.tensor([[e / (e + 1), 1 / (e + 1)], [1 / (1 + e**2), e**2 / (1 + e**2)]])
    torch.testing.assert_close(by_audio[0], expected)
    expected = torch.tensor([[1 / 2, 1 / 2], [1 / (1 + e**3), e**3 / (1 + e**3)]])
    torch.testing.assert_close(by_visual[0], expected)


def test_equation_4_on_numbers():
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
    expected = [
        [1, math.exp(-0.03 / 0.3), math.exp(-0.06 / 0.2)],
        [math.exp(-0.03 / 0.1), 1, math.exp(-0.03 / 0.1)],
        [math.exp(-0.06 / 0.25), math.exp(-0.03 / 0.25), 1],
    ]
    torch.testing.assert_close(temporal_weights(scores, 0.03), torch.tensor(expected))


def test_theta_0_is_plain_cross_modal_attention():
    layer, (audio, visual) = attention(0.0), encoded()
    out_audio, out_visual, seen = layer(audio, visual)
    asks, asked = audio @ layer.audio_key.weight.T, visual @ layer.visual_key.weight.T
    similarity = (asks @ asked.transpose(1, 2) / math.sqrt(6)).clamp(min=0)
    for query, memory, value, out, scores, found in (
        (audio, visual, layer.visual_value, layer.visual_out, similarity, out_visual),
        (visual, audio, layer.audio_value, layer.audio_out, similarity.transpose(1, 2), out_audio),
    ):
        attended = scores.softmax(dim=-1) @ (memory @ value.weight.T) + query
        expected = torch.nn.functional.layer_norm(attended @ out.weight.T, (6,))
        torch.testing.assert_close(found, expected)
    assert torch.equal(seen["audio_from_visual"], similarity.softmax(dim=-1))  # exactly
    assert torch.equal(temporal_weights(similarity.softmax(dim=-1), 0.0), torch.ones(2, 10, 10).double())


def test_equation_5_multiplies_attention_with_its_weights():
    audio, visual = encoded()
    *_, plain = attention(0.0)(audio, visual)
    *_, adapted = attention(0.03)(audio, visual)
    for name, scores in plain.items():
        torch.testing.assert_close(adapted[name], temporal_weights(scores, 0.03) * scores)


def test_as_printed_equation_6_swaps_the_two_matrices():
    audio, visual = encoded()
    read, printed = attention(0.03), attention(0.03, "as_printed")
    _, out_visual, seen = printed(audio, visual)
    fused = seen["visual_from_audio"] @ (visual @ read.visual_value.weight.T) + audio
    expected = torch.nn.functional.layer_norm(fused @ read.visual_out.weight.T, (6,))
    torch.testing.assert_close(out_visual, expected)
    assert not torch.allclose(read(audio, visual)[1], out_visual)


def test_very_unequal_segments_give_finite_gradients():
    layer, (audio, visual) = attention(0.03), encoded()
    audio = (1e3 * audio).requires_grad_()
    out_audio, out_visual, seen = layer(audio, 1e3 * visual)
    assert (seen["audio_from_visual"] == 0).any()
    (out_audio * torch.randn_like(out_audio) + out_visual * torch.randn_like(out_visual)).sum().backward()
    assert torch.isfinite(audio.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_has_the_parts_it_names():
    mlp = 256 * 128 + 128 + 128 * 64 + 64 + 64 * 29 + 29
    expected = lstm_parameters(128) + lstm_parameters(512) + 6 * 256 * 256 + 2 * 256 + mlp
    assert count_parameters(TACMA()) == expected
    attention_only = 6 * 256 * 256 + 2 * 256 + mlp
    model = TACMA(audio_dim=256, visual_dim=256, encoder="none")
    assert count_parameters(model) == attention_only


@pytest.mark.parametrize(
    ("options", "bound"), [({}, 1 / 256**0.5), ({"initialization": "xavier"}, (6 / (256 + 256)) ** 0.5)]
)
def test_initial_weights_are_pytorchs_or_xaviers(options, bound):
    largest = TACMA(**options).attention.audio_out.weight.abs().max().item()
    assert 0.98 * bound < largest <= bound  # of 65536 uniform numbers


def test_without_encoder_features_go_straight_to_the_attention():
    torch.manual_seed(0)
    model = TACMA(num_classes=3, audio_dim=4, visual_dim=4, encoder="none")
    audio, visual = torch.randn(2, 10, 4), torch.randn(2, 10, 4)
    from_audio, from_visual, _ = model.attention(audio, visual)
    expected = model.classifier(from_audio + from_visual)
    torch.testing.assert_close(model(LocalizationBatch(audio, visual)).segment_logits, expected)


@pytest.mark.parametrize(
    ("options", "says"), [({"theta": -0.1}, "at least 0"), ({"encoder": "none"}, "encoder: lstm")]
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        TACMA(**options)
