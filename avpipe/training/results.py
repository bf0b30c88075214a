"""A run's outcome and its three files: numbers, predictions, weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from avpipe.files import whole_file, write_json
from avpipe.training.task import Predictions

PROTOCOLS = ("validation", "last", "best_test")
"""How the checkpoint is chosen: best on the validation split (first of equals), last epoch, best on the test split."""


@dataclass
class Checkpoint:
    """One epoch's scores and predictions on the test split."""

    epoch: int
    chosen_by: float | None
    metrics: dict[str, float]
    predictions: Predictions

    def to_state(self) -> dict[str, Any]:
        """For `resume.save_state`."""
        return {**vars(self), "predictions": {k: torch.from_numpy(v) for k, v in self.predictions.items()}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Checkpoint":
        """The inverse of `to_state`."""
        return cls(**{**state, "predictions": {k: v.numpy() for k, v in state["predictions"].items()}})


@dataclass
class RunOutcome:
    """How a run ended. `reason` is why it failed, else None; `weights` are those of the protocol's checkpoint."""

    reason: str | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0


def better(new: float, old: Checkpoint | None) -> bool:
    """Whether the score beats the kept checkpoint's, strictly; any number but NaN beats none."""
    if old is None or old.chosen_by is None:
        return not np.isnan(new)
    return new > old.chosen_by


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters and buffers in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def write_run(
    folder: Path, outcome: RunOutcome, table: pd.DataFrame, facts: dict[str, Any], options: dict[str, Any]
) -> None:
    """Write predictions.parquet and checkpoint.pt, then metrics.json.

    Args:
        folder: runs/{experiment}/seed{n}.
        outcome: how the run ended.
        table: predictions on the test split of the protocol's checkpoint; no rows if the run failed.
        facts: further entries of metrics.json: experiment, seed, counts, environment, ...
        options: all keyword arguments with which `create_model` built the model, sizes included.
    """
    model = {"model": facts["experiment"]["model"], "options": options}
    # Given a path, torch.save would write its temporary name into the file, and hide that the disk is full.
    with whole_file(folder / "checkpoint.pt") as temporary, temporary.open("wb") as file:
        torch.save({**model, "weights": {} if outcome.reason else outcome.weights}, file)
    with whole_file(folder / "predictions.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    chosen = {protocol: outcome.checkpoints.get(protocol) for protocol in PROTOCOLS}
    write_json(
        folder / "metrics.json",
        {
            **facts,
            "status": "failed" if outcome.reason else "ok",
            "reason": outcome.reason,
            "metrics": {protocol: c.metrics for protocol, c in chosen.items() if c}
            if not outcome.reason
            else {},
            "epochs": {protocol: c.epoch for protocol, c in chosen.items() if c}
            if not outcome.reason
            else {},
            "parameters": outcome.parameters,
            "seconds": round(outcome.seconds, 3),
        },
    )
