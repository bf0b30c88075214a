"""What tasks on clips have in common: datasets that decode pictures and sound as they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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

    A task of this kind gives `read`, `loss` and `evaluate` (`avpipe.training.task.Task`), and `segments` if its networks
    are to be extractors.
    """

    reads = ("preset",)
    parts: ClassVar[Sequence[str]] = ("mp4", "flac")
    """Pictures, sound: what a usable clip has."""
    data: RawData
    seed = 0

    def read(self, clip: RawClip) -> Any:
        """A dataclass of tensors, and of lists for other things, for training and evaluation. See `RawClips.read`."""
        raise NotImplementedError

    @staticmethod
    def segments(clip: RawClip) -> Any:
        """All of a clip for its features, without random numbers: what the model's `encode` takes, without the first axis."""
        raise NotImplementedError

    @classmethod
    def open(
        cls, experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None
    ) -> RawData:
        """The usable clips: those whose shards have all `parts`.

        Raises:
            FileNotFoundError: a table or a shard is missing.
            ValueError: a shard is damaged.
        """
        preset = experiment.preset
        assert preset is not None  # `check_experiment`
        shards = read_json(results / "manifest.json")["shards"]
        tars = [results / "segments" / preset.name / f"{shard}.tar" for shard in shards]
        found = raw_clips(tars, preset)
        usable = {name for name, clip in found.items() if clip.parts.keys() >= set(cls.parts)}
        weak = experiment.setting == "weakly-supervised"
        data = data_of(results, {}, lambda clips: clips["clip"].isin(usable).to_numpy(), tars, weak=weak)
        return RawData(**vars(data), raw=found)

    def datasets(self) -> dict[str, RawClips]:
        """The splits that have clips."""
        return {
            name: RawClips(
                [self.data.raw[c] for c in split.clips["clip"]], self.read, self.seed, self.workers
            )
            for name, split in self.data.splits.items()
            if len(split)
        }

    def train(self, seed: int, **how: Any) -> Fitted:
        """As `ExperimentTask.train`; what is random in an item follows from the seed, too."""
        self.seed = seed
        return super().train(seed, **how)
