"""Localization scores against counting by hand, and against constants of the AVE dataset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avpipe.metrics.localization import category_accuracy, confusion_matrix, segment_accuracy

CLASSES = 4


@st.composite
def label_arrays(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of one shape."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    labels = arrays(np.int64, shape, elements=st.integers(0, CLASSES - 1))
    return draw(labels), draw(labels)


@settings(deadline=None)  # the first call imports scikit-learn
@given(label_arrays())
def test_scores_are_the_shares_that_one_counts(labels: tuple[np.ndarray, np.ndarray]) -> None:
    pairs = list(zip(*(array.ravel().tolist() for array in labels), strict=True))
    right = [t == p for t, p in pairs]
    assert segment_accuracy(*labels) == pytest.approx(sum(right) / len(right))
    counts = [[pairs.count((t, p)) for p in range(CLASSES)] for t in range(CLASSES)]
    assert confusion_matrix(*labels, CLASSES).tolist() == counts
    for category, accuracy in enumerate(category_accuracy(*labels, CLASSES)):
        found = counts[category]
        assert (accuracy == found[category] / sum(found)) if sum(found) else np.isnan(accuracy)


@pytest.mark.parametrize(
    ("truth", "prediction", "says"),
    [
        ([[0, 1]], [[0], [1]], r"\(1, 2\) .* \(2, 1\)"),
        ([], [], "no segment to score"),
        ([0, 3], [0, 1], "truth .* 0 to 3"),
        ([0, 1], [-1, 1], "prediction .* -1 to 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, prediction, says):
    with pytest.raises(ValueError, match=says):
        confusion_matrix(np.array(truth, dtype=int), np.array(prediction, dtype=int), 3)


def test_constants_of_the_ave_test_split(shared):
    """No model: all background gives 17.79 %, the right class on every segment 82.2 % (reference, section 1)."""
    lines = (shared / "data" / "ave" / "testSet.txt").read_text().splitlines()
    rows = [line.split("&") for line in lines if line]
    categories = sorted({row[0] for row in rows})
    background = len(categories)
    truth = np.full((len(rows), 10), background)
    right_class = np.empty((len(rows), 10), dtype=int)
    for i, (category, _, _, start, end) in enumerate(rows):
        right_class[i] = categories.index(category)
        truth[i, int(start) : int(end)] = categories.index(category)
    assert truth.shape == (402, 10)
    assert round(100 * segment_accuracy(truth, np.full_like(truth, background)), 2) == 17.79
    assert round(100 * segment_accuracy(truth, right_class), 1) == 82.2
