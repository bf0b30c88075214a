"""Layers by the conventions of TensorFlow 1, in which the network of Owens and Efros (ECCV 2018) was written.

Convolutions and pooling are over one axis, (B, C, L), or three, (B, C, T, H, W): a kernel has one size an axis.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.parallel import processes, standardize_whole_batch

Sizes = Sequence[int]
"""One number for each axis that a layer moves along."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis by TensorFlow's rule SAME: ceil(size / stride) outputs, an odd zero at the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pad_end(x: Tensor, kernel: Sizes, stride: Sizes, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """What SAME needs at the end more than at the beginning is added; what it needs at both ends is returned.

    torch's layers pad both ends by the same number, and need no copy for it.
    """
    pads = [same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    more = [number for before, after in reversed(pads) for number in (0, after - before)]
    return functional.pad(x, more, value=value) if any(more) else x, [before for before, _ in pads]


def max_pool_same(x: Tensor, kernel: Sizes, stride: Sizes) -> Tensor:
    """Maxima of a (B, C, T, H, W), with SAME padding by minus infinity: (B, C, ceil(T / stride), ...)."""
    x, padding = _pad_end(x, kernel, stride, -math.inf)
    return functional.max_pool3d(x, tuple(kernel), tuple(stride), padding)


class SameConv(nn.Module):
    """A convolution with SAME padding, computed from each input's own sizes.

    The weights are drawn as by tf.contrib.slim's `variance_scaling_initializer`: normal with variance 2 / fan-in, cut at
    two standard deviations (the factor 1.3 makes up for the cut). A bias begins at zero.

    Args:
        in_channels, channels: of input and output.
        kernel, stride: for one axis or three.
        bias: whether it has one; it has none where a normalization follows.
    """

    def __init__(self, in_channels: int, channels: int, kernel: Sizes, stride: Sizes, bias: bool) -> None:
        super().__init__()
        self.kernel, self.stride = tuple(kernel), tuple(stride)
        self.weight = nn.Parameter(torch.empty(channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        std = math.sqrt(1.3 * 2 / (in_channels * math.prod(kernel)))
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...); an axis of n is ceil(n / stride) afterwards."""
        x, padding = _pad_end(x, self.kernel, self.stride)
        if len(self.kernel) == 1 and self.stride[0] > 1 and x.shape[1] == 2:  # a waveform
            return conv_by_phases(x, self.weight, self.bias, self.stride[0], padding[0])
        convolve = functional.conv1d if len(self.kernel) == 1 else functional.conv3d
        return convolve(x, self.weight, self.bias, self.stride, padding)


