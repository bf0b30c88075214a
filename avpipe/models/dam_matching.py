"""DAM's matching by itself: Wu, Zhu, Yan and Yang, ICCV 2019, on cross-modality localization.

The query, the event in one modality, becomes one global feature by self-attention among its own segments; each segment of
the other modality is compared with that. `avpipe.models.dam` has the same two parts, and with a classifier and an estimate
of the event segments it localizes events. Here the query is given, so nothing need be estimated: the model answers
every query that could be asked, and no true interval reaches it at test.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import AVBatch, AVOutput, ModelCard
from avpipe.models.dam import RelevantSelfAttention, mean_probability_logit
from avpipe.models.layers import audio_of, intervals, same_segments, spatial_average, visual_of

CARD = ModelCard(
    title="DAM (matching)",
    paper="Y. Wu, L. Zhu, Y. Yan and Y. Yang, Dual Attention Matching for Audio-Visual Event Localization, ICCV 2019",
    task="cross_modality",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=558_080,
    code="none public; unofficial in https://github.com/tonymisic/zero-shot-cml",
    assumptions=(
        "Local features, self-attention and matching are those of `dam`: visual maps averaged over their cells, one Linear a modality to 256, one head, one layer, dot product over the square root of the width.",
        "Loss: binary cross-entropy of the mean of both directions' probabilities, as `dam` has it, on clips whose event is one run of segments.",
        "A position is as good as the sum of its segments' dot products (unofficial code); the answer is right only if the whole interval is (both).",
    ),
)


def interval_features(attention: RelevantSelfAttention, local: Tensor, members: Tensor) -> Tensor:
    """The global feature of every interval: self-attention among its segments alone, averaged over them.

    Args:
        attention: of the modality.
        local: (B, T, D).
        members: (I, T) bool, the segments of each interval, at least one.

    Returns:
        (B, I, D); row i depends on no segment outside of interval i.
    """
    scores = attention.query(local) @ attention.key(local).transpose(1, 2) / math.sqrt(local.shape[-1])
    inside = scores.unsqueeze(1).masked_fill(~members.unsqueeze(1), -torch.inf)  # (B, I, T, T)
    share = members / members.sum(dim=1, keepdim=True)  # (I, T)
    weights = torch.einsum("it,bitu->biu", share, inside.softmax(dim=-1))
    return weights @ attention.value(local)  # (B, I, T) @ (B, T, D) -> (B, I, D)


class DAMMatching(nn.Module):
    """Cross-modality localization by matching a query's global feature with the other modality's local ones.

    Args:
        audio_dim: D_a.
        visual_dim: D_v.
        hidden_dim: D, of local and global features.
    """

    def __init__(self, *, audio_dim: int = 128, visual_dim: int = 512, hidden_dim: int = 256) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.audio_local = nn.Linear(audio_dim, hidden_dim)
        self.visual_local = nn.Linear(visual_dim, hidden_dim)
        self.audio_global = RelevantSelfAttention(hidden_dim)
        self.visual_global = RelevantSelfAttention(hidden_dim)

    def forward(self, batch: AVBatch) -> AVOutput:
        """Match every possible query with every segment of the other modality.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `targets` while the model is trained.

        Returns:
            `audio_to_visual` and `visual_to_audio` (B, I, T), logits; `losses` "matching" where there are targets.

        Raises:
            ValueError: a modality is missing or has another shape.
        """
        audio = audio_of(batch.audio, self.audio_dim, "DAM (matching)")
        visual = visual_of(batch.visual, self.visual_dim, "DAM (matching)")
        same_segments(audio, visual, "DAM (matching)")
        audio = self.audio_local(audio)  # (B, T, D)
        visual = self.visual_local(spatial_average(visual))  # (B, T, D)
        members = intervals(audio.shape[1]).to(audio.device)
        heard = interval_features(self.audio_global, audio, members)  # (B, I, D)
        seen = interval_features(self.visual_global, visual, members)
        scale = math.sqrt(audio.shape[-1])
        by_audio = heard @ visual.transpose(1, 2) / scale  # (B, I, T)
        by_visual = seen @ audio.transpose(1, 2) / scale
        losses = {}
        if batch.targets is not None:
            losses["matching"] = matching_loss(by_audio, by_visual, batch.targets["event"], members)
        return AVOutput(audio_to_visual=by_audio, visual_to_audio=by_visual, losses=losses)


def matching_loss(by_audio: Tensor, by_visual: Tensor, event: Tensor, members: Tensor) -> Tensor:
    """Binary cross-entropy: with the event as the query, its segments are to match and no others.

    Args:
        by_audio: (B, I, T), logits for every query.
        by_visual: (B, I, T), of the other direction.
        event: (B, T), 0 or 1. Clips whose event is no interval (no segment, or several runs) do not count.
        members: (I, T) bool.
    """
    asked = (event.bool().unsqueeze(1) == members).all(dim=-1)  # (B, I), True for the event's interval
    if not asked.any():
        return by_audio.sum() * 0
    clips = asked.any(dim=1)
    logits = mean_probability_logit(by_audio[asked], by_visual[asked])  # (clips, T)
    return functional.binary_cross_entropy_with_logits(logits, event[clips])
