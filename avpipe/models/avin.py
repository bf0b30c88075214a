"""AVIN: Ramaswamy, What Makes the Sound? A Dual-Modality Interacting Network for AVE Localization, ICASSP 2020.

Built from the slides of the talk, equations 1 to 7; no code is public. How the parts are joined is our reading:

    F^a, F^v  ──────────────── MFB (2), (3) ──────────────── z ──────────────┐
       └─ two LSTMs ─ h^a, h^v ─ intra (4), (5) ─ s^a, s^v ─ inter (6), (7) ─ c^a, c^v ─ concatenate ─ classifier

Equation 2 multiplies F_t^v in R^{d_v} and F_t^a in R^{d_a}, which the slides define as the CNN features: MFB is the
*local* interaction within a segment, and attention over the LSTMs' outputs adds the *global* one ("using local and
global information from the two modalities"). With this reading each ablation row is the model without some part, and
"LSTM + intra + inter-mod" without MFB needs nothing new. `fuse="attended"` is the other reading: MFB joins the attended
LSTM outputs.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import (
    LSTM,
    MFB,
    AudioGuidedAttention,
    audio_of,
    classifier,
    draw_biases_,
    same_segments,
    visual_of,
    visual_vectors,
)

CARD = ModelCard(
    title="AVIN",
    paper="J. Ramaswamy, What Makes the Sound?: A Dual-Modality Interacting Network for Audio-Visual Event Localization, ICASSP 2020",
    task="localization",
    inputs="CNN features of a segment, audio and visual; the slides name no network (methods it is compared with use VGGish 128 and VGG-19 maps 7 x 7 x 512)",
    parameters=1_331_101,
    code="none public",
    assumptions=(
        "MFB fuses the CNN features, as in equation 2; its output is concatenated with the attended LSTM outputs (option `fuse`).",
        "Visual maps are averaged over their cells: the slides' F_t^v is a vector (option `visual_attention` for AVEL's attention).",
        "The LSTMs have one layer and run forward only: the slides say LSTM (option `bidirectional`).",
        "Both LSTMs have hidden 128, as in AVEL; the widths must be equal because equations 6 and 7 multiply one modality's h with the other's s.",
        "p = 256 (ours; the cited MFB uses 1000 for 3000 answers). q = 5 and dropout 0.1 after the product, as in MFB's released code. No bias, as in equation 2; standardized features have mean zero, so that a product keeps nothing of one modality alone (option `fusion_bias`).",
        "The softmax of equations 4 to 7 is over the segments: a dot product gives one number a segment.",
        "The classifier's input is s and c of both modalities with inter-modality attention, s with intra-modality attention only, h with neither.",
        "Inter-modality attention needs s, so it requires intra-modality attention.",
        "Classifier: Linear, ReLU (64), Linear as in AVEL.",
        "Fusion rows printed below `only LSTM` cannot hold LSTM and attention: read as `only MFB` with another fusion (`lstm`, `intra` and `inter` false).",
        "Fusion rows: multiplication and addition of linear projections to p (the widths differ); concatenation followed by Linear and ReLU.",
        "One modality alone: its LSTM and, optionally, its intra-modality attention.",
        "Loss: cross-entropy. Weakly supervised: each class's mean over time; on the demo the maximum, as in AVEL's code, trains less well (recipe: `pooling`).",
    ),
)


def temporal_attention(h: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 4 to 7: weigh segments by their dot product with a vector for the whole clip.

    Args:
        h: (B, T, H), one modality's LSTM outputs.
        context: (B, H): the mean of the same modality's h (intra), or of the other's s (inter).

    Returns:
        softmax over t of (h_t . context), times h_t: (B, T, H); and the weights (B, T).
    """
    weights = torch.einsum("bth,bh->bt", h, context).softmax(dim=1)
    return weights.unsqueeze(-1) * h, weights