def conv_by_phases(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """`torch.nn.functional.conv1d`, in half of the time on a CPU where there are few input channels.

    Sample i of a channel becomes sample i // stride of the channel's i % stride'th phase, so the convolution moves by one
    step and has `stride` times as many input channels. The kernel gets zeros up to a multiple of the stride.
    """
    taps = -(-weight.shape[-1] // stride)
    steps = (x.shape[-1] + 2 * padding - weight.shape[-1]) // stride + taps

    def phases(samples: Tensor) -> Tensor:  # (N, C, stride n) -> (N, C stride, n)
        return samples.unflatten(-1, (-1, stride)).transpose(2, 3).flatten(1, 2)

    x = functional.pad(x, (padding, steps * stride - x.shape[-1] - padding))
    weight = functional.pad(weight, (0, taps * stride - weight.shape[-1]))
    return functional.conv1d(phases(x), phases(weight), bias)


class BatchNorm(nn.Module):
    """Batch normalization as tf.contrib.layers has it: gamma can be left out, beta cannot; the moving variance is the
    population's. With several processes, statistics are of the whole batch.

    Args:
        channels: C.
        gamma: whether a channel has a factor (initially 1) beside its summand beta (initially 0).
        eps: added to the variance.
        decay: of the moving mean and variance, which count in evaluation; the network's 0.9997.
    """

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, channels: int, gamma: bool, eps: float = 1e-3, decay: float = 0.9997) -> None:
        super().__init__()
        self.eps, self.decay = eps, decay
        self.weight = nn.Parameter(torch.ones(channels)) if gamma else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape; in training, the averages are updated."""
        if not self.training:
            return functional.batch_norm(
                x, self.moving_mean, self.moving_variance, self.weight, self.bias, eps=self.eps
            )
        exact = x.to(self.moving_mean.dtype)  # from bfloat16
        if processes() > 1:
            normalized, mean, variance = standardize_whole_batch(exact, self.eps)[:3]
            weight, bias = self._affine(mean, variance)
            shape = (1, -1, *(1 for _ in x.shape[2:]))
            return (normalized * weight.view(shape) + bias.view(shape)).to(x.dtype)
        values, axes = exact.detach(), [0, *range(2, x.ndim)]
        mean = values.mean(axes, keepdim=True)
        # On a CPU a quarter to a tenth of torch.var_mean's time.
        variance, mean = (values - mean).square_().mean(axes), mean.flatten()
        return functional.batch_norm(
            x, None, None, *self._affine(mean, variance), training=True, eps=self.eps
        )

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and summand for a batch that was normalized by these statistics of its own, (C,) each."""
        with torch.no_grad():
            r, d = self._observe(mean, variance)
        return (r, self.bias + d) if self.weight is None else (r * self.weight, self.bias + d * self.weight)

    def _observe(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Update the averages by a batch's statistics; return the corrections r and d, here none."""
        self.moving_mean.lerp_(mean, 1 - self.decay)
        self.moving_variance.lerp_(variance, 1 - self.decay)
        return torch.ones_like(mean), torch.zeros_like(mean)


class BatchRenorm(BatchNorm):
    """Batch renormalization (Ioffe, 2017) as tf.contrib.layers.batch_norm(renorm=True) computes it.

    With the batch's mean m and standard deviation s = sqrt(variance + eps), and averages M and S over earlier batches,

        y = ((x - m) / s * r + d) gamma + beta,   r = s / S,   d = (m - M) / S

    so that y = (x - M) / S gamma + beta. Gradients flow through m and s, not through r and d. M and S are moving averages
    with decay 0.99 that begin at zero: after n batches their weights sum to 1 - 0.99^n. The rest, 0.99^n, is the weight of
    the batch's own m and s, so the first batch has r = 1 and d = 0. Evaluation uses slower averages (`decay`), which are
    updated by M and S^2 - eps, with weights that are scaled to a sum of one.

    Args:
        channels, gamma, eps, decay: as for `BatchNorm`.
        renorm_decay: of M and S; tf.contrib's default, which the released network keeps.
        limits: (r_max, d_max): 1 / r_max <= r <= r_max, |d| <= d_max; None, as in the released network, for no limits.
    """

    renorm_mean: Tensor
    renorm_std: Tensor
    renorm_weight: Tensor

    def __init__(
        self,
        channels: int,
        gamma: bool,
        eps: float = 1e-3,
        decay: float = 0.9997,
        renorm_decay: float = 0.99,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(channels, gamma, eps, decay)
        self.renorm_decay, self.limits = renorm_decay, limits
        self.register_buffer("renorm_mean", torch.zeros(channels))
        self.register_buffer("renorm_std", torch.zeros(channels))
        self.register_buffer("renorm_weight", torch.zeros(()))  # the sum of the weights in both

    def _observe(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        std, rest = (variance + self.eps).sqrt(), 1 - self.renorm_weight
        earlier_mean, earlier_std = self.renorm_mean + rest * mean, self.renorm_std + rest * std
        r, d = std / earlier_std, (mean - earlier_mean) / earlier_std
        for average, value in (
            (self.renorm_mean, mean),
            (self.renorm_std, std),
            (self.renorm_weight, torch.ones_like(self.renorm_weight)),
        ):
            average.lerp_(value, 1 - self.renorm_decay)
        mean, std = self.renorm_mean / self.renorm_weight, self.renorm_std / self.renorm_weight
        super()._observe(mean, std.square() - self.eps)
        if self.limits is None:
            return r, d
        r_max, d_max = self.limits
        return r.clamp(1 / r_max, r_max), d.clamp(-d_max, d_max)


class ConvNorm(nn.Module):
    """A convolution without bias, then batch normalization. The arguments are those of `SameConv` and `BatchNorm`."""

    def __init__(self, in_channels: int, channels: int, kernel: Sizes, stride: Sizes, gamma: bool) -> None:
        super().__init__()
        self.conv = SameConv(in_channels, channels, kernel, stride, bias=False)
        self.norm = BatchNorm(channels, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...), without activation."""
        return self.norm(self.conv(x))


class ResidualBlock(nn.Module):
    """block2 (one axis) and block3 (three) of the released code.

    Convolution, normalization, ReLU, convolution with a bias; then the shortcut is added, and renormalization and ReLU
    follow. The shortcut is the input; every stride-th position of it where there is a stride; and a 1-wide convolution
    with normalization where the number of channels changes.

    Args:
        in_channels, channels: of input and output.
        kernel: of both convolutions.
        stride: of the first.
        gamma: see `BatchNorm`.
    """

    def __init__(self, in_channels: int, channels: int, kernel: Sizes, stride: Sizes, gamma: bool) -> None:
        super().__init__()
        ones = [1] * len(kernel)
        self.first = ConvNorm(in_channels, channels, kernel, stride, gamma)
        self.second = SameConv(channels, channels, kernel, ones, bias=True)
        self.shortcut = (
            ConvNorm(in_channels, channels, ones, stride, gamma) if in_channels != channels else None
        )
        self.norm = BatchRenorm(channels, gamma)
        self.stride = tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, channels, ...); an axis of n is ceil(n / stride) afterwards."""
        every = (slice(None), slice(None), *(slice(None, None, step) for step in self.stride))
        shortcut = x[every] if self.shortcut is None else self.shortcut(x)
        return self.norm(shortcut + self.second(self.first(x).relu_())).relu_()


def pooling_regions(length: int, regions: int, random: bool) -> Tensor:
    """Edges of disjoint regions of fractional pooling: (regions + 1,) int64, from 0 to `length`.

    length // regions steps are in a region, and one more in length % regions of them: in those that torch's global
    generator draws, as TensorFlow's fractional_max_pool does by its own; or evenly spread, region i from
    i * length // regions on.
    """
    if not random:
        return torch.arange(regions + 1) * length // regions
    longer = torch.randperm(regions) < length % regions
    return functional.pad((length // regions + longer.long()).cumsum(0), (1, 0))


def fractional_max_pool(x: Tensor, regions: int, random: bool) -> Tensor:
    """Maxima over `pooling_regions` of time: (B, C, L) -> (B, C, regions). One choice of regions for all clips.

    Raises:
        ValueError: if there are fewer steps than regions.
    """
    length = x.shape[-1]
    if length < regions:
        raise ValueError(f"{length} steps of sound cannot be pooled to {regions}: the sound is too short")
    edges = pooling_regions(length, regions, random).to(x.device)
    longest = torch.arange(-(-length // regions), device=x.device)
    steps = torch.minimum(
        edges[:-1, None] + longest, edges[1:, None] - 1
    )  # short regions repeat their last step
    return x[..., steps].max(dim=-1).values  # (B, C, regions, longest) -> (B, C, regions)
