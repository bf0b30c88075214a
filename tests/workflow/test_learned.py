"""A network trained from clips without labels computes a feature, and a row is trained on it: one plan."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avpipe.datasets.demo import render_demo
from avpipe.files import read_json

from .conftest import ROOT, TABLE, Checkout, sources_to

pytestmark = pytest.mark.slow

STUDY = {
    "notice": "TEST",
    "dataset": {
        "name": "small",
        "kind": "ave",
        "annotations": "data/annotations",
        "sources": [{"kind": "local", "path": "data/clips"}],
    },
    "presets": {"tiny": {"seconds": 10, "fps": 4, "width": 32, "height": 32, "sample_rate": 16_000}},
    "media": {"preset": "tiny"},
    "extractors": {
        "look": {"backbone": "resnet18", "weights": "random", "image_size": 32},
        "seen": {"run": "predicting", "output": "visual"},
    },
    "experiments": {
        "predicting": {
            "task": "predicting",
            "model": "predicting",
            "options": {"width": 6},
            "preset": "tiny",
            "outputs": ["visual"],
        }
    },
    "tables": ["small"],
    "seeds": [0, 1],
    "training": {"epochs": 2, "batch_size": 4},
}
AVEL = {"method": "AVEL", "model": "avel", "options": {"inputs": "audio"}}
NAMES = ("look", "seen", "predicting_visual")
ROWS = [{"row": name, "features": {"audio": name}, **AVEL} for name in NAMES]


def learned_study(root: Path) -> Checkout:
    """A checkout with the task, the study and eight clips."""
    checkout = Checkout(root)
    sources_to(root)
    shutil.copy2(ROOT / "tests" / "predicting.py", root / "avpipe" / "training")
    home = "avpipe.training.predicting"
    for module, table, name in (("training", "TASKS", "Predicting"), ("models", "MODELS", "Net")):
        line = f"{table}: LazyTable = {{"
        checkout.edit(f"avpipe/{module}/__init__.py", line, f'{line}\n    "predicting": "{home}:{name}",')
    (root / "study.yaml").write_text(yaml.safe_dump(STUDY))
    (root / "workflow" / "tables" / "small.yaml").write_text(yaml.safe_dump({**TABLE, "rows": ROWS}))
    render_demo(root / "rendered", clips=8, seed=0)
    (root / "data").mkdir()
    (root / "rendered" / "source").rename(root / "data" / "clips")
    (root / "rendered" / "annotations" / "ave").rename(root / "data" / "annotations")
    shutil.rmtree(root / "rendered")
    return checkout


def planned(checkout: Checkout) -> set[str]:
    """The files that a dry run would make, without tables."""
    printed = checkout.run("--dry-run", "--quiet", "progress").stdout.splitlines()
    listed = [line.strip() for line in printed]  # the jobs of a group are indented
    files = [name for line in listed if line.startswith("output: ") for name in line[8:].split(", ")]
    return {name.removeprefix("results/small/") for name in files if "/tables/" not in name}


def test_a_network_trained_from_clips_computes_a_feature_that_a_row_trains_on(tmp_path):
    checkout = learned_study(tmp_path / "checkout")
    checkout.run()
    results, before = checkout.results, checkout.experiment("predicting")
    run = read_json(results / before / "seed0" / "metrics.json")
    assert (run["status"], run["experiment"]["preset"]["name"]) == ("ok", "tiny")
    assert "features" in run["experiment"]
    array = read_json(results / "features" / "seen.zarr" / "zarr.json")
    assert array["shape"][1:] == [10, 6]
    assert array["attributes"]["weights"] == f"run {before.split('/')[1]}, seed 0"
    rows = [read_json(path) for path in results.glob("runs/avel-*/seed0/metrics.json")]
    (seen,) = (row for row in rows if row["features"]["audio"]["extractor"] == "seen")
    assert seen["features"]["audio"]["sha256"] == array["attributes"]["sha256"]
    weights = {}
    for path in results.glob("runs/avel-*/seed*/metrics.json"):
        row = read_json(path)
        if row["experiment"].get("per_seed"):
            weights[row["seed"], row["features"]["audio"]["extractor"]] = row["features"]["audio"]["weights"]
    assert weights == {
        (seed, f"predicting_visual-seed{seed}"): f"run {before.split('/')[1]}, seed {seed}" for seed in (0, 1)
    }
    check = [sys.executable, "-m", "avpipe", "results", "check", "--study", "study.yaml"]
    subprocess.run(check, cwd=checkout.root, check=True)

    assert planned(checkout) == set()
    checkout.append("avpipe/training/predicting.py", "EDITED = True")
    stale = {name for name in planned(checkout) if not name.endswith("experiment.json")}
    learned = [row["experiment_id"] for row in rows if row["features"]["audio"]["extractor"] != "look"]
    own = {f"runs/{run}/seed{seed}/{file}" for run in (before.split("/")[1], *learned) for seed in (0, 1)
           for file in ("metrics.json", "predictions.parquet", "checkpoint.pt")}  # fmt: skip
    arrays = ("seen", "predicting_visual-seed0", "predicting_visual-seed1")
    assert stale == own | {f"features/{a}{end}" for a in arrays for end in (".zarr/c/0/0/0", ".csv")}
