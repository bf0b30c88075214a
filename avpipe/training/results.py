"""A run's three files: numbers, predictions, weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from avpipe.files import read_json, whole_file, write_json
from avpipe.metrics.metric import Metric
from avpipe.training.fit import Fitted

PROTOCOLS = ("validation", "last", "best_test")
"""How the checkpoint is chosen: best on the validation split (first of equals), last epoch, best on the test split."""

METRICS = "metrics.json"
"""A run's last file: with it, the run is whole."""


def is_written(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the run in `folder` is whole and has these `facts` as entries of metrics.json, whatever its log is called."""
    files = [folder / name for name in (METRICS, "checkpoint.pt", "predictions.parquet")]
    if not all(file.is_file() for file in files):
        return False
    found = read_json(folder / METRICS)
    wanted = json.loads(json.dumps(facts))  # lists for tuples, as in the file
    return all(found.get(key) == value for key, value in wanted.items() if key != "log")


def write_run(
    folder: Path,
    fitted: Fitted | None,
    reason: str | None,
    metrics: Mapping[str, Metric],
    facts: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Write predictions.parquet and checkpoint.pt, then metrics.json.

    Args:
        folder: runs/{experiment}/seed{n}.
        fitted: how the training ended; None if there was none.
        reason: why the run failed, or None.
        metrics: of the task.
        facts: further entries of metrics.json: experiment, seed, counts, environment, ...
        options: all keyword arguments with which `create_model` built the model, sizes included.
    """
    experiment = facts["experiment"]
    evaluations = fitted.evaluations if fitted and not reason else {}
    weights = fitted.weights if fitted and not reason else {}
    # Given a path, torch.save would write its temporary name into the file, and hide that the disk is full.
    with whole_file(folder / "checkpoint.pt") as temporary, temporary.open("wb") as file:
        torch.save({"model": experiment["model"], "options": options, "weights": weights}, file)
    chosen = evaluations.get(experiment["recipe"]["protocol"])
    with whole_file(folder / "predictions.parquet") as temporary:
        (chosen.table if chosen else pd.DataFrame()).to_parquet(temporary, index=False)
    write_json(
        folder / METRICS,
        {
            **facts,
            "status": "failed" if reason else "ok",
            "reason": reason,
            "metrics": {p: evaluations[p].scores for p in PROTOCOLS if p in evaluations},
            "epochs": {p: fitted.epochs[p] for p in PROTOCOLS if fitted and p in evaluations},
            "units": {name: asdict(metric) for name, metric in metrics.items()},
            "parameters": fitted.parameters if fitted else 0,
            "seconds": round(fitted.seconds, 3) if fitted else 0.0,
        },
    )
