"""A small study, a small table and made-up runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from avpipe.plan.study import Study
from tests import builders

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
    """Writes a run below tmp_path, as `builders.write_run` does."""
    return partial(builders.write_run, tmp_path)
