"""MA: Wu and Yang, Exploring Heterogeneous Clues for Weakly-Supervised Audio-Visual Video Parsing, CVPR 2021.

HAN with a contrastive loss that ties each audio segment to the visual segment at the same time. The paper's main idea,
labels refined for each modality, is a matter of training: the task `refined_parsing`. Sizes and losses are those of the
released code (Yu-Wu/Modaily-Aware-Audio-Visual-Video-Parsing: step1_train_base_model, step3_retrain).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from avpipe.models.base import ModelCard, ParsingBatch, ParsingOutput
from avpipe.models.grounding import cosine_similarity
from avpipe.models.han import HybridAttention
from avpipe.models.layers import ParsingEncoder, ParsingHead

CARD = ModelCard(
    title="MA",
    paper="Y. Wu and Y. Yang, Exploring Heterogeneous Clues for Weakly-Supervised Audio-Visual Video Parsing, CVPR 2021",
    task="refined_parsing",
    inputs="VGGish (128), ResNet-152 of 8 frames a second (8 x 2048), R(2+1)D-18 (512)",
    parameters=4_569_675,
    code="https://github.com/Yu-Wu/Modaily-Aware-Audio-Visual-Video-Parsing",
    assumptions=(
        "Layers that the released code declares and never uses are left out; HAN remains.",
        "The contrastive loss has one direction, audio segments among visual ones, as released.",
        "Labels are refined once, by the base model's last epoch, as released; a clip that shares a label with every other clip keeps its labels.",
        "A label removed from a modality remains a label of the clip. In the released code one array holds both the clip's and audio's labels, so that a label removed from audio is removed from the clip too; one removed from visual is not (recipe: `clip_target: audio`). This concerns a tenth of the labels.",
    ),
)

TEMPERATURE = 0.2
SMOOTHING = 0.1


def segment_contrast(audio: Tensor, visual: Tensor) -> Tensor:
    """Mean cross-entropy, over audio segments, of choosing the matching visual segment of the same clip.

    Audio (B, T, D), visual (B, T, D) -> scalar. The logits are cosines divided by 0.2; the target is 0.9 at the same
    time, and the other segments share 0.1.
    """
    segments = audio.shape[1]
    cosine = cosine_similarity(audio, visual)  # (B, T, T)
    target = torch.full_like(cosine[0], SMOOTHING / max(segments - 1, 1)).fill_diagonal_(1 - SMOOTHING)
    return -(target * (cosine / TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()


class MA(nn.Module):
    """HAN with a contrastive loss between audio after the attention layer and visual before it.

    Args:
        num_classes: C.
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        contrastive: the contrastive loss, in training; without it the model is HAN.
        hidden_dim: D.
        dropout: see `avpipe.models.han.HybridAttention`.
    """

    default_loss_weights: ClassVar[dict[str, float]] = {
        "clip": 1.0,
        "audio": 1.0,
        "visual": 1.0,
        "contrastive": 1.0,
    }
    default_label_smoothing = (0.0, 0.1)

    def __init__(
        self,
        *,
        num_classes: int = 25,
        audio_dim: int = 128,
        visual_dim: int = 2048,
        motion_dim: int = 512,
        contrastive: bool = True,
        hidden_dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.contrastive = contrastive
        self.encoder = ParsingEncoder(audio_dim, visual_dim, motion_dim, hidden_dim, "MA")
        self.attention = HybridAttention(hidden_dim, dropout)
        self.head = ParsingHead(hidden_dim, num_classes)

    def forward(self, batch: ParsingBatch) -> ParsingOutput:
        """Parse each clip. Raises ValueError if a feature is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v), frames (B, T, F, D_v) or maps (B, T, H, W, D_v); motion
                (B, T, D_m) unless `motion_dim` is 0.

        Returns:
            `parsing_probabilities` (B, T, 2, C), `modality_probabilities` (B, 2, C), `clip_probabilities` (B, C);
            `losses["contrastive"]` in training; `attention` of `HybridAttention`.
        """
        audio_before, visual_before = self.encoder(batch)
        audio, visual, weights = self.attention(audio_before, visual_before)
        output: ParsingOutput = self.head(audio, visual)
        output.attention = weights
        if self.contrastive and self.training:
            output.losses["contrastive"] = segment_contrast(audio, visual_before)
        return output
