"""Audio-visual grounding (AVG): which segments of a clip belong together, and the contrastive loss that trains it.

Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021, section 3.2: Algorithm 1 finds
the groups from the features alone, without labels; equations 4 to 6 are the objectives.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Objective = Literal["uni", "cross", "multi"]
Connect = Literal["either", "both"]


def cosine_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosine of every query with every key: (..., T, D), (..., S, D) -> (..., T, S).

    Always in float32: the distance of Algorithm 1's thresholds from 1 is about bfloat16's step size.
    """
    with torch.autocast(queries.device.type, enabled=False):
        query, key = (functional.normalize(each.float(), dim=-1) for each in (queries, keys))
        return query @ key.mT


def same_group(
    audio: Tensor, visual: Tensor, *, audio_threshold: float, visual_threshold: float, connect: Connect
) -> Tensor:
    """Algorithm 1: segments are nodes, similar ones are connected, a group is a connected component.

    Args:
        audio: (B, T, D_a), features of each segment.
        visual: (B, T, D_v).
        audio_threshold: a_t, smallest cosine of similar audio segments.
        visual_threshold: v_t, smallest cosine of similar visual segments.
        connect: "either": similarity in one modality is enough (the paper); "both": in both (the released code).

    Returns:
        (B, T, T) bool, GT(u, v): u and v are in one group; a segment is in one group with itself.
    """
    visual_similar = cosine_similarity(visual, visual) >= visual_threshold
    audio_similar = cosine_similarity(audio, audio) >= audio_threshold
    similar = visual_similar | audio_similar if connect == "either" else visual_similar & audio_similar
    return connected(similar)


def connected(edges: Tensor) -> Tensor:
    """Which nodes a path connects: (B, T, T) bool, symmetric -> (B, T, T) bool; a node is connected with itself."""
    nodes = edges.shape[-1]
    reached = edges | torch.eye(nodes, dtype=torch.bool, device=edges.device)
    length = 1
    while length < nodes - 1:  # squaring doubles the length of the paths covered
        reached = reached.float() @ reached.float() > 0
        length *= 2
    return reached


def first_of_group(same: Tensor) -> Tensor:
    """Each segment's group, numbered by its first segment: (B, T, T) bool -> (B, T) int64."""
    return same.to(torch.uint8).argmax(dim=-1)


def all_similarities(audio: Tensor, visual: Tensor) -> Tensor:
    """Cosines of every segment with every other, within and across modalities.

    Args:
        audio, visual: (B, T, D), in the joint space.

    Returns:
        (B, 2, 2, T, T); entry [b, m, n, i, j] is of segment i in modality m with segment j in n, 0 audio and 1 visual.
    """
    both = torch.stack([audio, visual], dim=1)  # (B, 2, T, D)
    return cosine_similarity(both.unsqueeze(2), both.unsqueeze(1))


def compared(objective: Objective) -> list[tuple[int, int]]:
    """Pairs (query, key) of modalities whose similarities an objective trains; 0 audio, 1 visual."""
    uni, cross = [(0, 0), (1, 1)], [(0, 1), (1, 0)]
    return {"uni": uni, "cross": cross, "multi": uni + cross}[objective]


def grounding_loss(
    similarity: Tensor,
    same: Tensor,
    segments: Tensor,
    objective: Objective,
    *,
    positive_margin: float,
    negative_margin: float,
) -> Tensor:
    """Equations 4 (uni), 5 (cross) and 6 (multi), for one segment i a clip, grounded in all segments j; a scalar.

    [p - <i, j>]_+ where i and j are in one group, [<i, j> - n]_+ elsewhere. Each sum of the equations is a mean over
    clips and j, as in the released code; these means are added.

    Args:
        similarity: (B, 2, 2, T, T), see `all_similarities`.
        same: (B, T, T) bool, see `same_group`.
        segments: (B,) int64, i of each clip.
        objective: which of the equations.
        positive_margin: p.
        negative_margin: n.
    """
    clips = torch.arange(len(segments), device=segments.device)
    grounded = torch.stack([similarity[clips, m, n, segments] for m, n in compared(objective)])  # (K, B, T)
    together = (positive_margin - grounded).relu()
    apart = (grounded - negative_margin).relu()
    return torch.where(same[clips, segments], together, apart).mean(dim=(1, 2)).sum()
