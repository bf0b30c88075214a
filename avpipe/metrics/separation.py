"""Scores of separated sounds, all but the last in decibels with larger better.

SDR, SIR and SAR are those of Vincent, Gribonval and Févotte (2006), as BSS Eval and mir_eval's `bss_eval_sources` have
them: a true sound may pass a filter of 512 taps. An estimate's part that a filtered true sound explains is its target; what
the other true sounds explain besides is interference, and what is left is artifacts. SDR is the target's energy over that
of both, SIR over that of interference alone; SAR is the energy of target and interference over that of artifacts. SI-SDR
(Le Roux and others, 2019) allows one factor in place of a filter.

The library is fast_bss_eval 0.1.4 with torch. On two sounds of 2 s at 21 kHz (white and coloured noise, 12 cases, one thread
of a busy machine), it differed from mir_eval 0.8.2 by less than 2e-11 dB, and took 0.09 to 0.15 s; mir_eval took 0.17 to
0.23 s in the given order and 0.34 to 0.47 s for the best. mir_eval announces that its version 0.9 will have no separation
any more. fast_bss_eval had its last release in 2022, and its functions for numpy fail with numpy 2 if the order is given;
those for torch do not (2.14).

What scores are to be compared with: the mixture in place of each estimate (`numpy.stack([mixture, mixture])`), and
`avpipe.models.spectrogram.by_ideal_ratio_mask`, which knows the true sounds.
"""

import contextlib
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import numpy.typing as npt

Sounds = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float64]


def separation_scores(truth: Sounds, estimate: Sounds, any_order: bool = False) -> dict[str, Scores]:
    """SDR, SIR, SAR and SI-SDR of separated sounds in decibels.

    Args:
        truth: (S, L), all S >= 2 sounds of the mixture: beside one true sound alone, SIR would be infinite.
        estimate: (S, L).
        any_order: for a network that gives its sounds in no order of its own. Estimates are assigned to true sounds such that
            the mean SIR is largest, as in mir_eval.

    Returns:
        `sdr`, `sir`, `sar`, `si_sdr`: (S,) each, in the order of `truth`.

    Raises:
        ValueError: if the shapes differ or are others, or a sound is silent.
    """
    import torch
    from fast_bss_eval import bss_eval_sources

    if truth.shape != estimate.shape or truth.ndim != 2 or len(truth) < 2:
        raise ValueError(
            f"truth and estimate must both be (S, L) with at least 2 sounds, found {truth.shape}, {estimate.shape}"
        )
    for name, sounds in (("truth", truth), ("estimate", estimate)):
        silent = np.flatnonzero(~sounds.any(axis=1))
        if silent.size:
            raise ValueError(f"{name}: sound {silent[0]} is silent, so its ratios in decibels are undefined")
    both = [torch.from_numpy(each.astype(np.float64, order="C")) for each in (truth, estimate)]
    with _one_thread():
        sdr, sir, sar, *order = bss_eval_sources(*both, compute_permutation=any_order)
    assigned = estimate[order[0].numpy()] if any_order else estimate
    scores = {"sdr": sdr.numpy(), "sir": sir.numpy(), "sar": sar.numpy()}
    return {**scores, "si_sdr": si_sdr(truth, assigned)}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread. With more, oneMKL 2024.2 (in torch 2.14's wheels) fails on some processors of AMD to solve several
    systems of 512 equations at once, which fast_bss_eval does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def si_sdr(truth: Sounds, estimate: Sounds) -> Scores:
    """10 log10(|a t|^2 / |e - a t|^2) with a = e.t / t.t of each sound: (..., L) both -> (...). Means are not subtracted."""
    true, estimated = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    target = true * np.sum(true * estimated, -1, keepdims=True) / np.sum(true**2, -1, keepdims=True)
    with np.errstate(divide="ignore"):  # infinite if nothing is wrong, or nothing right
        return np.asarray(
            10 * (np.log10(np.sum(target**2, -1)) - np.log10(np.sum((estimated - target) ** 2, -1)))
        )


def on_off_error(truth: Sounds, estimate: Sounds, any_order: bool = False) -> Scores:
    """The mean absolute difference of two magnitude spectrograms in decibels, of each sound; smaller is better.

    The paper's on/off error. Whether its numbers are means or sums over the on-screen and the off-screen sound is not known;
    the released code selects a training step by their sum.

    Args:
        truth: (S, T, F) in decibels.
        estimate: the same.
        any_order: assign estimates to true sounds such that the sum is smallest.

    Returns:
        (S,), in the order of `truth`.

    Raises:
        ValueError: if the shapes differ or are others.
    """
    if truth.shape != estimate.shape or truth.ndim != 3:
        raise ValueError(f"truth and estimate must both be (S, T, F), found {truth.shape}, {estimate.shape}")
    error = np.abs(truth[:, None] - estimate[None]).mean(
        axis=(2, 3), dtype=np.float64
    )  # (S true, S estimates)
    sounds = range(len(truth))
    orders = [error[sounds, order] for order in permutations(sounds)]
    return min(orders, key=np.sum) if any_order else error.diagonal().copy()
