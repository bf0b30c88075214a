"""Segment accuracy against an obvious implementation, and against constants of the AVE dataset."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avpipe.metrics.localization import category_accuracy, confusion_matrix, segment_accuracy

CLASSES = 4
label_arrays = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        *(arrays(np.int64, shape, elements=st.integers(0, CLASSES - 1)) for _ in range(2))
    )
)


def pairs(truth, prediction):
    return [
        (t, p)
        for ts, ps in zip(truth.tolist(), prediction.tolist(), strict=True)
        for t, p in zip(ts, ps, strict=True)
    ]


@given(label_arrays)
def test_accuracy_is_right_segments_over_all_segments(labels):
    right = [t == p for t, p in pairs(*labels)]
    assert segment_accuracy(*labels) == pytest.approx(sum(right) / len(right))


@given(label_arrays)
def test_confusion_counts_every_pair(labels):
    expected = [
        [sum((t, p) == (i, j) for t, p in pairs(*labels)) for j in range(CLASSES)] for i in range(CLASSES)
    ]
    assert confusion_matrix(*labels, CLASSES).tolist() == expected


@given(label_arrays)
def test_category_accuracy_is_the_share_found_of_each_category(labels):
    for category, accuracy in enumerate(category_accuracy(*labels, CLASSES)):
        found = [p == category for t, p in pairs(*labels) if t == category]
        assert (accuracy == pytest.approx(sum(found) / len(found))) if found else np.isnan(accuracy)


def test_numbers_of_a_small_case():
    truth = np.array([[0, 0, 2], [1, 2, 2]])
    prediction = np.array([[0, 1, 2], [1, 2, 0]])
    assert segment_accuracy(truth, prediction) == 4 / 6
    assert category_accuracy(truth, prediction, 3).tolist() == [1 / 2, 1, 2 / 3]
    assert confusion_matrix(truth, prediction, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


@pytest.mark.parametrize(
    ("truth", "prediction", "says"),
    [
        ([[0, 1]], [[0], [1]], r"shape \(1, 2\) but prediction \(2, 1\)"),
        ([], [], "no segment to score"),
        ([0, 3], [0, 1], "truth has labels 0 to 3; 3 classes"),
        ([0, 1], [-1, 1], "prediction has labels -1 to 1"),
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
