"""PSP: Zhou, Zheng, Zhong, Hao and Wang, Positive Sample Propagation along the Audio-Visual Event Line, CVPR 2021.

Every visual segment is compared with every audio segment. Pairs whose share of a segment's similarity is below a
threshold are cut; features flow along the others from one modality to the other. Sizes, initialisation, dropout and
losses are those of the released code (jasongief/PSP_CVPR_2021: fully_model.py, weakly_model.py), which has one network
for each setting.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import (
    LSTM,
    AudioGuidedAttention,
    audio_of,
    classifier,
    same_segments,
    visual_of,
    visual_vectors,
    xavier_,
)

CARD = ModelCard(
    title="PSP",
    paper="J. Zhou, L. Zheng, Y. Zhong, S. Hao and M. Wang, Positive Sample Propagation along the Audio-Visual Event Line, CVPR 2021",
    task="localization",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=1_548_657,
    code="https://github.com/jasongief/PSP_CVPR_2021",
    assumptions=(
        "Layers that the released code declares and never uses are left out: 1,548,657 of its 1,667,251 parameters remain (supervised), 1,253,902 of 1,254,251 (weakly supervised).",
        "For T other than 10 segments the threshold keeps its ratio to an equal share: tau * 10 / T.",
        "Weakly supervised, the released target holds the shares of event and background segments, which a video tag does not tell; here the target is the tag.",
        "Targets of the pair-similarity loss are a clip's own. The released loader never clears them: outside its event a clip keeps what the clip before it in the same place of a batch left, which concerns the third of the clips whose event is shorter than the clip.",
        "Vectors in place of maps (`attention: false`): global average pooling in place of the attended sum.",
        "Features of another width than the released ones change the first layers only.",
    ),
)

PAIR_SIMILARITY_WEIGHT = 100.0
"""The released code's weight of the pair-similarity loss."""


def positive_pairs(similarity: Tensor, tau: float, renormalise: bool) -> Tensor:
    """Weights of the pairs that propagate (the paper's gamma).

    Args:
        similarity: (B, T, T), not negative; row = receiving segment, column = sending segment.
        tau: smallest share of its row's sum that a pair needs at T = 10 (0.1 is an equal share), else tau * 10 / T.
        renormalise: make the remaining pairs of each row sum to one.

    Returns:
        (B, T, T), zero where the pair is cut.
    """
    share = similarity / (similarity.sum(dim=-1, keepdim=True) + 1e-8)
    kept = torch.where(share > tau * 10 / share.shape[-1], share, 0.0)
    return kept / (kept.sum(dim=-1, keepdim=True) + 1e-8) if renormalise else kept


def pair_similarity_loss(audio: Tensor, visual: Tensor, target: Tensor) -> Tensor:
    """The paper's AVPS loss: audio and visual features agree where there is an event, and only there.

    Args:
        audio, visual: (B, T, D).
        target: (B, T, C + 1), 0 or 1, background last.

    Returns:
        A scalar: the mean squared difference between each segment's share of the clip's (positive) cosine similarities
        and an equal share 1 / n on the n event segments (on background segments in a clip without an event).
    """
    similarity = functional.cosine_similarity(audio, visual, dim=-1).relu()  # (B, T)
    share = similarity / (similarity.sum(dim=-1, keepdim=True) + 1e-8)
    event = 1 - target[..., -1]  # (B, T)
    event = torch.where(event.any(dim=-1, keepdim=True), event, 1 - event)
    return functional.mse_loss(share, event / event.sum(dim=-1, keepdim=True))


