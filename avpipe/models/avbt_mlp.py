"""The classifier with which AV-BT's features are evaluated: "Self-Supervised Video Representation and Temporally Adaptive
Attention for Audio-Visual Event Localization", Applied Sciences 12(24), 12622, 2022, section 4.2.1.

A segment's features, of one modality or the sum of both, go through TACMA's three-layer MLP. Nothing looks at other
segments, so the scores are those of the features.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import audio_of, same_segments, spatial_average, visual_of

CARD = ModelCard(
    title="MLP on AV-BT's features",
    paper="Self-Supervised Video Representation and Temporally Adaptive Attention for Audio-Visual Event Localization, Applied Sciences 12(24), 12622, 2022",
    task="localization",
    inputs="features of AV-BT's encoders (256 each)",
    parameters=43_037,
    code="none public",
    assumptions=(
        "Linear, ReLU (128), Linear, ReLU (64), Linear: the paper gives neither its widths nor how it is trained.",
        "Weakly supervised (not in the paper): each class's mean over time.",
    ),
)


class AVBTMLP(nn.Module):
    """A three-layer MLP on the features of a segment; the loss is cross-entropy.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v; equal where both are used.
        inputs: the modality that is classified, or "audio+visual", the sum of both.

    Raises:
        ValueError: for two widths that cannot be summed.
    """

    default_loss = "cross_entropy"
    default_pooling = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 256,
        visual_dim: int = 256,
        inputs: Literal["audio+visual", "audio", "visual"] = "audio+visual",
    ) -> None:
        super().__init__()
        if inputs == "audio+visual" and audio_dim != visual_dim:
            raise ValueError(
                f"AVBTMLP: audio features of width {audio_dim} and visual ones of {visual_dim} cannot be summed: use features "
                "that were encoded in one space, such as AV-BT's"
            )
        self.audio_dim, self.visual_dim, self.inputs = audio_dim, visual_dim, inputs
        dim = visual_dim if inputs == "visual" else audio_dim
        self.classifier = nn.Sequential(
            nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, num_classes + 1)
        )

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v), averaged.

        Returns:
            `segment_logits` (B, T, C + 1); `embeddings`.
        """
        parts: dict[str, Tensor] = {}
        if self.inputs != "visual":
            parts["audio"] = audio_of(batch.audio, self.audio_dim, "AVBTMLP")
        if self.inputs != "audio":
            parts["visual"] = spatial_average(visual_of(batch.visual, self.visual_dim, "AVBTMLP"))
        if len(parts) == 2:
            same_segments(parts["audio"], parts["visual"], "AVBTMLP")
        fused = torch.stack(list(parts.values())).sum(0)  # (B, T, D)
        return SegmentOutput(segment_logits=self.classifier(fused), embeddings={**parts, "fused": fused})
