"""TACMA: temporally adaptive cross-modal attention, from "Self-Supervised Video Representation and Temporally Adaptive
Attention for Audio-Visual Event Localization", Applied Sciences 12(24), 12622, 2022. Equations 3 to 9.

Each audio segment attends to each visual segment and the reverse. The weight of a pair shrinks with the time between
its segments, and the faster the less similar they are. The paper feeds it fixed features of its own self-supervised
encoders (AV-BT, `encoder="none"`); by default, encoders of the same form are trained with it on CNN features.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import LSTM, audio_and_visual, spatial_average, xavier_

CARD = ModelCard(
    title="TACMA",
    paper="Self-Supervised Video Representation and Temporally Adaptive Attention for Audio-Visual Event Localization, Applied Sciences 12(24), 12622, 2022",
    task="localization",
    inputs="features of AV-BT's encoders, whose inputs are VGGish (128) and ResNet-50 features (512)",
    parameters=1_358_365,
    code="none public",
    assumptions=(
        "Encoders in front: a bidirectional LSTM a modality, 128 each direction, as in AVEL, whose structure the paper calls similar; d_l = 256. Maps are averaged over their cells, since the paper's encoders have no visual attention.",
        "d_h = d_e = d_l; the weight matrices have no bias; both modalities share equation 7's layer normalisation, which is one symbol there.",
        "Equation 3 divides by the square root of d_l: the text says scaled dot-product, and the root sign is lost in print.",
        "Equation 6 is read as cross-modal attention, which theta = 0 must give: audio is the query, visual segments are the values, the audio is added. With equation 3's names that is W^av (f_v W_v2) + f_a; printed is W^va (option `equation_6`).",
        "Where a softmax is below 1e-6, equation 4 takes 1e-6: the weight is zero either way, and the slope stays finite.",
        "PyTorch's initialisation (option `initialization`; Xavier's for the attention and the classifier). Chosen on the validation split of the demo rendered with seed 1 with noise on the features, 4 seeds: 60 -> 65; on its test split 59.7 ± 5.9 -> 64.1 ± 2.0; on the same clips split anew 57 -> 61 with noise, 72 -> 74 without; on a demo rendered with seed 2, 75 -> 77 without.",
        "Three-layer MLP: Linear, ReLU (128), Linear, ReLU (64), Linear.",
        "Weakly supervised (not in the paper): each class's mean over time; on the demo the maximum, as in AVEL's code, trains less well (recipe: `pooling`).",
    ),
)


def cross_modal_attention(audio: Tensor, visual: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Equation 3, and the ReLU and row-wise softmax that follow it.

    Args:
        audio, visual: (B, T, d_h), f_a W_a1 and f_v W_v1.
        scale: divides the products.

    Returns:
        M^av (B, T, T), audio segments as rows, and M^va, visual segments as rows. Rows sum to one.
    """
    similarity = (audio @ visual.mT / scale).relu()  # (B, T, T)
    return similarity.softmax(dim=-1), similarity.mT.softmax(dim=-1)


def temporal_weights(attention: Tensor, theta: float) -> Tensor:
    """Equation 4, exp(-theta |i - j| / M_ij): attention M (..., T, T) -> (..., T, T).

    M and theta are not negative. One on the diagonal; smaller the further apart in time and the smaller M.
    """
    time = torch.arange(attention.shape[-1], device=attention.device, dtype=attention.dtype)
    distance = (time[:, None] - time).abs()  # (T, T)
    return torch.exp(-theta * distance / attention.clamp(min=1e-6))


