"""AVT: Lin and Wang, Audiovisual Transformer with Instance Attention for Audio-Visual Event Localization, ACCV 2020.

A transformer that observes three things jointly: the sound, what is seen within a frame, and what is seen across
frames. Co-attention over all three tells each about the others, and attention over instances tells which region of the
image belongs to the event. This is the abstract; the insides are ours, see `CARD.assumptions`: no code is public, and
the paper was not at hand.

    audio of all segments ── transformer over time ─────────── audio token ──┐
    frames of all segments ─ transformer over time ───── inter-frame token ──┼─ co-attention in each segment ─┬─ classifier
    cells of a segment's map ─────────────────────────── intra-frame tokens ─┘            └─ instance attention ─┘
"""

import math

import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch, AVOutput, ModelCard
from avpipe.models.layers import audio_of, classifier, same_segments, visual_of

CARD = ModelCard(
    title="AVT",
    paper="Y.-B. Lin and Y.-C. F. Wang, Audiovisual Transformer with Instance Attention for Audio-Visual Event Localization, ACCV 2020",
    task="localization",
    inputs="feature maps of frames and audio features (compared methods use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=555_805,
    code="none public",
    assumptions=(
        "One Linear a modality gives a common width, 128; three transformer layers of 4 heads, feed-forward 256 with ReLU, dropout 0.1, layer norm after each sum: one over the audio's segments, one over the frames, one for co-attention.",
        "Inter-frame: a frame is the mean of its cells; sinusoidal positions say which second it is of. The audio likewise.",
        "Intra-frame: the cells of a segment's map are the instances; they carry no position, so maps of any size are taken, and a vector is a map of one cell.",
        "Co-attention is one self-attention over the segment's audio, inter-frame and intra-frame tokens, each kind marked by a learned vector, so all pairs of the three attend to each other.",
        "Instance attention: audio and inter-frame tokens together ask, scaled dot product with each cell's token, softmax over the cells.",
        "Classifier: Linear, ReLU (64), Linear, as in AVEL, on audio, inter-frame and attended instance side by side.",
        "Loss: cross-entropy. Weakly supervised: each class's maximum over time, as in AVEL's code.",
    ),
)


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """(length, dim): sin and cos of t / 10000^(2 i / dim) at even and odd places (Vaswani et al., 2017). dim is even."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))  # (dim / 2)
    angles = torch.arange(length).unsqueeze(1) * rates  # (length, dim / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class AVT(nn.Module):
    """Audio-visual event localization by a transformer with co-attention and instance attention.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim: D_a.
        visual_dim: D_v.
        hidden_dim: D, of all tokens; even, and a multiple of `heads`.
        heads: of each attention.
        dropout: in the transformer layers.
    """

    default_loss = "cross_entropy"
    default_pooling = "max"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        hidden_dim: int = 128,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.embed_audio = nn.Linear(audio_dim, hidden_dim)
        self.embed_visual = nn.Linear(visual_dim, hidden_dim)
        self.over_audio = _transformer_layer(hidden_dim, heads, dropout)
        self.over_frames = _transformer_layer(hidden_dim, heads, dropout)
        self.kinds = nn.Parameter(
            torch.empty(3, hidden_dim).normal_(std=0.02)
        )  # audio, inter-frame, intra-frame
        self.co_attention = _transformer_layer(hidden_dim, heads, dropout)
        self.instance_query = nn.Linear(2 * hidden_dim, hidden_dim)
        self.instance_key = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.classifier = classifier(3 * hidden_dim, num_classes + 1)

    def forward(self, batch: AVBatch) -> AVOutput:
        """Classify every segment.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention["visual"]` (B, T, H, W) over instances, where visual is maps;
            `embeddings`, the visual ones those of whole frames.

        Raises:
            ValueError: a modality is missing or has another shape.
        """
        audio = audio_of(batch.audio, self.audio_dim, "AVT")
        visual = visual_of(batch.visual, self.visual_dim, "AVT")
        same_segments(audio, visual, "AVT")
        cells = (
            visual.flatten(2, 3) if visual.ndim == 5 else visual.unsqueeze(2)
        )  # (B, T, H, W, D_v) -> (B, T, K, D_v)
        intra = self.embed_visual(cells)  # (B, T, K, D)
        heard = self.embed_audio(audio)  # (B, T, D)
        positions = sinusoidal_positions(heard.shape[1], heard.shape[2]).to(heard)
        heard = self.over_audio(heard + positions)  # (B, T, D)
        inter = self.over_frames(intra.mean(dim=2) + positions)  # (B, T, D)
        embeddings = {"audio": heard, "visual": inter}
        heard, inter, intra = self.attend_together(heard, inter, intra)
        instance, weights = self.attend_instances(heard, inter, intra)  # (B, T, D), (B, T, K)
        embeddings["fused"] = torch.cat([heard, inter, instance], dim=-1)  # (B, T, 3 D)
        return AVOutput(
            segment_logits=self.classifier(embeddings["fused"]),
            attention={"visual": weights.view(visual.shape[:4])} if visual.ndim == 5 else {},
            embeddings=embeddings,
        )

    def attend_together(self, heard: Tensor, inter: Tensor, intra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Co-attention of each segment's audio (B, T, D), inter-frame (B, T, D) and intra-frame (B, T, K, D) tokens."""
        tokens = torch.cat(
            [heard.unsqueeze(2) + self.kinds[0], inter.unsqueeze(2) + self.kinds[1], intra + self.kinds[2]],
            dim=2,
        )  # (B, T, 2 + K, D)
        together = self.co_attention(tokens.flatten(0, 1)).view_as(
            tokens
        )  # (B*T, 2 + K, D) -> (B, T, 2 + K, D)
        return together[:, :, 0], together[:, :, 1], together[:, :, 2:]

    def attend_instances(self, heard: Tensor, inter: Tensor, intra: Tensor) -> tuple[Tensor, Tensor]:
        """The instance (B, T, D) that sound and frames ask for, and the weights (B, T, K) over the cells."""
        query = self.instance_query(torch.cat([heard, inter], dim=-1))  # (B, T, D)
        scores = torch.einsum("btd,btkd->btk", query, self.instance_key(intra)) / math.sqrt(query.shape[-1])
        weights = scores.softmax(dim=-1)
        return torch.einsum("btk,btkd->btd", weights, intra), weights


def _transformer_layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True)
