"""The fused audio-visual network of Owens and Efros, TensorFlow's conventions in it, and its released weights."""

import itertools
import math
import resource

import numpy as np
import pytest
import torch
from torch import nn

from avpipe.models import multisensory_weights
from avpipe.models.multisensory import CARD, Multisensory, compress
from avpipe.models.multisensory_layers import (
    BatchNorm,
    BatchRenorm,
    SameConv,
    fractional_max_pool,
    max_pool_same,
    pooling_regions,
    same_padding,
)
from avpipe.models.multisensory_weights import LAYERS, convert, read_weights, variables

from .builders import count_parameters, untrained


def small(seed: int = 0, **options) -> Multisensory:
    torch.manual_seed(seed)
    return Multisensory(**{"dim": 16, **options})


def clips(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """12 frames of 20 x 24, and 3 steps of sound before pooling for their 3 steps."""
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, 3, 12, 20, 24), generator=random, dtype=torch.uint8)
    return frames, torch.rand(count, 2, 3000, generator=random) * 2 - 1


@pytest.mark.parametrize(
    ("layer", "size", "kernel", "stride", "expected"),
    [
        ("im/conv1, time", 125, 5, 2, (2, 2)),
        ("im/conv1, space", 224, 7, 2, (2, 3)),
        ("its pooling", 112, 3, 2, (0, 1)),
        ("im/conv2_2, time", 63, 3, 2, (1, 1)),
        ("im/conv2_2, space", 56, 3, 2, (0, 1)),
        ("im/conv4_1, time", 32, 3, 2, (0, 1)),
        ("im/conv5_1, time", 16, 3, 1, (1, 1)),
        ("sf/conv1_1", 87_588, 65, 4, (30, 31)),
        ("sf/conv2_1", 5474, 15, 4, (6, 7)),
        ("sf/conv3_1", 1369, 15, 4, (7, 7)),
        ("sf/conv4_1", 343, 15, 4, (6, 6)),
        ("a shortcut", 7, 1, 4, (0, 0)),
    ],
)
def test_same_padding_follows_from_the_size_and_has_the_odd_zero_at_the_end(
    layer, size, kernel, stride, expected
):
    # (outputs - 1) stride + kernel - size; im/conv1, space: 111 * 2 + 7 - 224 = 5 = 2 + 3
    assert same_padding(size, kernel, stride) == expected


def windows(sizes, kernel, stride):
    """TensorFlow's SAME, position by position: (output, [(place in the kernel, place in the input)]), inside only."""
    outputs = [math.ceil(n / s) for n, s in zip(sizes, stride, strict=True)]
    before = [
        max((o - 1) * s + k - n, 0) // 2 for n, k, s, o in zip(sizes, kernel, stride, outputs, strict=True)
    ]
    for out in itertools.product(*map(range, outputs)):
        read = []
        for tap in itertools.product(*map(range, kernel)):
            place = tuple(o * s + t - b for o, s, t, b in zip(out, stride, tap, before, strict=True))
            if all(0 <= p < n for p, n in zip(place, sizes, strict=True)):
                read.append((tap, place))
        yield out, read


def tf_conv(x, kernel, stride, bias=0.0):
    """TensorFlow's convolution: x (..., input), kernel (..., input, output)."""
    sizes = x.shape[:-1]
    y = np.zeros((*(math.ceil(n / s) for n, s in zip(sizes, stride, strict=True)), kernel.shape[-1]))
    for out, read in windows(sizes, kernel.shape[:-2], stride):
        y[out] = sum(x[place] @ kernel[tap] for tap, place in read) + bias
    return y


def tf_pool(x, kernel, stride):
    sizes = x.shape[:-1]
    y = np.zeros((*(math.ceil(n / s) for n, s in zip(sizes, stride, strict=True)), x.shape[-1]))
    for out, read in windows(sizes, kernel, stride):
        y[out] = np.max([x[place] for _, place in read], axis=0)
    return y


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 1), (4, 3), (5, 2), (1, 2)])
@pytest.mark.parametrize("channels", [2, 3])  # 2: computed in another way
def test_a_convolution_of_any_length_is_tensorflows(size, kernel, stride, channels):
    random = np.random.default_rng(0)
    x = random.normal(size=(size, channels))
    conv = SameConv(channels, 3, [kernel], [stride], bias=True).double()
    weight = conv.weight.detach().numpy().transpose(2, 1, 0)
    found = conv(torch.from_numpy(x.T)[None])[0].detach().numpy().T
    np.testing.assert_allclose(found, tf_conv(x, weight, [stride]), atol=1e-12)


