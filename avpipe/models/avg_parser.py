"""The parser fine-tuned from AVG pretraining: Lamba et al., Interspeech 2021, section 3.2, rows "Pretrain".

HAN's output on top of the pretrained transformer, trained with HAN's losses, as in the released code
(jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing: model/model.py, main_avvp_multi.py); the paper
does not say what reads the representations.
"""

from typing import ClassVar, Literal

import torch
from torch import nn

from avpipe.models.avg import AudioVisualTransformer
from avpipe.models.base import ModelCard, ParsingBatch, ParsingOutput
from avpipe.models.layers import ParsingHead

CARD = ModelCard(
    title="AVG parser",
    paper="J. Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021",
    task="parsing",
    inputs="VGGish (128), ResNet-152 of 8 frames a second (8 x 2048), R(2+1)D-18 (512)",
    parameters=130_884_171,
    code="https://github.com/jayaprakash-a/Cross-Modal-learning-for-Audio-Visual-Video-Parsing",
    assumptions=(
        "All pretrained weights of the transformer are loaded and trained further, as released. Two parts start from random weights: the embedding of the 3D network's features, which pretraining does not have, and the output.",
        "HAN's three losses, each with weight 1, as released; not lambda_g = 0.6, which the paper sets for its own parser.",
        "No skip connections, GCAA or discriminator: the released script has none of them.",
        "Dropout as in pretraining. The released script does not return to training mode after the last validation of its pretraining, so it fine-tunes without dropout (`dropout: 0`).",
        "A new optimizer. In the released script Adam goes on with the moments of pretraining's last epoch, though the weights are those of its best epoch.",
        "For the transformer see the assumptions of `avg`.",
    ),
)


class AVGParser(nn.Module):
    """Audio-visual video parsing by the transformer of AVG.

    Args:
        num_classes: C.
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        hidden_dim: D of the transformer.
        layers: of the transformer.
        heads: of each layer.
        feed_forward_dim: hidden units of each layer.
        dropout: everywhere in the transformer.
        positions: see `avpipe.models.avg.AVG`.
        head_dim: input width of HAN's output.
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
        positions: Literal["sinusoidal", "random"] = "sinusoidal",
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
            positions=positions,
            model="the AVG parser",
        )
        self.audio, self.visual = nn.Linear(hidden_dim, head_dim), nn.Linear(hidden_dim, head_dim)
        self.motion = nn.Linear(hidden_dim, head_dim) if motion_dim else None
        self.fuse = nn.Linear(2 * head_dim, head_dim) if motion_dim else None
        self.head = ParsingHead(head_dim, num_classes)

    def forward(self, batch: ParsingBatch) -> ParsingOutput:
        """Parse each clip. Raises ValueError if a feature is missing or has another shape.

        Args:
            batch: see `AudioVisualTransformer.forward`.

        Returns:
            `parsing_probabilities` (B, T, 2, C), `modality_probabilities` (B, 2, C), `clip_probabilities` (B, C).
        """
        audio, visual, motion = self.transformer(batch)
        visual_hidden = self.visual(visual)  # (B, T, D) -> (B, T, head_dim)
        if motion is not None and self.motion is not None and self.fuse is not None:
            # (B, T, 2 * head_dim) -> (B, T, head_dim)
            visual_hidden = self.fuse(torch.cat([visual_hidden, self.motion(motion)], dim=-1))
        output: ParsingOutput = self.head(self.audio(audio), visual_hidden)
        return output
