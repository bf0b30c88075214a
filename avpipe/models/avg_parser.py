"""The parser that is fine-tuned from AVG pretraining: Lamba et al., Interspeech 2021, section 3.2, rows "Pretrain".

The pretrained transformer, HAN's output on top of it, trained with HAN's losses: so does the released code
(jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing: model/model.py, main_avvp_multi.py); the paper
does not say what the representations are fed to.
"""

from typing import ClassVar

import torch
from torch import nn

from avpipe.models.avg import AudioVisualTransformer
from avpipe.models.base import AVBatch, AVOutput, ModelCard
from avpipe.models.layers import ParsingHead

CARD = ModelCard(
    title="AVG parser",
    paper="J. Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021",
    task="parsing",
    inputs="VGGish (128), ResNet-152 of 8 frames a second (8 x 2048), R(2+1)D-18 (512)",
    parameters=130_884_171,
    code="https://github.com/jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing",
    assumptions=(
        "Every weight of the transformer starts from the pretrained one and is trained further, as released. What was not pretrained starts from random numbers: the embedding of the 3D network's features, which pretraining does not see, and the output.",
        "HAN's three losses, each with weight 1, as released: not lambda_g = 0.6, which the paper sets for its own parser.",
        "Neither skip connections nor GCAA nor the discriminator: the released script has none of them.",
        "The transformer's assumptions are those of `avg`.",
    ),
)


class AVGParser(nn.Module):
    """Audio-visual video parsing by the transformer of AVG.

    Args:
        num_classes: C.
        audio_dim: D_a.
        visual_dim: D_v.
        motion_dim: D_m; 0 for a model without a 3D network's features.
        hidden_dim: D of the transformer.
        layers: of the transformer.
        heads: of each layer.
        feed_forward_dim: hidden units of each layer.
        dropout: everywhere in the transformer.
        head_dim: width of what the output reads.
    """

    default_loss_weights: ClassVar[dict[str, float]] = {"clip": 1.0, "audio": 1.0, "visual": 1.0}
    default_label_smoothing = (0.0, 0.1)

    def __init__(
        self,
        *,
        num_classes: int = 25,
        audio_dim: int = 128,
        visual_dim: int = 2048,
        motion_dim: int = 512,
        hidden_dim: int = 1024,
        layers: int = 12,
        heads: int = 8,
        feed_forward_dim: int = 3072,
        dropout: float = 0.1,
        head_dim: int = 512,
    ) -> None:
        super().__init__()
        self.transformer = AudioVisualTransformer(
            audio_dim,
            visual_dim,
            motion_dim,
            dim=hidden_dim,
            layers=layers,
            heads=heads,
            feed_forward_dim=feed_forward_dim,
            dropout=dropout,
            model="the AVG parser",
        )
        self.audio, self.visual = nn.Linear(hidden_dim, head_dim), nn.Linear(hidden_dim, head_dim)
        self.motion = nn.Linear(hidden_dim, head_dim) if motion_dim else None
        self.fuse = nn.Linear(2 * head_dim, head_dim) if motion_dim else None
        self.head = ParsingHead(head_dim, num_classes)

    def forward(self, batch: AVBatch) -> AVOutput:
        """Parse.

        Args:
            batch: as `AudioVisualTransformer` takes it.

        Returns:
            `parsing_probabilities` (B, T, 2, C), `modality_probabilities` (B, 2, C), `clip_probabilities` (B, C).

        Raises:
            ValueError: a feature is missing or has another shape.
        """
        audio, visual, motion = self.transformer(batch)
        seen = self.visual(visual)  # (B, T, D) -> (B, T, head_dim)
        if motion is not None and self.motion is not None and self.fuse is not None:
            seen = self.fuse(torch.cat([seen, self.motion(motion)], dim=-1))
        output: AVOutput = self.head(self.audio(audio), seen)
        return output
