"""Scores of audio-visual video parsing: F-scores of audio, visual and audio-visual labels, per segment and per event.

The definition is the one that all papers on LLP share (the evaluator of Tian et al., ECCV 2020: AVVP-ECCV20,
utils/eval_metrics.py). Audio-visual is audio times visual, in truth and in prediction. In each clip, a category counts
if it is true or predicted, with F = 2 TP / (2 TP + FP + FN). A clip's score is the mean over the categories that count,
or 1 if none does; the score is the mean over all clips. It is a mean of means, not an F-score of the whole split: empty
predictions score the share of clips without labels.
"""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]
Counts = tuple[Numbers, Numbers, Numbers]
"""True positives, false positives and false negatives of each row, (M,)."""

LEVELS = ("segment", "event")
KINDS = ("audio", "visual", "audio_visual", "type", "event")
METRICS = tuple(f"{level}_{kind}" for level in LEVELS for kind in KINDS)
"""The names of the ten scores; `type` is the papers' Type@AV, `event` their Event@AV."""


def parsing_scores(
    truth_audio: npt.ArrayLike,
    truth_visual: npt.ArrayLike,
    audio: npt.ArrayLike,
    visual: npt.ArrayLike,
    overlap: float = 0.5,
) -> dict[str, float]:
    """The field's ten scores, each a fraction 0 to 1, by the names of `METRICS`.

    `segment_...` count segments, `event_...` maximal runs of segments (see `event_counts`). Each level has `audio`,
    `visual` and `audio_visual`; `type`, the mean of these three scores; and `event`, the F-score of the added counts of
    audio and visual (not of audio-visual).

    Args:
        truth_audio: (N, T, C), 0 or 1: whether the segment has an audio event of the category.
        truth_visual: (N, T, C), 0 or 1: the same for visual events.
        audio: (N, T, C), 0 or 1, predicted.
        visual: (N, T, C), 0 or 1, predicted.
        overlap: intersection over union from which two events match ("mIoU"), at least 0.5.

    Raises:
        ValueError: if shapes differ, there is no clip, or a value is neither 0 nor 1.
    """
    arrays = {"truth_audio": truth_audio, "truth_visual": truth_visual, "audio": audio, "visual": visual}
    (true_audio, true_visual, predicted_audio, predicted_visual), owner, clips = _rows(arrays)
    pairs = {
        "audio": (true_audio, predicted_audio),
        "visual": (true_visual, predicted_visual),
        "audio_visual": (true_audio & true_visual, predicted_audio & predicted_visual),
    }
    scores: dict[str, float] = {}
    for level in LEVELS:
        counts = {
            kind: segment_counts(*pair) if level == "segment" else event_counts(*pair, overlap)
            for kind, pair in pairs.items()
        }
        found = {kind: mean_f_score(count, owner, clips) for kind, count in counts.items()}
        found["type"] = sum(found.values()) / 3
        (a_tp, a_fp, a_fn), (v_tp, v_fp, v_fn) = counts["audio"], counts["visual"]
        found["event"] = mean_f_score((a_tp + v_tp, a_fp + v_fp, a_fn + v_fn), owner, clips)
        scores |= {f"{level}_{kind}": score for kind, score in found.items()}
    return scores


def segment_counts(truth: Labels, prediction: Labels) -> Counts:
    """True positive, false positive and false negative segments of each row; both are (M, T)."""
    right = _count(truth & prediction)
    return right, _count(prediction) - right, _count(truth) - right


def event_counts(truth: Labels, prediction: Labels, overlap: float = 0.5) -> Counts:
    """True positive, false positive and false negative events of each row; both are (M, T).

    An event is a maximal run of segments. A predicted and a true event of one row match if intersection >= `overlap` *
    union; since `overlap` is at least 0.5, an event matches at most one other.
    """
    event, length, row = _runs(prediction)
    true_event, true_length, true_row = _runs(truth)
    shared = np.flatnonzero(truth & prediction)
    # One number for each pair of overlapping events; equal numbers are neighbours, in rising order.
    pair = event[shared] * (len(true_length) + 1) + true_event[shared]
    begins = np.flatnonzero(np.diff(pair, prepend=-1))
    intersection = np.diff(begins, append=len(pair))
    first, second = np.divmod(pair[begins], len(true_length) + 1)
    match = intersection >= overlap * (length[first] + true_length[second] - intersection)
    rows = len(truth)
    right = np.bincount(row[first[match]], minlength=rows)
    return right, np.bincount(row, minlength=rows) - right, np.bincount(true_row, minlength=rows) - right


def mean_f_score(counts: Counts, owner: Numbers, clips: int) -> float:
    """The mean over clips of each clip's mean F over its rows with a count; 1 for a clip without such rows.

    Args:
        counts: of the M rows.
        owner: (M,) each row's clip.
        clips: N, with clips that have no row.
    """
    right, wrong, missed = counts
    total = 2 * right + wrong + missed
    counting = np.bincount(owner[total > 0], minlength=clips)
    summed = np.bincount(owner, 2 * right / np.maximum(total, 1), minlength=clips)
    return float(np.where(counting > 0, summed / np.maximum(counting, 1), 1.0).mean())


def _count(rows: Labels) -> Numbers:
    """Ones in each row of (M, T). Counting positions is faster than a sum over an axis so short and mostly zero."""
    return np.bincount(np.flatnonzero(rows) // rows.shape[1], minlength=len(rows))


def _runs(rows: Labels) -> tuple[Numbers, Numbers, Numbers]:
    """The maximal runs of ones of (M, T).

    Returns:
        The number of each segment's run, (M * T,), meaningless at zeros; the runs' lengths; the runs' rows.
    """
    ones = np.flatnonzero(rows)
    begins = (np.diff(ones, prepend=-2) != 1) | (ones % rows.shape[1] == 0)
    number = np.zeros(rows.size, dtype=np.int64)
    number[ones] = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    return number, np.diff(first, append=len(ones)), ones[first] // rows.shape[1]


def _rows(arrays: dict[str, npt.ArrayLike]) -> tuple[list[Labels], Numbers, int]:
    """Check the arrays. Returns the rows (M, T) of each: every (clip, category) with a one in any array; their clips; N."""
    checked: list[Labels] = []
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.ndim != 3 or not array.size:
            raise ValueError(
                f"{name} has shape {array.shape}; expected (clips, segments, categories), none of them 0"
            )
        if checked and array.shape != checked[0].shape:
            raise ValueError(f"{name} has shape {array.shape} but truth_audio {checked[0].shape}")
        positive = array.astype(bool)
        if array.dtype != bool and not np.array_equal(positive, array):
            raise ValueError(f"{name} has values other than 0 and 1; apply a threshold first")
        checked.append(positive)
    some = np.logical_or.reduce(checked).any(axis=1)  # (N, C)
    clip, category = np.nonzero(some)
    return [array[clip, :, category] for array in checked], clip, len(some)
