"""Seeded synthetic pictures and sounds, the same on every machine, on which random networks are calibrated.

They belong to no dataset: stripes, checks, discs and noise in random colours; harmonics, noise and rhythms.
"""

import numpy as np
import torch
from torch import Tensor

_SEED = 20_180_908


def pictures(count: int, frames: int, size: int) -> Tensor:
    """(count, frames, size, size, 3) uint8: textures that move over the frames."""
    rng = np.random.default_rng(_SEED)
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    clips = np.empty((count, frames, size, size, 3), np.uint8)
    for index in range(count):
        colours = rng.random((2, 3))
        angle, frequency, speed = rng.random() * np.pi, 1 + 15 * rng.random(), rng.random(2) - 0.5
        contrast, centre, radius = rng.random(), rng.random(2), 0.1 + 0.3 * rng.random()
        for frame in range(frames):
            u, v = x + speed[0] * frame / frames, y + speed[1] * frame / frames
            along = frequency * (u * np.cos(angle) + v * np.sin(angle))
            across = frequency * (v * np.cos(angle) - u * np.sin(angle))
            kind = index % 4
            if kind == 0:
                texture = 0.5 + 0.5 * np.sin(2 * np.pi * along)
            elif kind == 1:
                texture = ((np.floor(along) + np.floor(across)) % 2).astype(float)
            elif kind == 2:
                texture = ((u - centre[0]) ** 2 + (v - centre[1]) ** 2 < radius**2).astype(float)
            else:
                texture = np.clip(u + 0.5 * contrast * (rng.random((size, size)) - 0.5), 0, 1)
            picture = texture[..., None] * colours[0] + (1 - texture[..., None]) * colours[1]
            noise = 0.1 * (rng.random((size, size, 3)) - 0.5)
            clips[index, frame] = np.round(255 * np.clip(picture + noise, 0, 1))
    return torch.from_numpy(clips)


def sounds(count: int, sample_rate: int = 16_000) -> Tensor:
    """(count, sample_rate) float64 in [-1, 1]: one second each, with different loudness."""
    rng = np.random.default_rng(_SEED)
    time = np.arange(sample_rate) / sample_rate
    waves = np.empty((count, sample_rate))
    for index in range(count):
        pitch, loudness = 80 * 50 ** rng.random(), 10 ** (-2 * rng.random())
        harmonics = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 5))
        noise = rng.random(sample_rate) - 0.5
        smooth = np.cumsum(noise) - time * noise.sum()
        rhythm = (time * (1 + 9 * rng.random())) % 1 < rng.random()
        kind = index % 4
        wave = (harmonics, noise, smooth / np.abs(smooth).max(), noise * rhythm)[kind]
        if rng.random() < 0.5:
            wave = wave * rhythm
        waves[index] = np.clip(loudness * wave, -1, 1) + 1e-4 * (rng.random(sample_rate) - 0.5)
    return torch.from_numpy(waves)
