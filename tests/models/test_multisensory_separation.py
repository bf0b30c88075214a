"""On/off-screen separation of Owens and Efros: the u-net of the released code, its losses and its mixtures."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from avpipe.models.multisensory import Maps, Multisensory
from avpipe.models.multisensory_layers import BatchNorm, BatchRenorm
from avpipe.models.multisensory_separation import (
    CARD,
    Down,
    MultisensorySeparation,
    Up,
    any_order_loss,
    mix,
    normalize_loudness,
    on_off_loss,
    stretch,
)
from avpipe.models.spectrogram import Spectrogram, spectrogram, waveform

from .builders import count_parameters, untrained
from .test_multisensory import without_onednn

CLIP = 44_144  # samples, for 128 frames


def small(seed: int = 0, **options) -> MultisensorySeparation:
    torch.manual_seed(seed)
    return MultisensorySeparation(**{"base_channels": 2, "dim": 8, **options})


def clips(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """16 pictures of 16 x 16, and a stereo mixture."""
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, 3, 16, 16, 16), generator=random, dtype=torch.uint8)
    return frames, 0.1 * torch.randn(count, 2, CLIP, generator=random)


def full(**options) -> MultisensorySeparation:
    with torch.device("meta"):
        return MultisensorySeparation(**options)


def test_has_as_many_parameters_as_the_released_networks():
    model, audio_only = full(), full(video=False)
    assert count_parameters(model.unet) == 77_617_924
    assert count_parameters(audio_only) == count_parameters(audio_only.unet) == 67_001_092
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 36_051_008 + 77_617_924 == CARD.parameters
    assert count_parameters(model) == trained + 513  # the head of the alignment network


def checkpoint_bytes(model: nn.Module) -> int:
    """Of the released training: float32 but for the step."""
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    renormalized = [len(layer.bias) for layer in layers if isinstance(layer, BatchRenorm)]
    floats = count_parameters(model)
    floats += 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)  # Adam's two averages
    floats += 2 * sum(len(layer.bias) for layer in layers)  # moving mean and variance
    floats += sum(
        2 * channels + 2 for channels in renormalized
    )  # averages of mean and deviation, their weights
    floats += 2  # powers of Adam's betas
    return 4 * floats + 8  # an int64 step


def test_a_released_checkpoint_has_the_listed_number_of_bytes():
    assert checkpoint_bytes(full()) == 1_364_209_708
    assert checkpoint_bytes(full(video=False)) == 804_117_704


TABLE = {
    **{f"down.{i}": sizes for i, sizes in enumerate([(64, 128, 512), (128, 128, 256), (256, 64, 128)])},
    **{f"down.{i}": (512, 2 ** (8 - i), 2 ** (9 - i)) for i in range(3, 9)},  # 32 x 64 to 1 x 2
    **{f"up.{i}": (512, 2 ** (i + 1), 2 ** (i + 2)) for i in range(5)},  # 2 x 4 to 32 x 64
    **{f"up.{i + 5}": sizes for i, sizes in enumerate([(256, 64, 128), (128, 128, 256), (64, 128, 512)])},
    "on_screen": (2, 128, 1024),
    "off_screen": (2, 128, 1024),
}
"""Channels, frames and bins of each layer's output."""


def sizes_of_layers(model: MultisensorySeparation) -> dict[str, tuple[int, ...]]:
    """The same, filled while the model runs."""
    found: dict[str, tuple[int, ...]] = {}
    for name in TABLE:
        model.unet.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: found.update({name: tuple(out.shape[1:])})
        )
    return found


