"""Multisensory: Owens and Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018.

One network takes the pictures of a clip and its waveform, and fuses both early. It is trained to tell whether the sound
belongs to the pictures or was shifted in time. Sizes, order and shortcuts are those of the released code
(andrewowens/multisensory: src/shift_net.py), whose names the comments give; padding, normalization and initialisation
follow TensorFlow (`multisensory_layers`), so that the released weights can be loaded (`multisensory_weights`).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from avpipe.models.base import ModelCard
from avpipe.models.multisensory_layers import (
    BatchNorm,
    BatchRenorm,
    ConvNorm,
    ResidualBlock,
    SameConv,
    fractional_max_pool,
    max_pool_same,
)

CARD = ModelCard(
    title="Multisensory",
    paper="A. Owens and A. A. Efros, Audio-Visual Scene Analysis with Self-Supervised Multisensory Features, ECCV 2018",
    task="alignment",
    inputs="clips themselves: 4.2 s of pictures (125 of 224 x 224, 29.97 a second) and of stereo sound (87,588 samples, 21 kHz)",
    parameters=36_044_609,
    code="https://github.com/andrewowens/multisensory",
    assumptions=(
        "We had the slides of a talk on the paper and the released code, not the paper's own text.",
        "In evaluation, sound is pooled to the pictures' steps over evenly spread regions, so that a clip's score is always the same. The released code draws random regions in evaluation, too; which were used for the paper's 59.9 % is not known.",
        "Evaluation normalizes by moving statistics. The released demo of class activation maps normalizes each clip by its own statistics.",
        "With several processes, normalization is by the whole batch; in the released code each GPU has statistics of its own.",
        "The gradient is clipped before weight decay is added to it; in the released code, L2 is a part of the loss.",
        "Controls are ours: without pictures (black), without sound (silence), or with one frame of the clip, drawn at random, that stands still.",
        "`head: max` (the slides' GMP, for one source of sound): the logit is the maximum of the class activation map. The code has the average only.",
        "Random pairing (the wrong sound is another clip's): no code is released. All else is as in alignment, in both stages; the other clip is drawn uniformly, its window too.",
        "Action recognition, training: of its recipe, the batch size, the factor 0.1 between steps of the learning rate and the L2 penalty are released; optimizer, learning rate and length are our choice. Sound begins up to `audio_jitter` frames earlier or later, by a uniform real number.",
        "Action recognition, clips: one that is shorter than a window is repeated from its beginning; one without a sound track has silence, which the sound's part of the network reads as any other sound.",
        "Action recognition, evaluation: the mean of the probabilities of 25 windows, evenly spaced, each in 10 places (corners and centre, also mirrored), decides. The released code does not say how clips are sampled, and we could not verify the two numbers.",
        "`middle_stride: 1` (finer maps for small frames) is ours.",
        "Widths other than 512 keep the proportions of the layers.",
    ),
)


class Maps(NamedTuple):
    """What the network computes on its way, at three scales; a network for separation reads all three.

    Args:
        image: im/conv2_2, of the pictures alone: (B, D/8, T', H', W').
        middle: im/conv3_2, fused: (B, D/4, T', H', W').
        last: im/conv5_2, fused: (B, D, T'', H'', W'').

    With the paper's clips, D = 512, T' x H' x W' = 32 x 28 x 28 and T'' x H'' x W'' = 16 x 7 x 7.
    """

    image: Tensor
    middle: Tensor
    last: Tensor


def compress(waveform: Tensor) -> Tensor:
    """sign(x) ln(1 + 255 |x|) / ln 256 of each sample: mu-law, -1 to 1 for -1 to 1."""
    return waveform.sign() * torch.log1p(255 * waveform.abs()) / math.log(256)


class SoundNetwork(nn.Module):
    """The waveform's part: 1-d convolutions over time, and pooling to the pictures' steps.

    Args:
        dim: D.
        gamma: see `Multisensory`.
    """

    def __init__(self, dim: int, gamma: bool) -> None:
        super().__init__()
        self.conv1_1 = ConvNorm(2, dim // 8, [65], [4], gamma)
        self.conv2_1 = ResidualBlock(dim // 8, dim // 4, [15], [4], gamma)
        self.conv3_1 = ResidualBlock(dim // 4, dim // 4, [15], [4], gamma)
        self.conv4_1 = ResidualBlock(dim // 4, dim // 2, [15], [4], gamma)
        self.conv5_1 = ConvNorm(dim // 2, dim // 4, [3], [1], gamma)

    def forward(self, waveform: Tensor, steps: int) -> Tensor:
        """(B, 2, L) -> (B, D/4, steps). Raises ValueError if L is too short for so many steps."""
        x = self.conv1_1(compress(waveform)).relu_()  # (B, D/8, L/4)
        x = nn.functional.max_pool1d(x, 4)  # (B, D/8, L/16); TensorFlow's VALID
        x = self.conv4_1(self.conv3_1(self.conv2_1(x)))  # (B, D/2, L/1024)
        return self.conv5_1(fractional_max_pool(x, steps, random=self.training)).relu_()


class ImageNetwork(nn.Module):
    """The pictures' part before fusion: 3-d convolutions, a quarter of the steps, an eighth of the height and width.

    Args:
        dim: D.
        gamma: see `Multisensory`.
    """

    def __init__(self, dim: int, gamma: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, dim // 8, [5, 7, 7], [2, 2, 2], gamma)
        self.conv2_1 = ResidualBlock(dim // 8, dim // 8, [3, 3, 3], [1, 1, 1], gamma)
        self.conv2_2 = ResidualBlock(dim // 8, dim // 8, [3, 3, 3], [2, 2, 2], gamma)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, T, H, W) from 0 to 255 -> (B, D/8, T', H', W'). Raises ValueError for another shape."""
        if frames.ndim != 5 or frames.shape[1] != 3:
            raise ValueError(f"Multisensory needs frames (B, 3, T, H, W), found {tuple(frames.shape)}")
        x = frames.to(self.conv1.conv.weight.dtype) * (2 / 255) - 1
        x = self.conv1(x).relu_()  # (B, D/8, T/2, H/2, W/2)
        x = max_pool_same(x, [1, 3, 3], [1, 2, 2])  # (B, D/8, T/2, H/4, W/4)
        return self.conv2_2(self.conv2_1(x))


class FusedNetwork(nn.Module):
    """Early fusion, and what follows it.

    Args:
        dim: D.
        gamma: see `Multisensory`.
        map_stride, middle_stride: see `Multisensory`.
    """

    def __init__(self, dim: int, gamma: bool, map_stride: int, middle_stride: int) -> None:
        super().__init__()
        cube, ones = [3, 3, 3], [1, 1, 1]
        self.merge1 = ConvNorm(dim // 8 + dim // 4, dim, ones, ones, gamma)
        self.merge2 = SameConv(dim, dim // 4, ones, ones, bias=True)
        self.merge_norm = BatchRenorm(dim // 4, gamma)
        self.conv3_1 = ResidualBlock(dim // 4, dim // 4, cube, ones, gamma)
        self.conv3_2 = ResidualBlock(dim // 4, dim // 4, cube, ones, gamma)
        self.conv4_1 = ResidualBlock(dim // 4, dim // 2, cube, [2, middle_stride, middle_stride], gamma)
        self.conv4_2 = ResidualBlock(dim // 2, dim // 2, cube, ones, gamma)
        self.conv5_1 = ResidualBlock(dim // 2, dim, cube, [1, map_stride, map_stride], gamma)
        self.conv5_2 = ResidualBlock(dim, dim, cube, ones, gamma)

    def forward(self, image: Tensor, sound: Tensor) -> Maps:
        """Image (B, D/8, T', H', W') and sound (B, D/4, T') -> the maps."""
        tiled = sound[..., None, None].expand(-1, -1, -1, *image.shape[-2:])
        both = torch.cat([image, tiled], dim=1)  # (B, D/8 + D/4, T', H', W')
        shortcut = torch.cat([image, tiled[:, -image.shape[1] :]], dim=1)  # (B, D/4, ...)
        x = self.merge2(self.merge1(both).relu_())
        x = self.merge_norm(x + shortcut).relu_()  # (B, D/4, T', H', W')
        middle = self.conv3_2(self.conv3_1(x))
        last = self.conv5_2(self.conv5_1(self.conv4_2(self.conv4_1(middle))))
        return Maps(image, middle, last)


class Multisensory(nn.Module):
    """The fused audio-visual network.

    Args:
        num_logits: 1 for alignment (positive: aligned), else the number of classes.
        dim: D, channels of the last maps; the other layers keep their proportions to it. A multiple of 8.
        gamma: whether batch normalization has a factor a channel: not in pretraining, but in separation and action
            recognition, which start from the pretrained weights with gamma 1.
        decay: of the moving statistics by which evaluation normalizes. With the released 0.9997, 94 % of them are still
            their initial values after 200 batches: a short training needs a smaller decay.
        map_stride: spatial stride of im/conv5_1. 1 is the released variant for class activation maps, 14 x 14 in place
            of 7 x 7, with the same parameters.
        middle_stride: spatial stride of im/conv4_1. 1 is ours, for small frames: with `map_stride: 1`, maps are an eighth as
            high and wide as the frames.
        head: how the class activation map becomes a logit: its average, or its maximum.
        inputs: without audio, zeros stand in place of the sound's features, as in the paper's comparison without sound.

    Raises:
        ValueError: if `dim` is no multiple of 8.
    """

    def __init__(
        self,
        *,
        num_logits: int = 1,
        dim: int = 512,
        gamma: bool = False,
        decay: float = 0.9997,
        map_stride: Literal[1, 2] = 2,
        middle_stride: Literal[1, 2] = 2,
        head: Literal["average", "max"] = "average",
        inputs: Literal["audio+visual", "visual"] = "audio+visual",
    ) -> None:
        super().__init__()
        if dim < 8 or dim % 8:
            raise ValueError(
                f"Multisensory: `dim` {dim} must be a multiple of 8: the first layers have dim / 8 channels"
            )
        self.pooling, self.inputs = head, inputs
        self.sound = SoundNetwork(dim, gamma)
        self.image = ImageNetwork(dim, gamma)
        self.fused = FusedNetwork(dim, gamma, map_stride, middle_stride)
        self.head = SameConv(dim, num_logits, [1, 1, 1], [1, 1, 1], bias=True)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.decay = decay

    def forward(self, frames: Tensor, waveform: Tensor | None) -> Tensor:
        """The logits (B, num_logits) of clips; (B, S, num_logits) if each has S sounds.

        Args:
            frames: (B, 3, T, H, W), uint8 or float, 0 to 255.
            waveform: (B, 2, L) float, -1 to 1; both channels the same for mono. It lasts as long as the frames. Ignored, and may
                be None, with `inputs: visual`. (B, S, 2, L): the pictures' part is computed once, the rest for one sound of
                every clip after another, each with its own statistics of normalization.

        Raises:
            ValueError: for another shape, or if the sound is too short.
        """
        image = self.image(frames)
        if waveform is None or waveform.ndim != 4:
            return self.logits(self.fuse(image, waveform))
        return torch.stack([self.logits(self.fuse(image, sound)) for sound in waveform.unbind(1)], dim=1)

    def fuse(self, image: Tensor, waveform: Tensor | None) -> Maps:
        """Fuse what `image` made of the frames, (B, D/8, T', H', W'), with their sound. See `forward`."""
        clips, channels, steps = image.shape[:3]
        if self.inputs == "visual":
            return self.fused(image, image.new_zeros(clips, 2 * channels, steps))
        if waveform is None or waveform.ndim != 3 or waveform.shape[:2] != (clips, 2):
            found = None if waveform is None else tuple(waveform.shape)
            raise ValueError(
                f"Multisensory needs a stereo waveform ({clips}, 2, L) beside {clips} clips, found {found}"
            )
        return self.fused(image, self.sound(waveform, steps))

    def logits(self, maps: Maps) -> Tensor:
        """The average or the maximum of each class activation map: (B, num_logits)."""
        if self.pooling == "max":
            return self.activation(maps).amax((2, 3, 4))
        return self.head(maps.last.mean((2, 3, 4), keepdim=True)).flatten(
            1
        )  # (B, D, 1, 1, 1) -> (B, num_logits)

    def activation(self, maps: Maps) -> Tensor:
        """Class activation maps (Zhou et al., 2016): the head at each place, (B, num_logits, T'', H'', W''), signed, with
        its bias. For alignment, places with a large absolute value decided."""
        return self.head(maps.last)
