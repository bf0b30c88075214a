"""CMRAN: Xu, Zeng, Wu, Tan and Gan, Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization, MM 2020.

The audio weighs the channels and cells of the visual map. Each modality's segments attend to the other's *and their
own*; the product of both results attends to both again. One head scores each segment for an event, another classifies
the clip. Sizes, dropout and losses are those of the released code (FloretCat/CMRAN: model/main_model.py,
model/models.py).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import EventOutput, LocalizationBatch, ModelCard
from avpipe.models.layers import audio_and_visual

CARD = ModelCard(
    title="CMRAN",
    paper="H. Xu, R. Zeng, Q. Wu, M. Tan and C. Gan, Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization, ACM Multimedia 2020",
    task="localization",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512); also ResNet-151 maps",
    parameters=9_509_150,
    code="https://github.com/FloretCat/CMRAN",
    assumptions=(
        "Layers that the released code declares and never uses are left out: 9,509,150 of its 15,863,262 parameters remain.",
        "Supervised, a clip without an event does not train the category. In the released loss it counts as category 0; of AVE's training clips this is one.",
        "A vector counts as a map of one cell: channel attention applies, and the cell has weight 1.",
        "Another `hidden_dim` scales every width of the released code with it: maps and channels 2x, bottleneck and queries of the cells 1x, feed-forward 8x.",
        "Single precision, as every model; the released code uses double precision.",
    ),
)


class SpatialChannelAttention(nn.Module):
    """Audio-guided attention over the channels of a map, then over its cells.

    With x the K cells of a segment, a its audio and U, W with ReLU after them,

        c = sigmoid(W_c W_b mean over cells of (U_1 x * U_2 a)),   x' = (1 + c) x
        w = softmax over cells of tanh(W_s (U_3 x' * U_4 a)),      output = sum over cells of w_k x'_k

    `audio_dim` is D_a, `dim` D, the channels of the map.
    """

    def __init__(self, audio_dim: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.visual_channels, self.audio_channels = nn.Linear(dim, dim), nn.Linear(audio_dim, dim)
        self.bottleneck, self.channels = nn.Linear(dim, half), nn.Linear(half, dim)
        self.visual_cells, self.audio_cells = nn.Linear(dim, half), nn.Linear(audio_dim, half)
        self.cells = nn.Linear(half, 1)

    def forward(self, audio: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Audio (B, T, D_a), cells (B, T, K, D) -> attended features (B, T, D), and the weights of channels and cells.

        The channels' weights are (B, T, D) in (0, 1), the cells' (B, T, K).
        """
        from_audio = self.audio_channels(audio).relu().unsqueeze(-2)  # (B, T, 1, D)
        both = (from_audio * self.visual_channels(cells).relu()).mean(dim=-2)  # (B, T, D)
        channels = self.channels(self.bottleneck(both).relu()).sigmoid()  # (B, T, D)
        cells = cells * (1 + channels).unsqueeze(-2)  # (B, T, K, D)
        from_audio = self.audio_cells(audio).relu().unsqueeze(-2)  # (B, T, 1, D / 2)
        scores = self.cells(self.visual_cells(cells).relu() * from_audio).squeeze(-1)  # (B, T, K)
        weights = torch.tanh(scores).softmax(dim=-1)
        attended = (weights.unsqueeze(-2) @ cells).squeeze(-2)  # (B, T, 1, K) @ (B, T, K, D) -> (B, T, D)
        return attended, channels, weights


class RelationLayer(nn.Module):
    """Cross-modal relation attention: a modality attends to the other modality's segments and its own.

    Args:
        dim: D, of both.
        heads: of the attention.
        dropout: of the attention's weights, and after attention and feed-forward part.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.forward_part = nn.Sequential(
            nn.Linear(dim, 8 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """(B, T, D) of one modality, (B, S, D) of the other -> (B, T, D)."""
        memory = torch.cat([memory, query], dim=1)  # (B, S + T, D)
        attended = self.attention(query, memory, memory, need_weights=False)[0]
        query = self.norm_attention(query + self.dropout(attended))
        return self.norm_forward(query + self.dropout(self.forward_part(query)))


class ModalityRelations(nn.Module):
    """One modality's two roles: memory for the other modality, and queries to the other's memory.

    Args:
        in_dim: of its features.
        dim: of the output.
        dropout: inside.
    """

    def __init__(self, in_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, 4, 8 * dim, dropout, batch_first=True)
        self.embed_memory = nn.Linear(in_dim, dim)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.embed_query = nn.Linear(in_dim, dim)
        self.relation = RelationLayer(dim, 4, dropout)

    def memory(self, features: Tensor) -> Tensor:
        """Self-attention without positions: (B, T, in_dim) -> (B, T, dim)."""
        return self.encoder(self.embed_memory(features))

    def query(self, features: Tensor, memory: Tensor) -> Tensor:
        """(B, T, in_dim), and the other modality's memory (B, T, dim) -> (B, T, dim)."""
        return self.relation(self.embed_query(features), memory)


class CMRAN(nn.Module):
    """Audio-visual event localization by cross-modal relations, with an event score and a category.

    Supervised, the loss is binary cross-entropy on the event and cross-entropy on the category, equally weighted.
    Weakly supervised, sigmoid(event) * category is pooled by each category's maximum over time, and the loss is
    MultiLabelSoftMarginLoss on softmax probabilities; the categories then include background, for clips without events.

    Args:
        num_classes: event categories C.
        audio_dim, visual_dim: D_a and D_v.
        setting: selects the released code's network: the last attention has 4 heads supervised and 2 weakly supervised,
            and only the weakly supervised one has a category for background. Set by the training loop.
        hidden_dim: width of the attentions, a multiple of 4, else ValueError.
        dropout: of the attentions; twice as much after the first layer on the map's cells.
    """

    default_loss = "cross_entropy"
    default_weak_loss = "soft_margin"
    default_pooling = "max"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        setting: Literal["supervised", "weakly-supervised"] = "supervised",
        hidden_dim: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden_dim % 4:
            raise ValueError(f"CMRAN: `hidden_dim` {hidden_dim} must be a multiple of its 4 heads")
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        map_dim = 2 * hidden_dim
        self.embed_cells = nn.Sequential(nn.Linear(visual_dim, map_dim), nn.ReLU(), nn.Dropout(2 * dropout))
        self.attention = SpatialChannelAttention(audio_dim, map_dim)
        self.audio = ModalityRelations(audio_dim, hidden_dim, dropout)
        self.visual = ModalityRelations(map_dim, hidden_dim, dropout)
        heads, categories = (4, num_classes) if setting == "supervised" else (2, num_classes + 1)
        self.fusion = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.fusion_dropout, self.fusion_norm = nn.Dropout(dropout), nn.LayerNorm(hidden_dim)
        self.event = nn.Linear(hidden_dim, 1)
        self.category = nn.Linear(hidden_dim, categories)

    def fuse(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The product of both modalities attends to the segments of both: (B, T, D), (B, T, D) -> (B, T, D)."""
        product, memory = audio * visual, torch.cat([audio, visual], dim=1)  # (B, T, D), (B, 2 T, D)
        attended = self.fusion(product, memory, memory, need_weights=False)[0]
        return self.fusion_norm(product + self.fusion_dropout(attended))

    def forward(self, batch: LocalizationBatch) -> EventOutput:
        """Score every segment for an event, and the clip for each category. Raises ValueError if a modality is missing
        or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `event_logits` (B, T), `category_logits` (B, C), weakly supervised (B, C + 1); `attention["visual"]`
            (B, T, H, W) if visual features are maps; `embeddings`, "audio" and "visual" after self-attention.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "CMRAN")
        cells = visual.flatten(2, 3) if visual.ndim == 5 else visual.unsqueeze(2)  # (B, T, K, D_v)
        attended, _, weights = self.attention(audio, self.embed_cells(cells))  # (B, T, D), _, (B, T, K)
        audio_memory, visual_memory = self.audio.memory(audio), self.visual.memory(attended)
        audio_out = self.audio.query(audio, visual_memory)  # (B, T, hidden)
        visual_out = self.visual.query(attended, audio_memory)
        fused = self.fuse(audio_out, visual_out)
        return EventOutput(
            event_logits=self.event(fused).squeeze(-1),
            category_logits=self.category(fused.amax(dim=1)),
            # (B, T, K) -> (B, T, H, W)
            attention={"visual": weights.view(visual.shape[:4])} if visual.ndim == 5 else {},
            embeddings={"audio": audio_memory, "visual": visual_memory, "fused": fused},
        )
