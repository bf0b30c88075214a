"""HAN: Tian, Li and Xu, Unified Multisensory Perception: Weakly-Supervised Audio-Visual Video Parsing, ECCV 2020.

In one layer, each modality attends to all of its own segments and to all of the other's; from there on both share every
weight. Segment probabilities are pooled over time and modalities with weights that the model predicts. Sizes, dropout
and losses are those of the released code (YapengTian/AVVP-ECCV20: nets/net_audiovisual.py, main_avvp.py).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from avpipe.models.base import ModelCard, ParsingBatch, ParsingOutput
from avpipe.models.layers import ParsingEncoder, ParsingHead

CARD = ModelCard(
    title="HAN",
    paper="Y. Tian, D. Li and C. Xu, Unified Multisensory Perception: Weakly-Supervised Audio-Visual Video Parsing, ECCV 2020",
    task="parsing",
    inputs="VGGish (128), ResNet-152 of 8 frames a second (8 x 2048), R(2+1)D-18 (512)",
    parameters=4_569_675,
    code="https://github.com/YapengTian/AVVP-ECCV20",
    assumptions=(
        "Layers that the released code declares and never uses are left out: 4,569,675 of its 9,307,723 parameters remain.",
        "Frames are averaged before the linear map, not after it: the same numbers up to rounding.",
        "Without a 3D network's features (`motion_dim: 0`), their linear map and the fusion are left out.",
        "Maps in place of frames: their cells are averaged as frames are.",
    ),
)


class SharedAttention(nn.Module):
    """`torch.nn.MultiheadAttention` (one head) of both modalities at once, within each or across the two.

    Args:
        dim: D.
        across: take keys and values from the other modality.
        dropout: of the attention's weights.
    """

    def __init__(self, dim: int, across: bool, dropout: float) -> None:
        super().__init__()
        self.across = across
        self.project = nn.Linear(dim, 3 * dim)  # query, key, value
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """(2, B, T, D), audio first -> (2, B, T, D), and the weights (2, B, T, T), queries as rows."""
        query, key, value = self.project(both).chunk(3, dim=-1)  # (2, B, T, 3 D) -> three (2, B, T, D)
        if self.across:
            key, value = key.flip(0), value.flip(0)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        return self.out(self.dropout(weights) @ value), weights


class HybridAttention(nn.Module):
    """The paper's hybrid attention network: one layer, the same weights for audio and visual.

    x' = LN(x + attention to the own modality + attention to the other), then a feed-forward layer with residual and
    LN. Both modalities are computed from the layer's inputs.

    Args:
        dim: D, also the feed-forward layer's width.
        dropout: of attention weights, of each residual branch and inside the feed-forward layer.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.within = SharedAttention(dim, across=False, dropout=dropout)
        self.across = SharedAttention(dim, across=True, dropout=dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Audio (B, T, D), visual (B, T, D) -> the same, and the weights (B, T, T), queries as rows.

        The weights' names are "audio_from_audio", "audio_from_visual" and so on.
        """
        both = torch.stack([audio, visual])  # (2, B, T, D)
        within, own_weights = self.within(both)
        across, cross_weights = self.across(both)
        both = self.norm_attention(both + self.dropout(across) + self.dropout(within))
        both = self.norm_feed_forward(both + self.dropout(self.feed_forward(both)))
        weights = {"audio_from_audio": own_weights[0], "visual_from_visual": own_weights[1]}
        weights |= {"audio_from_visual": cross_weights[0], "visual_from_audio": cross_weights[1]}
        return both[0], both[1], weights


class HAN(nn.Module):
    """Audio-visual video parsing by hybrid attention and attentive MMIL pooling.

    Args:
        num_classes: C.
        audio_dim, visual_dim: D_a and D_v.
        motion_dim: D_m; 0 = no 3D network's features.
        hidden_dim: D, of everything between the inputs and the scores.
        dropout: see `HybridAttention`.
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
        hidden_dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = ParsingEncoder(audio_dim, visual_dim, motion_dim, hidden_dim, "HAN")
        self.attention = HybridAttention(hidden_dim, dropout)
        self.head = ParsingHead(hidden_dim, num_classes)

    def forward(self, batch: ParsingBatch) -> ParsingOutput:
        """Parse each clip. Raises ValueError if a feature is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v), frames (B, T, F, D_v) or maps (B, T, H, W, D_v); motion
                (B, T, D_m) unless `motion_dim` is 0.

        Returns:
            `parsing_probabilities` (B, T, 2, C), `modality_probabilities` (B, 2, C), `clip_probabilities` (B, C);
            `attention` of `HybridAttention`.
        """
        audio, visual, weights = self.attention(*self.encoder(batch))
        output = self.head(audio, visual)
        output.attention = weights
        return output
