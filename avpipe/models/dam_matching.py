"""DAM's matching alone, for cross-modality localization: Wu, Zhu, Yan and Yang, ICCV 2019.

The query, an event in one modality, becomes one global feature by self-attention among its own segments, which is
compared with each segment of the other modality. `avpipe.models.dam` has the same two parts. Here the query is given,
so event segments need no estimate: the model answers all possible queries, and evaluation gives it no true interval.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.models.base import CrossModalityBatch, ModelCard, QueryOutput
from avpipe.models.dam import RelevantSelfAttention, mean_probability_logit
from avpipe.models.layers import audio_and_visual, intervals, spatial_average

CARD = ModelCard(
    title="DAM (matching)",
    paper="Y. Wu, L. Zhu, Y. Yan and Y. Yang, Dual Attention Matching for Audio-Visual Event Localization, ICCV 2019",
    task="cross_modality",
    inputs="VGGish (128), VGG-19 block5_pool maps (7 x 7 x 512)",
    parameters=558_080,
    code="none public; unofficial in https://github.com/tonymisic/zero-shot-cml",
    assumptions=(
        "Local features, self-attention and matching are those of `dam` without audio-guided attention, which would tell a visual segment its sound: visual maps averaged over their cells, one Linear a modality to 256, one head, one layer, dot product over the square root of the width.",
        "Loss: binary cross-entropy of the mean of both directions' probabilities, as in `dam`, on clips whose event is one interval.",
        "An interval's score is the sum of its segments' dot products (unofficial code); an answer is right only if the whole interval is (both).",
    ),
)


def interval_features(attention: RelevantSelfAttention, local: Tensor, members: Tensor) -> Tensor:
    """The global feature of every interval: the mean of self-attention among its own segments.

    Args:
        attention: of the modality.
        local: (B, T, D).
        members: (I, T) bool, the segments of each interval, at least one.

    Returns:
        (B, I, D); row i does not depend on segments outside of interval i.
    """
    scores = attention.query(local) @ attention.key(local).transpose(1, 2) / math.sqrt(local.shape[-1])
    inside = scores.unsqueeze(1).masked_fill(~members.unsqueeze(1), -torch.inf)  # (B, I, T, T)
    share = members / members.sum(dim=1, keepdim=True)  # (I, T)
    weights = torch.einsum("it,bitu->biu", share, inside.softmax(dim=-1))
    return weights @ attention.value(local)  # (B, I, T) @ (B, T, D) -> (B, I, D)


class DAMMatching(nn.Module):
    """Cross-modality localization by matching a query's global feature with the other modality's local ones.

    Args:
        audio_dim, visual_dim: D_a and D_v.
        hidden_dim: D, of local and global features.
    """

    def __init__(self, *, audio_dim: int = 128, visual_dim: int = 512, hidden_dim: int = 256) -> None:
        super().__init__()
        self.audio_dim, self.visual_dim = audio_dim, visual_dim
        self.audio_local = nn.Linear(audio_dim, hidden_dim)
        self.visual_local = nn.Linear(visual_dim, hidden_dim)
        self.audio_global = RelevantSelfAttention(hidden_dim)
        self.visual_global = RelevantSelfAttention(hidden_dim)

    def forward(self, batch: CrossModalityBatch) -> QueryOutput:
        """Match every possible query with every segment of the other modality. Raises ValueError if a modality is
        missing or has another shape.

        Args:
            batch: audio (B, T, D_a); visual (B, T, D_v) or (B, T, H, W, D_v); `event` in training.

        Returns:
            `audio_to_visual` and `visual_to_audio` (B, I, T), logits; `losses["matching"]` if the event is given.
        """
        audio, visual = audio_and_visual(batch, self.audio_dim, self.visual_dim, "DAM (matching)")
        audio = self.audio_local(audio)  # (B, T, D)
        visual = self.visual_local(spatial_average(visual))  # (B, T, D)
        members = intervals(audio.shape[1]).to(audio.device)
        audio_queries = interval_features(self.audio_global, audio, members)  # (B, I, D)
        visual_queries = interval_features(self.visual_global, visual, members)
        scale = math.sqrt(audio.shape[-1])
        by_audio = audio_queries @ visual.transpose(1, 2) / scale  # (B, I, T)
        by_visual = visual_queries @ audio.transpose(1, 2) / scale
        losses = {}
        if batch.event is not None:
            losses["matching"] = matching_loss(by_audio, by_visual, batch.event, members)
        return QueryOutput(audio_to_visual=by_audio, visual_to_audio=by_visual, losses=losses)


def matching_loss(by_audio: Tensor, by_visual: Tensor, event: Tensor, members: Tensor) -> Tensor:
    """Binary cross-entropy of the logits of the true query with the event's segments.

    Args:
        by_audio: (B, I, T), logits for every audio query.
        by_visual: (B, I, T), for every visual query.
        event: (B, T), 0 or 1. Clips whose event is no interval (no segment, or several intervals) do not count.
        members: (I, T) bool, the segments of each interval.
    """
    true_query = (event.bool().unsqueeze(1) == members).all(dim=-1)  # (B, I), True at the event's interval
    if not true_query.any():
        return by_audio.sum() * 0
    clips = true_query.any(dim=1)
    logits = mean_probability_logit(by_audio[true_query], by_visual[true_query])  # (clips, T)
    return functional.binary_cross_entropy_with_logits(logits, event[clips])