def test_layers_have_the_sizes_of_the_released_network():
    model = small().eval()  # 1 / 32 of the channels
    found = sizes_of_layers(model)
    result = model(*clips())
    narrow = {name: (max(channels // 32, 2), *sizes) for name, (channels, *sizes) in TABLE.items()}
    assert found == narrow
    assert result.magnitude.shape == result.phase.shape == (1, 2, 128, 1025)
    assert waveform(*result).shape == (1, 2, 42_000)


def tf_conv(x: np.ndarray, weight: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    """TensorFlow's SAME, position by position: x (input, T, F), weight (output, input, 4, 4)."""
    sizes = x.shape[1:]
    outputs = [math.ceil(n / s) for n, s in zip(sizes, stride, strict=True)]
    before = [max((o - 1) * s + 4 - n, 0) // 2 for n, s, o in zip(sizes, stride, outputs, strict=True)]
    y = np.zeros((len(weight), *outputs))
    for out in itertools.product(*map(range, outputs)):
        for tap in itertools.product(range(4), range(4)):
            t, f = (o * s + k - b for o, s, k, b in zip(out, stride, tap, before, strict=True))
            if 0 <= t < sizes[0] and 0 <= f < sizes[1]:
                y[(slice(None), *out)] += weight[(..., *tap)] @ x[:, t, f]
    return y


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_down_is_tensorflows_convolution_and_a_layer_up_its_transpose(stride):
    random = np.random.default_rng(0)
    down, up = Down(2, 3, stride).double(), Up(3, 2, stride, bias=True).double()
    down.norm = nn.Identity()
    x, y = random.normal(size=(2, 6, 8)), random.normal(size=(3, 6 // stride, 4))
    weight = down.weight.detach().numpy()
    expected = tf_conv(x, weight, (stride, 2))
    np.testing.assert_allclose(down(torch.from_numpy(x)[None])[0].detach(), expected, atol=1e-12)

    with torch.no_grad():
        up.weight.copy_(down.weight)
        up.bias.copy_(torch.tensor([0.0, 7.0]))
    found = up(torch.from_numpy(y)[None])[0].detach().numpy()
    units = np.eye(2 * 6 * 8).reshape(-1, 2, 6, 8)
    transposed = [np.sum(tf_conv(unit, weight, (stride, 2)) * y) for unit in units]
    np.testing.assert_allclose(
        found, np.reshape(transposed, (2, 6, 8)) + np.array([[[0.0]], [[7.0]]]), atol=1e-12
    )


def test_weights_and_factors_begin_with_deviation_0_02():
    torch.manual_seed(0)
    for layer in (Down(32, 64, 2), Up(64, 256, 2)):
        assert layer.weight.mean().abs() < 1e-3
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
        assert layer.norm.weight.mean().item() == pytest.approx(1, abs=0.01)
        assert layer.norm.weight.std().item() == pytest.approx(0.02, rel=0.25)
        assert layer.norm.eps == 1e-5
        assert not layer.norm.bias.any()
    assert not Up(2, 2, 1, bias=True).bias.any()


def test_features_are_stretched_as_tensorflow_1_resizes_images():
    found = stretch(torch.tensor([[[0.0, 4.0, 2.0]]]), 6)  # positions 0, .5, 1, 1.5, 2, 2.5
    torch.testing.assert_close(found, torch.tensor([[[0.0, 2, 4, 3, 2, 2]]]))
    features = torch.rand(2, 3, 16)
    assert torch.equal(stretch(features, 16), features)
    assert torch.equal(stretch(features, 8), features[..., ::2])


def released_unet(unet: nn.Module, mixture: torch.Tensor, maps: Maps | None) -> list[torch.Tensor]:
    """The network written as the released code wires it: maps before their activation wait in a stack."""

    def same(x, stride):  # zeros before and after
        return functional.pad(x, (1, 1, 1, 1 if stride == 2 else 2))

    waiting, x = [], mixture
    for level in range(9):
        layer, stride = unet.down[level], 1 if level < 2 else 2
        x = layer.norm(functional.conv2d(same(x, stride), layer.weight, stride=(stride, 2)))
        waiting.append(x)
        x = torch.where(x > 0, x, 0.2 * x)
        if maps is not None and level in (2, 3, 4):
            features = maps[(level - 2)].mean(-1).mean(-1)
            columns = []
            for step in range(x.shape[2]):
                position = step * features.shape[2] / x.shape[2]
                left, right = math.floor(position), min(math.floor(position) + 1, features.shape[2] - 1)
                share = position - left
                columns.append((1 - share) * features[:, :, left] + share * features[:, :, right])
            tiled = torch.stack(columns, dim=2)[..., None].repeat(1, 1, 1, x.shape[3])
            x = waiting[-1] = torch.cat([x, tiled], dim=1)

    def deconv(layer, x, stride):
        y = functional.conv_transpose2d(x.relu(), layer.weight, layer.bias, (stride, 2))  # all positions
        return y[:, :, 1 : 1 + stride * x.shape[2], 1 : 1 + 2 * x.shape[3]]

    waiting.pop()
    for level in range(8):
        x = x if level == 0 else torch.cat([x, waiting.pop()], dim=1)
        x = unet.up[level].norm(deconv(unet.up[level], x, 2 if level < 7 else 1))
    x = torch.cat([x, waiting[0]], dim=1)
    assert len(waiting) == 1
    return [torch.tanh(deconv(head, x, 1)) for head in (unet.on_screen, unet.off_screen)]


@pytest.mark.parametrize("video", [True, False])
def test_the_u_net_is_wired_as_in_the_released_code(video):
    unet = small(video=video).double().eval().unet
    random = torch.Generator().manual_seed(1)
    for layer in unet.modules():
        if isinstance(layer, BatchNorm):
            layer.moving_mean.normal_(generator=random)
            layer.moving_variance.fill_(0.01)  # else, with weights near 0, nothing reaches the output
    mixture = torch.rand(2, 2, 128, 512, generator=random, dtype=torch.float64)
    sizes = [(1, 16, 3, 3), (2, 16, 3, 3), (8, 8, 1, 1)]
    maps = [torch.rand(2, *each, generator=random, dtype=torch.float64) for each in sizes]
    given = Maps(*maps) if video else None
    found = unet(mixture, given)
    torch.testing.assert_close(found, torch.stack(released_unet(unet, mixture, given), dim=1))
    assert found.std() > 0.1


def test_the_last_bin_is_silent_with_the_mixtures_phase():
    model, (frames, mixture) = small(), clips()
    result, mixed = model(frames, mixture), spectrogram(mixture.mean(1))
    assert (result.magnitude[..., -1] == -1).all()
    assert (result.magnitude[..., -2] > -1).all()
    assert torch.equal(result.phase[..., -1], mixed.phase[:, None, :, -1].expand(1, 2, 128))


def test_the_mean_of_the_channels_has_the_spectrogram_and_mono_hides_their_difference():
    frames, mixture = clips()
    other = mixture.flip(1)
    mono, stereo = (small(mono=mono).eval() for mono in (True, False))
    assert torch.equal(mono(frames, other).magnitude, mono(frames, mixture).magnitude)
    assert not torch.equal(stereo(frames, other).magnitude, stereo(frames, mixture).magnitude)
    same = mixture.mean(1, keepdim=True).expand_as(mixture)
    torch.testing.assert_close(stereo(frames, same).magnitude, mono(frames, mixture).magnitude)


def test_a_single_frame_is_the_middle_one_repeated():
    model, (frames, mixture) = small(single_frame=True).eval(), clips()
    middle = frames[:, :, 8:9].repeat(1, 1, 16, 1, 1)
    expected = small().eval()(middle, mixture)
    assert torch.equal(model(frames, mixture).phase, expected.phase)
    assert not torch.equal(small().eval()(frames, mixture).phase, expected.phase)


def test_without_video_no_frames_are_needed_and_two_clips_of_twice_the_length_are_possible():
    _, mixture = clips(2)
    longer = torch.cat([mixture, mixture], dim=-1)[..., : 44_016 + 128 * 336]
    assert small(video=False)(None, longer).magnitude.shape == (2, 2, 256, 1025)


def test_a_step_of_training_reaches_every_parameter_but_the_head():
    model, (frames, mixture) = small(), clips(2)
    result = model(frames, mixture)
    truth = spectrogram(0.1 * torch.randn(2, 2, CLIP))
    on_off_loss(result, truth).backward()
    assert untrained(model) == ["multisensory.head.weight", "multisensory.head.bias"]


def test_pretraining_gives_all_weights_of_the_fused_network_but_the_factors_which_are_1():
    pretrained, model = Multisensory(dim=8), small()
    missing, unknown = model.multisensory.load_state_dict(pretrained.state_dict(), strict=False)
    assert unknown == []
    assert all(name.endswith("norm.weight") for name in missing)
    weights = model.multisensory.state_dict()
    assert all((weights[name] == 1).all() for name in missing)


def test_both_networks_have_the_given_decay():
    model = small(decay=0.9)
    assert model.unet.up[0].norm.decay == model.multisensory.fused.merge_norm.decay == 0.9
    assert small().unet.down[0].norm.decay == 0.9997


def test_the_result_of_a_clip_does_not_depend_on_the_others():
    model, (frames, mixture) = small().eval(), clips(2)
    together, alone = model(frames, mixture), model(frames[1:], mixture[1:])
    torch.testing.assert_close(together.magnitude[1:], alone.magnitude)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # from switching oneDNN off
def test_results_in_bfloat16_are_nearly_those_of_float32():
    model, (frames, mixture) = small().eval(), clips()
    exact = model(frames, mixture)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(frames, mixture)
        assert rough.magnitude.dtype == torch.float32
        with without_onednn():
            on_off_loss(model.train()(frames, mixture), spectrogram(mixture)).backward()
    assert (rough.magnitude - exact.magnitude).norm() < 0.02 * exact.magnitude.norm()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_shapes_that_do_not_fit_are_named():
    model, (frames, mixture) = small(), clips()
    with pytest.raises(ValueError, match=r"stereo mixture \(B, 2, L\), found \(1, 44144\)"):
        model(frames, mixture[:, 0])
    with pytest.raises(ValueError, match="43000 samples give 124 frames; separation needs 128"):
        model(frames, mixture[..., :43_000])
    with pytest.raises(ValueError, match="got no frames"):
        model(None, mixture)


def test_losses_of_two_clips_are_those_of_loops():
    random = np.random.default_rng(0)
    predicted, truth = random.uniform(
        -1, 1, (2, 2, 2, 2, 3, 4)
    )  # each: magnitude or phase, clip, sound, T, F
    truth[:, 1] = predicted[:, 1, ::-1] + 0.01  # the second clip's sounds are nearer in the other order
    on_off, any_order = [], []
    for clip in range(2):
        costs = []
        for order in ((0, 1), (1, 0)):
            cost = 0.0
            for sound, t, f in itertools.product(range(2), range(3), range(4)):
                for weight, ours, theirs in zip((1, 0.01), predicted, truth, strict=True):
                    cost += weight * abs(ours[clip, sound, t, f] - theirs[clip, order[sound], t, f]) / 12
            costs.append(cost)
        on_off.append(costs[0])
        any_order.append(min(costs))
    both = Spectrogram(*torch.from_numpy(predicted)), Spectrogram(*torch.from_numpy(truth))
    assert on_off_loss(*both).item() == pytest.approx(np.mean(on_off))
    assert any_order_loss(*both).item() == pytest.approx(np.mean(any_order))
    assert any_order[1] == pytest.approx(2 * 0.01 * 1.01)
    assert any_order[1] < on_off[1]


def constant(*values: float) -> Spectrogram:
    """One clip whose two sounds have these magnitudes, and these plus 0.1 as phases."""
    magnitude = torch.tensor(values, dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 3, 5)
    return Spectrogram(magnitude, magnitude + 0.1)


def test_losses_of_constant_sounds_are_those_computed_by_hand():
    # in order: |.2 - .5| + |.6 - .1| = .8; exchanged: |.2 - .1| + |.6 - .5| = .2; phases differ by the same
    predicted, truth = constant(0.2, 0.6), constant(0.5, 0.1)
    assert on_off_loss(predicted, truth).item() == pytest.approx(0.8 * 1.01)
    assert any_order_loss(predicted, truth).item() == pytest.approx(0.2 * 1.01)
    for loss in (on_off_loss, any_order_loss):
        found = loss(predicted, constant(0.1, 0.5), phase_weight=0.5)
        assert found.item() == pytest.approx(0.2 * 1.5)


def test_only_the_better_order_gives_gradients():
    predicted = constant(0.2, 0.6)
    magnitude = predicted.magnitude.clone().requires_grad_()
    any_order_loss(Spectrogram(magnitude, predicted.phase), constant(0.5, 0.1)).backward()
    expected = torch.full((1, 2, 3, 5), 1 / 15, dtype=torch.float64)  # |.2 - .1| and |.6 - .5| both want less
    torch.testing.assert_close(magnitude.grad, expected)


def test_each_channel_of_a_sound_gets_the_same_loudness_and_sounds_are_added():
    first, second = torch.randn(2, 3, 2, 500)
    mixture = mix(first, 5 * second + 1)
    torch.testing.assert_close(mixture.parts.square().mean(-1).sqrt(), torch.full((3, 2, 2), 0.1))
    torch.testing.assert_close(mixture.sound, mixture.parts[:, 0] + mixture.parts[:, 1])
    torch.testing.assert_close(
        mixture.parts[:, 0], 0.1 * first / first.square().mean(-1, keepdim=True).sqrt()
    )
    loud = torch.zeros(2, 500)
    loud[:, 0] = 1  # root mean square 1 / sqrt(500)
    assert mix(loud, loud).sound.max().item() == pytest.approx(0.2 * math.sqrt(500))  # 4.47, not clipped


def test_what_is_quieter_than_1e_4_is_amplified_by_1000_at_most():
    assert torch.equal(normalize_loudness(torch.zeros(2, 50)), torch.zeros(2, 50))
    torch.testing.assert_close(normalize_loudness(torch.full((50,), 1e-5)), torch.full((50,), 1e-2))


@pytest.mark.full_size
def test_a_full_size_step_on_two_mixtures():
    torch.manual_seed(0)
    model = MultisensorySeparation()
    sounds = torch.randn(2, 2, CLIP)
    mixture = mix(sounds, sounds.roll(1, 0))
    frames = torch.randint(0, 256, (2, 3, 63, 224, 224), dtype=torch.uint8)
    found = sizes_of_layers(model)
    result = model(frames, mixture.sound)
    truth = spectrogram(mixture.parts.mean(2))
    (on_off_loss(result, truth) + any_order_loss(result, truth)).backward()
    assert found == TABLE
    assert untrained(model) == ["multisensory.head.weight", "multisensory.head.bias"]
