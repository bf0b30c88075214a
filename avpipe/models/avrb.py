"""AVRB: Ramaswamy and Das, See the Sound, Hear the Pixels, WACV 2020.

The abstract's two blocks in their simplest form: the Audio Visual Fusion Block (AVFB) joins both modalities of each
segment, and the Segment-Wise Attention Block (SWAB) weighs the segments. The rest is ours, see `CARD.assumptions`: no
code is public, and we did not have the paper. "AVRB" is the name in later papers' tables. The unsupervised form, with
the triplet Gram matrix loss, has no labels for localizing events and is left out.

    audio ─────────────────────── LSTM ── h^a ─┐
      └ audio-guided attention                AVFB ── z ── SWAB ── classifier
    visual map ──┴─────────────── LSTM ── h^v ─┘
"""

from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import LSTM, MFB, AudioGuidedAttention, audio_and_visual, classifier, visual_vectors

CARD = ModelCard(
    title="AVRB",
    paper="J. Ramaswamy and S. Das, See the Sound, Hear the Pixels, WACV 2020",
    task="localization",
    inputs="CNN features of a segment, audio and visual (methods it is compared with use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=1_990_734,
    code="none public",
    abstract_only=True,
    assumptions=(
        "AVFB is bilinear: MFB (p = 256, q = 5, dropout 0.1), the fusion of AVIN, by the same author; here it fuses the outputs of the two LSTMs.",
        "SWAB scores a segment by Linear, tanh (64), Linear of its fused feature, with a softmax over the segments; AVIN compares with the clip's mean instead.",
        "SWAB's output is (1 + T w_t) z_t: a residual keeps every segment, and T w_t is 1 where all weights are equal.",
        "The map's cells are summed by AVEL's audio-guided attention, since the paper localizes the sound in the image (option `attention`; without it their average).",
        "LSTMs of one layer in both directions, hidden 128, as in AVEL.",
        "Classifier: Linear, ReLU (64), Linear, as in AVEL.",
        "Loss: cross-entropy. Weakly supervised: each class's mean over time; on the demo the maximum, as in AVEL's code, trains less well (recipe: `pooling`).",
    ),
)


class SegmentWiseAttention(nn.Module):
    """SWAB: scale each segment, of width `dim`, by a learned score; `hidden_dim` is that of the score's first layer."""

    def __init__(self, dim: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, 1, bias=False)
        )

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, T, D) -> (1 + T w_t) z_t (B, T, D), and the weights w (B, T), which sum to one over the segments."""
        weights = self.score(fused).squeeze(-1).softmax(dim=1)  # (B, T)
        return (1 + fused.shape[1] * weights).unsqueeze(-1) * fused, weights


class AVRB(nn.Module):
    """Audio-visual event localization by a fusion block and a segment-wise attention block.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        attention: audio-guided visual attention over a map's cells; without it their average.
        attention_dim: hidden width of that attention.
        hidden_dim: of each direction of the LSTMs.
        fusion_dim: p, outputs of AVFB.
        factors: q, the rank of each of AVFB's bilinear forms.
        dropout: inside AVFB.
    """

    default_loss = "cross_entropy"
    default_pooling = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        visual_cells: int = 49,
        attention: bool = True,
        attention_dim: int = 512,
        hidden_dim: int = 128,
        fusion_dim: int = 256,
        factors: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.cells = visual_cells if attention else None
        self.look = (
            AudioGuidedAttention(audio_dim, visual_dim, visual_cells, attention_dim) if attention else None
        )
        self.audio_lstm = LSTM(audio_dim, hidden_dim)
        self.visual_lstm = LSTM(visual_dim, hidden_dim)
        self.fusion = MFB(2 * hidden_dim, 2 * hidden_dim, fusion_dim, factors, dropout)
        self.segments = SegmentWiseAttention(fusion_dim)
        self.classifier = classifier(fusion_dim, num_classes + 1)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention` "segments" (B, T) of SWAB, and "visual" (B, T, H, W) with
            attention over cells.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "AVRB", self.cells)
        pooled, weights = visual_vectors(self.look, audio, visual)  # (B, T, D_v)
        h_audio, h_visual = self.audio_lstm(audio)[0], self.visual_lstm(pooled)[0]  # (B, T, 2 * hidden)
        weighted, weights["segments"] = self.segments(self.fusion(h_visual, h_audio))  # (B, T, p), (B, T)
        return SegmentOutput(segment_logits=self.classifier(weighted), attention=weights)
