"""Separation of on-screen from off-screen sound: Owens and Efros, Audio-Visual Scene Analysis with Self-Supervised
Multisensory Features, ECCV 2018.

A u-net turns the spectrogram of a mixture into two, of the sound whose source is in the pictures and of the rest; features
of the fused network (`multisensory`) tell it what is in the pictures. Without them (`video: false`), it is the paper's
baseline, which is trained to give both sounds in any order. Sizes and wiring are those of the released code
(andrewowens/multisensory: src/sourcesep.py, src/sep_params.py).
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import ModelCard
from avpipe.models.multisensory import Maps, Multisensory
from avpipe.models.multisensory_layers import BatchNorm, BatchRenorm
from avpipe.models.spectrogram import Spectrogram, spectrogram

CARD = ModelCard(
    title="Multisensory, on/off-screen separation",
    paper="A. Owens and A. A. Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018",
    task="separation",
    inputs="63 pictures of 224 x 224 (29.97 a second, 2.1 s) and the mixture of two sounds in stereo, 44,144 samples at 21 kHz",
    parameters=113_668_932,
    code="https://github.com/andrewowens/multisensory",
    assumptions=(
        "We had the slides of a talk on the paper and the released code, not the paper's own text.",
        "What is assumed of the fused network (`multisensory`) is assumed here, too.",
        "The weights of the two losses in the rows with both are not known (`default_loss_weights` has the on/off loss alone; recipe: `loss_weights`).",
        "The slides train on VoxCeleb and AudioSet; how the two are mixed is not known. With `off_screen: NAME` in the recipe, half of the off-screen sounds are of the other dataset.",
        "Spectrograms are of the mean of both channels, as in the released training; the released demo takes the left channel.",
        "Sound is made by dividing by the sum of the squared windows; the released sounds have 1.5 times the amplitude.",
        "The logit for alignment, which the released checkpoint contains, is kept but not trained.",
        "The released demo gives each channel the same loudness, and where two windows overlap keeps the first; ours scales both channels by one factor and cross-fades (`long_sound`).",
        "Widths other than 64 and 512 keep the proportions of the layers.",
    ),
)

HALVINGS_IN_TIME = 7


class Down(nn.Module):
    """A 4 x 4 convolution with SAME padding that halves the frequency axis, then batch renormalization.

    Weights are drawn from a normal distribution with deviation 0.02, the factors of the normalization around 1.

    Args:
        in_channels, channels: of input and output.
        stride: in time, 1 or 2.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = (stride, 2)
        self.weight = nn.Parameter(torch.empty(channels, in_channels, 4, 4).normal_(std=0.02))
        self.norm = renormalization(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, F) -> (B, channels, T / stride, F / 2), without activation."""
        if self.stride[0] == 1:
            x = functional.pad(
                x, (0, 0, 0, 1)
            )  # 4 taps at stride 1 need 1 zero before and 2 after, else 1 and 1
        return self.norm(functional.conv2d(x, self.weight, None, self.stride, 1))


class Up(nn.Module):
    """The transpose of the convolution in `Down`, then batch renormalization, or a bias in its place.

    Args:
        in_channels, channels: of input and output.
        stride: in time, 1 or 2.
        bias: whether it is one of the last layers, which have a bias (initially zero) and no normalization.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, bias: bool = False) -> None:
        super().__init__()
        self.stride = (stride, 2)
        self.weight = nn.Parameter(torch.empty(in_channels, channels, 4, 4).normal_(std=0.02))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.norm = None if bias else renormalization(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T, F) -> (B, channels, T * stride, F * 2), without activation."""
        steps = x.shape[2] * self.stride[0]
        x = functional.conv_transpose2d(x, self.weight, self.bias, self.stride, 1)
        x = x[:, :, :steps]  # at stride 1 there is one step more: SAME cuts 1 before and 2 after
        return x if self.norm is None else self.norm(x)


def renormalization(channels: int) -> BatchRenorm:
    """The u-net's normalization: factors from a normal distribution around 1 with deviation 0.02, epsilon 1e-5."""
    norm = BatchRenorm(channels, gamma=True, eps=1e-5)
    assert norm.weight is not None
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return norm


