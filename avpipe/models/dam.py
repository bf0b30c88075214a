"""DAM: Wu, Zhu, Yan and Yang, Dual Attention Matching for Audio-Visual Event Localization, ICCV 2019.

Self-attention over the segments of the event gives one global feature a modality. The global feature of one modality is
multiplied with each local feature of the *other*; the product is trained to be large on event segments only:

    local audio ── self-attention on event segments ── global audio ──×── local visual ──┐
    local visual ─ self-attention on event segments ── global visual ─×── local audio ───┴─ event or background, a segment
                                                   both globals ── classifier ── the clip's category

The event segments are known in supervised training only. There the labels are used, as in the paper, and the model also
learns to estimate the segments. In evaluation and in weakly supervised training only the estimate is used: **no true
interval reaches a prediction** (in the unofficial tonymisic/zero-shot-cml it does, through the global feature).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import EventOutput, LocalizationBatch, ModelCard, SegmentOutput
from avpipe.models.layers import AudioGuidedAttention, audio_and_visual, classifier, visual_vectors

CARD = ModelCard(
    title="DAM",
    paper="Y. Wu, L. Zhu, Y. Yan and Y. Yang, Dual Attention Matching for Audio-Visual Event Localization, ICCV 2019",
    task="localization",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=1_214_029,
    code="none public; unofficial in https://github.com/tonymisic/zero-shot-cml",
    assumptions=(
        "Visual maps: AVEL's audio-guided attention over the cells (option `attention`; without it their average). The unofficial code averages the map and weighs its channels, by a softmax over them, guided by the audio. Chosen on the validation split of the demo rendered with seed 1, 3 seeds, with noise on the features 57 -> 69, without 59 -> 68, weakly supervised 56 -> 61; on the test split 52 -> 67, 60 -> 70 and 54 -> 62; on another split of these clips, with noise, 49 -> 64; on the test split of a demo rendered with seed 2, which chose nothing, 63 -> 71 without and 58 -> 71 with noise.",
        "Tried and left out: the unofficial code's dot product without the root and its classifier of three layers with dropout, and a ReLU on local features. On validation each loses 3 points or more somewhere: with noise, beside the attention, or weakly supervised.",
        "One Linear a modality gives local features of a common width, 256 (unofficial code).",
        "Self-attention: one head, one layer, no residual, a bias for the values only (unofficial code: torch's MultiheadAttention, whose queries have a bias too, with a linear map after it); the global feature is the mean of its outputs over the event segments (unofficial code: over all in the classifier; in matching over the true event segments, at test too).",
        "Without labels, event segments are estimated by matching with the global features of all segments; attention and mean weigh segments by the estimated probability (option `context: all`: all segments count equally, always).",
        "Supervised, the estimate is trained by binary cross-entropy with the labels, weight 1. In a clip without an event all segments count.",
        "Matching: dot product over the square root of the width (unofficial code: without the root), then a sigmoid; the probability of an event is the mean of both directions (as in the unofficial code).",
        "Category: Linear, ReLU (512), Linear on both global features; C categories, background where the event is improbable.",
        "Loss: cross-entropy of the category and binary cross-entropy of the event, 1 : 1 (unofficial code: 0.5 : 0.5).",
        "Weakly supervised (not in the paper): a segment's scores are the logarithms of P(event) P(category) and of 1 - P(event); each class's maximum over time is compared with the clip's label, so that clips without an event train background.",
    ),
)


class RelevantSelfAttention(nn.Module):
    """Self-attention weighted by the segments' relevance, then their mean with the same weights. `dim` is D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)

    def forward(self, local: Tensor, relevance: Tensor) -> Tensor:
        """Local features (B, T, D), relevance (B, T) -> the clip's global feature (B, D).

        Relevance is 0 to 1, and not all 0 in a clip; a segment of relevance 0 is ignored.
        """
        scores = self.query(local) @ self.key(local).transpose(1, 2) / math.sqrt(local.shape[-1])  # (B, T, T)
        scores = scores + relevance.clamp(min=1e-9).log().unsqueeze(1)
        attended = scores.softmax(dim=-1) @ self.value(local)  # (B, T, D)
        share = relevance / relevance.sum(dim=1, keepdim=True)
        return torch.einsum("bt,btd->bd", share, attended)


def matching_score(context: Tensor, local: Tensor) -> Tensor:
    """Scaled dot product of one modality's global feature (B, D) with the other's local features (B, T, D) -> (B, T)."""
    return torch.einsum("bd,btd->bt", context, local) / math.sqrt(local.shape[-1])


def mean_probability_logit(one: Tensor, other: Tensor) -> Tensor:
    """The logit of (sigmoid(one) + sigmoid(other)) / 2, precise also where these are nearly 0 or 1."""
    yes = torch.logaddexp(functional.logsigmoid(one), functional.logsigmoid(other))
    no = torch.logaddexp(functional.logsigmoid(-one), functional.logsigmoid(-other))
    return yes - no


