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


def test_pieces_of_one_category_add_up_and_overlaps_count_once():
    pieces = events(
        ("a", "audiovisual", "Bark", 0.0, 0.25), ("a", "audiovisual", "Bark", 0.75, 1.0),
        ("a", "audiovisual", "Bark", 2.0, 2.375), ("a", "audiovisual", "Bark", 2.125, 2.375), ("a", "audiovisual", "Bark", 2.0, 2.25),
    )  # fmt: skip
    assert segment_labels(pieces, clips("a"), CATEGORIES, 3).tolist() == [[0, 3, 3]]


def test_of_two_categories_the_longer_counts_then_the_first():
    both = events(
        ("a", "audiovisual", "Cat", 0.0, 0.5), ("a", "audiovisual", "Horse", 0.25, 1.0),
        ("a", "audiovisual", "Horse", 1.0, 2.0), ("a", "audiovisual", "Cat", 1.0, 2.0),
    )  # fmt: skip
    assert segment_labels(both, clips("a"), CATEGORIES, 2).tolist() == [[2, 1]]


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


@given(some_events)
def test_clip_labels_agree_with_looking_for_each(rows):
    found = {(clip, category) for clip, kind, category, *_ in rows if kind == "audio"}
    expected = [[float((name, category) in found) for category in CATEGORIES] for name in "acb"]
    assert clip_labels(events(*rows), clips("a", "c", "b"), CATEGORIES, "audio").tolist() == expected


def test_parsing_labels_keep_every_category_of_one_modality():
    mixed = events(
        ("a", "audio", "Bark", 0, 2), ("a", "audio", "Horse", 1, 3), ("a", "visual", "Cat", 0, 9), ("x", "audio", "Cat", 0, 9),
        ("a", "audio", "Bark", 1, 4),
    )  # fmt: skip
    heard = parsing_labels(mixed, clips("b", "a"), CATEGORIES, "audio", 4)
    assert heard.shape == (2, 4, 3)
    assert not heard[0].any()
    assert heard[1].T.astype(int).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
