"""Scores of separated sounds against their definitions."""

import numpy as np
import pytest
import torch

from avpipe.metrics.separation import on_off_error, separation_scores, si_sdr

RANDOM = np.random.default_rng(0)
SOUNDS = RANDOM.normal(size=(2, 700))
ESTIMATE = np.array([[1.0, 0.3], [-0.2, 2.0]]) @ SOUNDS + 0.2 * RANDOM.normal(size=(2, 700))


def explained(estimate: np.ndarray, sounds: np.ndarray, taps: int = 512) -> np.ndarray:
    """The part of an estimate that the sounds, delayed by 0 to taps - 1 samples, explain in the sense of least squares."""
    delayed = np.stack([np.pad(sound, (n, taps - 1 - n)) for sound in sounds for n in range(taps)])
    return np.linalg.solve(delayed @ delayed.T, delayed @ estimate) @ delayed


def decibels(signal: np.ndarray, error: np.ndarray) -> float:
    return 10 * np.log10(np.sum(signal**2) / np.sum(error**2))


def test_scores_are_energies_of_projections_on_the_delayed_true_sounds():
    scores = separation_scores(SOUNDS, ESTIMATE)
    for i, estimate in enumerate(np.pad(ESTIMATE, ((0, 0), (0, 511)))):
        target, whole = explained(estimate, SOUNDS[i : i + 1]), explained(estimate, SOUNDS)
        assert scores["sdr"][i] == pytest.approx(decibels(target, estimate - target))
        assert scores["sir"][i] == pytest.approx(decibels(target, whole - target))
        assert scores["sar"][i] == pytest.approx(decibels(whole, estimate - whole))


def test_exchanged_estimates_have_the_same_scores_in_any_order_and_bad_ones_in_the_given_order():
    scores, exchanged = separation_scores(SOUNDS, ESTIMATE), ESTIMATE[::-1]
    for name, values in separation_scores(SOUNDS, exchanged, any_order=True).items():
        np.testing.assert_allclose(values, scores[name], atol=1e-6)
    assert (separation_scores(SOUNDS, exchanged)["sdr"] < scores["sdr"] - 5).all()


def test_scores_are_the_same_with_several_threads():
    """oneMKL 2024.2 fails there on some processors, see the code."""
    truth = np.random.default_rng(0).standard_normal((2, 8000))
    estimate = truth + 0.2 * truth[::-1]
    found, before = [], torch.get_num_threads()
    for threads in (1, 4):
        torch.set_num_threads(threads)
        found.append(separation_scores(truth, estimate))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for name, scores in found[0].items():
        np.testing.assert_array_equal(found[1][name], scores)


def test_the_order_of_three_sounds_is_found():
    sounds = RANDOM.normal(size=(3, 3000))
    estimate = sounds[[2, 0, 1]] + 0.1 * RANDOM.normal(size=(3, 3000))
    expected = separation_scores(sounds, estimate[[1, 2, 0]])
    found = separation_scores(sounds, estimate, any_order=True)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_a_mixture_in_place_of_the_estimates_scores_about_0_and_has_no_artifacts():
    sounds = RANDOM.normal(size=(2, 42_000)).astype(np.float32)
    scores = separation_scores(sounds, np.stack([sounds.sum(0)] * 2))
    for name in ("sdr", "sir", "si_sdr"):
        np.testing.assert_allclose(scores[name], 0, atol=0.5)
    assert (scores["sar"] > 100).all()


def test_si_sdr_allows_one_factor():
    # e = (3, 1), t = (2, 0): a t = (3, 0), the rest (0, 1): 10 log10 9
    assert si_sdr(np.array([2.0, 0]), np.array([3.0, 1])) == pytest.approx(10 * np.log10(9))
    scores = si_sdr(SOUNDS, ESTIMATE)
    assert scores.shape == (2,)
    np.testing.assert_allclose(si_sdr(SOUNDS * 5, -0.1 * ESTIMATE), scores)
    assert si_sdr(np.array([1, 0]), np.array([5, 0])) == np.inf
    assert si_sdr(np.array([1, 0]), np.array([0, 5])) == -np.inf


def test_the_on_off_error_is_the_mean_absolute_difference_of_each_sound():
    truth, estimate = RANDOM.uniform(-100, 80, (2, 2, 3, 4)).astype(np.float32)
    expected = [
        sum(abs(float(truth[i, t, f]) - float(estimate[j, t, f])) for t in range(3) for f in range(4)) / 12
        for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))
    ]
    np.testing.assert_allclose(on_off_error(truth, estimate), expected[:2], rtol=1e-6)
    better = min(expected[:2], expected[2:], key=sum)
    for given in (estimate, estimate[::-1]):
        np.testing.assert_allclose(on_off_error(truth, given, any_order=True), better, rtol=1e-6)
    levels = np.zeros((2, 3, 4))
    np.testing.assert_allclose(on_off_error(levels, levels + np.array([[[3.0]], [[-7.0]]])), [3, 7])


def test_what_cannot_be_scored_is_named():
    with pytest.raises(ValueError, match=r"at least 2 sounds, found \(1, 700\), \(1, 700\)"):
        separation_scores(SOUNDS[:1], ESTIMATE[:1])
    with pytest.raises(ValueError, match=r"found \(2, 700\), \(2, 600\)"):
        separation_scores(SOUNDS, ESTIMATE[:, :600])
    silent = SOUNDS * [[1], [0]]
    with pytest.raises(ValueError, match="truth: sound 1 is silent"):
        separation_scores(silent, ESTIMATE)
    with pytest.raises(ValueError, match="estimate: sound 1 is silent"):
        separation_scores(SOUNDS, silent)
    with pytest.raises(ValueError, match=r"\(S, T, F\), found \(2, 700\), \(2, 700\)"):
        on_off_error(SOUNDS, ESTIMATE)