def joint_log_probability(event: Tensor, category: Tensor) -> Tensor:
    """Logits of an event (B, T), of the clip's category (B, C) -> (B, T, C + 1), log-probabilities, background last.

    They are log p(event) p(category) and log (1 - p(event)); their exponentials sum to one.
    """
    some = functional.logsigmoid(event).unsqueeze(-1) + category.log_softmax(dim=-1).unsqueeze(1)  # (B, T, C)
    return torch.cat([some, functional.logsigmoid(-event).unsqueeze(-1)], dim=-1)  # (B, T, C + 1)


class DAM(nn.Module):
    """Audio-visual event localization by matching one modality's global feature with the other's local features.

    Args:
        num_classes: event categories C.
        audio_dim, visual_dim: D_a and D_v.
        visual_cells: H * W of the visual map; 1 for vectors, for which `attention` raises ValueError.
        setting: decides the form of the output; set by the training loop.
        context: segments behind a global feature: "events", those of the event (labelled in supervised training, else
            estimated), or "all".
        attention: AVEL's audio-guided attention over a map's cells; without it the average of the cells.
        attention_dim: hidden width of that attention.
        hidden_dim: D, of local and global features.
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
        setting: Literal["supervised", "weakly-supervised"] = "supervised",
        context: Literal["events", "all"] = "events",
        attention: bool = True,
        attention_dim: int = 512,
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim, self.context = audio_dim, visual_dim, context
        self.weak = setting == "weakly-supervised"
        self.cells = visual_cells if attention else None
        self.where = (
            AudioGuidedAttention(audio_dim, visual_dim, visual_cells, attention_dim) if attention else None
        )
        self.audio_local = nn.Linear(audio_dim, hidden_dim)
        self.visual_local = nn.Linear(visual_dim, hidden_dim)
        self.audio_global = RelevantSelfAttention(hidden_dim)
        self.visual_global = RelevantSelfAttention(hidden_dim)
        self.classifier = classifier(2 * hidden_dim, num_classes, hidden_dim=2 * hidden_dim)

    def forward(self, batch: LocalizationBatch) -> EventOutput | SegmentOutput:
        """Match both modalities, and classify the clip. Raises ValueError if a modality is missing or has another
        shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `target` in training.

        Returns:
            Supervised `event_logits` (B, T) and `category_logits` (B, C), weakly supervised `segment_logits`
            (B, T, C + 1); `losses["estimate"]` if event segments are estimated and labelled; `attention` (B, T):
            "audio_to_visual" and "visual_to_audio", the probability of an event by each direction, and "relevance";
            and "visual" (B, T, H, W) with attention over cells.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "DAM", self.cells)
        pooled, weights = visual_vectors(self.where, audio, visual)  # (B, T, D_v)
        audio, visual = self.audio_local(audio), self.visual_local(pooled)  # (B, T, D)
        relevance = audio.new_ones(audio.shape[:2])
        losses = {}
        if self.context == "events":
            estimate = mean_probability_logit(*self.match(audio, visual, relevance)[0])
            truth = true_events(batch)
            if truth is None:
                relevance = estimate.sigmoid()
            else:
                losses["estimate"] = functional.binary_cross_entropy_with_logits(estimate, truth)
                relevance = torch.where(truth.any(dim=1, keepdim=True), truth, relevance)
        (by_audio, by_visual), contexts = self.match(audio, visual, relevance)
        event, category = mean_probability_logit(by_audio, by_visual), self.classifier(contexts)
        weights |= {
            "audio_to_visual": by_audio.sigmoid(),
            "visual_to_audio": by_visual.sigmoid(),
            "relevance": relevance,
        }
        if self.weak:
            return SegmentOutput(segment_logits=joint_log_probability(event, category), attention=weights)
        return EventOutput(event_logits=event, category_logits=category, losses=losses, attention=weights)

    def match(self, audio: Tensor, visual: Tensor, relevance: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Match the global features of the relevant segments with the other modality.

        Args:
            audio, visual: (B, T, D), local.
            relevance: (B, T).

        Returns:
            The matching scores (B, T) of global audio with local visual, and of global visual with local audio; and
            both global features, concatenated, (B, 2 D).
        """
        global_audio = self.audio_global(audio, relevance)  # (B, D)
        global_visual = self.visual_global(visual, relevance)
        scores = matching_score(global_audio, visual), matching_score(global_visual, audio)
        return scores, torch.cat([global_audio, global_visual], dim=-1)  # (B, 2 D)


def true_events(batch: LocalizationBatch) -> Tensor | None:
    """Labels of event segments, (B, T), 0 or 1; None in evaluation and weakly supervised."""
    return None if batch.target is None or batch.target.ndim != 3 else 1 - batch.target[..., -1]
