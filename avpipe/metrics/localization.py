"""Scores of event localization. Every segment of every clip counts once; background is category C, the last.

The papers' accuracy is correct segments over all segments (AVE's test split: 402 x 10), not a mean over categories or
batches.
"""

import numpy as np
import numpy.typing as npt

Labels = npt.ArrayLike


def segment_accuracy(truth: Labels, prediction: Labels) -> float:
    """The share of segments whose category is right, 0 to 1.

    Args:
        truth: integers, (N, T) or any other shape.
        prediction: the same shape.

    Raises:
        ValueError: if the shapes differ or there is no segment.
    """
    true, predicted = _flat(truth, prediction)
    return float(np.mean(true == predicted))


def category_accuracy(truth: Labels, prediction: Labels, classes: int) -> npt.NDArray[np.float64]:
    """Recall of each category: the share of its segments that is predicted, 0 to 1, (classes,); NaN without such segments.

    Arguments and errors are those of `confusion_matrix`.
    """
    from sklearn.metrics import recall_score

    true, predicted = _flat(truth, prediction, classes)
    scores = recall_score(true, predicted, labels=range(classes), average=None, zero_division=np.nan)
    return np.asarray(scores)


def confusion_matrix(truth: Labels, prediction: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Numbers of segments of true category i with prediction j, (classes, classes).

    Args:
        truth: integers in 0 .. classes - 1, any shape.
        prediction: the same shape and range.
        classes: C + 1, with background.

    Raises:
        ValueError: if the shapes differ, there is no segment, or a label is out of range.
    """
    from sklearn import metrics

    return metrics.confusion_matrix(*_flat(truth, prediction, classes), labels=range(classes))


def _flat(
    truth: Labels, prediction: Labels, classes: int | None = None
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Both as checked vectors: scikit-learn would leave out labels that are not among its `labels`."""
    true, predicted = np.asarray(truth), np.asarray(prediction)
    if true.shape != predicted.shape:
        raise ValueError(f"truth has shape {true.shape} but prediction {predicted.shape}")
    if true.size == 0:
        raise ValueError("no segment to score: truth and prediction are empty")
    for name, labels in (("truth", true), ("prediction", predicted)):
        if classes is not None and not 0 <= labels.min() <= labels.max() < classes:
            found = f"{labels.min()} to {labels.max()}"
            raise ValueError(f"{name} has labels {found}; {classes} classes allow 0 to {classes - 1}")
    return true.ravel(), predicted.ravel()
