"""What tasks on clips have in common: datasets that decode pictures and sound as they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from avpipe.files import read_json
from avpipe.plan.experiment import Experiment
from avpipe.training.data import Data, data_of
from avpipe.training.experiment_task import ExperimentTask
from avpipe.training.fit import Fitted
from avpipe.training.raw import RawClip, RawClips, raw_clips


@dataclass(frozen=True)
class RawData(Data):
    """`Data` without features.

    Args:
        raw: name -> clip, all that the tars have.
    """

    raw: dict[str, RawClip]


class RawTask(ExperimentTask):
    """A task of one experiment that reads clips in the format of its `preset`.

    A task of this kind gives `read` (and `read_held_out` where evaluation reads clips in another way), `loss` and `evaluate`
    (`avpipe.training.task.Task`), and `segments` if its networks are to be extractors.
    """

    reads = ("preset",)
    parts: ClassVar[Sequence[str]] = ("mp4", "flac")
    """Pictures, sound: what a usable clip has."""
    data: RawData
    seed = 0

    def read(self, clip: RawClip) -> Any:
        """A dataclass of tensors, and of lists for other things, for training and evaluation. See `RawClips.read`."""
        raise NotImplementedError

    def read_held_out(self, clip: RawClip) -> Any:
        """As `read`, for evaluation."""
        return self.read(clip)

    @staticmethod
    def segments(clip: RawClip) -> Any:
        """All of a clip for its features, without random numbers: what the model's `encode` takes, without the first axis."""
        raise NotImplementedError

    @classmethod
    def open(
        cls, experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None
    ) -> RawData:
        """The usable clips: those that have all `parts` and last long enough. If all of them decoded have at most
        `resident_bytes`, they stay in memory once they were decoded; None: each is decoded whenever it is needed.

        Raises:
            FileNotFoundError: a table or a shard is missing.
            ValueError: a shard is damaged.
        """
        preset, least = experiment.preset, cls.least_seconds(experiment)
        assert preset is not None  # `check_experiment`
        shards = read_json(results / "manifest.json")["shards"]
        tars = [results / "segments" / preset.name / f"{shard}.tar" for shard in shards]
        found = raw_clips(tars, preset)
        usable = {name for name, clip in found.items() if clip.parts.keys() >= set(cls.parts)}
        weak = experiment.setting == "weakly-supervised"

        def is_usable(clips: pd.DataFrame) -> np.ndarray:
            long_enough = clips["duration"] >= least if least else True
            return np.asarray(clips["clip"].isin(usable) & long_enough)

        data = data_of(results, {}, is_usable, tars, weak=weak)
        if resident_bytes is not None and len(found) * preset.decoded_bytes <= resident_bytes:
            found = {name: replace(clip, kept=True) for name, clip in found.items()}
        return RawData(**vars(data), raw=found)

    @classmethod
    def least_seconds(cls, experiment: Experiment) -> float:
        """Length of the shortest usable clip; 0: any."""
        return 0.0

    def datasets(self) -> dict[str, RawClips]:
        """The splits that have clips. As many are evaluated together as are in a batch of the training."""
        together = self.experiment.recipe.batch_size
        return {
            name: RawClips(
                [self.data.raw[c] for c in split.clips["clip"]],
                self.read if name == "train" else self.read_held_out,
                self.seed,
                self.workers,
                together,
            )
            for name, split in self.data.splits.items()
            if len(split)
        }

    def train(self, seed: int, **how: Any) -> Fitted:
        """As `ExperimentTask.train`; what is random in an item follows from the seed, too."""
        self.seed = seed
        return super().train(seed, **how)
