"""CMAN: Xuan, Zhang, Chen, Yang and Yan, Cross-Modal Attention Network for Temporal Inconsistent AVE, AAAI 2020.

Sound and image of an event need not come together. The network chooses *where* to attend (cells of the image, asked by
the sound: Spatial Attention Module), *when* (segments, by self-attention that knows the clip's context: Global
Context-aware self-Attention Module) and *which* modality to trust (Cross-Modal Adaptive co-Attention Module). The
modules' names and order are the paper's; their insides are ours, see `CARD.assumptions`: no code is public, and
the paper was not at hand.

    audio ────────────── when ──┐
      └ where                   which ── classifier
    visual map ──┴────── when ──┘
"""

import math

import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch, AVOutput, ModelCard
from avpipe.models.layers import (
    AudioGuidedAttention,
    audio_of,
    classifier,
    same_segments,
    spatial_average,
    visual_of,
)

CARD = ModelCard(
    title="CMAN",
    paper="H. Xuan, Z. Zhang, S. Chen, J. Yang and Y. Yan, Cross-Modal Attention Network for Temporal Inconsistent Audio-Visual Event Localization, AAAI 2020",
    task="localization",
    inputs="feature maps of two CNNs (compared methods use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=1_286_100,
    code="none public",
    assumptions=(
        "Where: AVEL's audio-guided attention (option `attention`; without it the cells' average).",
        "One Linear a modality gives a common width, 256, before `when`; no LSTM.",
        "When: queries and keys are mixed with the clip's mean by learned gates, as in context-aware self-attention networks (Yang et al., AAAI 2019, global context); one head, a residual; weights of each modality's own.",
        "Which, co-attention: one affinity matrix of all pairs of an audio and a visual segment, read by rows and by columns; each modality adds what it finds in the other.",
        "Which, adaptive: a softmax over the two modalities, from one Linear on both; the fused feature is the weighted sum.",
        "Classifier: Linear, ReLU (64), Linear, as in AVEL.",
        "Loss: cross-entropy. Weakly supervised: each class's maximum over time, as in AVEL's code.",
        "The eigenvalue-based objective belongs to the later journal paper (TIP 2021) and is not here.",
    ),
)


class ContextGate(nn.Module):
    """Queries (or keys) that know the clip: (1 - g_t) W x_t + g_t U c, with g_t = sigmoid(w . W x_t + u . U c).

    c is the mean of x over the clip (context-aware self-attention networks, Yang et al., AAAI 2019). A gate a segment is what
    lets the context matter for keys: the same vector added to every key would change no softmax.

    Args:
        dim: D.
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
    """When: each segment adds what it finds in the clip's other segments.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = ContextGate(dim), ContextGate(dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), and the weights (B, T, T): a row says where a segment looks, and sums to one."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        weights = scores.softmax(dim=-1)
        return x + weights @ self.value(x), weights


class AdaptiveCoAttention(nn.Module):
    """Which: each modality looks the event up in the other one, at any time, and a gate weighs the two.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(2 * dim, 2)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            audio: (B, T, D).
            visual: (B, T, D).

        Returns:
            The fused features (B, T, D); and the weights (B, T, 2) of audio and of visual, which sum to one.
        """
        scores = self.affinity(audio) @ visual.transpose(1, 2) / math.sqrt(audio.shape[-1])  # (B, T_a, T_v)
        heard = audio + scores.softmax(dim=-1) @ visual
        watched = visual + scores.transpose(1, 2).softmax(dim=-1) @ audio
        which = self.gate(torch.cat([heard, watched], dim=-1)).softmax(dim=-1)  # (B, T, 2)
        return which[..., :1] * heard + which[..., 1:] * watched, which


class CMAN(nn.Module):
    """Audio-visual event localization by attention on where, when and which.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim: D_a.
        visual_dim: D_v.
        visual_cells: H * W of the visual map; 1 where features are vectors.
        attention: on where to look; without it the average of a map's cells.
        attention_dim: hidden width of that attention.
        hidden_dim: D, of both modalities.

    Raises:
        ValueError: for attention over vectors.
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

    def forward(self, batch: AVBatch) -> AVOutput:
        """Classify every segment.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention` "when_audio" and "when_visual" (B, T, T), "which" (B, T, 2) for
            audio and visual, and "visual" (B, T, H, W), where the model looked.

        Raises:
            ValueError: a modality is missing or has another shape.
        """
        audio = audio_of(batch.audio, self.audio_dim, "CMAN")
        visual = visual_of(batch.visual, self.visual_dim, "CMAN", self.cells)
        same_segments(audio, visual, "CMAN")
        seen: dict[str, Tensor] = {}
        if self.where is None:
            looked_at = spatial_average(visual)  # (B, T, D_v)
        else:
            looked_at, seen["visual"] = self.where(audio, visual)  # (B, T, D_v), (B, T, H, W)
        heard, seen["when_audio"] = self.when_audio(self.embed_audio(audio))  # (B, T, D), (B, T, T)
        watched, seen["when_visual"] = self.when_visual(self.embed_visual(looked_at))
        fused, seen["which"] = self.which(heard, watched)  # (B, T, D), (B, T, 2)
        return AVOutput(segment_logits=self.classifier(fused), attention=seen)