def stretch(features: Tensor, steps: int) -> Tensor:
    """Linear interpolation over time as TensorFlow 1 resizes images: (B, C, T') -> (B, C, steps).

    Step i reads position i T' / steps; after the last step it is repeated.
    """
    length = features.shape[-1]
    position = torch.arange(steps, device=features.device) * length / steps
    before = position.long()
    after = (before + 1).clamp(max=length - 1)
    return torch.lerp(features[..., before], features[..., after], (position - before).to(features.dtype))


class UNet(nn.Module):
    """The spectrogram's network, nine layers down and nine up.

    Args:
        base_channels: of the first layer (64); the others keep their proportions to it.
        video_channels: of the maps whose means follow the third, fourth and fifth layer, if there are any.
    """

    def __init__(self, base_channels: int = 64, video_channels: tuple[int, ...] = ()) -> None:
        super().__init__()
        widths = [base_channels * times for times in (1, 2, 4, 8, 8, 8, 8, 8, 8)]
        strides = [1, 1] + [2] * HALVINGS_IN_TIME
        extra = [0] * len(widths)
        extra[2 : 2 + len(video_channels)] = video_channels
        skips = [width + more for width, more in zip(widths, extra, strict=True)]
        self.down = nn.ModuleList(map(Down, [2, *skips[:-1]], widths, strides))
        ups = widths[-2::-1]  # 8, 8, 8, 8, 8, 4, 2, 1
        inputs = [skips[-1], *(up + skip for up, skip in zip(ups, skips[-2::-1], strict=True))]
        self.up = nn.ModuleList(map(Up, inputs[:-1], ups, strides[:0:-1]))
        self.on_screen = Up(inputs[-1], 2, 1, bias=True)
        self.off_screen = Up(inputs[-1], 2, 1, bias=True)

    def forward(self, mixture: Tensor, maps: Maps | None = None) -> Tensor:
        """Magnitude and phase (B, 2, T, F) of the mixture, -1 to 1 -> those of both sounds, (B, 2, 2, T, F), on-screen first.

        Args:
            mixture: T is a multiple of 128 and F of 512.
            maps: of the fused network, where there are video channels.
        """
        x, skips = mixture, []
        for level, down in enumerate(self.down):
            x = functional.leaky_relu(down(x), 0.2)
            if maps is not None and 2 <= level < 5:
                video = stretch(maps[level - 2].mean((3, 4)), x.shape[2]).to(x.dtype)  # (B, C, T)
                x = torch.cat([x, video.unsqueeze(-1).expand(-1, -1, -1, x.shape[3])], dim=1)
            skips.append(
                x.relu()
            )  # the same before and after the leaky ReLU: both are negative at the same places
        x = skips.pop()
        for up in self.up:
            x = torch.cat([up(x).relu_(), skips.pop()], dim=1)
        return torch.stack([self.on_screen(x), self.off_screen(x)], dim=1).to(mixture.dtype).tanh()


