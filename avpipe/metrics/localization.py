"""How well events are localized: every segment of every clip counts once, background like any category.

The papers' accuracy is correct segments over all segments (AVE's test split: 402 x 10), neither averaged over
categories nor over batches. Category C, the last, is background.
"""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer]


def segment_accuracy(truth: Labels, prediction: Labels) -> float:
    """The share of segments whose category is right, 0 to 1.

    Args:
        truth: (N, T) or any other shape, integers.
        prediction: the same shape.

    Raises:
        ValueError: if the shapes differ or there is no segment.
    """
    truth, prediction = _pair(truth, prediction)
    return float(np.mean(truth == prediction))


def category_accuracy(truth: Labels, prediction: Labels, classes: int) -> npt.NDArray[np.float64]:
    """Of the segments that truly are of a category, the share found; NaN where the truth has none.

    Args:
        truth: integers in 0 .. classes - 1, any shape.
        prediction: the same shape and range.
        classes: C + 1, background counted.

    Returns:
        (classes,) from 0 to 1.
    """
    counts = confusion_matrix(truth, prediction, classes)
    named = counts.sum(axis=1)
    return np.divide(np.diagonal(counts), named, out=np.full(classes, np.nan), where=named > 0)


def confusion_matrix(truth: Labels, prediction: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Segments of true category i that were called j.

    Args:
        truth: integers in 0 .. classes - 1, any shape.
        prediction: the same shape and range.
        classes: C + 1, background counted.

    Returns:
        (classes, classes) counts.

    Raises:
        ValueError: if the shapes differ, there is no segment, or a label is out of range.
    """
    truth, prediction = _pair(truth, prediction)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"{name} has labels {labels.min()} to {labels.max()}; {classes} classes allow 0 to {classes - 1}"
            )
    pairs = truth.astype(np.int64) * classes + prediction
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _pair(truth: Labels, prediction: Labels) -> tuple[Labels, Labels]:
    """Both flat, checked."""
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape} but prediction {prediction.shape}")
    if truth.size == 0:
        raise ValueError("no segment to score: truth and prediction are empty")
    return truth.ravel(), prediction.ravel()