class PositiveSamplePropagation(nn.Module):
    """Features of one modality's segments flow to similar segments of the other.

    Args:
        dim: D, of both modalities.
        tau: threshold, see `positive_pairs`.
        supervised: renormalise the pairs, and add a layer for each modality, as the released supervised network does.
        dropout: after each ReLU.
    """

    def __init__(self, dim: int, tau: float, supervised: bool, dropout: float) -> None:
        super().__init__()
        self.tau, self.supervised = tau, supervised
        self.visual_sends, self.visual_asks = _linear(dim), _linear(dim)  # the code's v_L1, v_L2
        self.audio_asked, self.audio_sends = _linear(dim), _linear(dim)  # a_L1, a_L2
        self.visual_out: nn.Module = nn.Identity()
        self.audio_out: nn.Module = nn.Identity()
        if supervised:
            self.visual_out = nn.Sequential(_linear(dim), nn.ReLU(), nn.Dropout(dropout))
            self.audio_out = nn.Sequential(_linear(dim), nn.ReLU(), nn.Dropout(dropout))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        xavier_(self)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Audio (B, T, D), visual (B, T, D) -> the same, and the pairs (B, T, T), receiving segments as rows.

        The pairs' names are "audio_from_visual" and "visual_from_audio".
        """
        query, key = self._branch(self.visual_asks, visual), self._branch(self.audio_asked, audio)
        similarity = (query @ key.mT / query.shape[-1] ** 0.5).relu()  # (B, T, T), visual rows
        to_visual = positive_pairs(similarity, self.tau, self.supervised)
        to_audio = positive_pairs(similarity.mT, self.tau, self.supervised)
        from_audio = to_visual @ self._branch(self.audio_sends, audio)  # (B, T, D)
        from_visual = to_audio @ self._branch(self.visual_sends, visual)
        pairs = {"audio_from_visual": to_audio, "visual_from_audio": to_visual}
        return (
            self.norm(self.audio_out(audio + from_visual)),
            self.norm(self.visual_out(visual + from_audio)),
            pairs,
        )

    def _branch(self, layer: nn.Module, features: Tensor) -> Tensor:
        return self.dropout(layer(features).relu())


class PSP(nn.Module):
    """Audio-visual event localization by positive sample propagation.

    Supervised, the loss is cross-entropy over segments plus 100 times the pair-similarity loss. Weakly supervised, each
    segment's scores are multiplied by a weight in [0.5, 1) computed from them, then averaged over time; the loss is
    binary cross-entropy on softmax probabilities.

    Args:
        num_classes: event categories C; the output has C + 1, background last.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        setting: which of the released code's two networks; set by the training loop.
        tau: threshold of the supervised network, see `positive_pairs`.
        weak_tau: threshold of the weakly supervised network.
        pair_similarity: the pair-similarity loss; it needs labels of segments, so supervised only.
        attention: audio-guided visual attention over a map's cells; without it their average.
        attention_dim: hidden width of that attention.
        hidden_dim: of each direction of the LSTMs; the supervised network first projects both modalities to it.
        dropout: inside the propagation.
    """

    default_loss = "cross_entropy"
    default_weak_loss = "binary_cross_entropy"
    default_pooling = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 28,
        audio_dim: int = 128,
        visual_dim: int = 512,
        visual_cells: int = 49,
        setting: Literal["supervised", "weakly-supervised"] = "supervised",
        tau: float = 0.099,
        weak_tau: float = 0.095,
        pair_similarity: bool = True,
        attention: bool = True,
        attention_dim: int = 512,
        hidden_dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        supervised = setting == "supervised"
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.pair_similarity = pair_similarity and supervised
        self.project_audio: nn.Module = nn.Identity()
        self.project_visual: nn.Module = nn.Linear(visual_dim, hidden_dim)
        audio_width = audio_dim
        if supervised:
            self.project_audio = _two_linear(audio_dim, hidden_dim)
            self.project_visual = _two_linear(visual_dim, hidden_dim)
            audio_width = hidden_dim
        self.attention = (
            AudioGuidedAttention(audio_width, visual_dim, visual_cells, attention_dim) if attention else None
        )
        self.cells = visual_cells if attention else None
        self.audio_lstm = LSTM(audio_width, hidden_dim)
        self.visual_lstm = LSTM(hidden_dim, hidden_dim)
        threshold = tau if supervised else weak_tau
        self.propagation = PositiveSamplePropagation(2 * hidden_dim, threshold, supervised, dropout)
        self.classifier = classifier(2 * hidden_dim, num_classes + 1, bias=False)
        self.weigh = None if supervised else nn.Linear(num_classes + 1, 1, bias=False)

    def forward(self, batch: LocalizationBatch) -> SegmentOutput:
        """Classify every segment. Raises ValueError if a modality is missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `target` for the pair-similarity loss.

        Returns:
            `segment_logits` (B, T, C + 1); `losses["pair_similarity"]` in supervised training; `attention`:
            "audio_from_visual" and "visual_from_audio" (B, T, T), the pairs that propagate, and "visual" (B, T, H, W);
            `embeddings`.
        """
        audio = self.project_audio(audio_of(batch.audio, self.audio_dim, "PSP"))  # (B, T, hidden), or D_a
        visual = visual_of(batch.visual, self.visual_dim, "PSP", self.cells)
        same_segments(audio, visual, "PSP")
        pooled, weights = visual_vectors(self.attention, audio, visual)  # (B, T, D_v)
        h_audio = self.audio_lstm(audio)[0]  # (B, T, 2 * hidden)
        h_visual = self.visual_lstm(self.project_visual(pooled))[0]
        embeddings = {"audio": h_audio, "visual": h_visual}
        h_audio, h_visual, pairs = self.propagation(h_audio, h_visual)
        embeddings["fused"] = (h_audio + h_visual) / 2
        logits = self.classifier(embeddings["fused"])  # (B, T, C + 1)
        if self.weigh is not None:
            logits = logits * self.weigh(logits).relu().sigmoid()
        losses = {}
        if self.pair_similarity and batch.target is not None:
            difference = pair_similarity_loss(h_audio, h_visual, batch.target)
            losses["pair_similarity"] = PAIR_SIMILARITY_WEIGHT * difference
        return SegmentOutput(
            segment_logits=logits, losses=losses, attention=weights | pairs, embeddings=embeddings
        )


def _linear(dim: int) -> nn.Linear:
    return nn.Linear(dim, dim, bias=False)


def _two_linear(in_dim: int, out_dim: int) -> nn.Sequential:
    """The released code's fa and fv: two matrices with nothing between them."""
    return nn.Sequential(
        nn.Linear(in_dim, 2 * out_dim, bias=False), nn.Linear(2 * out_dim, out_dim, bias=False)
    )