class MultisensorySeparation(nn.Module):
    """The fused network and the u-net. All of it is trained, but for the fused network's head.

    The fused network begins with the weights of the alignment network; the factors of its normalization begin at 1:

        model.multisensory.load_state_dict(weights, strict=False)

    Args:
        video: whether features of the fused network are given to the u-net; without, there is no fused network.
        base_channels: channels of the u-net's first layer.
        dim: the fused network's D.
        decay: of the moving statistics, of both networks; see `Multisensory`.
        mono: the fused network gets the mean of both channels, twice (the paper's row "mono").
        single_frame: the fused network gets the middle picture in place of all (the paper's row "single frame").
        early_fusion: without, the fused network gets no sound, but zeros in place of its features; sound and pictures meet in
            the u-net (our reading of the paper's row "no early fusion").
    """

    default_loss_weights: ClassVar[dict[str, float]] = {"on_off": 1.0, "any_order": 0.0, "l2": 1e-5}

    def __init__(
        self,
        *,
        video: bool = True,
        base_channels: int = 64,
        dim: int = 512,
        decay: float = 0.9997,
        mono: bool = False,
        single_frame: bool = False,
        early_fusion: bool = True,
    ) -> None:
        super().__init__()
        self.mono, self.single_frame = mono, single_frame
        inputs: Literal["audio+visual", "visual"] = "audio+visual" if early_fusion else "visual"
        self.multisensory = Multisensory(dim=dim, gamma=True, inputs=inputs) if video else None
        if self.multisensory is not None:
            self.multisensory.head.requires_grad_(False)
            self.multisensory.sound.requires_grad_(early_fusion)
        self.unet = UNet(base_channels, (dim // 8, dim // 4, dim) if video else ())
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.decay = decay

    def forward(self, frames: Tensor | None, mixture: Tensor) -> Spectrogram:
        """The spectrograms of both sounds, (B, 2, T, 1025), on-screen first. (`spectrogram.waveform` makes sound of them.)

        The u-net has 1,024 bins. The last bin has -100 decibels and the mixture's phase.

        Args:
            frames: (B, 3, N, H, W), 0 to 255; not needed without video.
            mixture: (B, 2, L) stereo, such that there are T = 128 frames (L = 44,144), or a multiple of them.

        Raises:
            ValueError: for other shapes.
        """
        if mixture.ndim != 3 or mixture.shape[1] != 2:
            raise ValueError(f"separation needs a stereo mixture (B, 2, L), found {tuple(mixture.shape)}")
        mixed = spectrogram(mixture.mean(1))  # (B, T, 1025)
        steps = mixed.magnitude.shape[1]
        if steps % 2**HALVINGS_IN_TIME:
            raise ValueError(
                f"{mixture.shape[2]} samples give {steps} frames; separation needs 128 (44,144 samples) or a multiple"
            )
        maps = None
        if self.multisensory is not None:
            if frames is None:
                raise ValueError(
                    "separation was built for video, but got no frames (`video: false` needs none)"
                )
            if self.single_frame:
                frames = frames[:, :, frames.shape[2] // 2, None].expand_as(frames)
            sound = mixture.mean(1, keepdim=True).expand_as(mixture) if self.mono else mixture
            maps = self.multisensory.fuse(self.multisensory.image(frames), sound)
        both = torch.stack(mixed, dim=1)  # (B, 2, T, 1025)
        magnitude, phase = self.unet(both[..., :-1], maps).unbind(2)  # (B, 2, T, 1024) each
        last = mixed.phase[:, None, :, -1:].expand(-1, 2, -1, -1)
        return Spectrogram(functional.pad(magnitude, (0, 1), value=-1), torch.cat([phase, last], dim=-1))


def on_off_loss(predicted: Spectrogram, truth: Spectrogram, phase_weight: float = 0.01) -> Tensor:
    """The paper's loss of a network whose first sound is the on-screen one: the mean over clips of `difference`.

    Args:
        predicted: (B, 2, T, 1025), on-screen first.
        truth: the same for the two sounds that were mixed.
        phase_weight: the released code's by default.
    """
    return difference(predicted, truth, phase_weight).mean()


def any_order_loss(predicted: Spectrogram, truth: Spectrogram, phase_weight: float = 0.01) -> Tensor:
    """As `on_off_loss`, but each clip's sounds are in the order with the smaller difference (permutation-invariant training)."""
    swapped = Spectrogram(*(each.flip(1) for each in truth))
    orders = (difference(predicted, each, phase_weight) for each in (truth, swapped))
    return torch.minimum(*orders).mean()


def difference(predicted: Spectrogram, truth: Spectrogram, phase_weight: float) -> Tensor:
    """The sum over both sounds of the mean absolute difference of their magnitudes (1 is 90 decibels) plus `phase_weight`
    times that of their phases, which do not wrap around: (B, 2, T, F) -> (B,)."""
    magnitude, phase = (
        (ours - theirs).abs().mean((2, 3)).sum(1) for ours, theirs in zip(predicted, truth, strict=True)
    )
    return magnitude + phase_weight * phase


def normalize_loudness(sound: Tensor, rms: float = 0.1) -> Tensor:
    """Give each channel the root mean square `rms`: (..., L) -> (..., L). Below 1e-4 it counts as 1e-4: silence stays."""
    return sound * (rms / sound.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4))


class Mixture(NamedTuple):
    """Two sounds and their sum.

    Args:
        sound: (..., 2, L), the sum.
        parts: (..., 2, 2, L), the sounds (first axis) with their channels.
    """

    sound: Tensor
    parts: Tensor


def mix(first: Tensor, second: Tensor) -> Mixture:
    """The sum of two sounds (..., 2, L) after each of their channels has a root mean square of 0.1. Nothing is clipped."""
    parts = torch.stack([normalize_loudness(first), normalize_loudness(second)], dim=-3)
    return Mixture(parts.sum(-3), parts)