@pytest.mark.parametrize("size", [(2, 5, 6), (3, 6, 7)])
def test_pooling_pads_with_minus_infinity(size):
    x = -1 - np.random.default_rng(0).random((*size, 2))  # a zero would win
    found = max_pool_same(torch.from_numpy(x).movedim(-1, 0)[None], [1, 3, 3], [1, 2, 2])[0].movedim(0, -1)
    np.testing.assert_array_equal(found.numpy(), tf_pool(x, (1, 3, 3), (1, 2, 2)))


def test_weights_begin_with_variance_2_over_fan_in_and_are_cut_at_two_standard_deviations():
    torch.manual_seed(0)
    conv = SameConv(8, 64, [3, 3, 3], [1, 1, 1], bias=True)
    fan_in = 8 * 27
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert conv.weight.abs().max() <= 2 * math.sqrt(1.3 * 2 / fan_in)
    assert not conv.bias.any()


STEPS, EPS = 5, 1e-3


def batches():
    """STEPS batches (6, 3, 4), each with another mean and spread."""
    random = np.random.default_rng(0)
    return [random.normal(step - 2, 1 + step, (6, 3, 4)) for step in range(STEPS)]


def moments(x):
    return x.mean((0, 2)), np.sqrt(x.var((0, 2)) + EPS)


@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize("limits", [None, (1.1, 0.2)])
def test_batch_renormalization_in_training_is_its_definition(gamma, limits):
    layer = BatchRenorm(3, gamma, limits=limits).double()
    factor = np.array([0.5, 1.0, 2.0]) if gamma else np.ones(3)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(3.0))
        if gamma:
            layer.weight.copy_(torch.from_numpy(factor))
    weights = np.random.default_rng(1).normal(size=(6, 3, 4))  # of the loss
    seen, moving_mean, moving_variance = [], np.zeros(3), np.ones(3)
    for n, x in enumerate(batches()):
        given = torch.from_numpy(x).requires_grad_()
        layer.zero_grad()
        y = layer(given)
        (y * torch.from_numpy(weights)).sum().backward()

        mean, std = moments(x)
        # batch i of n has the weight 0.01 * 0.99^(n - 1 - i), the current one what is left
        old = [0.01 * 0.99 ** (n - 1 - i) for i in range(n)]
        average_mean, average_std = (
            sum(w * each[k] for w, each in zip(old, seen, strict=True)) + (1 - sum(old)) * (mean, std)[k]
            for k in (0, 1)
        )
        r, d = std / average_std, (mean - average_mean) / average_std
        if limits:
            r, d = r.clip(1 / 1.1, 1.1), d.clip(-0.2, 0.2)
        column = (slice(None), None)
        standard = (x - mean[column]) / std[column]
        scale = (factor * r)[column]
        np.testing.assert_allclose(
            y.detach(), standard * scale + (factor * d + np.arange(3))[column], atol=1e-9
        )
        centre = weights.mean((0, 2), keepdims=True)
        tilt = (weights * standard).mean((0, 2), keepdims=True)
        slope = scale / std[column] * (weights - centre - standard * tilt)  # r and d are constants
        np.testing.assert_allclose(given.grad, slope, atol=1e-9)
        if gamma:
            expected = (weights * (standard * r[column] + d[column])).sum((0, 2))
            np.testing.assert_allclose(layer.weight.grad, expected, atol=1e-9)
        np.testing.assert_allclose(layer.bias.grad, weights.sum((0, 2)), atol=1e-9)

        seen.append((mean, std))
        shares = np.array([0.99 ** (n - i) for i in range(n + 1)])
        mean, std = (np.average([each[k] for each in seen], axis=0, weights=shares) for k in (0, 1))
        moving_mean += 0.0003 * (mean - moving_mean)
        moving_variance += 0.0003 * (std**2 - EPS - moving_variance)
    np.testing.assert_allclose(layer.moving_mean, moving_mean, atol=1e-9)
    np.testing.assert_allclose(layer.moving_variance, moving_variance, atol=1e-9)


