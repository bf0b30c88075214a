"""AVDLN, audio-visual distance learning: Tian, Shi, Li, Duan and Xu, ECCV 2018 (the paper of AVEL), sec. 5.

Two small networks map the audio and the visual features of a segment into one space, where matching segments are to be
near. No other segment is read: a distance depends on the two segments alone. Sizes, activation, distance and loss are
those of the released code (YapengTian/AVE-ECCV18, cmm_train.py, in Keras).
"""

import torch
from torch import Tensor, nn

from avpipe.models.base import CrossModalityBatch, ModelCard, SimilarityOutput
from avpipe.models.layers import audio_and_visual, spatial_average, xavier_

CARD = ModelCard(
    title="AVDLN",
    paper="Y. Tian, J. Shi, B. Li, Z. Duan and C. Xu, Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018",
    task="cross_modality",
    inputs="VGGish (128), VGG-19 block5_pool averaged over its cells (512)",
    parameters=98_688,
    code="https://github.com/YapengTian/AVE-ECCV18 (cmm_train.py, cmm_test.py)",
    assumptions=(
        "Weights are initialized as in Keras (Xavier-uniform, biases zero).",
        "Adam as torch has it, with 1e-8 in the denominator; Keras has 1e-7 (recipe: `eps: 1.0e-7`).",
        "A batch holds clips with all their segments; the released code draws single segments, 8 a batch.",
    ),
)

KERAS_EPSILON = 1e-7
"""Smallest squared distance, so that the root's slope stays finite."""


def encoder(in_dim: int, hidden_dim: int, embedding_dim: int, bias: bool = True) -> nn.Sequential:
    """Linear, LeakyReLU (0.3, Keras' default), Linear with or without `bias`; Xavier-uniform weights, biases zero."""
    network = nn.Sequential(
        nn.Linear(in_dim, hidden_dim), nn.LeakyReLU(0.3), nn.Linear(hidden_dim, embedding_dim, bias=bias)
    )
    xavier_(network)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network


def pairwise_distance(audio: Tensor, visual: Tensor) -> Tensor:
    """Euclidean distances of every audio and every visual segment: (B, T, D), (B, T, D) -> (B, T, T)."""
    squared = (audio.unsqueeze(2) - visual.unsqueeze(1)).square().sum(dim=-1)  # (B, T, T)
    return squared.clamp(min=KERAS_EPSILON).sqrt()


def contrastive_loss(distance: Tensor, same: Tensor, margin: float) -> Tensor:
    """Mean of y d^2 + (1 - y) max(margin - d, 0)^2: Hadsell, Chopra and LeCun, CVPR 2006, without their factor 1/2.

    `distance` is d, (...), not negative; `same` is y, (...): 1 for a matching pair, 0 otherwise.
    """
    apart = (margin - distance).clamp(min=0)
    return (same * distance.square() + (1 - same) * apart.square()).mean()


class AVDLN(nn.Module):
    """Distance learning from audio and visual of the same segment: near on event segments, far apart on background.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        hidden_dim: of both encoders.
        embedding_dim: D, of the common space.
        margin: of the contrastive loss; 2 in the released training.
    """

    def __init__(
        self,
        *,
        audio_dim: int = 128,
        visual_dim: int = 512,
        hidden_dim: int = 128,
        embedding_dim: int = 64,
        margin: float = 2.0,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim, self.margin = audio_dim, visual_dim, margin
        self.audio = encoder(audio_dim, hidden_dim, embedding_dim)
        self.visual = encoder(visual_dim, hidden_dim, embedding_dim)

    def forward(self, batch: CrossModalityBatch) -> SimilarityOutput:
        """Compare every audio segment with every visual segment. Raises ValueError if a modality is missing or has
        another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `event` in training.

        Returns:
            `similarity` (B, T, T), the negative distance; `losses["contrastive"]` if the event is given.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "AVDLN")
        distance = pairwise_distance(self.audio(audio), self.visual(spatial_average(visual)))
        losses = {}
        if batch.event is not None:
            same_segment = torch.diagonal(distance, dim1=1, dim2=2)  # (B, T)
            losses["contrastive"] = contrastive_loss(same_segment, batch.event, self.margin)
        return SimilarityOutput(similarity=-distance, losses=losses)
