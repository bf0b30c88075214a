"""Log-mel examples against torchvggish, which computes them in numpy, one second at a time."""

import numpy as np
import pytest
import torch
from torchvggish import mel_features
from torchvggish.vggish_input import waveform_to_examples

from avpipe.media.logmel import BANDS, FRAMES, SAMPLE_RATE, log_mel, mel_matrix

TIME = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
NOISE = np.random.default_rng(0).normal(size=TIME.size)
SIGNALS = {
    "noise": 0.1 * NOISE,
    "a loud tone beside silence": np.sin(2 * np.pi * 997 * TIME),
    "silence": np.zeros_like(TIME),
    "a rising tone": np.sin(2 * np.pi * (50 + 1_200 * TIME) * TIME),
    "hardly anything": 1e-5 * NOISE,
    "clipping": np.sign(np.sin(2 * np.pi * 440 * TIME)),
}


def second_by_second(wave: np.ndarray) -> np.ndarray:
    """torchvggish's example of each whole second alone."""
    starts = range(0, len(wave) // SAMPLE_RATE * SAMPLE_RATE, SAMPLE_RATE)
    examples = [
        waveform_to_examples(wave[s : s + SAMPLE_RATE], SAMPLE_RATE, return_tensor=False) for s in starts
    ]
    assert all(len(example) == 1 for example in examples)  # 98 frames hold one example of 96
    return np.concatenate(examples)


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_torchvggish_on_each_second(name):
    wave = SIGNALS[name].astype(np.float32)
    found = log_mel(torch.from_numpy(wave), SAMPLE_RATE)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), second_by_second(wave), rtol=0, atol=1e-5)


def test_the_mel_matrix_is_vggishs_own():
    expected = mel_features.spectrogram_to_mel_matrix(64, 257, 16_000, 125.0, 7_500.0)
    np.testing.assert_allclose(mel_matrix().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((160_000,), (10, FRAMES, BANDS)),
        ((15_999,), (0, FRAMES, BANDS)),
        ((2, 3, 40_000), (2, 3, 2, FRAMES, BANDS)),
        ((0, 32_000), (0, 2, FRAMES, BANDS)),
    ],
)
def test_one_example_a_whole_second(shape, expected):
    assert log_mel(torch.zeros(shape), SAMPLE_RATE).shape == expected


def test_a_batch_gives_what_its_signals_give_alone():
    waves = torch.from_numpy(np.stack(list(SIGNALS.values()))).float()
    together = log_mel(waves, SAMPLE_RATE)
    alone = torch.stack([log_mel(wave, SAMPLE_RATE) for wave in waves])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_an_example_depends_on_its_own_second_only():
    wave = torch.from_numpy(SIGNALS["noise"]).float()
    changed = wave.clone()
    changed[SAMPLE_RATE : 2 * SAMPLE_RATE] = 0
    differs = (log_mel(wave, SAMPLE_RATE) != log_mel(changed, SAMPLE_RATE)).flatten(1).any(1)
    assert differs.tolist() == [False, True, False]


def test_int16_is_scaled_to_one():
    samples = torch.tensor([16_384, -32_768] * 8_000, dtype=torch.int16)
    expected = log_mel(torch.tensor([0.5, -1.0] * 8_000), SAMPLE_RATE)
    torch.testing.assert_close(log_mel(samples, SAMPLE_RATE), expected)


def test_channels_are_averaged():
    left, right = (torch.from_numpy(SIGNALS[name]).float() for name in ("noise", "a rising tone"))
    expected = log_mel((left + right) / 2, SAMPLE_RATE)
    torch.testing.assert_close(log_mel(torch.stack([left, right]), SAMPLE_RATE, channel_axis=0), expected)
    torch.testing.assert_close(log_mel(torch.stack([left, right], 1), SAMPLE_RATE, channel_axis=1), expected)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate):
    def chord(samples_a_second: int) -> torch.Tensor:
        time = torch.arange(3 * samples_a_second, dtype=torch.float64) / samples_a_second
        return sum((torch.sin(2 * torch.pi * hertz * time) for hertz in (440, 1_000, 3_100)), torch.zeros(()))

    found, expected = log_mel(chord(rate), rate), log_mel(chord(SAMPLE_RATE), SAMPLE_RATE)
    assert found.shape == expected.shape
    loud = expected[1] > 0  # the bands of the tones, away from the ends, where the filter rings
    assert loud.any()
    assert (found[1][loud] - expected[1][loud]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (torch.zeros(16_000, dtype=torch.int32), 16_000, "int32; expected floating point"),
        (torch.zeros(16_000), 0, "sample_rate is 0"),
    ],
)
def test_says_what_is_wrong(wave, rate, message):
    with pytest.raises(ValueError, match=message):
        log_mel(wave, rate)
