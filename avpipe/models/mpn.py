"""MPN: Yu, Cheng and Feng, MPN: Multimodal Parallel Network for Audio-Visual Event Localization, ICME 2021.

Known from the abstract only; no code is public. Two subnetworks work in parallel on the same features:

    audio, visual ─┬─ co-attention (MCM) ─ mean over time ─ which event is in the clip?
                   └─ bottleneck attention (MBAM), segment by segment ─ is it in this segment?

Classification uses the whole clip ("global contexts"); localization keeps each segment's own features ("unmixed local
information") and only scales them. Both modules follow the sources of their names: multi-head attention across
modalities (Lu et al., Hierarchical question-image co-attention, 2016, in the form of Vaswani et al., 2017), and the
bottleneck attention module (Park et al., BAM, BMVC 2018) over time in place of space.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import EventOutput, LocalizationBatch, ModelCard
from avpipe.models.layers import AudioGuidedAttention, audio_and_visual, classifier, visual_vectors

CARD = ModelCard(
    title="MPN",
    paper="J. Yu, Y. Cheng and R. Feng, MPN: Multimodal Parallel Network for Audio-Visual Event Localization, ICME 2021",
    task="localization",
    inputs="not known from the abstract; methods it is compared with use VGGish (128) and VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=1_194_159,
    code="none public",
    abstract_only=True,
    assumptions=(
        "Only the abstract was available: two parallel subnetworks, MCM for global contexts and categories, MBAM for segments and boundaries. All sizes and inner layers are ours.",
        "Maps are summed by AVEL's audio-guided attention (vectors with `attention: false`); then both modalities are projected to 256, with a ReLU.",
        "MCM: each modality attends to the segments of the other (4 heads), with a residual and layer norm; mean over time, both modalities concatenated, Linear, ReLU (64), Linear.",
        "MBAM: BAM's sum of a channel branch and a spatial branch, with time for space and both modalities as channels: reduction 16, two convolutions of width 3 and dilation 2, no batch normalisation.",
        "The localization subnetwork has no LSTM and no attention across segments, since its information is to be unmixed.",
        "Event score and category are trained and combined as in CMRAN's released code, also weakly supervised (background is then a category), with cross-entropy.",
    ),
)


class CoAttention(nn.Module):
    """MCM: each modality attends to all segments of the other.

    Args:
        dim: D, of both modalities.
        heads: of each attention.
        dropout: of the attention weights and the residual branches.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.audio_asks = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.visual_asks = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.audio_norm, self.visual_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B, T, D) -> the same, each with its attended part of the other added."""
        from_visual = self.audio_asks(audio, visual, visual, need_weights=False)[0]
        from_audio = self.visual_asks(visual, audio, audio, need_weights=False)[0]
        return self.audio_norm(audio + self.dropout(from_visual)), self.visual_norm(
            visual + self.dropout(from_audio)
        )


class BottleneckAttention(nn.Module):
    """MBAM: scale channels, for the clip, and segments.

    With x both modalities, concatenated, c a bottleneck of x's mean over time and s one number a segment from
    convolutions over time, the output is x + x sigmoid(c + s). `dim` is D, the channels of both modalities together;
    `reduction` is that of the bottleneck.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        narrow = max(dim // reduction, 1)
        self.channels = nn.Sequential(nn.Linear(dim, narrow), nn.ReLU(), nn.Linear(narrow, dim))
        self.segments = nn.Sequential(
            nn.Conv1d(dim, narrow, 1),
            nn.Conv1d(narrow, narrow, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv1d(narrow, narrow, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv1d(narrow, 1, 1),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), and the gate (B, T, D) in (0, 1)."""
        channels = self.channels(features.mean(dim=1, keepdim=True))  # (B, 1, D)
        segments = self.segments(features.mT).mT  # (B, T, D) -> (B, 1, T) -> (B, T, 1)
        gate = torch.sigmoid(channels + segments)
        return features * (1 + gate), gate


class MPN(nn.Module):
    """Audio-visual event localization by a classification and a localization subnetwork in parallel.

    Args:
        num_classes: event categories C.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        setting: weakly supervised, background is a category too; set by the training loop.
        attention: audio-guided visual attention over a map's cells; without it their average.
        attention_dim: hidden width of that attention.
        hidden_dim: D, of each modality; a multiple of `heads`, else ValueError.
        heads: of the co-attention.
        reduction: of the bottleneck attention.
        dropout: of the co-attention.
    """

    default_loss = "cross_entropy"
    default_pooling = "max"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        visual_cells: int = 49,
        setting: Literal["supervised", "weakly-supervised"] = "supervised",
        attention: bool = True,
        attention_dim: int = 512,
        hidden_dim: int = 256,
        heads: int = 4,
        reduction: int = 16,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden_dim % heads:
            raise ValueError(f"MPN: `hidden_dim` {hidden_dim} must be a multiple of `heads` {heads}")
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.cells = visual_cells if attention else None
        self.attention = (
            AudioGuidedAttention(audio_dim, visual_dim, visual_cells, attention_dim) if attention else None
        )
        self.embed_audio = nn.Sequential(nn.Linear(audio_dim, hidden_dim), nn.ReLU())
        self.embed_visual = nn.Sequential(nn.Linear(visual_dim, hidden_dim), nn.ReLU())
        self.co_attention = CoAttention(hidden_dim, heads, dropout)
        self.category = classifier(2 * hidden_dim, num_classes + (setting == "weakly-supervised"))
        self.bottleneck = BottleneckAttention(2 * hidden_dim, reduction)
        self.event = classifier(2 * hidden_dim, 1)

    def classify(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The classification subnetwork: (B, T, D), (B, T, D) -> (B, C), weakly supervised (B, C + 1)."""
        contexts = torch.cat(self.co_attention(audio, visual), dim=-1)  # (B, T, 2 D)
        return self.category(contexts.mean(dim=1))

    def localize(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The localization subnetwork: (B, T, D), (B, T, D) -> (B, T)."""
        weighed, _ = self.bottleneck(torch.cat([audio, visual], dim=-1))  # (B, T, 2 D)
        return self.event(weighed).squeeze(-1)

    def forward(self, batch: LocalizationBatch) -> EventOutput:
        """Score every segment for an event, and the clip for each category. Raises ValueError if a modality is missing
        or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `event_logits` (B, T), `category_logits` (B, C), weakly supervised (B, C + 1); `attention["visual"]`
            (B, T, H, W) with attention.
        """
        features, maps = audio_and_visual(batch, self.audio_dim, self.visual_dim, "MPN", self.cells)
        pooled, weights = visual_vectors(self.attention, features, maps)  # (B, T, D_v)
        audio, visual = self.embed_audio(features), self.embed_visual(pooled)  # (B, T, D)
        return EventOutput(
            event_logits=self.localize(audio, visual),
            category_logits=self.classify(audio, visual),
            attention=weights,
        )
