"""A row that starts from another experiment's model: that one is trained first, and what changes it changes the row."""

import json
import re
import shutil

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


def planned(checkout: Checkout, study: str, table: str) -> dict[str, list[str]]:
    """Trained experiment -> its inputs that end in checkpoint.pt, of a dry run for one table of a study that comes with avpipe."""
    shutil.copy2(checkout.root / "workflow" / "configs" / f"{study}.yaml", checkout.root / "study.yaml")
    name = yaml.safe_load((checkout.root / "study.yaml").read_text())["dataset"]["name"]
    said = checkout.run("-n", f"results/{name}/tables/{table}.csv").stdout
    jobs = re.findall(r"rule train:\n(.*?)wildcards: .*?experiment=([^,\n]+)", said, re.DOTALL)
    return {
        experiment: re.findall(r"results/\S+checkpoint\.pt", job.split("output:")[0])
        for job, experiment in jobs
    }


def test_llps_parsers_are_planned_from_the_checkpoints_of_the_study_of_audioset(checkout):
    for folder in ("llp", "audioset"):
        (checkout.root / "data" / folder / "annotations").mkdir(parents=True)
        (checkout.root / "data" / folder / "annotations" / "clips.csv").touch()
    before = planned(checkout, "audioset_pretraining", "avg_pretraining")
    assert len(before) == 3
    files = {f"results/audioset_pretraining/runs/{e}/seed{s}/checkpoint.pt" for e in before for s in range(5)}
    for file in files:
        (checkout.root / file).parent.mkdir(parents=True)
        (checkout.root / file).touch()
    parsers = planned(checkout, "llp_audioset", "avvp_pretraining")
    assert len(parsers) == 3
    assert all(experiment.startswith("avg_parser-") for experiment in parsers)
    assert {start for starts in parsers.values() for start in starts} == files
