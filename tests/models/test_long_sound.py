"""Separation of sounds of any length: windows, cross-fades, other rates."""

import math

import pytest
import torch

from avpipe.models.long_sound import INSIDE, MIXTURE_RMS, SAMPLES, separate_long
from avpipe.models.multisensory_separation import MultisensorySeparation
from avpipe.models.spectrogram import EDGE, istft, stft, waveform

RATE = 21_000


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def inside(window: torch.Tensor, second: float) -> torch.Tensor:
    return window[:, EDGE : EDGE + INSIDE]


def left_and_right(window: torch.Tensor, second: float) -> torch.Tensor:
    """By the spectrogram and back."""
    assert window.shape == (2, SAMPLES)
    return istft(stft(window))


def test_a_window_gives_the_2_seconds_that_its_spectrogram_gives():
    assert left_and_right(noise(2, SAMPLES), 0.0).shape == (2, INSIDE) == (2, 2 * RATE)
    assert pytest.approx(0.02) == MIXTURE_RMS**2


@pytest.mark.parametrize("length", [1, 5000, INSIDE, INSIDE + 1, SAMPLES, 3 * INSIDE, 150_001])
def test_windows_that_agree_give_what_one_long_window_would(length):
    sound = noise(2, length)
    sound[:, 60_000:110_000] = 0  # a window of silence among them
    found = separate_long(sound, RATE, left_and_right)
    assert found.shape == (2, length)
    torch.testing.assert_close(found, sound, atol=1e-5, rtol=0)


def test_windows_begin_before_the_sound_and_follow_at_equal_distances_of_a_second_at_most():
    seconds = []

    def note(window: torch.Tensor, second: float) -> torch.Tensor:
        seconds.append(second)
        return inside(window, second)

    separate_long(noise(RATE * 5 + 10_500), RATE, note)  # 5.5 s: 3.5 s to go, in 4 gaps
    assert seconds == pytest.approx([0.875 * i - 0.048 for i in range(5)], abs=1e-4)


def test_windows_that_disagree_are_cross_faded_linearly():
    def nothing_at_first(window: torch.Tensor, second: float) -> torch.Tensor:
        return inside(window, second) * (second > 0)

    found = separate_long(torch.ones(3 * RATE), RATE, nothing_at_first)[0]  # windows from 0 and from 1 s on
    ramp = (torch.arange(RATE) + 0.5) / RATE
    torch.testing.assert_close(found, torch.cat([torch.zeros(RATE), ramp, torch.ones(RATE)]))


def test_windows_have_the_loudness_of_training_and_results_that_of_the_sound():
    def check(window: torch.Tensor, second: float) -> torch.Tensor:
        assert window.square().mean().sqrt().item() == pytest.approx(MIXTURE_RMS)
        return torch.stack([inside(window, second).mean(0), 2 * window[0, EDGE : EDGE + INSIDE]])

    sound = noise(2, 80_000) * torch.tensor([[0.01], [7.0]])
    found = separate_long(sound, RATE, check)
    torch.testing.assert_close(found, torch.stack([sound.mean(0), 2 * sound[0]]))


def test_silence_is_given_as_silence_and_what_is_found_in_it_is_made_as_quiet_again():
    def hiss(window: torch.Tensor, second: float) -> torch.Tensor:
        assert not window.any()
        return torch.full((1, INSIDE), MIXTURE_RMS)

    torch.testing.assert_close(separate_long(torch.zeros(90_000), RATE, hiss), torch.full((1, 90_000), 1e-4))


def test_mono_is_given_as_two_equal_channels():
    sound = noise(70_000)
    for given in (sound, sound.unsqueeze(0)):
        found = separate_long(given, RATE, inside)
        assert torch.equal(found[0], found[1])
        torch.testing.assert_close(found[0], sound)


@pytest.mark.parametrize(("rate", "length"), [(44_100, 120_007), (16_000, 50_001), (48_000, 10)])
def test_sound_of_another_rate_comes_back_at_its_rate_and_length(rate, length):
    time = torch.arange(length) / rate
    tone = torch.sin(2 * math.pi * 440 * time)
    found = separate_long(tone, rate, inside)
    assert found.shape == (2, length)
    middle = slice(length // 10, -length // 10)  # resampling has less to go by at the ends
    if length > 1000:
        torch.testing.assert_close(found[0, middle], tone[middle], atol=2e-3, rtol=0)


def test_a_network_separates_a_long_sound():
    model = MultisensorySeparation(video=False, base_channels=1).eval()
    with torch.inference_mode():
        found = separate_long(
            noise(2, 50_000), RATE, lambda window, second: waveform(*model(None, window[None]))[0]
        )
    assert found.shape == (2, 50_000)
    assert found.isfinite().all()
    assert (found.std(1) > 0).all()


def test_another_shape_is_named():
    for wrong in ((3, 50), (1, 2, 50), (2, 0)):
        with pytest.raises(ValueError, match=r"a sound \(L,\), \(1, L\) or \(2, L\), found"):
            separate_long(torch.zeros(wrong), RATE, inside)
