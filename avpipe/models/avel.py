"""AVEL: Tian, Shi, Li, Duan and Xu, Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018.

The audio chooses the weights with which a segment's visual cells are summed. A bidirectional LSTM reads each modality's
segments; both outputs are concatenated, and a small classifier labels every segment. DMRN has a residual block in place
of the concatenation, and one linear layer. Sizes, initialisation, activation order, losses and pooling are those of the
released code (YapengTian/AVE-ECCV18: models.py, models_fusion.py, models_weakly.py); `CARD.assumptions` lists the forms
that were not released.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import (
    LSTM,
    AudioGuidedAttention,
    ResidualFusion,
    audio_of,
    classifier,
    same_segments,
    visual_of,
    visual_vectors,
    xavier_,
)

CARD = ModelCard(
    title="AVEL",
    paper="Y. Tian, J. Shi, B. Li, Z. Duan and C. Xu, Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018",
    task="localization",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512); later papers also ResNet-152 maps (7 x 7 x 2048)",
    parameters=1_335_246,
    code="https://github.com/YapengTian/AVE-ECCV18",
    assumptions=(
        "One modality alone (not released): the same LSTM and classifier on that modality; visual maps are averaged over their cells.",
        "Audio and visual without attention (not released): global average pooling of the map in place of the attended sum.",
        "Features of another width than the released ones change the first layers only; attention hidden 512, LSTM 128 a direction and classifier 64 stay.",
        "DMRN is trained from scratch; the published checkpoint was fine-tuned from a trained A+V-att (the repository's README). The attention's weights are drawn as A+V-att's, Xavier-uniform; DMRN's released code draws only its last layer so, and leaves the attention at torch's default. Its weak form was not released: pooled as A+V-att.",
        "Maps of another size than 7 x 7: the number of cells replaces the 49 of the attention's score map.",
    ),
)


class AVEL(nn.Module):
    """Audio-visual event localization with audio-guided visual attention.

    Weakly supervised, the released code takes each class's maximum over time before the softmax. In both settings its
    loss is MultiLabelSoftMarginLoss on softmax probabilities (it applies a sigmoid once more). These are the task's
    defaults for this model; a recipe can override them.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        inputs: modalities that the model uses; another one in the batch is ignored.
        attention: audio-guided visual attention over a map's cells; without it, and with one modality, their average.
        fusion: "concatenation", or "dmrn": the dual multimodal residual network (1,571,150 parameters); it needs both
            modalities, else ValueError.
        audio_term: see `AudioGuidedAttention`; "per_cell" is the released code.
        hidden_dim: of each direction of the LSTMs.
        attention_dim: width inside the attention.
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
        inputs: Literal["audio+visual", "audio", "visual"] = "audio+visual",
        attention: bool = True,
        fusion: Literal["concatenation", "dmrn"] = "concatenation",
        audio_term: Literal["per_cell", "per_channel"] = "per_cell",
        hidden_dim: int = 128,
        attention_dim: int = 512,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.attention: AudioGuidedAttention | None = None
        self.audio_lstm: LSTM | None = None
        self.visual_lstm: LSTM | None = None
        if inputs == "audio+visual" and attention:
            self.attention = AudioGuidedAttention(
                audio_dim, visual_dim, visual_cells, attention_dim, audio_term
            )
        if inputs != "visual":
            self.audio_lstm = LSTM(audio_dim, hidden_dim)
        if inputs != "audio":
            self.visual_lstm = LSTM(visual_dim, hidden_dim)
        self.cells = visual_cells if self.attention else None
        self.fusion: ResidualFusion | None = None
        self.classifier: nn.Module
        if fusion == "concatenation":
            modalities = 2 if inputs == "audio+visual" else 1
            self.classifier = classifier(modalities * 2 * hidden_dim, num_classes + 1)
        elif inputs == "audio+visual":
            self.fusion = ResidualFusion(2 * hidden_dim)
            self.classifier = nn.Linear(2 * hidden_dim, num_classes + 1)
            xavier_(self.classifier)
        else:
            raise ValueError(f"AVEL: inputs {inputs!r} has nothing to fuse: set `fusion: concatenation`")

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v).

        Returns:
            `segment_logits` (B, T, C + 1); `attention["visual"]` (B, T, H, W) with attention; `embeddings` of the
            modalities in use, and "fused".
        """
        encoded: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        if self.audio_lstm is not None:
            audio = audio_of(batch.audio, self.audio_dim, "AVEL")
            encoded["audio"] = self.audio_lstm(audio)[0]  # (B, T, 2 * hidden)
        if self.visual_lstm is not None:
            visual = visual_of(batch.visual, self.visual_dim, "AVEL", self.cells)
            if encoded:
                same_segments(encoded["audio"], visual, "AVEL")
            pooled, weights = visual_vectors(self.attention, batch.audio, visual)  # (B, T, D_v)
            encoded["visual"] = self.visual_lstm(pooled)[0]  # (B, T, 2 * hidden)
        parts = list(encoded.values())
        # (B, T, 4 * hidden) concatenated, (B, T, 2 * hidden) from DMRN or one modality
        fused = self.fusion(*parts) if self.fusion else torch.relu(torch.cat(parts, dim=-1))
        return SegmentOutput(
            segment_logits=self.classifier(fused), attention=weights, embeddings={**encoded, "fused": fused}
        )
