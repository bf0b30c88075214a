"""HAN: the released size, and its layer against the released one with torch's attention."""

import math

import torch
from torch import nn

from avpipe.models.base import ParsingBatch
from avpipe.models.han import HAN, HybridAttention, SharedAttention

from .builders import count_parameters

D, B, T = 8, 3, 5


def features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, D, generator=random), torch.randn(B, T, D, generator=random)


def test_the_released_network_has_4_569_675_parameters_in_use():
    """Reference, section 3. Two attentions, feed-forward, two norms; four maps of the features; three heads."""
    d, layer = 512, HAN().attention
    attention = 4 * (d * d + d)
    assert count_parameters(layer) == 2 * attention + 2 * (d * d + d) + 2 * 2 * d
    inputs = (128 * d + d) + (2048 * d + d) + (512 * d + d) + (1024 * d + d)
    assert (
        count_parameters(HAN())
        == 2 * attention + 2 * (d * d + d) + 4 * d + inputs + 3 * (d * 25 + 25)
        == 4_569_675
    )


def torch_attention(ours: SharedAttention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(D, 1, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.project.weight.data, ours.project.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    return theirs.eval()


def by_torch(layer: HybridAttention, audio: torch.Tensor, visual: torch.Tensor) -> list[torch.Tensor]:
    """The released layer (HANLayer) with `torch.nn.MultiheadAttention`, one modality after the other."""
    within, across = torch_attention(layer.within), torch_attention(layer.across)
    found = []
    for own, other in ((audio, visual), (visual, audio)):
        x = layer.norm_attention(own + across(own, other, other)[0] + within(own, own, own)[0])
        first, _, _, second = layer.feed_forward
        found.append(layer.norm_feed_forward(x + second(first(x).relu())))
    return found


def test_the_layer_is_the_released_one_as_torchs_attention_computes_it():
    torch.manual_seed(0)
    layer = HybridAttention(D, dropout=0.1).eval()
    for name, parameter in layer.named_parameters():
        if "norm" in name or "bias" in name:
            nn.init.normal_(parameter)  # as after training; at the start biases are 0 and norms 1
    for ours, theirs in zip(layer(*features())[:2], by_torch(layer, *features()), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_the_released_layer():
    torch.manual_seed(0)
    layer = HybridAttention(D, dropout=0.0)
    audio, visual = (x.requires_grad_() for x in features())
    weigh = torch.randn(2, B, T, D)
    ours = torch.autograd.grad((torch.stack(layer(audio, visual)[:2]) * weigh).sum(), [audio, visual])
    theirs = torch.autograd.grad((torch.stack(by_torch(layer, audio, visual)) * weigh).sum(), [audio, visual])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_attention_starts_as_torchs_does():
    layer = SharedAttention(512, across=False, dropout=0.1)
    bound = math.sqrt(6 / (512 + 3 * 512))  # Xavier, over query, key and value together
    assert 0.99 * bound < layer.project.weight.abs().max() <= bound
    assert not layer.project.bias.any()
    assert not layer.out.bias.any()


def test_attention_weights_sum_to_one_over_the_clip():
    attended = HAN(hidden_dim=D, motion_dim=0)(
        ParsingBatch(audio=torch.randn(B, T, 128), visual=torch.randn(B, T, 8, 2048))
    ).attention
    assert attended.keys() == {
        "audio_from_audio", "visual_from_visual", "audio_from_visual", "visual_from_audio"
    }  # fmt: skip
    for weights in attended.values():
        assert weights.shape == (B, T, T)
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(B, T))


def test_averaging_frames_before_or_after_the_linear_map_is_the_same():
    """The released code maps each of the 80 frames, then averages 8."""
    model = HAN(hidden_dim=D).eval()
    frames, motion = torch.randn(B, T, 8, 2048), torch.randn(B, T, 512)
    batch = ParsingBatch(audio=torch.randn(B, T, 128), visual=frames, motion=motion)
    encoder = model.encoder
    released = torch.cat([encoder.visual(frames).mean(dim=2), encoder.motion(motion)], dim=-1)
    torch.testing.assert_close(encoder(batch)[1], encoder.fuse(released), atol=1e-5, rtol=1e-4)
