"""Events on the 1 s grid, against a slow second opinion that counts eighths of a second."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpipe.datasets.base import CLIP_COLUMNS, EVENT_COLUMNS, table
from avpipe.datasets.labels import clip_labels, parsing_labels, segment_labels

CATEGORIES = ("Bark", "Cat", "Horse")
NAN = float("nan")


def clips(*names: str) -> pd.DataFrame:
    return table([(name, "train", name, NAN, NAN) for name in names], CLIP_COLUMNS)


def events(*rows: tuple[str, str, str, float, float]) -> pd.DataFrame:
    return table(rows, EVENT_COLUMNS)


def test_an_interval_of_whole_seconds_ends_before_its_offset():
    labels = segment_labels(events(("b", "audiovisual", "Cat", 2, 5)), clips("a", "b"), CATEGORIES)
    assert labels.tolist() == [[3] * 10, [3, 3, 1, 1, 1, 3, 3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("onset", "offset", "segments"), [(0.5, 1, [0]), (0.51, 1.49, []), (0.1, 0.6, [0]), (1.5, 3.5, [1, 2, 3])]
)
def test_half_a_second_of_an_event_makes_a_segment(onset, offset, segments):
    labels = segment_labels(events(("a", "audiovisual", "Bark", onset, offset)), clips("a"), CATEGORIES)
    assert np.flatnonzero(labels[0] == 0).tolist() == segments


def test_events_of_one_modality_are_background():
    one_sided = events(
        ("a", "audio", "Bark", 0, 10), ("a", "visual", "Cat", 0, 10), ("a", "video", "Cat", NAN, NAN)
    )
    assert (segment_labels(one_sided, clips("a"), CATEGORIES) == 3).all()


def test_events_of_other_clips_are_left_out_and_unknown_categories_are_not():
    other = events(("elsewhere", "audiovisual", "Bark", 0, 10))
    assert (segment_labels(other, clips("a"), CATEGORIES) == 3).all()
    with pytest.raises(ValueError, match="'Bark'"):
        segment_labels(events(("a", "audiovisual", "Bark", 0, 10)), clips("a"), ("Cat",))


def test_clip_labels_are_those_of_one_modality():
    mixed = events(
        ("a", "audiovisual", "Bark", 0, 1), ("a", "video", "Cat", NAN, NAN), ("a", "video", "Horse", NAN, NAN)
    )
    assert clip_labels(mixed, clips("b", "a"), CATEGORIES).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert clip_labels(mixed, clips("b", "a"), CATEGORIES, "video").tolist() == [[0, 0, 0], [0, 1, 1]]
    assert clip_labels(mixed, clips("a"), CATEGORIES).dtype == np.float32


eighths = st.tuples(st.integers(0, 90), st.integers(1, 40)).map(
    lambda pair: (pair[0] / 8, (pair[0] + pair[1]) / 8)
)
some_events = st.lists(
    st.tuples(
        st.sampled_from("abcx"),
        st.sampled_from(["audiovisual", "audio"]),
        st.sampled_from(CATEGORIES),
        eighths,
    ).map(lambda parts: (*parts[:3], *parts[3])),
    max_size=12,
)


def eighths_of(rows: list, names: str, modality: str, segments: int) -> np.ndarray:
    """(clips, segments, categories): how many of the eight eighths of a segment lie in an event."""
    counts = np.zeros((len(names), segments, len(CATEGORIES)), int)
    for index in np.ndindex(counts.shape):
        wanted = (names[index[0]], modality, CATEGORIES[index[2]])
        own = [(on, off) for clip, kind, what, on, off in rows if (clip, kind, what) == wanted]
        moments = [index[1] + k / 8 for k in range(8)]
        counts[index] = sum(any(on <= moment < off for on, off in own) for moment in moments)
    return counts


@given(some_events, st.integers(1, 12))
def test_labels_are_those_of_counting_eighths_of_a_second(rows, segments):
    counts = eighths_of(rows, "acb", "audiovisual", segments)
    expected = np.where(counts.max(axis=2) >= 4, counts.argmax(axis=2), 3)
    given_clips = clips("a", "c", "b")
    labels = segment_labels(events(*rows), given_clips, CATEGORIES, segments)
    assert labels.tolist() == expected.tolist()
    parsed = parsing_labels(events(*rows), given_clips, CATEGORIES, "audio", segments)
    assert np.array_equal(parsed, eighths_of(rows, "acb", "audio", segments) >= 4)
