"""A small study with predictions, made up so that every drawn number can be worked out by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from avpipe.config.study import Study
from avpipe.experiment import Experiment

CATEGORIES = ("Bell", "Male speech, man speaking")
BACKGROUND = 2


@pytest.fixture
def study() -> Study:
    """Two seeds, published weights."""
    return Study.model_validate(
        {
            "dataset": {"name": "toy", "kind": "ave"},
            "extractors": {
                "vggish": {"backbone": "vggish"},
                "vgg16_map": {"backbone": "vgg16", "pooling": "map"},
            },
            "seeds": [0, 1],
        }
    )


@pytest.fixture
def figure_data() -> dict[str, Any]:
    """The content of a figure's file with two rows; `kind` and `options` are added by the tests."""
    return {
        "title": "A small figure", "paper": "Nobody, 2020", "printed": "Figure 1", "task": "localization",
        "defaults": {"features": {"audio": "vggish", "visual": "vgg16_map"}},
        "rows": [
            {"row": "avel", "method": "AVEL", "model": "avel"},
            {"row": "avin", "method": "AVIN", "model": "avin"},
        ],
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The study's folder with categories.csv."""
    lines = [f'{index},"{name}"' for index, name in enumerate(CATEGORIES)]
    (tmp_path / "categories.csv").write_text("\n".join(["index,category", *lines, ""]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def write_run(results: Path) -> Callable[..., Path]:
    """Write metrics.json and predictions.parquet of one seed: clip -> (truth, prediction)."""

    def write(
        experiment: Experiment,
        seed: int,
        clips: dict[str, tuple[Sequence[int], Sequence[int]]],
        **changes: Any,
    ) -> Path:
        folder = results / "runs" / experiment.id / f"seed{seed}"
        folder.mkdir(parents=True)
        record = {"status": "ok", "reason": None, "metrics": {"validation": {"accuracy": 0.5}}}
        (folder / "metrics.json").write_text(json.dumps(record | changes), encoding="utf-8")
        rows = [
            (clip, segment, t, p, 0.5)
            for clip, (truth, prediction) in clips.items()
            for segment, (t, p) in enumerate(zip(truth, prediction, strict=True))
        ]
        table = pd.DataFrame(rows, columns=["clip", "segment", "truth", "prediction", "confidence"])
        table.to_parquet(folder / "predictions.parquet", index=False)
        return folder

    return write


@pytest.fixture
def texts() -> Callable[[Figure], list[str]]:
    """Every text in a figure, line breaks as spaces."""

    def read(figure: Figure) -> list[str]:
        drawn = figure.findobj(Text)
        return [" ".join(t.get_text().split()) for t in drawn if isinstance(t, Text) and t.get_text().strip()]

    return read
