"""AVT: Lin and Wang, Audiovisual Transformer with Instance Attention for Audio-Visual Event Localization, ACCV 2020.

A transformer reads audio, intra-frame and inter-frame visual information together. Co-attention relates all three, and
attention over instances selects the image region of the event. This is from the abstract; the inner layers are ours,
see `CARD.assumptions`: no code is public, and we did not have the paper.

    audio of all segments ── transformer over time ─────────── audio token ──┐
    frames of all segments ─ transformer over time ───── inter-frame token ──┼─ co-attention in each segment ─┬─ classifier
    cells of a segment's map ─────────────────────────── intra-frame tokens ─┘            └─ instance attention ─┘
"""

import math

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import audio_and_visual, classifier, sinusoidal_positions

CARD = ModelCard(
    title="AVT",
    paper="Y.-B. Lin and Y.-C. F. Wang, Audiovisual Transformer with Instance Attention for Audio-Visual Event Localization, ACCV 2020",
    task="localization",
    inputs="feature maps of frames and audio features (methods it is compared with use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=555_805,
    code="none public",
    abstract_only=True,
    assumptions=(
        "One Linear a modality maps to a common width, 128. Three transformer layers (over the audio segments, over the frames, for co-attention) of 4 heads, feed-forward 256 with ReLU, dropout 0.1, layer norm after each sum.",
        "Inter-frame: a frame is the mean of its cells; sinusoidal positions mark its segment. The same positions mark audio.",
        "Intra-frame: the cells of a segment's map are the instances. They carry no position, so maps may have any size; a vector is a map of one cell.",
        "Co-attention is one self-attention over the segment's audio, inter-frame and intra-frame tokens, each kind marked by a learned vector, so that all three attend to each other.",
        "Instance attention: the query comes from audio and inter-frame tokens together, scaled dot product with each cell's token, softmax over the cells.",
        "Classifier: Linear, ReLU (64), Linear, as in AVEL, on audio, inter-frame and attended instance, concatenated.",
        "Loss: cross-entropy. Weakly supervised: each class's maximum over time, as in AVEL's code.",
    ),
)


class AVT(nn.Module):
    """Audio-visual event localization by a transformer with co-attention and instance attention.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
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
        # One vector each for audio, inter-frame and intra-frame tokens.
        self.kinds = nn.Parameter(torch.empty(3, hidden_dim).normal_(std=0.02))
        self.co_attention = _transformer_layer(hidden_dim, heads, dropout)
        self.instance_query = nn.Linear(2 * hidden_dim, hidden_dim)
        self.instance_key = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.classifier = classifier(3 * hidden_dim, num_classes + 1)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention["visual"]` (B, T, H, W) over instances, if visual features are
            maps; `embeddings`, "visual" being the inter-frame tokens.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "AVT")
        # (B, T, H, W, D_v) -> (B, T, K, D_v)
        cells = visual.flatten(2, 3) if visual.ndim == 5 else visual.unsqueeze(2)
        intra = self.embed_visual(cells)  # (B, T, K, D)
        audio_tokens = self.embed_audio(audio)  # (B, T, D)
        positions = sinusoidal_positions(audio_tokens.shape[1], audio_tokens.shape[2]).to(audio_tokens)
        audio_tokens = self.over_audio(audio_tokens + positions)  # (B, T, D)
        inter = self.over_frames(intra.mean(dim=2) + positions)  # (B, T, D)
        embeddings = {"audio": audio_tokens, "visual": inter}
        audio_tokens, inter, intra = self.attend_together(audio_tokens, inter, intra)
        instance, weights = self.attend_instances(audio_tokens, inter, intra)  # (B, T, D), (B, T, K)
        embeddings["fused"] = torch.cat([audio_tokens, inter, instance], dim=-1)  # (B, T, 3 D)
        return SegmentOutput(
            segment_logits=self.classifier(embeddings["fused"]),
            # (B, T, K) -> (B, T, H, W)
            attention={"visual": weights.view(visual.shape[:4])} if visual.ndim == 5 else {},
            embeddings=embeddings,
        )

    def attend_together(self, audio: Tensor, inter: Tensor, intra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Co-attention in each segment over audio (B, T, D), inter-frame (B, T, D) and intra-frame (B, T, K, D) tokens."""
        tokens = torch.cat(
            [audio.unsqueeze(2) + self.kinds[0], inter.unsqueeze(2) + self.kinds[1], intra + self.kinds[2]],
            dim=2,
        )  # (B, T, 2 + K, D)
        # (B, T, 2 + K, D) -> (B*T, 2 + K, D) -> (B, T, 2 + K, D)
        together = self.co_attention(tokens.flatten(0, 1)).view_as(tokens)
        return together[:, :, 0], together[:, :, 1], together[:, :, 2:]

    def attend_instances(self, audio: Tensor, inter: Tensor, intra: Tensor) -> tuple[Tensor, Tensor]:
        """The instance (B, T, D) attended from audio and inter-frame tokens, and the weights (B, T, K) of the cells."""
        query = self.instance_query(torch.cat([audio, inter], dim=-1))  # (B, T, D)
        scores = torch.einsum("btd,btkd->btk", query, self.instance_key(intra)) / math.sqrt(query.shape[-1])
        weights = scores.softmax(dim=-1)
        return torch.einsum("btk,btkd->btd", weights, intra), weights


def _transformer_layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True)