class ProjectedFusion(nn.Module):
    """The simpler fusions of the slides' table: element-wise product or sum, or concatenation and an FC layer.

    Args:
        visual_dim, audio_dim: d_v and d_a.
        p: outputs.
        kind: which of the three.
        bias: std of the initial biases of a product's two factors; 0 = torch's default.
    """

    def __init__(
        self,
        visual_dim: int,
        audio_dim: int,
        p: int,
        kind: Literal["multiplication", "addition", "concatenation"],
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "concatenation":
            self.joint = nn.Linear(visual_dim + audio_dim, p)
        else:
            self.visual, self.audio = nn.Linear(visual_dim, p), nn.Linear(audio_dim, p)
            if bias and kind == "multiplication":
                draw_biases_(bias, self.visual, self.audio)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """(..., d_v), (..., d_a) -> (..., p)."""
        if self.kind == "concatenation":
            return torch.relu(self.joint(torch.cat([visual, audio], dim=-1)))  # (..., d_v + d_a) -> (..., p)
        if self.kind == "multiplication":
            return self.visual(visual) * self.audio(audio)
        return self.visual(visual) + self.audio(audio)


class AVIN(nn.Module):
    """Audio-visual event localization by local (MFB) and global (attention over time) interaction of modalities.

    The slides' ablation rows: only LSTM `fusion=none intra=false inter=false`; only MFB `lstm=false intra=false
    inter=false`; LSTM + intra `fusion=none inter=false`; LSTM + intra + inter `fusion=none`; all: the defaults.
    Raises ValueError for options that contradict each other.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: d_a and d_v.
        visual_cells: H * W of the visual map, for `visual_attention`; 1 where features are vectors.
        inputs: modalities that the model uses. One alone has no fusion and no inter-modality attention.
        fusion: how the modalities are joined; "none" leaves this part out.
        fuse: what is joined: the CNN features (equation 2) or the attended LSTM outputs.
        lstm: temporal modelling; without it the classifier reads the fused features only.
        intra: intra-modality attention, equations 4 and 5.
        inter: inter-modality attention, equations 6 and 7.
        bidirectional: LSTMs in both directions.
        visual_attention: AVEL's audio-guided attention over a map's cells in place of their average; needs maps.
            Without audio among the inputs the average is taken.
        hidden_dim: H, of each direction.
        fusion_dim: p.
        factors: q.
        dropout: inside MFB.
        fusion_bias: std of the initial biases of the two factors of MFB or the element-wise product; 0 = none (eq. 2),
            in the product torch's default. For features with mean zero, of which a product keeps too little.
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
        inputs: Literal["audio+visual", "audio", "visual"] = "audio+visual",
        fusion: Literal["mfb", "multiplication", "addition", "concatenation", "none"] = "mfb",
        fuse: Literal["features", "attended"] = "features",
        lstm: bool = True,
        intra: bool = True,
        inter: bool = True,
        bidirectional: bool = False,
        visual_attention: bool = False,
        hidden_dim: int = 128,
        fusion_dim: int = 256,
        factors: int = 5,
        dropout: float = 0.1,
        fusion_bias: float = 0.0,
    ) -> None:
        super().__init__()
        _check_parts(inputs, fusion, fuse, lstm, intra, inter)
        if fusion_bias < 0:
            raise ValueError(f"AVIN: fusion_bias is a standard deviation, 0 or more, not {fusion_bias}")
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.uses_audio, self.uses_visual = inputs != "visual", inputs != "audio"
        self.intra, self.inter, self.fuse = intra, inter, fuse
        both = self.uses_audio and self.uses_visual
        attends = visual_attention and both
        self.cells = visual_cells if attends else None
        self.look = AudioGuidedAttention(audio_dim, visual_dim, visual_cells) if attends else None
        self.audio_lstm = LSTM(audio_dim, hidden_dim, bidirectional) if lstm and self.uses_audio else None
        self.visual_lstm = LSTM(visual_dim, hidden_dim, bidirectional) if lstm and self.uses_visual else None
        h_dim = hidden_dim * (2 if bidirectional else 1) * (2 if inter else 1)  # s, or s and c
        encoded = h_dim * (self.uses_audio + self.uses_visual) if lstm else 0
        self.fusion: nn.Module | None = None
        if fusion != "none":
            v, a = (visual_dim, audio_dim) if fuse == "features" else (h_dim, h_dim)
            self.fusion = (
                MFB(v, a, fusion_dim, factors, dropout, fusion_bias)
                if fusion == "mfb"
                else ProjectedFusion(v, a, fusion_dim, fusion, fusion_bias)
            )
            encoded = fusion_dim + (encoded if fuse == "features" else 0)
        self.classifier = classifier(encoded, num_classes + 1)

    def interact(
        self, h_audio: Tensor | None, h_visual: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Intra- and inter-modality attention on the LSTMs' outputs.

        Args:
            h_audio: (B, T, H), or None without audio.
            h_visual: (B, T, H), or None without visual.

        Returns:
            Modality -> h, or s, or s and c concatenated, (B, T, H or 2 H); and the weights (B, T) of each attention by
            name, for example "inter_audio" of equation 6.
        """
        h = {name: value for name, value in (("audio", h_audio), ("visual", h_visual)) if value is not None}
        if not self.intra:
            return h, {}
        encoded, weights, s = {}, {}, {}
        for name in h:
            s[name], weights[f"intra_{name}"] = temporal_attention(h[name], h[name].mean(dim=1))
            encoded[name] = s[name]
        if self.inter:
            for name, other in (("audio", "visual"), ("visual", "audio")):
                c, weights[f"inter_{name}"] = temporal_attention(h[name], s[other].mean(dim=1))
                encoded[name] = torch.cat([s[name], c], dim=-1)  # (B, T, 2 H)
        return encoded, weights

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention`: weights over time (B, T) of equations 4 to 7, "intra_audio",
            "intra_visual", "inter_audio", "inter_visual", and "visual" (B, T, H, W) with `visual_attention`;
            `embeddings` of the modalities in use (after the LSTM, if any), and "fused".
        """
        audio, visual, where = self._features(batch)
        h_audio = self.audio_lstm(audio)[0] if self.audio_lstm is not None else None  # (B, T, H)
        h_visual = self.visual_lstm(visual)[0] if self.visual_lstm is not None else None
        encoded, weights = self.interact(h_audio, h_visual)
        parts = list(encoded.values())
        if self.fusion is not None and self.fuse == "features":
            parts = [self.fusion(visual, audio), *parts]
        elif self.fusion is not None:
            parts = [self.fusion(encoded["visual"], encoded["audio"])]
        fused = torch.cat(parts, dim=-1)  # (B, T, width of the classifier)
        before = {
            "audio": audio if h_audio is None else h_audio,
            "visual": visual if h_visual is None else h_visual,
        }
        return SegmentOutput(
            segment_logits=self.classifier(fused),
            attention={**where, **weights},
            embeddings={n: e for n, e in before.items() if e is not None} | {"fused": fused},
        )

    def _features(self, batch: LocalizationBatch) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
        """The checked features of the modalities in use; visual as vectors (B, T, D_v), with the weights of its cells."""
        audio = audio_of(batch.audio, self.audio_dim, "AVIN") if self.uses_audio else None
        if not self.uses_visual:
            return audio, None, {}
        visual = visual_of(batch.visual, self.visual_dim, "AVIN", self.cells)
        if audio is not None:
            same_segments(audio, visual, "AVIN")
        return audio, *visual_vectors(self.look, audio, visual)


def _check_parts(inputs: str, fusion: str, fuse: str, lstm: bool, intra: bool, inter: bool) -> None:
    """Raise ValueError for options that contradict each other."""
    wrong = None
    if inputs != "audio+visual" and (fusion != "none" or inter):
        wrong = f"inputs {inputs!r} has one modality: set `fusion: none` and `inter: false`"
    elif inter and not intra:
        wrong = "inter-modality attention uses the output of intra-modality attention: set `intra: true` or `inter: false`"
    elif intra and not lstm:
        wrong = (
            "attention works on the LSTMs' outputs: set `lstm: true`, or `intra: false` and `inter: false`"
        )
    elif fusion == "none" and not lstm:
        wrong = "without LSTM and without fusion nothing is left to classify: set one of `lstm`, `fusion`"
    elif fuse == "attended" and (fusion == "none" or not lstm):
        wrong = "`fuse: attended` joins the LSTMs' outputs: it needs `lstm: true` and a `fusion`"
    if wrong:
        raise ValueError(f"AVIN: {wrong}")