def test_without_limits_renormalization_is_by_the_averages_of_earlier_batches():
    layer = BatchRenorm(3, gamma=False).double()
    first, second = (torch.from_numpy(x) for x in batches()[:2])
    layer(first)
    mean, std = (
        torch.from_numpy(0.01 * a + 0.99 * b)
        for a, b in zip(moments(first.numpy()), moments(second.numpy()), strict=True)
    )
    torch.testing.assert_close(layer(second), (second - mean[:, None]) / std[:, None])


@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
def test_evaluation_uses_the_moving_statistics(kind):
    layer = kind(3, gamma=True).double()
    for x in batches():
        layer(torch.from_numpy(x))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.from_numpy(batches()[0])
    std = (layer.moving_variance + EPS).sqrt()
    torch.testing.assert_close(layer.eval()(x), (x - layer.moving_mean[:, None]) / std[:, None])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_plain_normalization_is_by_the_batch_and_averages_the_populations_variance():
    layer = BatchNorm(3, gamma=False).double()
    mean, variance = np.zeros(3), np.ones(3)
    for x in batches():
        centre, std = (each[:, None] for each in moments(x))
        np.testing.assert_allclose(layer(torch.from_numpy(x)).detach(), (x - centre) / std, atol=1e-9)
        mean = 0.9997 * mean + 0.0003 * x.mean((0, 2))
        variance = 0.9997 * variance + 0.0003 * x.var((0, 2))
    np.testing.assert_allclose(layer.moving_mean, mean, atol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, atol=1e-12)


def test_fractional_pooling_takes_maxima_of_disjoint_regions_that_cover_the_sound():
    torch.manual_seed(0)
    sound = torch.randn(2, 3, 86)
    for random in (False, True):
        edges = pooling_regions(86, 32, random).tolist()
        lengths = np.diff(edges).tolist()
        assert edges[0] == 0
        assert edges[-1] == 86
        assert sorted(lengths) == [2] * 10 + [3] * 22  # 10 * 2 + 22 * 3 = 86
    torch.manual_seed(1)
    edges = pooling_regions(86, 32, random=True).tolist()
    torch.manual_seed(1)
    found = fractional_max_pool(sound, 32, random=True)
    for region, (begin, end) in enumerate(itertools.pairwise(edges)):
        assert torch.equal(found[..., region], sound[..., begin:end].amax(-1))
    assert not torch.equal(fractional_max_pool(sound, 32, random=True), found)
    assert torch.equal(fractional_max_pool(sound, 43, random=True), sound.unflatten(-1, (43, 2)).amax(-1))
    with pytest.raises(ValueError, match="31 steps of sound cannot be pooled to 32"):
        fractional_max_pool(sound[..., :31], 32, random=False)


@pytest.mark.parametrize(
    ("options", "whole", "sound"),
    [
        ({}, 36_044_609, 2_484_416),
        ({"map_stride": 1, "middle_stride": 1, "head": "max"}, 36_044_609, 2_484_416),
        ({"gamma": True}, 36_051_521, 2_486_016),
        ({"num_logits": 101}, 36_095_909, 2_484_416),
        ({"num_logits": 101, "gamma": True}, 36_102_821, 2_486_016),
    ],
)
def test_has_as_many_parameters_as_the_released_networks(options, whole, sound):
    with torch.device("meta"):
        model = Multisensory(**options)
    assert (count_parameters(model), count_parameters(model.sound)) == (whole, sound)
    assert CARD.parameters == 36_044_609


TABLE = {
    "sound.conv1_1": (64, 21897),
    "sound.conv2_1": (128, 1369),
    "sound.conv3_1": (128, 343),
    "sound.conv4_1": (256, 86),
    "sound.conv5_1": (128, 32),
    "image.conv1": (64, 63, 112, 112),
    "image.conv2_1": (64, 63, 56, 56),
    "image.conv2_2": (64, 32, 28, 28),
    "fused.merge1": (512, 32, 28, 28),
    "fused.merge2": (128, 32, 28, 28),
    "fused.conv3_1": (128, 32, 28, 28),
    "fused.conv3_2": (128, 32, 28, 28),
    "fused.conv4_1": (256, 16, 14, 14),
    "fused.conv4_2": (256, 16, 14, 14),
    "fused.conv5_1": (512, 16, 7, 7),
    "fused.conv5_2": (512, 16, 7, 7),
}
"""Channels and sizes of each layer's output for 125 frames of 224 x 224 and 87,588 samples."""


