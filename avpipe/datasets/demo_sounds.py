"""The sounds of the demo: four timbres, each calm or lively, over background noise."""

import math

import numpy as np
import numpy.typing as npt

from avpipe.datasets.demo_plan import CLASSES, SECONDS, SOUNDS, ClipPlan, envelope, mark_seconds

Samples = npt.NDArray[np.floating]

PACES = (0.8, 1.3)  # pace of the calm and of the lively class of a timbre, as a factor
PACE_SPREAD = 0.15  # standard deviation of the logarithm of a clip's pace
LOUDNESS = (-1.2, -0.7)  # range of an event's loudness, log10 of the root mean square
NOISE = (-1.7, -1.1)  # range of the background noise's loudness, likewise
LOUDNESS_SPREAD = 0.15  # standard deviation of the loudness from second to second, log10


def render_sound(plan: ClipPlan) -> Samples:
    """The clip's waveform, (channels, SECONDS * sample_rate) float32 in [-1, 1]."""
    rng = plan.random("sound")
    times = np.arange(SECONDS * plan.sample_rate, dtype=np.float32) / plan.sample_rate
    masked = mark_seconds(plan.masked)
    waveform = _noise(rng, len(times), slope=rng.uniform(0.2, 0.9)) * 10 ** rng.uniform(*NOISE)
    roar = np.tile(_noise(rng, plan.sample_rate, slope=0.1), SECONDS) * 10 ** rng.uniform(-0.9, -0.6)
    waveform += roar * envelope(masked, times, fade=0.05)
    for interval in plan.audio:
        kind = CLASSES[interval.category]
        pace = PACES[kind.lively] * math.exp(rng.normal(0, PACE_SPREAD))
        loudness = 10 ** (rng.uniform(*LOUDNESS) + rng.normal(0, LOUDNESS_SPREAD, SECONDS))
        loudness *= mark_seconds(interval.seconds) * (1 - 0.95 * masked)
        waveform += TIMBRES[SOUNDS[kind.sound]](rng, times, pace) * envelope(loudness, times, fade=0.01)
    balance = rng.uniform(0.7, 1.0, size=(plan.channels, 1)).astype(np.float32)
    return np.tanh(waveform * balance)


def _noise(rng: np.random.Generator, samples: int, slope: float) -> Samples:
    """Noise whose amplitude falls as frequency ** -slope (0.5: pink), with root mean square 1."""
    real, imaginary = rng.standard_normal((2, samples // 2 + 1), dtype=np.float32)
    harmonics = np.arange(len(real), dtype=np.float32)
    noise = np.fft.irfft((real + 1j * imaginary) / np.maximum(harmonics, samples // 1000) ** slope, samples)
    return noise / noise.std()


def _chime(rng: np.random.Generator, times: Samples, pace: float) -> Samples:
    """Strikes of a bell, about two a second: three decaying partials."""
    since = (times * 2 * pace + rng.random()) % 1 / (2 * pace)
    pitch = rng.uniform(600, 850)
    partials = [np.sin(2 * np.pi * pitch * ratio * times) / ratio for ratio in (1, 2.76, 5.4)]
    return np.exp(-since * 7) * sum(partials) * 1.6


def _hum(rng: np.random.Generator, times: Samples, pace: float) -> Samples:
    """A low sawtooth whose loudness pulses about four times a second."""
    saw = (times * rng.uniform(85, 130)) % 1 - 0.5
    return saw * (1 + 0.9 * np.sin(2 * np.pi * 4 * pace * times)) * 3


def _rattle(rng: np.random.Generator, times: Samples, pace: float) -> Samples:
    """Bursts of noise around 3 kHz, about seven a second."""
    hold = round(0.001 / float(times[1]))  # a new random value every millisecond
    steps = rng.standard_normal(-(-len(times) // hold), dtype=np.float32)
    noise = np.repeat(steps, hold)[: len(times)] * np.sin(2 * np.pi * rng.uniform(2600, 3400) * times)
    return noise * ((times * 7 * pace) % 1 < 0.45) * 2


def _siren(rng: np.random.Generator, times: Samples, pace: float) -> Samples:
    """A tone that rises and falls by an octave, about once a second."""
    low, start = rng.uniform(950, 1250), rng.random()
    pitch = low * 2 ** (0.5 - 0.5 * np.cos(2 * np.pi * (pace * times + start)))
    cycles = np.cumsum(pitch, dtype=np.float64) * float(times[1])
    return np.sin(2 * np.pi * (cycles % 1).astype(np.float32)) * 1.4


TIMBRES = {"chime": _chime, "hum": _hum, "rattle": _rattle, "siren": _siren}
