"""What the one loop asks of a task: batch -> loss -> scores. Data and metrics are the task's."""

from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avpipe.models.base import AVOutput

Predictions = dict[str, np.ndarray]
"""Name -> array whose first axis is the clips of a split, in the split's order."""


class Task(Protocol):
    """A task of one experiment, made as `Task(experiment, data, model_class)` (see `avpipe.training.TASKS`).

    Args of the constructor: the `Experiment`, the `Data`, and the model's class, whose `default_...` attributes
    say what "default" in the recipe means. It raises ValueError for a recipe that the task cannot follow.
    """

    main_metric: str
    """The metric that chooses checkpoints; larger is better."""

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """What the loss compares with: name -> tensor, first axis the training split's clips."""

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The scalar to minimise, of one batch; `targets` are those of the batch's clips."""

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """What the metrics need of one batch: name -> tensor, first axis the batch's clips."""

    def metrics(self, predictions: Predictions, split: str) -> dict[str, float]:
        """Name -> fraction 0 to 1 over the whole split ("val" or "test")."""

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """The predictions as predictions.parquet has them."""

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without a row, for a run that failed."""
