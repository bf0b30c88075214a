"""AV-BT: audio-visual Barlow Twins, from "Self-Supervised Video Representation and Temporally Adaptive Attention for
Audio-Visual Event Localization", Applied Sciences 12(24), 12622, 2022. Section 3.2.

A CNN and a bidirectional LSTM encode each modality of a clip. A projector, the same for both, maps the segments of both
into one space. Over the segments of a clip, each dimension of the projected audio shall correlate with the same dimension
of the projected visual, and with no other. No label is used. The encoders' outputs are the features.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from avpipe.models.base import ModelCard, ModelOutput
from avpipe.models.layers import LSTM, AudioGuidedAttention, visual_vectors
from avpipe.models.parallel import sum_over_processes

CARD = ModelCard(
    title="AV-BT",
    paper="Self-Supervised Video Representation and Temporally Adaptive Attention for Audio-Visual Event Localization, Applied Sciences 12(24), 12622, 2022",
    task="barlow_twins",
    inputs="clips: one frame of 256 x 256 and one log-mel spectrogram of 96 x 64 for each of 10 segments",
    parameters=123_322_304,
    code="none public",
    assumptions=(
        "All weights are trained, the CNNs' too; the paper does not say whether they are fixed (option `train_cnns`). Training starts from torchvision's ResNet-50 (ImageNet) and torchvggish's VGGish (option `weights`).",
        "ResNet-50 gives 2048 numbers and the paper keeps 512: a linear layer between them.",
        "Bidirectional LSTMs with 128 numbers a direction, as in AVEL, whose encoders the paper calls similar: d_l = 256.",
        "Projector: linear, batch normalisation, ReLU, twice, then linear, as in Barlow Twins; without biases.",
        "Equation 1 is read as the correlation over the clip's segments: each dimension is centred, then divided by its norm, so that |C_ij| <= 1. Algorithm 1 divides by the unbiased standard deviation and not by T, so its C_ij reaches T - 1 (option `normalization`). A dimension that is constant over a clip counts as zero.",
        "The CNN sees 224 x 224 pixels, as in Barlow Twins: the random crop, or without it, and for features, the centre. For features it sees the middle frame of each segment.",
        "One augmentation is drawn a clip, for all of its frames: the loss compares segments over time, and a crop that changed from frame to frame would be such a change. Its strengths are those of Barlow Twins' first view (crop 0.08 to 1, flip 0.5, jitter 0.4, 0.4, 0.2, 0.1 with 0.8, grayscale 0.2, blur always), with its second view's 0.2 for solarize; the milder crop keeps 0.5 to 1.",
        "After training, the statistics of batch normalisation are computed anew over the training clips as features see them.",
        "Recipe `avbt_paper` is the printed one: LARS, Barlow Twins' rates (0.2 for matrices, 0.0048 for vectors, times batch / 256) times 2e-4, ten epochs of linear warm-up, a cosine down to a tenth. A step of it changes a matrix by about 2e-8 of its norm, all steps by about 5e-4: it hardly trains. `avbt` leaves out the factor 2e-4.",
    ),
)


@dataclass
class SoundAndFrames:
    """Clips as pictures and sound.

    Args:
        frames: (B, T, 3, H, W) uint8 RGB, one of each segment.
        spectrograms: (B, T, 96, 64) float, VGGish's log-mel spectrogram of each segment.
        clips: the clips' names.
    """

    frames: Tensor
    spectrograms: Tensor
    clips: "Sequence[str] | str" = ()


@dataclass(kw_only=True)
class TwinOutput(ModelOutput):
    """Projected segments; `losses` has "invariance" and "redundancy", the terms of equation 2, of the whole batch.

    Args:
        audio, visual: Z_a and Z_v, (B, T, D), not yet normalized.
    """

    audio: Tensor
    visual: Tensor


Normalization = Literal["norm", "deviation"]


def cross_correlation(audio: Tensor, visual: Tensor, normalization: Normalization = "norm") -> Tensor:
    """Equation 1, averaged over the clips of a batch (with several processes, of all their parts).

    Args:
        audio, visual: Z_a and Z_v, (B, T, D) with T > 1.
        normalization: over the segments of a clip, each dimension is centred and divided by its "norm" (equation 1) or by
            its unbiased standard "deviation" (algorithm 1, T - 1 times as large). A constant dimension becomes zero.

    Returns:
        C (D, D) float32 or float64; rows are audio dimensions. No (B, D, D) tensor is made.
    """
    a, v = (
        _normalized(z.double() if z.dtype == torch.float64 else z.float(), normalization)
        for z in (audio, visual)
    )
    total = sum_over_processes(a.flatten(0, 1).T @ v.flatten(0, 1))  # (B, T, D) -> (B T, D); (D, D)
    return total / sum_over_processes(a.new_tensor(float(len(a))))


def _normalized(z: Tensor, normalization: Normalization) -> Tensor:
    """(B, T, D): centred over T and divided by norm or deviation; zero where rounding is all that is left."""
    centred = z - z.mean(1, keepdim=True)
    varies = centred.abs().amax(1, keepdim=True) > 1e-5 * z.abs().amax(1, keepdim=True)
    squares = torch.where(varies, centred.square().sum(1, keepdim=True), 1.0)
    if normalization == "deviation":
        squares = squares / (z.shape[1] - 1)
    return torch.where(varies, centred * squares.rsqrt(), 0.0)


def barlow_twins_terms(correlation: Tensor, redundancy: float) -> dict[str, Tensor]:
    """Equation 2: C (D, D) -> "invariance", sum of (1 - C_ii)^2, and "redundancy", `redundancy` times the other C_ij^2."""
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return {"invariance": (1 - diagonal).square().sum(), "redundancy": redundancy * others}


class VGGish(nn.Module):
    """VGGish's network (Hershey et al., ICASSP 2017) on log-mel spectrograms; torchvggish's names and, at 64 channels, sizes.

    Args:
        channels: of the first convolution; the others follow.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        c = channels
        layers: list[nn.Module] = []
        before = 1
        for width, last in (
            (c, True),
            (2 * c, True),
            (4 * c, False),
            (4 * c, True),
            (8 * c, False),
            (8 * c, True),
        ):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if last else []
            before = width
        self.features = nn.Sequential(*layers)
        # Few channels take half the time so on a CPU; with 64 the numbers stay torchvggish's to the last bit.
        if channels < 64:
            self.features.to(memory_format=torch.channels_last)
        sizes = (6 * 4 * 8 * c, 64 * c, 64 * c, 128)
        dense = ((nn.Linear(i, o), nn.ReLU()) for i, o in itertools.pairwise(sizes))
        self.embeddings = nn.Sequential(*(layer for pair in dense for layer in pair))

    def forward(self, spectrograms: Tensor) -> Tensor:
        """(N, 96, 64) -> (N, 128)."""
        maps = self.features(spectrograms.unsqueeze(1))  # (N, 8 c, 6, 4)
        vectors: Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))
        return vectors


