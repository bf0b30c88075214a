"""The parsing scores: cases worked by hand, a slow second implementation, and the constants of the real LLP files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avpipe.datasets import read_annotations
from avpipe.datasets.labels import clip_labels, parsing_labels
from avpipe.metrics.parsing import METRICS, parsing_scores

from .parsing_definition import scores_by_definition

Labels = tuple[np.ndarray, np.ndarray]
"""Audio and visual labels, (N, T, C)."""


def rows(*texts: str) -> np.ndarray:
    """One clip: a text of 0 and 1 a category, a character a segment -> (1, T, C)."""
    return np.array([[int(c) for c in text] for text in texts]).T[None]


def scores(truth: Labels, prediction: Labels) -> dict[str, float]:
    return parsing_scores(*truth, *prediction)


def test_segments_of_one_clip_by_hand():
    truth = rows("1110000000", "0000000000", "0000000000"), rows("0011000000", "0000000000", "0000000000")
    said = rows("1100000000", "0000000001", "0000000000"), rows("0011110000", "0000000000", "0000000000")
    found = scores(truth, said)
    # audio: category 0 TP 2, FN 1: F = 4/5; category 1 FP 1: F = 0; category 2 does not count
    assert found["segment_audio"] == pytest.approx((4 / 5 + 0) / 2)
    assert found["segment_visual"] == pytest.approx(2 * 2 / (2 * 2 + 2))  # TP 2, FP 2
    # audio and visual: truth segment 2, prediction none: F = 0
    assert found["segment_audio_visual"] == 0
    assert found["segment_type"] == pytest.approx((2 / 5 + 2 / 3 + 0) / 3)
    # audio and visual added: category 0 TP 4, FP 2, FN 1: F = 8/11; category 1: 0
    assert found["segment_event"] == pytest.approx((8 / 11 + 0) / 2)


def test_events_of_one_clip_by_hand():
    nothing = "0000000000"
    truth = rows("1111001110", nothing), rows("0000011111", nothing)
    said = rows("0110001000", "0011111000"), rows("0000000111", nothing)
    found = scores(truth, said)
    # audio, category 0: [0, 4) meets [1, 3): 2 of 4, right; [6, 9) meets [6, 7): 1 of 3, wrong and missed. TP 1, FP 1, FN 1
    # category 1: one event, FP
    assert found["event_audio"] == pytest.approx((2 / 4 + 0) / 2)
    assert found["event_visual"] == 1  # 3 of 5
    assert found["event_audio_visual"] == 0  # truth [6, 9) and nothing: missed
    assert found["event_type"] == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert found["event_event"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 1) + 0) / 2)  # TP 2, FP 1, FN 1


@pytest.mark.parametrize(
    ("said", "score"), [("0110000000", 1), ("0100000000", 0), ("1111111100", 1), ("1111111110", 0)]
)
def test_an_overlap_of_half_the_union_matches(said, score):
    truth, nothing = rows("1111000000"), rows("0000000000")
    assert scores((truth, nothing), (rows(said), nothing))["event_audio"] == score


def test_a_predicted_event_with_a_gap_counts_as_two():
    truth, nothing = rows("1111111111"), rows("0000000000")
    found = scores((truth, nothing), (rows("1111011111"), nothing))  # 4 and 5 of 10: the second matches
    assert found["event_audio"] == pytest.approx(2 / 3)  # TP 1, FP 1
    assert found["segment_audio"] == pytest.approx(18 / 19)


def test_a_clip_without_labels_and_predictions_scores_1():
    nothing, something = rows("0000"), rows("0100")
    truth = np.concatenate([nothing, something]), np.concatenate([nothing, nothing])
    found = scores(truth, (np.zeros_like(truth[0]), np.zeros_like(truth[1])))
    assert (found["segment_audio"], found["segment_visual"], found["segment_event"]) == (1 / 2, 1, 1 / 2)
    wrong = scores(truth, (np.zeros_like(truth[0]), np.ones_like(truth[1])))
    assert wrong["segment_visual"] == 0


def four(shape: tuple[int, int, int]) -> st.SearchStrategy:
    return st.tuples(*(arrays(np.uint8, shape, elements=st.integers(0, 1)) for _ in range(4)))


@given(st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 4)).flatmap(four))
def test_scores_equal_the_plain_definition(labels):
    expected = scores_by_definition(*(array.transpose(0, 2, 1).tolist() for array in labels))
    assert parsing_scores(*labels) == pytest.approx(expected, abs=1e-12)
    assert set(expected) == set(METRICS)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"audio": np.zeros((2, 10, 4))}, r"audio has shape \(2, 10, 4\)"),
        ({"visual": np.full((2, 10, 3), 0.5)}, "visual .* threshold"),
        ({"truth_audio": np.zeros((0, 10, 3))}, r"truth_audio has shape \(0, 10, 3\)"),
        ({"truth_audio": np.zeros((10, 3))}, r"truth_audio has shape \(10, 3\)"),
    ],
)
def test_what_cannot_be_scored_is_refused(changed, says):
    valid = {name: np.zeros((2, 10, 3)) for name in ("truth_audio", "truth_visual", "audio", "visual")}
    with pytest.raises(ValueError, match=says):
        parsing_scores(**valid | changed)


# The real files. The constants are results of the official evaluator (shared reference, section 4).

ZEROS = {"test": [0.5000, 10.0833, 14.5000, 8.3611, 0.0000], "val": [0.6163, 10.7858, 14.3297, 8.5773, 0.0]}
ONES = [5.3802, 4.1628, 3.5182, 4.3537, 5.0671, 4.3072, 3.7944, 2.9322, 3.6780, 4.2525]
WEAK = {
    "test": [76.1176, 60.3480, 52.6103, 63.0253, 71.7258, 63.0272, 55.7527, 44.6921, 54.4907, 61.6011],
    "val": [77.0748, 58.6541, 52.0727, 62.6005, 71.5336, 63.8487, 53.4754, 44.1491, 53.8244, 61.1207],
}


@pytest.fixture(scope="module")
def llp(shared: Path) -> Callable[..., tuple[Labels, np.ndarray]]:
    """llp(split, audio_csv) -> truth and the weak labels on every segment."""
    folder, known = shared / "data" / "llp", {}

    def read(split: str, audio_csv: str = "AVVP_eval_audio.csv") -> tuple[Labels, np.ndarray]:
        if audio_csv not in known:
            known[audio_csv] = read_annotations("llp", folder, audio_csv=audio_csv)
        found = known[audio_csv]
        clips = found.clips[found.clips["split"] == split]
        audio, visual = (
            parsing_labels(found.events, clips, found.categories, m) for m in ("audio", "visual")
        )
        weak = clip_labels(found.events, clips, found.categories, "video")
        return (audio, visual), np.repeat(weak[:, None] > 0, 10, axis=1)

    return read


def percent(found: dict[str, float]) -> list[float]:
    return [round(100 * found[name], 4) for name in METRICS]


@pytest.mark.parametrize("split", ["val", "test"])
def test_constants_of_llp(llp, split):
    truth, weak = llp(split)
    zeros = np.zeros_like(weak)
    assert percent(scores(truth, truth)) == [100] * 10
    assert percent(scores(truth, (zeros, zeros))) == ZEROS[split] * 2
    assert percent(scores(truth, (weak, weak))) == WEAK[split]
    if split == "test":
        assert percent(scores(truth, (~zeros, ~zeros))) == ONES


def test_the_older_audio_file_changes_the_test_split_by_0_05_points_at_most(llp):
    val, old_val = llp("val"), llp("val", "AVVP_eval_audio.pre2024.csv")
    assert np.array_equal(val[0], old_val[0])
    (truth, weak), (old_truth, _) = llp("test"), llp("test", "AVVP_eval_audio.pre2024.csv")
    new, old = percent(scores(truth, (weak, weak))), percent(scores(old_truth, (weak, weak)))
    assert new != old
    assert max(abs(a - b) for a, b in zip(new, old, strict=True)) <= 0.05


def test_the_definition_gives_the_constants_too(llp):
    truth, weak = llp("test")
    lists = [array.astype(int).transpose(0, 2, 1).tolist() for array in (*truth, weak, weak)]
    assert percent(scores_by_definition(*lists)) == WEAK["test"]
