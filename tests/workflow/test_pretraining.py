"""A row that starts from another experiment's model: that one is trained first, and what changes it changes the row."""

import json

import pandas as pd
import pytest
import yaml

from .conftest import Checkout

pytestmark = pytest.mark.slow

FEATURES = {"audio": "sound", "visual": "look"}
TABLE = {
    "title": "Parsing with and without pretraining",
    "paper": "none",
    "printed": "nowhere",
    "task": "parsing",
    "metrics": {"segment_type": "Ty@AV"},
    "settings": ["weakly-supervised"],
    "defaults": {"features": FEATURES},
    "rows": [
        {"row": "han", "method": "HAN", "model": "han"},
        {
            "row": "pretrained",
            "method": "Pretrain",
            "model": "avg_parser",
            "pretraining": {"model": "avg", "options": {"objective": "uni"}, "features": FEATURES},
        },
    ],
}
SIZES = {"hidden_dim": 8, "layers": 1, "heads": 2, "feed_forward_dim": 16}


def parsing_study(checkout: Checkout) -> None:
    """Make the small study one of rendered clips with LLP's annotations."""
    source = {"kind": "local", "path": "results/parsed/source"}
    study = yaml.safe_load((checkout.root / "study.yaml").read_text()) | {
        "dataset": {
            "name": "parsed",
            "kind": "demo",
            "options": {"clips": 16, "seed": 0},
            "sources": [source],
        },
        "shard_size": 16,
        "tables": ["parsed"],
        "seeds": [0],
        "training": {"epochs": 1, "batch_size": 8},
        "models": {
            "han": {"hidden_dim": 8, "motion_dim": 0},
            "avg": SIZES,
            "avg_parser": {**SIZES, "motion_dim": 0, "head_dim": 8},
        },
    }
    (checkout.root / "study.yaml").write_text(yaml.safe_dump(study))
    (checkout.root / "workflow" / "tables" / "parsed.yaml").write_text(yaml.safe_dump(TABLE))


def test_pretraining_comes_first_and_only_its_rows_follow_it(checkout):
    parsing_study(checkout)
    checkout.run()
    results = checkout.root / "results" / "parsed"
    (before,), (parser,) = ((results / "runs").glob(f"{model}-*") for model in ("avg", "avg_parser"))
    metrics = json.loads((parser / "seed0" / "metrics.json").read_text())
    assert metrics["status"] == "ok"
    assert metrics["pretraining"]["experiment_id"] == before.name
    table = pd.read_csv(results / "tables" / "parsed.csv")
    assert list(table[table["mean"].notna()]["row"]) == ["han", "pretrained"]
    checkout.append("avpipe/training/pretraining.py", "EDITED = True")
    written = {name.split("/")[1] for name in checkout.rerun(dataset="parsed") if name.startswith("runs/")}
    assert written == {before.name, parser.name}, "HAN does not depend on pretraining"
