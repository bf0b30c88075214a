"""Spectrograms for separation: the released sizes and phases, and the way back."""

import math

import numpy as np
import pytest
import torch

from avpipe.models.spectrogram import (
    EDGE,
    by_ideal_ratio_mask,
    decibels,
    istft,
    magnitude_in_decibels,
    spectrogram,
    stft,
    waveform,
)

HANN = np.sin(np.pi * np.arange(1344) / 1344) ** 2


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_clip_of_63_pictures_has_128_frames_of_1025_bins_and_2_seconds_that_four_frames_cover():
    assert round(63 * 21_000 / 29.97) == 44_144
    spectrum = stft(noise(2, 44_144))
    assert spectrum.shape == (2, 128, 1025)
    assert istft(spectrum).shape == (2, 2 * 21_000)


def test_the_transform_is_its_sum_with_phases_from_a_frames_first_sample():
    sound = noise(2000, dtype=torch.float64)
    expected = [
        sum(
            sound[336 * frame + n].item() * HANN[n] * np.exp(-2j * np.pi * bin * n / 2048)
            for n in range(1344)
        )
        for frame, bin in [(0, 0), (0, 3), (1, 700), (1, 1024)]
    ]
    found = stft(sound)
    assert found.shape == (2, 1025)
    np.testing.assert_allclose(found[[0, 0, 1, 1], [0, 3, 700, 1024]].numpy(), expected, atol=1e-10)


def test_the_transform_is_torchs_with_the_window_at_the_beginning_of_the_ffts_samples():
    sound = noise(2, 44_144)
    window = torch.cat([torch.hann_window(1344), torch.zeros(704)])
    longer = torch.nn.functional.pad(sound, (0, 704))
    theirs = torch.stft(longer, 2048, 336, window=window, center=False, return_complex=True).mT
    torch.testing.assert_close(stft(sound), theirs)


def test_a_sound_comes_back_from_magnitude_and_phase_where_four_frames_cover_it():
    sound = noise(2, 44_144)
    sound[1, 10_000:20_000] = 0
    found = waveform(*spectrogram(sound))
    torch.testing.assert_close(found, sound[:, EDGE : EDGE + 42_000], atol=1e-5, rtol=0)


def test_a_padded_sound_comes_back_whole():
    sound = noise(5000)
    padded = torch.nn.functional.pad(sound, (EDGE, EDGE + 335))
    torch.testing.assert_close(istft(stft(padded))[:5000], sound, atol=1e-5, rtol=0)


def test_the_released_inverse_has_1_5_times_the_amplitude():
    sound = noise(6000, dtype=torch.float64)
    spectrum = stft(sound).numpy()
    released = np.zeros(1344 + 336 * (len(spectrum) - 1))  # window and add, without a division
    for i, frame in enumerate(spectrum):
        released[336 * i : 336 * i + 1344] += np.fft.irfft(frame)[:1344] * HANN
    inside = slice(EDGE, len(released) - EDGE)
    np.testing.assert_allclose(released[inside], 1.5 * sound[inside].numpy(), atol=1e-12)
    np.testing.assert_allclose(released[inside], 1.5 * istft(torch.from_numpy(spectrum)).numpy(), atol=1e-12)


def test_decibels_from_minus_100_to_80_and_phases_from_minus_pi_to_pi_become_minus_1_to_1():
    spectrum = torch.tensor([0, 1e-5j, 1, -10, 1e4], dtype=torch.complex64)
    torch.testing.assert_close(decibels(spectrum), torch.tensor([-100.0, -100, 0, 20, 80]))
    values = torch.tensor([-1.0, 0, 1])
    torch.testing.assert_close(magnitude_in_decibels(values), torch.tensor([-100.0, -10, 80]))

    sound = noise(1, 3000)
    found = spectrogram(sound)
    torch.testing.assert_close(magnitude_in_decibels(found.magnitude), decibels(stft(sound)))
    torch.testing.assert_close(math.pi * found.phase, torch.atan2(stft(sound).imag, stft(sound).real))
    silent = spectrogram(torch.zeros(1344))
    assert torch.equal(silent.magnitude, torch.full((1, 1025), -1.0))
    assert torch.equal(silent.phase, torch.zeros(1, 1025))


def test_one_mixtures_phases_serve_for_several_magnitudes():
    sounds = noise(3, 2, 4000)
    magnitude, phase = spectrogram(sounds).magnitude, spectrogram(sounds.sum(1, keepdim=True)).phase
    separate = torch.stack([waveform(magnitude[:, i], phase[:, 0]) for i in range(2)], dim=1)
    torch.testing.assert_close(waveform(magnitude, phase), separate)


def test_the_ideal_ratio_mask_separates_tones_and_its_parts_sum_to_the_mixture():
    time = torch.arange(20_000, dtype=torch.float64) / 21_000
    tones = torch.stack([torch.sin(2 * math.pi * 440 * time), 0.5 * torch.sin(2 * math.pi * 3000 * time)])
    found = by_ideal_ratio_mask(tones)
    inside = tones[:, EDGE : EDGE + found.shape[1]]
    assert (found - inside).norm() < 1e-3 * inside.norm()

    sounds = noise(2, 6000, seed=1, dtype=torch.float64)
    sounds[:, 2000:4000] = 0  # both masks are 0 where both are silent
    found = by_ideal_ratio_mask(sounds)
    torch.testing.assert_close(found.sum(0), sounds.sum(0)[EDGE : EDGE + found.shape[1]])

    sound = noise(
        6000, dtype=torch.float64
    )  # with -sound / 2: a mixture of sound / 2, of which shares are 2/3 and 1/3
    found = by_ideal_ratio_mask(torch.stack([sound, -sound / 2]))
    inside = sound[EDGE : EDGE + found.shape[1]]
    torch.testing.assert_close(found, torch.stack([inside / 3, inside / 6]))


def test_what_is_shorter_than_a_window_or_four_frames_is_named():
    with pytest.raises(ValueError, match="at least 1344 samples, found 1343"):
        stft(noise(1343))
    with pytest.raises(ValueError, match="at least 4 frames, found 3"):
        istft(stft(noise(1344 + 2 * 336)))
