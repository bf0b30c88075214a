"""The protocol between the training loop and a task. Data and metrics are the task's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch, AVOutput
from avpipe.training.data import SplitSet

Predictions = dict[str, np.ndarray]
"""Name -> array whose first axis is the clips of a split, in the split's order."""


class Task(Protocol):
    """A task of one experiment, made as `Task(experiment, data, model_class)` (see `avpipe.training.TASKS`).

    The model class's `default_...` attributes say what "default" in the recipe means. Planning has checked the
    experiment (`avpipe.plan.experiment.check_experiment`).
    """

    main_metric: str
    """The metric that chooses checkpoints; larger is better."""
    split_set: SplitSet
    """Which splits the task uses."""
    settings: ClassVar[Sequence[str]]
    recipe_keys: ClassVar[Sequence[str]]
    """Keys of the recipe that this task reads and not every task does."""
    metrics: ClassVar[Mapping[str, str]]
    """Name of every score -> its unit. Planning reads these three from the source: write literals."""

    def problem(self) -> str | None:
        """Why the task cannot use these clips, or None."""

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """The loss's targets: name -> tensor, first axis the training split's clips."""

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise for one batch; `targets` are those of the batch's clips."""

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """What the metrics need of one batch: name -> tensor, first axis the batch's clips."""

    def scores(self, predictions: Predictions, split: str) -> dict[str, float]:
        """Name -> score of the whole split ("val" or "test"), a fraction from 0 to 1."""

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Scores of model-free baselines: description -> scores."""

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """The predictions as a table, for predictions.parquet."""

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without rows, for a failed run."""


Batches = Callable[[Tensor], Iterator[AVBatch]]
"""Positions among the training clips -> their features, batch by batch, in that order."""


@runtime_checkable
class RefiningTask(Task, Protocol):
    """A task that trains twice: the first model's predictions change the targets of the second training."""

    def refine(
        self, targets: dict[str, Tensor], model: nn.Module, batches: Batches, seed: int
    ) -> dict[str, Tensor]:
        """The targets of the second training.

        Args:
            targets: those of the first.
            model: the first model, in evaluation mode.
            batches: features of training clips.
            seed: of the run.
        """
