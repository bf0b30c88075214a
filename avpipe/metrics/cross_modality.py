"""Cross-modality localization: find an event given in one modality in the other modality of the same clip.

The rule is that of the released code (YapengTian/AVE-ECCV18, cmm_test.py). The query is the event in one modality: its l
segments, l known and smaller than T. It is compared with the other modality at each of the T - l + 1 positions; a
position's score is the sum over its l pairs of segments; the answer is the best position, the first one if several are
equal. An answer is right only at exactly the event's position: one second off is as wrong as nine.

Chance is 1 / (T - l + 1), which differs from clip to clip (`chance_accuracy`). On the 402 test clips of AVE's released
match split it is 20.8 %. Events there often begin or end with the clip: always answering "the first l seconds" is right
for 35.3 % of them, "the last l" for 46.8 %, without any model. A model that knows a segment's place in the clip could
learn that; ours do not know it. Random scores per segment (not per pair) reach 24.3 %: overlapping positions share
scores, so the best position is more often at an end.
"""

import numpy as np
import numpy.typing as npt

Similarity = npt.NDArray[np.floating]
Positions = npt.NDArray[np.int64]


def query_intervals(events: npt.NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """First segment and length of each clip's event; length 0 for a clip without a query.

    A clip has a query if its event segments are one run that is shorter than the clip.

    Args:
        events: (N, T), True on event segments.

    Returns:
        First segment and length, each (N,).
    """
    length = events.sum(axis=1)
    onset = events.argmax(axis=1)
    runs = (np.diff(events.astype(np.int8), axis=1, prepend=0) == 1).sum(axis=1)
    good = (runs == 1) & (length < events.shape[1])
    return np.where(good, onset, 0), np.where(good, length, 0)


def locate(similarity: Similarity, onset: Positions, length: Positions) -> Positions:
    """Slide each query over the other modality and take the best position.

    Args:
        similarity: (N, T, T), between segments of the query's modality (axis 1) and of the other (axis 2); for a distance,
            its negative.
        onset: (N,), the query's first segment.
        length: (N,), its segments, 1 to T.

    Returns:
        (N,) the first segment of the best position; the first one if several are equal.

    Raises:
        ValueError: if a shape is wrong or a query is not inside the clip.
    """
    _check(similarity, onset, length)
    found = np.zeros(len(similarity), np.int64)
    for i, (pairs, start, count) in enumerate(zip(similarity, onset, length, strict=True)):
        windows = np.lib.stride_tricks.sliding_window_view(pairs[start : start + count], count, axis=1)
        scores = windows.diagonal(axis1=0, axis2=2).sum(axis=1)  # (count, positions, count) -> (positions,)
        found[i] = scores.argmax()
    return found


def exact_match_accuracy(found: Positions, onset: Positions) -> float:
    """The share of queries that are found exactly where the event is, 0 to 1.

    Raises:
        ValueError: if the shapes differ or there is no query.
    """
    if found.shape != onset.shape:
        raise ValueError(f"{len(found)} answers for {len(onset)} queries")
    if not len(found):
        raise ValueError("no query to score: no clip has an event that is shorter than the clip")
    return float(np.mean(found == onset))


def chance_accuracy(length: Positions, segments: int) -> float:
    """Expected accuracy of a random position: the mean of 1 / (T - l + 1).

    Args:
        length: (N,) segments of the queries, 1 to T.
        segments: T.
    """
    return float(np.mean(1 / (segments - length + 1)))


def _check(similarity: Similarity, onset: Positions, length: Positions) -> None:
    """Raise ValueError unless the queries fit the similarities."""
    if similarity.ndim != 3 or similarity.shape[1] != similarity.shape[2]:
        raise ValueError(f"similarity is (N, T, T), found {similarity.shape}")
    if onset.shape != similarity.shape[:1] or length.shape != similarity.shape[:1]:
        raise ValueError(f"{len(similarity)} clips but {len(onset)} onsets and {len(length)} lengths")
    inside = (onset >= 0) & (length >= 1) & (onset + length <= similarity.shape[1])
    if not inside.all():
        worst = int(np.flatnonzero(~inside)[0])
        raise ValueError(
            f"clip {worst}: the query is {length[worst]} segments from {onset[worst]}; the clip has {similarity.shape[1]}"
        )
