"""What the one loop asks of a task: batch -> loss -> scores. Data and metrics are the task's."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from avpipe.models.base import AVBatch, AVOutput
from avpipe.training.data import Division

Predictions = dict[str, np.ndarray]
"""Name -> array whose first axis is the clips of a split, in the split's order."""


class Task(Protocol):
    """A task of one experiment, made as `Task(experiment, data, model_class)` (see `avpipe.training.TASKS`).

    Args of the constructor: the `Experiment`, the `Data`, and the model's class, whose `default_...` attributes
    say what "default" in the recipe means. It raises ValueError for a recipe that the task cannot follow.
    """

    main_metric: str
    """The metric that chooses checkpoints; larger is better."""
    division: Division
    """Which division of the clips into splits the task uses."""

    def problem(self) -> str | None:
        """Why the task can do nothing with these clips, in words; None where it can."""

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """What the loss compares with: name -> tensor, first axis the training split's clips."""

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise, of one batch; `targets` are those of the batch's clips."""

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """What the metrics need of one batch: name -> tensor, first axis the batch's clips."""

    def metrics(self, predictions: Predictions, split: str) -> dict[str, float]:
        """Name -> fraction 0 to 1 over the whole split ("val" or "test")."""

    def floors(self, split: str) -> dict[str, dict[str, float]]:
        """What predictions without a model score, in words -> `metrics`; empty where there is nothing to compare with."""

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """The predictions as predictions.parquet has them."""

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without a row, for a run that failed."""


Batches = Callable[[Tensor], Iterator[AVBatch]]
"""Positions among the training clips -> their features, batch by batch, in that order."""


@runtime_checkable
class RefiningTask(Task, Protocol):
    """A task that trains twice: what the first model says changes what the second one is told."""

    def refine(
        self, targets: dict[str, Tensor], model: nn.Module, batches: Batches, seed: int
    ) -> dict[str, Tensor]:
        """The targets of the second training.

        Args:
            targets: those of the first.
            model: what it trained, in evaluation mode.
            batches: features of training clips.
            seed: of the run.
        """
