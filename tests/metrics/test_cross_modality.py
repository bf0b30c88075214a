"""Finding a query in the other modality: worked by hand, and against loops as in the released code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avpipe.metrics.cross_modality import chance_accuracy, exact_match_accuracy, locate, query_intervals

H5_HEADER = 2144
"""Bytes before the numbers of the released h5 files: each has one dataset, stored in one piece at the end."""


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_the_best_position_has_the_largest_sum_of_pairs():
    # T = 4; the query is segments 1 and 2. Positions 0, 1, 2 pair (1,0)(2,1), (1,1)(2,2), (1,2)(2,3).
    pairs = np.array([[[9, 9, 9, 9], [4, 1, 3, 0], [0, 2, 1, 5], [9, 9, 9, 9]]], dtype=float)
    # sums: 4 + 2 = 6, 1 + 1 = 2, 3 + 5 = 8; the rows of segments 0 and 3 are not looked at
    assert locate(pairs, ints(1), ints(2)).tolist() == [2]
    # the other way round the query is a pair of columns: (0,1)(1,2), (1,1)(2,2), (2,1)(3,2) = 9 + 3, 1 + 1, 2 + 9
    assert locate(pairs.swapaxes(1, 2), ints(1), ints(2)).tolist() == [0]


def test_the_first_of_equal_positions_is_the_answer():
    assert locate(np.zeros((2, 5, 5)), ints(3, 1), ints(2, 1)).tolist() == [0, 0]


def test_only_the_events_own_position_is_right():
    assert exact_match_accuracy(ints(2, 3, 0, 5), ints(2, 4, 0, 4)) == 2 / 4


def test_chance_is_the_mean_over_clips_of_one_over_their_positions():
    # lengths 2, 9, 4 in ten seconds have 9, 2 and 7 positions
    assert chance_accuracy(ints(2, 9, 4), 10) == pytest.approx((1 / 9 + 1 / 2 + 1 / 7) / 3)


def by_definition(pairs: list[list[int]], onset: int, length: int) -> int:
    """Loops, as in the released cmm_test.py."""
    scores = []
    for start in range(len(pairs) - length + 1):
        total = 0
        for i in range(length):
            total += pairs[onset + i][start + i]
        scores.append(total)
    return scores.index(max(scores))


@st.composite
def clips(draw):
    count, segments = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    pairs = draw(arrays(np.int64, (count, segments, segments), elements=st.integers(-3, 3)))
    queries = []
    for _ in range(count):
        onset = draw(st.integers(0, segments - 1))
        queries.append((onset, draw(st.integers(1, segments - onset))))
    return pairs, queries


@given(clips())
def test_locating_equals_loops(drawn):
    pairs, queries = drawn
    onset, length = ints(*(q[0] for q in queries)), ints(*(q[1] for q in queries))
    expected = [by_definition(p.tolist(), o, n) for p, (o, n) in zip(pairs, queries, strict=True)]
    assert locate(pairs.astype(float), onset, length).tolist() == expected


@given(arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 7))))
def test_queries_are_single_runs_shorter_than_the_clip(events):
    for row, onset, length in zip(events.tolist(), *query_intervals(events), strict=True):
        text = "".join("x" if event else " " for event in row)
        if len(text.split()) == 1 and len(text.strip()) < len(text):
            assert (text.index("x"), len(text.strip())) == (onset, length)
        else:
            assert length == 0


@pytest.mark.parametrize(
    ("pairs", "onset", "length", "says"),
    [
        (np.zeros((1, 3, 4)), ints(0), ints(1), r"\(N, T, T\), found \(1, 3, 4\)"),
        (np.zeros((2, 3, 3)), ints(0), ints(1), "2 clips .* 1 onsets"),
        (np.zeros((1, 3, 3)), ints(2), ints(2), "2 segments from 2"),
        (np.zeros((1, 3, 3)), ints(0), ints(0), "0 segments from 0"),
    ],
)
def test_what_cannot_be_located_is_refused(pairs, onset, length, says):
    with pytest.raises(ValueError, match=says):
        locate(pairs, onset, length)


def test_scoring_needs_one_answer_for_each_of_some_queries():
    with pytest.raises(ValueError, match="no query"):
        exact_match_accuracy(ints(), ints())
    with pytest.raises(ValueError, match="1 answers"):
        exact_match_accuracy(ints(1), ints(1, 2))


def test_constants_of_the_released_match_split(shared):
    """402 queries (reference, section 5), and model-free baselines: chance, always one end, random scores per segment."""
    folder = shared / "data" / "ave"
    rows = [line.split("&") for line in (folder / "Annotations.txt").read_text().splitlines()]
    chosen = np.frombuffer((folder / "test_order_match.h5").read_bytes()[H5_HEADER:], "<i8")
    events = np.zeros((len(chosen), 10), dtype=bool)
    for i, row in enumerate(chosen):
        events[i, int(rows[row][3]) : int(rows[row][4])] = True
    onset, length = query_intervals(events)
    assert (length > 0).sum() == len(length) == 402
    assert round(100 * chance_accuracy(length, 10), 1) == 20.8
    assert round(100 * exact_match_accuracy(np.zeros_like(onset), onset), 1) == 35.3
    assert round(100 * exact_match_accuracy(10 - length, onset), 1) == 46.8
    noise = np.random.default_rng(0).normal(size=(30, 402, 1, 10))  # 30 x 402 answers: standard error 0.4 %
    found = [locate(np.broadcast_to(rows, (402, 10, 10)), onset, length) for rows in noise]
    assert np.mean([exact_match_accuracy(answers, onset) for answers in found]) == pytest.approx(
        0.243, abs=0.012
    )