def sizes_of_layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The same, filled while the model runs."""
    found: dict[str, tuple[int, ...]] = {}
    for name in TABLE:
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda module, given, out, name=name: found.update({name: tuple(out.shape[1:])})
        )
    return found


def paper_clips(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(count, 3, 125, 224, 224, dtype=torch.uint8), torch.zeros(count, 2, 87_588)


def test_layers_have_the_sizes_of_the_released_network():
    model = small(dim=8).eval()  # 1 / 64 of the channels
    found = sizes_of_layers(model)
    with torch.inference_mode():
        model(*paper_clips(1))
    assert found == {name: (channels // 64, *sizes) for name, (channels, *sizes) in TABLE.items()}


def test_clips_of_other_lengths_and_maps_of_other_sizes_are_possible():
    # 76 frames: 38 -> 19 steps at fusion, then 10, as for UCF-101; 45 x 32 pixels: 23 x 16 -> 12 x 8 -> 6 x 4 -> 3 x 2
    frames, waveform = torch.zeros(1, 3, 76, 45, 32), torch.zeros(1, 2, 53_253)
    for middle, stride, size in ((2, 2, (2, 1)), (2, 1, (3, 2)), (1, 1, (6, 4))):
        model = small(middle_stride=middle, map_stride=stride, num_logits=3).eval()
        maps = model.fuse(model.image(frames), waveform)
        assert [tuple(each.shape) for each in maps] == [
            (1, 2, 19, 6, 4),
            (1, 4, 19, 6, 4),
            (1, 16, 10, *size),
        ]
        assert model.activation(maps).shape == (1, 3, 10, *size)
        assert model.logits(maps).shape == (1, 3)


@pytest.mark.parametrize(("head", "reduce"), [("average", torch.mean), ("max", torch.amax)])
def test_the_logit_is_the_average_or_the_maximum_of_the_class_activation_map(head, reduce):
    model, (frames, waveform) = small(head=head, num_logits=3).eval(), clips()
    nn.init.normal_(model.head.bias)
    maps = model.activation(model.fuse(model.image(frames), waveform))
    assert maps.std((2, 3, 4)).all()
    torch.testing.assert_close(model(frames, waveform), reduce(maps, (2, 3, 4)))


def test_pictures_computed_once_for_two_sounds_give_the_scores_and_the_gradients_of_two_passes():
    model, (frames, waveform) = small().double().eval(), clips()
    waveform = waveform.double()
    shifted = waveform.roll(1000, dims=-1)
    separate = torch.stack([model(frames, sound) for sound in (waveform, shifted)])
    separate.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    image = model.image(frames)
    shared = torch.stack([model.logits(model.fuse(image, sound)) for sound in (waveform, shifted)])
    shared.square().sum().backward()
    assert torch.equal(shared, separate)
    assert not torch.equal(shared[0], shared[1])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_in_training_the_pictures_count_once_in_the_averages_and_each_sound_for_itself():
    model, (frames, waveform) = small(), clips()
    image = model.image(frames)
    for sound in (waveform, -waveform):
        model.fuse(image, sound)
    assert model.image.conv2_1.norm.renorm_weight.item() == pytest.approx(0.01)
    for part in (model.sound.conv2_1, model.fused.conv3_1):
        assert part.norm.renorm_weight.item() == pytest.approx(1 - 0.99**2)


def test_with_a_decay_of_zero_evaluation_is_by_the_first_batch_as_training_is():
    model, (frames, _) = small(decay=0.0, inputs="visual"), clips()
    trained = model(frames, None)
    torch.testing.assert_close(model.eval()(frames, None), trained, rtol=1e-4, atol=1e-4)


def test_the_fusion_shortcut_is_the_image_and_the_second_half_of_the_sound():
    model = small().eval()
    nn.init.zeros_(model.fused.merge2.weight)
    image, sound = torch.rand(1, 2, 2, 1, 1), torch.rand(1, 4, 2)
    seen = []
    model.fused.merge_norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.fused(image, sound)
    assert torch.equal(seen[0][..., 0, 0], torch.cat([image[..., 0, 0], sound[:, 2:]], dim=1))


def test_without_audio_zeros_stand_for_the_sounds_features():
    model, (frames, waveform) = small(), clips()
    silent = small(inputs="visual").eval()
    model.load_state_dict(silent.state_dict())
    model.eval()
    image = model.image(frames)
    expected = model.logits(model.fused(image, torch.zeros(2, 4, image.shape[2])))
    assert torch.equal(silent(frames, waveform), expected)
    assert not torch.equal(model(frames, waveform), expected)


def test_samples_are_compressed_as_in_mu_law():
    sound = torch.tensor([-1.0, -1 / 255, 0.0, 3 / 255, 1.0])
    torch.testing.assert_close(compress(sound), torch.tensor([-1.0, -1 / 8, 0.0, 2 / 8, 1.0]))


def test_a_step_of_training_reaches_every_parameter():
    model = small(gamma=True)
    model(*clips()).square().sum().backward()
    assert untrained(model) == []


def test_a_clips_score_follows_from_the_clip_and_the_seed_alone():
    frames, waveform = clips()
    together = small().eval()(frames, waveform)
    torch.testing.assert_close(small().eval()(frames.float()[1:], waveform[1:])[0], together[1])
    assert not torch.equal(small(1).eval()(frames, waveform), together)


def without_onednn():
    """torch's own kernels. In bfloat16 oneDNN 3.12 computes the gradient of the small im/conv5_1's weights (maps of 3 x 3, stride 2)
    from memory that nobody has written: now and then, on some processors, it is not a number."""
    return torch.backends.mkldnn.flags(enabled=False)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # from switching oneDNN off
def test_scores_in_bfloat16_are_nearly_those_of_float32():
    model, (frames, waveform) = small().eval(), clips()
    exact = model(frames, waveform)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(frames, waveform)
        with without_onednn():
            model.train()(frames, waveform).sum().backward()
    assert (rough - exact).norm() < 0.05 * exact.norm()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_wrong_shapes_and_widths_are_named():
    model, (frames, waveform) = small(), clips()
    with pytest.raises(ValueError, match=r"frames \(B, 3, T, H, W\), found \(2, 12, 3, 20, 24\)"):
        model(frames.transpose(1, 2), waveform)
    with pytest.raises(ValueError, match=r"stereo waveform \(2, 2, L\) beside 2 clips, found \(2, 1, 3000\)"):
        model(frames, waveform[:, :1])
    with pytest.raises(ValueError, match="2 steps of sound cannot be pooled to 3"):
        model(frames, waveform[..., :2000])
    with pytest.raises(ValueError, match="`dim` 20 must be a multiple of 8"):
        Multisensory(dim=20)


def test_a_released_checkpoint_has_the_predicted_number_of_bytes():
    floats = {name: math.prod(shape) for name, (shape, _) in variables().items()}
    trained = sum(size for name, size in floats.items() if name.endswith(("/weights", "/biases", "/beta")))
    assert trained == 36_044_609
    assert 4 * (sum(floats.values()) + trained) + 8 == 288_432_752  # with momenta, and an int64 global_step


def test_every_number_of_the_network_has_its_variable_of_the_same_shape():
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in Multisensory().state_dict().items()}
    found = {}
    for name, (shape, own) in variables().items():
        *kernel, inputs, outputs = shape if name.endswith("/weights") else (*shape, None, None)
        order = (outputs, inputs, *(kernel if len(kernel) == 3 else kernel[:1]))
        if own:
            found[own] = order if name.endswith("/weights") else shape
    assert found == ours


def random_checkpoint(*scopes: str) -> dict[str, np.ndarray]:
    """A whole checkpoint; all is zero but the layers in these scopes."""
    random, values = np.random.default_rng(0), {}
    for name, (shape, _) in variables().items():
        if name.startswith(scopes):
            value = random.normal(size=shape)
            values[name] = np.float32(value**2 + 0.1 if name.endswith("variance") else value)
        else:
            values[name] = np.zeros(shape, np.float32)
    return values


def converted(checkpoint: dict[str, np.ndarray]) -> Multisensory:
    with torch.device("meta"):
        model = Multisensory()
    model.load_state_dict(convert(checkpoint), assign=True)
    return model.double().eval()


def tf_norm(x, values, scope):
    spread = np.sqrt(values[f"{scope}/moving_variance"] + np.float64(1e-3))
    return (x - values[f"{scope}/moving_mean"]) / spread + values[f"{scope}/beta"]


def tf_block(x, values, scope, stride):
    """A residual block of the released code with a shortcut of its own."""
    first, second, short = (f"{scope}_{part}" for part in ("1", "2", "short"))
    y = tf_norm(tf_conv(x, values[f"{first}/weights"], stride), values, f"{first}/BatchNorm").clip(0)
    y = tf_conv(y, values[f"{second}/weights"], [1] * len(stride), values[f"{second}/biases"])
    z = tf_norm(tf_conv(x, values[f"{short}/weights"], stride), values, f"{short}/BatchNorm")
    return tf_norm(y + z, values, f"{scope}_bn").clip(0)


def channels_first(x):
    return torch.from_numpy(np.moveaxis(x, -1, 0))[None]


def test_converted_weights_compute_what_the_released_network_computes():
    values = random_checkpoint("im/conv1/", "im/conv4_1", "sf/conv2_1")
    model, random = converted(values), np.random.default_rng(1)
    assert float(model.fused.conv4_1.norm.renorm_weight) == values["im/conv4_1_bn/renorm_mean_weight"]

    x = random.normal(
        size=(4, 9, 8, 3)
    )  # SAME pads (1, 2) in time, (3, 3) and (2, 3) in space; pooling (1, 1), (0, 1)
    expected = tf_norm(tf_conv(x, values["im/conv1/weights"], (2, 2, 2)), values, "im/conv1/BatchNorm")
    expected = tf_pool(expected.clip(0), (1, 3, 3), (1, 2, 2))
    found = max_pool_same(model.image.conv1(channels_first(x)).relu(), [1, 3, 3], [1, 2, 2])
    torch.testing.assert_close(found, channels_first(expected))

    x = random.normal(size=(2, 3, 2, 128))  # (0, 1), (1, 1), (0, 1)
    expected = tf_block(x, values, "im/conv4_1", (2, 2, 2))
    torch.testing.assert_close(model.fused.conv4_1(channels_first(x)), channels_first(expected))

    x = random.normal(size=(10, 1, 64))  # (6, 7)
    expected = tf_block(x, values, "sf/conv2_1", (4, 1))
    torch.testing.assert_close(
        model.sound.conv2_1(channels_first(x)[..., 0]), channels_first(expected)[..., 0]
    )


def test_a_file_of_variables_is_read_and_what_does_not_fit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(multisensory_weights, "LAYERS", (LAYERS[0], LAYERS[4], LAYERS[-1]))
    values = {name: np.full(shape, 0.5, np.float32) for name, (shape, _) in variables().items()}
    values["sf/conv1_1/weights"][64, 0, 1, 3] = 7
    training = {"sf/conv1_1/weights/Momentum": np.zeros(1), "global_step": np.int64(650_000)}
    np.savez(tmp_path / "net.npz", **values, **training)
    weights = read_weights(tmp_path / "net.npz")
    assert (weights["sound.conv1_1.conv.weight"] == 7).nonzero().tolist() == [[3, 1, 64]]
    assert weights["head.weight"].shape == (1, 512, 1, 1, 1)
    assert weights["sound.conv2_1.norm.renorm_weight"].shape == ()

    beta = values.pop("sf/conv2_1_bn/beta")
    with pytest.raises(ValueError, match=r"no checkpoint of the alignment network .* no sf/conv2_1_bn/beta$"):
        convert(values)
    with pytest.raises(ValueError, match="sf/conv2_1_bn/gamma is unknown"):
        convert({**values, "sf/conv2_1_bn/beta": beta, "sf/conv2_1_bn/gamma": beta})
    with pytest.raises(ValueError, match=r"sf/conv2_1_bn/beta has the shape \(1,\), not \(128,\)"):
        convert({**values, "sf/conv2_1_bn/beta": beta[:1]})


@pytest.mark.full_size
def test_a_full_size_step_on_two_clips_with_both_sounds():
    model, (frames, waveform) = Multisensory(), paper_clips(2)
    frames.random_(0, 256)
    waveform.uniform_(-1, 1)
    found = sizes_of_layers(model)
    image = model.image(frames)
    logits = torch.cat([model.logits(model.fuse(image, sound)) for sound in (waveform, -waveform)])
    labels = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
    assert found == TABLE
    assert untrained(model) == []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")