class AVBT(nn.Module):
    """Audio-visual encoders that learn from which sounds and pictures occur together.

    Args:
        backbone: the visual CNN, of torchvision.
        weights: of both CNNs before training: "pretrained" (published) or "random". The task loads them.
        image_size: pixels, width and height, that the visual CNN sees; larger frames lose their border.
        cnn_dim: numbers that are kept of the visual CNN.
        audio_channels: of VGGish's first convolution, a size for small studies; 64 is VGGish.
        dim: d_l, even, of both features.
        projector_dim: D of the projected segments; the first layer has half as many.
        share_projector: one projector for both modalities.
        attention: the audio chooses the cells of the visual map (AVEL's attention); audio or visual alone gives no features.
        train_cnns: both CNNs learn too; else they stay as they are, with their statistics.
        redundancy: lambda of equation 2.
        normalization: see `cross_correlation`.

    Raises:
        ValueError: for attention over a map of one cell.
    """

    outputs: ClassVar[Mapping[str, int | str]] = {"audio": "dim", "visual": "dim"}

    def __init__(
        self,
        *,
        backbone: Literal["resnet18", "resnet50"] = "resnet50",
        weights: Literal["pretrained", "random"] = "pretrained",
        image_size: int = 224,
        cnn_dim: int = 512,
        audio_channels: int = 64,
        dim: int = 256,
        projector_dim: int = 4096,
        share_projector: bool = True,
        attention: bool = False,
        train_cnns: bool = True,
        redundancy: float = 5e-3,
        normalization: Normalization = "norm",
    ) -> None:
        from torchvision.models import get_model

        super().__init__()
        self.weights, self.image_size, self.train_cnns = weights, image_size, train_cnns
        self.redundancy, self.normalization = redundancy, normalization
        trunk = get_model(backbone, weights=None)
        width = trunk.fc.in_features
        self.visual_cnn = nn.Sequential(*list(trunk.children())[:-2])
        self.audio_cnn = VGGish(audio_channels)
        self.reduce = nn.Identity() if width == cnn_dim else nn.Linear(width, cnn_dim)
        cells = (-(-image_size // 32)) ** 2
        self.attention = AudioGuidedAttention(128, cnn_dim, cells) if attention else None
        self.audio_lstm, self.visual_lstm = LSTM(128, dim // 2), LSTM(cnn_dim, dim // 2)
        self.projector = _projector(dim, projector_dim)
        self.visual_projector = None if share_projector else _projector(dim, projector_dim)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer(
            "mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1) * 255, persistent=False
        )
        self.register_buffer(
            "deviation", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1) * 255, persistent=False
        )

    def train(self, mode: bool = True) -> Self:
        """As torch's; CNNs that do not learn stay in evaluation mode."""
        super().train(mode)
        for cnn in () if self.train_cnns else (self.audio_cnn, self.visual_cnn):
            cnn.eval().requires_grad_(False)
        return self

    def encode(self, batch: SoundAndFrames) -> dict[str, Tensor]:
        """The features f_a and f_v, "audio" and "visual", (B, T, d_l)."""
        audio = self.audio_cnn(batch.spectrograms.flatten(0, 1)).unflatten(0, batch.spectrograms.shape[:2])
        maps = self.visual_cnn(self._pixels(batch.frames).flatten(0, 1))  # (B T, D_v, h, w)
        cells = self.reduce(maps.permute(0, 2, 3, 1)).unflatten(
            0, batch.frames.shape[:2]
        )  # (B, T, h, w, cnn_dim)
        visual, _ = visual_vectors(self.attention, audio, cells)
        return {"audio": self.audio_lstm(audio)[0], "visual": self.visual_lstm(visual)[0]}

    def forward(self, batch: SoundAndFrames) -> TwinOutput:
        """Project both modalities, and compare them over time within each clip."""
        features = self.encode(batch)
        audio = self._projected(self.projector, features["audio"])
        visual = self._projected(self.visual_projector or self.projector, features["visual"])
        with torch.autocast(audio.device.type, enabled=False):
            correlation = cross_correlation(audio, visual, self.normalization)
            losses = barlow_twins_terms(correlation, self.redundancy)
        return TwinOutput(audio=audio, visual=visual, losses=losses)

    def _pixels(self, frames: Tensor) -> Tensor:
        """The centre of (B, T, 3, H, W) frames, with ImageNet's mean and deviation removed."""
        top, left = ((side - self.image_size) // 2 for side in frames.shape[-2:])
        centre = frames[..., max(top, 0) :, max(left, 0) :][..., : self.image_size, : self.image_size]
        return (centre.float() - self.mean) / self.deviation

    @staticmethod
    def _projected(projector: nn.Module, features: Tensor) -> Tensor:
        return projector(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def _projector(dim: int, out: int) -> nn.Sequential:
    hidden = out // 2
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, out, bias=False), nn.BatchNorm1d(out), nn.ReLU(),
        nn.Linear(out, out, bias=False),
    )  # fmt: skip
