"""JCAN: Duan, Tang, Wang, Zong, Yang and Yan, Audio-Visual Event Localization via Recursive Fusion by Joint
Co-Attention, WACV 2021.

The joint representation (both modalities, concatenated) is compared with each modality's course over time; the attended
result is added to the modality, and the step is repeated. Sizes, initialisation, dropout and loss are those of the
released code (tuffr5/Recursive-joint-co-attention, supervised only).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import LSTM, AudioGuidedAttention, audio_and_visual, visual_vectors, xavier_

CARD = ModelCard(
    title="JCAN",
    paper="B. Duan, H. Tang, W. Wang, Z. Zong, G. Yang and Y. Yan, Audio-Visual Event Localization via Recursive Fusion by Joint Co-Attention, WACV 2021",
    task="localization",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=22_776_510,
    code="https://github.com/tuffr5/Recursive-joint-co-attention",
    assumptions=(
        "Weakly supervised (not released): each class's maximum over time with the same loss, as in AVEL's code.",
        "The key matrix mixes exactly 10 segments; for clips of T segments it is resampled to T x T, with the sums of its rows kept.",
        "Vectors in place of maps (`attention: false`): global average pooling in place of the attended sum.",
        "Another `hidden_dim` scales every width of the released code with it, except the inputs.",
        "The released code reports the mean of its batches' accuracies, in which the smaller last batch counts as much as the others; here every segment counts once.",
    ),
)

SEGMENTS = 10


class RecurrentEncoder(nn.Module):
    """A two-layer bidirectional LSTM; its output is concatenated with its input, projected, and scaled to length one.

    Args:
        in_dim: of the input.
        dim: of the output; half of it is each direction's.
        dropout: between the LSTM's layers and before the projection.
    """

    def __init__(self, in_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.lstm = LSTM(in_dim, dim // 2, layers=2, dropout=dropout)
        self.initial = nn.Parameter(nn.init.xavier_uniform_(torch.empty(8, dim // 2)))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(in_dim + 2 * (dim // 2), dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, in_dim) -> (B, T, dim); the LSTM's initial states are learned, the same for every clip."""
        states = self.initial.unsqueeze(1).expand(-1, len(features), -1).contiguous()  # (8, B, dim / 2)
        encoded = self.lstm(features, (states[:4], states[4:]))[0]  # (B, T, dim)
        joined = torch.cat([features, encoded], dim=-1)  # (B, T, in_dim + dim)
        return functional.normalize(self.project(self.dropout(joined)), dim=-1)


class MixSegments(nn.Module):
    """The keys of the co-attention: a linear map over the T segments of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(SEGMENTS, SEGMENTS)

    def forward(self, channels: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        length = channels.shape[-1]
        if length == SEGMENTS:
            return self.mix(channels)
        weight = functional.interpolate(
            self.mix.weight[None, None], (length, length), mode="bilinear", align_corners=True
        )[0, 0]
        bias = functional.interpolate(self.mix.bias[None, None], length, mode="linear", align_corners=True)[
            0, 0
        ]
        return functional.linear(channels, weight * SEGMENTS / length, bias)


class JointCoAttention(nn.Module):
    """One recursion: both modalities are attended with their joint representation, and updated.

    With x one modality (T, D) and j = W_j [visual, audio],

        S = tanh(mix(x^T) j / sqrt(2 D)),   y = ReLU(tanh(W_x x S)),   x' = x + ReLU(W y)

    Args:
        dim: D, of each modality.
        dropout: of S and of what is added.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.joint = nn.Linear(2 * dim, 2 * dim)
        self.audio_key, self.visual_key = MixSegments(), MixSegments()
        self.audio_value, self.visual_value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.audio_out, self.visual_out = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def agreement(self, key: MixSegments, features: Tensor, joint: Tensor) -> Tensor:
        """S: (B, T, D) of one modality and (B, T, 2 D) of both -> (B, D, 2 D), between -1 and 1."""
        return torch.tanh(key(features.mT) @ joint / joint.shape[-1] ** 0.5)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B, T, D) -> the same, updated."""
        joint = self.joint(torch.cat([visual, audio], dim=-1))  # (B, T, 2 D)
        from_audio = self.dropout(self.agreement(self.audio_key, audio, joint))  # (B, D, 2 D)
        from_visual = self.dropout(self.agreement(self.visual_key, visual, joint))
        from_audio = torch.tanh(
            self.audio_value(audio) @ from_audio
        ).relu()  # (B, T, D) @ (B, D, 2 D) -> (B, T, 2 D)
        from_visual = torch.tanh(self.visual_value(visual) @ from_visual).relu()
        return (
            audio + self.dropout(self.audio_out(from_audio).relu()),
            visual + self.dropout(self.visual_out(from_visual).relu()),
        )


class JCAN(nn.Module):
    """Audio-visual event localization by recursive joint co-attention.

    The loss is MultiLabelSoftMarginLoss on softmax probabilities, as in AVEL's code.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        attention: audio-guided visual attention over a map's cells; without it their average.
        recursions: of the co-attention, each with weights of its own.
        hidden_dim: D, of each modality.
        dropout: of the co-attention and the classifier.
        lstm_dropout: of the encoders.
    """

    default_loss = "soft_margin"
    default_pooling = "max"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        visual_cells: int = 49,
        attention: bool = True,
        recursions: int = 4,
        hidden_dim: int = 512,
        dropout: float = 0.3,
        lstm_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.cells = visual_cells if attention else None
        self.audio_encoder = RecurrentEncoder(audio_dim, hidden_dim, lstm_dropout)
        self.attention: AudioGuidedAttention | None = None
        if attention:
            self.attention = AudioGuidedAttention(hidden_dim, visual_dim, visual_cells, hidden_dim)
        self.embed_visual = nn.Linear(visual_dim, hidden_dim)
        self.visual_encoder = RecurrentEncoder(hidden_dim, hidden_dim, lstm_dropout)
        self.recursions = nn.ModuleList(JointCoAttention(hidden_dim, dropout) for _ in range(recursions))
        self.joint_encoder = RecurrentEncoder(2 * hidden_dim, hidden_dim, 0.0)
        self.classifier = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim // 4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim // 4, num_classes + 1),
        )
        xavier_(self)
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention["visual"]` (B, T, H, W) with attention.
        """
        features, maps = audio_and_visual(batch, self.audio_dim, self.visual_dim, "JCAN", self.cells)
        audio = self.audio_encoder(functional.normalize(features, dim=-1))  # (B, T, D)
        # pooled: (B, T, D_v); weights["visual"]: (B, T, H, W)
        pooled, weights = visual_vectors(self.attention, audio, functional.normalize(maps, dim=-1))
        visual = self.visual_encoder(self.embed_visual(pooled))  # (B, T, D)
        for recursion in self.recursions:
            audio, visual = recursion(audio, visual)
        joint = self.joint_encoder(torch.cat([visual, audio], dim=-1))  # (B, T, D)
        return SegmentOutput(segment_logits=self.classifier(joint), attention=weights)
