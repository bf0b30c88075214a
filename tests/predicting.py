"""A tiny self-supervised task on clips: the pictures of a second predict its sound. Tests put it among the tasks and models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from avpipe.media.segments import frame_indices
from avpipe.metrics.metric import Metric
from avpipe.training.data import Loader
from avpipe.training.raw import RawClip
from avpipe.training.raw_task import RawTask
from avpipe.training.task import Evaluation


@dataclass
class Batch:
    """Coarse pictures and spectra of the seconds of clips."""

    pictures: Tensor  # (B, T, 48)
    sounds: Tensor  # (B, T, 64)
    clips: str | Sequence[str]


def batch_of(clip: RawClip, frames: npt.NDArray[np.uint8]) -> Batch:
    pictures = torch.from_numpy(frames).float().permute(0, 3, 1, 2) / 255  # (T, 3, H, W)
    coarse = nn.functional.adaptive_avg_pool2d(pictures, 4).flatten(1)
    return Batch(coarse, clip.log_mel.reshape(-1, 96, 64).mean(1), clip.clip)


class Net(nn.Module):
    outputs: ClassVar[Mapping[str, int | str]] = {"visual": "width", "predicted": 64}

    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(48, width), nn.Linear(width, 64)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"visual": torch.tanh(self.encoder(batch.pictures)), "predicted": self(batch)}

    def forward(self, batch: Batch) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(batch.pictures)))


class Predicting(RawTask):
    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = {"error": Metric("Error", "", higher_is_better=False)}

    def read(self, clip: RawClip) -> Batch:
        return batch_of(clip, clip.random_frames())

    @staticmethod
    def segments(clip: RawClip) -> Batch:
        return batch_of(clip, clip.frames.at(frame_indices(1, clip.preset)))

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        return {"error": (model(batch) - batch.sounds).square().mean()}

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        errors = {}
        for batch in loader:
            each = (model(batch) - batch.sounds).square().mean((1, 2))
            errors.update(zip(batch.clips, each.tolist(), strict=True))
        table = pd.DataFrame({"clip": list(errors), "error": list(errors.values())})
        return Evaluation({"error": float(table["error"].mean())}, table)
