"""A small study, a small table and made-up runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study

WriteRun = Callable[..., Path]


@pytest.fixture
def study() -> Study:
    """Two extractors with published weights, three seeds, no notice."""
    return Study.model_validate({
        "dataset": {"name": "toy", "kind": "ave"},
        "extractors": {"vggish": {"backbone": "vggish"}, "vgg16_map": {"backbone": "vgg16", "pooling": "map"}},
        "recipes": {"short": {"epochs": 7}},
        "seeds": [0, 1, 2],
    })  # fmt: skip


@pytest.fixture
def table_data() -> dict[str, Any]:
    """The content of a table's file: one row with a model in both settings, one gap."""
    avel = {
        "row": "avel",
        "method": "AVEL",
        "model": "avel",
        "published": {"supervised": 72.7, "weakly-supervised": 66.7},
    }
    return {
        "title": "A small table", "paper": "Nobody, 2020", "printed": "Table 1", "task": "localization",
        "metrics": {"accuracy": "Acc."},
        "defaults": {"features": {"audio": "vggish", "visual": "vgg16_map"}},
        "rows": [avel, {"row": "dam", "method": "DAM", "gap": "no model yet", "published": {"supervised": 74.5}}],
    }  # fmt: skip


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write metrics.json and, if given, predictions.parquet of one seed below tmp_path; keywords replace parts of metrics.json."""

    def write(
        experiment: Experiment, seed: int, accuracy: float = 0.5, predictions: pd.DataFrame | None = None, **changes: Any
    ) -> Path:  # fmt: skip
        folder = tmp_path / "runs" / experiment.id / f"seed{seed}"
        folder.mkdir(parents=True)
        record = {
            "experiment": experiment.model_dump(mode="json"), "experiment_id": experiment.id, "seed": seed,
            "status": "ok", "reason": None,
            "metrics": {
                "validation": {"accuracy": accuracy}, "last": {"accuracy": 0.25}, "best_test": {"accuracy": 0.75},
            },
            "epochs": {"validation": 3, "last": 9, "best_test": 5},
            "counts": {"train": 30, "train_named": 30, "val": 8, "val_named": 8, "test": 8, "test_named": 8},
            "parameters": 1234, "seconds": 12.0, "device": "cpu", "code": "0123456789abcdef",
            "environment": {"python": "3.11.9"},
            "features": {"audio": {"extractor": "vggish", "weights": "pretrained", "sha256": "ab" * 32}},
            "log": "logs/train.log",
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps({**record, **changes}), encoding="utf-8")
        if predictions is not None:
            predictions.to_parquet(folder / "predictions.parquet", index=False)
        return folder

    return write
