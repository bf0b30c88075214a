"""Separation of sounds of any length, window by window (Owens and Efros, ECCV 2018)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from avpipe.models.spectrogram import EDGE, HOP, RATE, WINDOW

SAMPLES = 44_144
"""What the released network gets at a time: the sound of 63 pictures, 128 frames of a spectrogram."""


def inside(samples: int) -> int:
    """How many samples of a window are known afterwards, from number `EDGE` on (see `spectrogram`): 42,000 (2 s) of 44,144."""
    return HOP * ((samples - WINDOW) // HOP + 2 - WINDOW // HOP)


INSIDE = inside(SAMPLES)

MIXTURE_RMS = math.sqrt(2 * 0.1**2)
"""The loudness of a mixture in training: two sounds of root mean square 0.1 that are not alike."""


def separate_long(
    waveform: Tensor, rate: int, separate: Callable[[Tensor, float], Tensor], samples: int = SAMPLES
) -> Tensor:
    """Separate a sound of any length by a function for windows.

    The sound is resampled to 21 kHz, and the result back. Windows are spread evenly from the first to the last sample, each
    at most 1 s after the one before, so that at least half of the 2 s that a window gives overlaps with the next (with longer
    windows, both are longer). There they are cross-faded: weights fall linearly from a window's middle to its ends and sum to
    one, so that windows which agree give what one long window would. A sound shorter than a window is followed by silence.

    A window is brought to `MIXTURE_RMS`, by one factor for both channels, by which its result is divided; one below 1e-4
    counts as 1e-4, so silence stays silent. Deviations: the released demo moves on by half a window and keeps the first of
    two results, gives each channel the same loudness, and leaves its results at that loudness.

    Args:
        waveform: (L,) or (1, L) mono, or (2, L) stereo.
        rate: its samples a second.
        separate: gets a window (2, 44144) at 21 kHz (both channels the same for mono) and the second of the sound at which
            the window begins, from -0.048 on; gives the separated sounds (S, 42000) of samples 1008 to 43,007 of the window.
        samples: of a window.

    Returns:
        (S, L) at the same rate.

    Raises:
        ValueError: for another shape, or no samples.
    """
    given = waveform.unsqueeze(0) if waveform.ndim == 1 else waveform
    if given.ndim != 2 or len(given) not in (1, 2) or not given.numel():
        raise ValueError(f"separation needs a sound (L,), (1, L) or (2, L), found {tuple(waveform.shape)}")
    sound = _resample(given.expand(2, -1), rate, RATE)
    length = sound.shape[1]
    given_back = inside(samples)
    padded = functional.pad(sound, (EDGE, samples))
    gaps = max(0, math.ceil((length - given_back) / (given_back // 2)))
    starts = [i * (length - given_back) // gaps for i in range(gaps)] + [max(0, length - given_back)]
    places = torch.arange(given_back, dtype=sound.dtype, device=sound.device)
    fade = 1 - (places * 2 + 1 - given_back).abs() / given_back
    results = []
    for start in starts:
        window = padded[:, start : start + samples]
        gain = MIXTURE_RMS / window.square().mean().sqrt().clamp(min=1e-4)
        results.append(separate(window * gain, (start - EDGE) / RATE) / gain)  # (S, 42000)
    total, weights = (
        sound.new_zeros(len(results[0]), max(length, given_back)),
        sound.new_zeros(max(length, given_back)),
    )
    for start, result in zip(starts, results, strict=True):
        total[:, start : start + given_back] += result * fade
        weights[start : start + given_back] += fade
    return _resample((total / weights)[:, :length], RATE, rate)[:, : given.shape[1]]


def _resample(sound: Tensor, rate: int, new_rate: int) -> Tensor:
    """(C, L) -> (C, ceil(L new_rate / rate))."""
    if rate == new_rate:
        return sound
    from torchaudio.functional import resample  # takes half a second to import

    return resample(sound, rate, new_rate)
