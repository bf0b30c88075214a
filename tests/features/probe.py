"""Looks and sounds of eight classes, and a linear probe: do features of random weights still tell them apart?"""

import numpy as np
import torch
from torch import Tensor

CLASSES = 8


def looks(count: int, frames: int, size: int) -> tuple[Tensor, Tensor]:
    """(8 * count, frames, size, size, 3) uint8 and classes: a textured object a class, anywhere on any background.

    Two classes share a colour, two a texture, so neither alone decides; objects drift over the frames.
    """
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    colours = np.array([(0.9, 0.2, 0.1), (0.1, 0.4, 0.9), (0.2, 0.8, 0.2), (0.9, 0.8, 0.1)])
    pictures, classes = [], []
    for index in range(CLASSES):
        for _ in range(count):
            background = 0.5 * rng.random(3) + 0.2 * rng.random((size, size, 1))
            centre, drift, phase = 0.3 + 0.4 * rng.random(2), 0.2 * (rng.random(2) - 0.5), rng.random()
            clip = np.empty((frames, size, size, 3))
            for frame in range(frames):
                u, v = x - centre[0] - drift[0] * frame / frames, y - centre[1] - drift[1] * frame / frames
                inside = (u**2 + v**2 < 0.25**2)[..., None]
                stripes = 0.5 + 0.5 * np.sin(2 * np.pi * (8 * (u if index % 2 else v) + phase))
                clip[frame] = np.where(inside, stripes[..., None] * colours[index // 2], background)
            pictures.append(np.clip(clip + 0.05 * rng.normal(size=clip.shape), 0, 1))
            classes.append(index)
    return torch.from_numpy((255 * np.stack(pictures)).astype(np.uint8)), torch.tensor(classes)


def noises(count: int) -> tuple[Tensor, Tensor]:
    """(8 * count, 16000) float32 and classes: tones, a chord, noises, rhythms, loud or quiet, at any phase."""
    rng = np.random.default_rng(6)
    time = np.arange(16_000) / 16_000
    sounds, classes = [], []
    for index in range(CLASSES):
        for _ in range(count):
            phase, noise = rng.random(), rng.normal(size=16_000)
            wave = [
                lambda p, n: np.sin(2 * np.pi * (300 * time + p)),
                lambda p, n: np.sin(2 * np.pi * (1_200 * time + p)),
                lambda p, n: sum(np.sin(2 * np.pi * (f * time + p)) for f in (440, 550, 660)) / 3,
                lambda p, n: n / 4,
                lambda p, n: np.cumsum(n) / 300,
                lambda p, n: n / 4 * (np.sin(2 * np.pi * (8 * time + p)) > 0),
                lambda p, n: np.sin(2 * np.pi * (300 * time + p)) * (np.sin(2 * np.pi * (4 * time + p)) > 0),
                lambda p, n: np.sin(2 * np.pi * (200 * time + 1_500 * time**2 + p)),
            ][index](phase, noise)
            sounds.append(10 ** (-rng.random()) * wave + 0.003 * noise)
            classes.append(index)
    return torch.from_numpy(np.stack(sounds).astype(np.float32)), torch.tensor(classes)


def probe_accuracy(features: Tensor, classes: Tensor) -> float:
    """Test accuracy of ridge regression to one-hot classes on standardised features; every other item is a test item."""
    x = features.flatten(1).double()
    x = (x - x.mean(0)) / (x.std(0) + 1e-9) / x.shape[1] ** 0.5
    train, test = slice(0, None, 2), slice(1, None, 2)
    kernel = x @ x[train].T
    onehot = torch.nn.functional.one_hot(classes[train], CLASSES).double() - 1 / CLASSES
    weights = torch.linalg.solve(kernel[train] + 0.1 * torch.eye(len(onehot), dtype=torch.float64), onehot)
    return (kernel[test] @ weights).argmax(1).eq(classes[test]).double().mean().item()
