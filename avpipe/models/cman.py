"""CMAN: Xuan, Zhang, Chen, Yang and Yan, Cross-Modal Attention Network for Temporal Inconsistent AVE, AAAI 2020.

Audio and visual parts of an event need not coincide in time. The network attends to *where* (cells of the image, guided
by the audio: Spatial Attention Module), *when* (segments, by self-attention with the clip's context: Global
Context-aware self-Attention Module) and *which* modality (Cross-Modal Adaptive co-Attention Module). The modules' names
and order are the paper's; their inner layers are ours, see `CARD.assumptions`: no code is public, and we did not have
the paper.

    audio ────────────── when ──┐
      └ where                   which ── classifier
    visual map ──┴────── when ──┘
"""

import math

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import AudioGuidedAttention, audio_and_visual, classifier, visual_vectors

CARD = ModelCard(
    title="CMAN",
    paper="H. Xuan, Z. Zhang, S. Chen, J. Yang and Y. Yan, Cross-Modal Attention Network for Temporal Inconsistent Audio-Visual Event Localization, AAAI 2020",
    task="localization",
    inputs="feature maps of two CNNs (methods it is compared with use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=1_286_100,
    code="none public",
    abstract_only=True,
    assumptions=(
        "Where: AVEL's audio-guided attention (option `attention`; without it the average over cells).",
        "One Linear a modality maps to a common width, 256, before `when`; no LSTM.",
        "When: queries and keys are mixed with the clip's mean by learned gates, as in context-aware self-attention networks (Yang et al., AAAI 2019, global context); one head, a residual, separate weights for each modality.",
        "Which, co-attention: one affinity matrix of all pairs of an audio and a visual segment, normalised by rows and by columns; each modality adds what it attends to in the other.",
        "Which, adaptive: a softmax over the two modalities, from one Linear on both; the fused feature is the weighted sum.",
        "Classifier: Linear, ReLU (64), Linear, as in AVEL.",
        "Loss: cross-entropy. Weakly supervised: each class's maximum over time, as in AVEL's code.",
        "The eigenvalue-based objective belongs to the later journal paper (TIP 2021) and is left out.",
        "Tried and left out, because none gains 2 points on the validation split of the demo rendered with seed 1, with noise on the features: a ReLU on, and a layer normalization of, the local features, and LSTMs in front (58 in place of 68).",
    ),
)


class ContextGate(nn.Module):
    """Queries (or keys) mixed with the clip's context: (1 - g_t) W x_t + g_t U c.

    The gate g_t is sigmoid(w . W x_t + u . U c); c is the mean of x over the clip (context-aware self-attention networks, Yang et al., AAAI 2019). The gate must
    differ by segment for the context to matter in keys: one vector added to every key changes no softmax. `dim` is D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.segment = nn.Linear(dim, dim, bias=False)  # W
        self.context = nn.Linear(dim, dim, bias=False)  # U
        self.segment_gate = nn.Linear(dim, 1)  # w
        self.context_gate = nn.Linear(dim, 1, bias=False)  # u

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        segment, context = self.segment(x), self.context(x.mean(dim=1, keepdim=True))  # (B, T, D), (B, 1, D)
        gate = torch.sigmoid(self.segment_gate(segment) + self.context_gate(context))  # (B, T, 1)
        return (1 - gate) * segment + gate * context


class ContextAwareSelfAttention(nn.Module):
    """When: each segment attends to the clip's segments, with a residual. `dim` is D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = ContextGate(dim), ContextGate(dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), and the weights (B, T, T); row t holds the weights of segment t and sums to one."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        weights = scores.softmax(dim=-1)
        return x + weights @ self.value(x), weights


class AdaptiveCoAttention(nn.Module):
    """Which: each modality attends to all segments of the other, and a gate weighs the two. `dim` is D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(2 * dim, 2)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, T, D), visual (B, T, D) -> fused (B, T, D), and both modalities' weights (B, T, 2), of sum one."""
        scores = self.affinity(audio) @ visual.transpose(1, 2) / math.sqrt(audio.shape[-1])  # (B, T_a, T_v)
        audio_fused = audio + scores.softmax(dim=-1) @ visual
        visual_fused = visual + scores.transpose(1, 2).softmax(dim=-1) @ audio
        which = self.gate(torch.cat([audio_fused, visual_fused], dim=-1)).softmax(dim=-1)  # (B, T, 2)
        return which[..., :1] * audio_fused + which[..., 1:] * visual_fused, which


class CMAN(nn.Module):
    """Audio-visual event localization by attention on where, when and which.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        attention: `where`; without it the average of a map's cells.
        attention_dim: hidden width of that attention.
        hidden_dim: D, of both modalities.
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
        attention: bool = True,
        attention_dim: int = 512,
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.cells = visual_cells if attention else None
        self.where = (
            AudioGuidedAttention(audio_dim, visual_dim, visual_cells, attention_dim) if attention else None
        )
        self.embed_audio = nn.Linear(audio_dim, hidden_dim)
        self.embed_visual = nn.Linear(visual_dim, hidden_dim)
        self.when_audio = ContextAwareSelfAttention(hidden_dim)
        self.when_visual = ContextAwareSelfAttention(hidden_dim)
        self.which = AdaptiveCoAttention(hidden_dim)
        self.classifier = classifier(hidden_dim, num_classes + 1)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention` "when_audio" and "when_visual" (B, T, T), "which" (B, T, 2) for
            audio and visual, and "visual" (B, T, H, W) with attention over cells.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "CMAN", self.cells)
        pooled, weights = visual_vectors(self.where, audio, visual)  # (B, T, D_v)
        # Each (B, T, D), with weights (B, T, T).
        audio_context, weights["when_audio"] = self.when_audio(self.embed_audio(audio))
        visual_context, weights["when_visual"] = self.when_visual(self.embed_visual(pooled))
        fused, weights["which"] = self.which(audio_context, visual_context)  # (B, T, D), (B, T, 2)
        return SegmentOutput(segment_logits=self.classifier(fused), attention=weights)
