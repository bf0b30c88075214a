"""The contract between training and a task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pandas as pd
from torch import Tensor, nn
from torch.utils.data import Dataset

from avpipe.metrics.metric import Metric
from avpipe.training.data import Loader


@dataclass
class Evaluation:
    """What a model scores on a split.

    Args:
        scores: metric -> value; percentages as fractions from 0 to 1.
        table: the predictions, for predictions.parquet.
    """

    scores: dict[str, float]
    table: pd.DataFrame


class Task(Protocol):
    """What `fit` asks of a task; it knows nothing else of it.

    `fit` sums the terms of the loss, steps the optimizer and keeps the checkpoint that the first metric prefers on "val".
    """

    settings: ClassVar[Sequence[str]]
    recipe_keys: ClassVar[Sequence[str]]
    """Keys of the recipe that this task reads and not every task does. Planning reads all three from the source."""
    metrics: ClassVar[Mapping[str, Metric]]
    """Name in metrics.json -> metric; the first one chooses checkpoints. Write the names as literals."""

    def datasets(self) -> Mapping[str, Dataset[Any]]:
        """ "train", "val" and "test". Items carry their targets; see `avpipe.training.data.Loader`. Without "val" no
        checkpoint is chosen, without "test" nothing is reported."""

    def model(self) -> nn.Module:
        """A model before its first step, on the CPU. All its randomness comes from torch's global generator."""

    def loss(self, model: nn.Module, batch: Any, progress: float) -> dict[str, Tensor]:
        """The terms to minimise, scalars; their sum counts.

        Args:
            model: in training mode.
            batch: of the training dataset. With several processes, this process's part; a term that is no mean over clips
                must `gather` (`avpipe.models.parallel`) what it compares.
            progress: share of the training done, 0 <= p < 1.
        """

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """The scores and predictions of a model in evaluation mode. The labels in the batches must not reach it."""
