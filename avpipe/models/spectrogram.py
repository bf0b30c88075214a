"""Spectrograms for separating sounds (Owens and Efros, ECCV 2018), and sound from them.

Sound at 21 kHz; frames of 1,344 samples (64 ms) begin every 336 (16 ms), have a periodic Hann window, and zeros at the end
up to an FFT of 2,048 samples: 1,025 bins. Nothing is padded at the ends of the sound, so 44,144 samples (63 pictures at
29.97 a second) give exactly 128 frames.

These are the sizes of the released code (andrewowens/multisensory: src/sep_params.py, src/soundrep.py), and its phases:
they count from a frame's first sample. `torch.stft` has a window shorter than the FFT in the middle of the FFT's samples,
and `torch.istft` refuses a window whose first value is zero; so both are written out here, in two lines each.

The inverse gives the samples that four frames cover. There the squared windows sum to 1.5, by which it divides. What is
nearer to the ends than `EDGE` = 1,008 samples is left out: fewer frames cover it, down to a weight of zero, and what a
network predicts wrongly would be amplified there. So 128 frames give 42,000 samples, 2 s. To have all samples of a sound,
pad it by `EDGE` zeros at the beginning, and by as many or more at the end.

Deviation: the released inverse divides by nothing, so its sounds have 1.5 times the amplitude, and fade at both ends.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

RATE = 21_000
WINDOW, HOP, FFT = 1_344, 336, 2_048
BINS = FFT // 2 + 1
EDGE = WINDOW - HOP
_OVERLAP = WINDOW // HOP
_SQUARES = (
    1.5  # the sum of the squares of four Hann windows, each a quarter of its length after the one before
)
_SMALLEST = 1e-5


class Spectrogram(NamedTuple):
    """Magnitude and phase as the network has them, of one shape.

    Args:
        magnitude: (..., T, 1025); decibels, linearly from [-100, 80] to [-1, 1].
        phase: (..., T, 1025), linearly from [-pi, pi] to [-1, 1].
    """

    magnitude: Tensor
    phase: Tensor


def stft(sound: Tensor) -> Tensor:
    """The short-time Fourier transform, (..., L) real -> (..., T, 1025) complex, T = 1 + (L - 1344) // 336.

    Raises:
        ValueError: if the sound is shorter than a window.
    """
    if sound.shape[-1] < WINDOW:
        raise ValueError(f"a spectrogram needs at least {WINDOW} samples, found {sound.shape[-1]}")
    frames = sound.unfold(-1, WINDOW, HOP) * _hann(sound)  # (..., T, 1344)
    return torch.fft.rfft(frames, FFT)


def istft(spectrum: Tensor) -> Tensor:
    """The samples from number `EDGE` on that four frames cover: (..., T, 1025) complex -> (..., 336 (T - 3)) real.

    Raises:
        ValueError: if there are fewer than four frames.
    """
    count = spectrum.shape[-2]
    if count < _OVERLAP:
        raise ValueError(f"the inverse needs at least {_OVERLAP} frames, found {count}")
    frames = torch.fft.irfft(spectrum, FFT)[..., :WINDOW]
    quarters = (frames * _hann(frames)).unflatten(-1, (_OVERLAP, HOP))  # (..., T, 4, 336)
    parts = [quarters[..., _OVERLAP - 1 - i : count - i, i, :] for i in range(_OVERLAP)]
    return torch.stack(parts).sum(0).flatten(-2) / _SQUARES  # (..., T - 3, 336) -> (..., 336 (T - 3))


def decibels(spectrum: Tensor) -> Tensor:
    """20 log10 max(1e-5, |X|), at least -100, of complex values of any shape."""
    return 20 * spectrum.abs().clamp(min=_SMALLEST).log10()


def spectrogram(sound: Tensor) -> Spectrogram:
    """(..., L) -> magnitude and phase, (..., T, 1025) each. Raises as `stft` does."""
    spectrum = stft(sound) + 0  # no -0, whose phase is pi: on some processors the transform of silence has it
    return Spectrogram((decibels(spectrum) + 10) / 90, spectrum.angle() / math.pi)


def magnitude_in_decibels(magnitude: Tensor) -> Tensor:
    """A `Spectrogram`'s magnitude in decibels."""
    return 90 * magnitude - 10


def waveform(magnitude: Tensor, phase: Tensor) -> Tensor:
    """Sound from a `Spectrogram`: (..., T, 1025) each -> (..., 336 (T - 3)), as `istft` does.

    Magnitudes that a network predicts can have the phases that it predicts (the released setting), or the mixture's.
    """
    amplitude = 10 ** (magnitude_in_decibels(magnitude) / 20)
    return istft(torch.polar(amplitude, (math.pi * phase).expand_as(amplitude)))


def by_ideal_ratio_mask(sounds: Tensor) -> Tensor:
    """What masks that know the sounds get from their sum, as a ceiling for separation: (..., S, L) -> (..., S, 336 (T - 3)).

    A sound's mask is its share of the magnitudes, |X_i| / (|X_1| + ... + |X_S|), in each bin (the ideal ratio mask; Wang,
    Narayanan and Wang, 2014, whose shares are of energy, to the power 0.5). It multiplies the transform of the sum. The
    masks sum to one, and so the results sum to the mixture.
    """
    shares = stft(sounds).abs()
    shares = shares / shares.sum(-3, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
    return istft(shares * stft(sounds.sum(-2, keepdim=True)))


def _hann(like: Tensor) -> Tensor:
    """The window, in the dtype and on the device of a real tensor."""
    return torch.hann_window(WINDOW, periodic=True, dtype=like.dtype, device=like.device)