class TemporallyAdaptiveAttention(nn.Module):
    """Equations 3 to 7.

    Args:
        dim: d_l, of both modalities; d_h and d_e are the same.
        theta: of equation 4.
        equation_6: "cross-modal" or "as_printed", see `CARD.assumptions`.
    """

    def __init__(self, dim: int, theta: float, equation_6: Literal["cross-modal", "as_printed"]) -> None:
        super().__init__()
        self.theta, self.equation_6 = theta, equation_6
        self.audio_key, self.visual_key = _matrix(dim), _matrix(dim)  # W_a1, W_v1
        self.audio_value, self.visual_value = _matrix(dim), _matrix(dim)  # W_a2, W_v2
        self.audio_out, self.visual_out = _matrix(dim), _matrix(dim)  # W_a3, W_v3
        self.norm = nn.LayerNorm(dim)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """f_a (B, T, d_l), f_v (B, T, d_l) -> f_{a<-v} and f_{v<-a}, (B, T, d_l), and equation 5's matrices (B, T, T).

        Their rows are queries: "audio_from_visual" is W^av, "visual_from_audio" W^va.
        """
        audio_weights, visual_weights = cross_modal_attention(
            self.audio_key(audio), self.visual_key(visual), audio.shape[-1] ** 0.5
        )
        audio_weights = temporal_weights(audio_weights, self.theta) * audio_weights  # W^av
        visual_weights = temporal_weights(visual_weights, self.theta) * visual_weights  # W^va
        weights = {"audio_from_visual": audio_weights, "visual_from_audio": visual_weights}
        if self.equation_6 == "as_printed":
            audio_weights, visual_weights = visual_weights, audio_weights
        visual_fused = audio_weights @ self.visual_value(visual) + audio  # V_fuse
        audio_fused = visual_weights @ self.audio_value(audio) + visual  # A_fuse
        return self.norm(self.audio_out(audio_fused)), self.norm(self.visual_out(visual_fused)), weights


class TACMA(nn.Module):
    """Audio-visual event localization by temporally adaptive cross-modal attention; the loss is cross-entropy.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        encoder: "lstm", trained with the attention; "none" for features that are encoded already, of one width.
        theta: how fast a pair's weight shrinks with the time between its segments; 0 is plain cross-modal attention.
        equation_6: pairing of attention matrices and values: as the text describes them or as printed.
        hidden_dim: of each direction of the LSTMs.
        initialization: of the attention's and the classifier's weights: PyTorch's or "xavier" (uniform).

    Raises:
        ValueError: for a negative theta, or features of two widths without an encoder.
    """

    default_loss = "cross_entropy"
    default_pooling = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        encoder: Literal["lstm", "none"] = "lstm",
        theta: float = 0.03,
        equation_6: Literal["cross-modal", "as_printed"] = "cross-modal",
        hidden_dim: int = 128,
        initialization: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__()
        if theta < 0:
            raise ValueError(
                f"TACMA: `theta` {theta} would favour segments that are far apart; it is at least 0"
            )
        if encoder == "none" and audio_dim != visual_dim:
            raise ValueError(
                f"TACMA: audio features of width {audio_dim} and visual ones of {visual_dim} cannot be compared: set "
                "`encoder: lstm`, or use features that were encoded in one space"
            )
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.audio_lstm: LSTM | None = None
        self.visual_lstm: LSTM | None = None
        dim = audio_dim  # d_l
        if encoder == "lstm":
            self.audio_lstm = LSTM(audio_dim, hidden_dim)
            self.visual_lstm = LSTM(visual_dim, hidden_dim)
            dim = 2 * hidden_dim
        self.attention = TemporallyAdaptiveAttention(dim, theta, equation_6)
        self.classifier = nn.Sequential(
            nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, num_classes + 1)
        )
        if initialization == "xavier":
            xavier_(self)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v), averaged.

        Returns:
            `segment_logits` (B, T, C + 1); `attention` "audio_from_visual" and "visual_from_audio" (B, T, T);
            `embeddings`.
        """
        audio, maps = audio_and_visual(batch, self.audio_dim, self.visual_dim, "TACMA")
        visual = spatial_average(maps)  # (B, T, D_v)
        if self.audio_lstm is not None and self.visual_lstm is not None:
            audio, visual = self.audio_lstm(audio)[0], self.visual_lstm(visual)[0]  # (B, T, d_l)
        audio_fused, visual_fused, weights = self.attention(audio, visual)
        fused = visual_fused + audio_fused
        return SegmentOutput(
            segment_logits=self.classifier(fused),
            attention=weights,
            embeddings={
                "audio": audio,
                "visual": visual,
                "audio_fused": audio_fused,
                "visual_fused": visual_fused,
                "fused": fused,
            },
        )


def _matrix(dim: int) -> nn.Linear:
    return nn.Linear(dim, dim, bias=False)
