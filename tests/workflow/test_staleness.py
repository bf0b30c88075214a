"""What reruns after a change: exactly what depends on it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from .conftest import TABLE, Checkout, sources_to

pytestmark = pytest.mark.slow

TABLES = {f"tables/small.{suffix}" for suffix in ("csv", "md", "tex", "html")}
COVERAGE = {"sound.csv", "look.csv"}
MANIFEST = {"manifest.parquet", "manifest.json", "events.parquet", "categories.csv", "issues.csv"}


def stages(written: set[str]) -> dict[str, set[str]]:
    """The written files by the stage that wrote them."""
    found: dict[str, set[str]] = {}
    for name in written:
        found.setdefault(name.split("/")[0], set()).add(name)
    return found


def shards_of(names: set[str]) -> set[str]:
    """The shard numbers in names like segments/canonical/2.tar or features/look.zarr/c/2/0/0."""
    return {
        name.split("/c/")[1].split("/")[0] if "/c/" in name else Path(name).stem
        for name in names
        if "zarr.json" not in name and Path(name).name not in COVERAGE
    }


def test_what_changes_no_result_reruns_nothing(checkout):
    """Comments, further models and backbones, another number of cores."""
    for module in ("models/avin", "training/fit", "features/extract", "media/normalise", "datasets/ave"):
        checkout.append(f"avpipe/{module}.py", "# a comment")
    table = checkout.root / "workflow" / "tables" / "small.yaml"
    table.write_text("# a comment\n" + table.read_text())
    models, backbones = "MODELS: LazyTable = {", "BACKBONES: Entries[Backbone] = {"
    checkout.edit("avpipe/models/__init__.py", models, f'{models}\n    "new": "avpipe.models.avin:AVIN",')
    checkout.edit("avpipe/features/spec.py", backbones, f'{backbones}\n    "new": Backbone("2d", 512),')
    done = checkout.run(cores=1)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_editing_a_model_reruns_its_runs_and_tables_only(checkout):
    checkout.append("avpipe/models/avin.py", "EDITED = True")
    written = checkout.rerun()
    avin = checkout.experiment("avin")
    of_runs = {name for name in checkout.files() if name.startswith(f"{avin}seed")}
    assert written - TABLES == of_runs
    assert written >= TABLES


def test_editing_how_tables_are_written_reruns_tables_only(checkout):
    checkout.append("avpipe/tables/aggregate.py", "EDITED = True")
    assert checkout.rerun() == TABLES


def test_changing_one_clip_reruns_its_shard_and_what_reads_features(checkout):
    manifest = pd.read_parquet(checkout.results / "manifest.parquet")
    clip = manifest[manifest.shard == 1].iloc[0]
    other = manifest[manifest.shard == 0].iloc[0]
    clips = checkout.root / "data" / "clips"
    shutil.copyfile(clips / f"{other.source}.mp4", clips / f"{clip.source}.mp4")
    written = stages(checkout.rerun())
    assert set(written) == {"downloads", "segments", "features", "clips.parquet", "runs", "tables"} | MANIFEST
    assert all(shards_of(written[stage]) == {"1"} for stage in ("downloads", "segments", "features"))


def test_added_clips_make_a_new_shard_and_renumber_no_row(checkout):
    data = checkout.root / "data"
    before = (checkout.results / "rows.csv").read_text()
    lines = (data / "annotations" / "Annotations.txt").read_text().splitlines()
    old = next(line for line in lines if line.count("&") == 4 and "Quality" not in line)
    source = old.split("&")[1]
    new = "abcdefghijk"
    shutil.copyfile(data / "clips" / f"{source}.mp4", data / "clips" / f"{new}.mp4")
    for name in ("Annotations.txt", "trainSet.txt"):
        path = data / "annotations" / name
        path.write_text(path.read_text().rstrip("\n") + "\n" + old.replace(source, new) + "\n")
    written = stages(checkout.rerun())
    assert (checkout.results / "rows.csv").read_text().startswith(before), "rows are never renumbered"
    assert all(shards_of(written[stage]) == {"2"} for stage in ("downloads", "segments", "features"))
    assert {"runs", "tables"} <= set(written)


def test_a_row_of_predictions_follows_its_file(checkout):
    """Without the file there is one line; a new file writes the table again, and trains nothing."""
    row = {"row": "mine", "method": "Mine", "predictions": "mine.parquet"}
    path, file = checkout.root / "workflow" / "tables" / "small.yaml", checkout.root / "mine.parquet"
    path.write_text(yaml.safe_dump({**TABLE, "rows": [*TABLE["rows"], row]}))
    refused = checkout.run("-n", check=False)
    assert "table small, row 'mine': predictions: no file mine.parquet" in refused.stdout + refused.stderr
    run = checkout.results / checkout.experiment("avin") / "seed0"
    shutil.copyfile(run / "predictions.parquet", file)
    assert checkout.rerun() == TABLES
    written = pd.read_csv(checkout.results / "tables" / "small.csv").set_index("row")
    accuracy = json.loads((run / "metrics.json").read_text())["metrics"]["validation"]["accuracy"]
    assert written.loc["mine", "mean"] == pytest.approx(100 * accuracy)
    assert "mine.parquet" in written.loc["mine", "note"]
    assert checkout.rerun() == set()
    table = pd.read_parquet(file)
    table.assign(prediction=table["truth"]).to_parquet(file)
    assert checkout.rerun() == TABLES
    assert pd.read_csv(checkout.results / "tables" / "small.csv").set_index("row").loc["mine", "mean"] == 100


def test_adding_a_row_runs_that_row_and_the_table(checkout):
    row = {
        "row": "late",
        "method": "AVIN, added",
        "model": "avin",
        "options": {"fusion": "addition"},
        "features": {"audio": "sound", "visual": "look"},
    }
    path = checkout.root / "workflow" / "tables" / "small.yaml"
    old = {name for name in checkout.files() if "/seed" in name}
    path.write_text(yaml.safe_dump({**TABLE, "rows": [*TABLE["rows"], row]}))
    written = checkout.rerun()
    assert written >= TABLES
    assert not written & old
    assert {name.split("/")[0] for name in written - TABLES} == {"runs"}
    assert checkout.rerun() == set(), "the new times of the other experiments' files rerun nothing later"


def test_changing_an_option_of_training_reruns_runs_and_tables(checkout):
    checkout.configure(training={"epochs": 3, "batch_size": 8})
    assert set(stages(checkout.rerun())) == {"runs", "tables"}


def test_changing_an_option_of_one_extractor_reruns_what_reads_it(checkout):
    extractors = yaml.safe_load((checkout.root / "study.yaml").read_text())["extractors"]
    checkout.configure(extractors={**extractors, "look": {**extractors["look"], "seed": 5}}, bundles=[])
    checkout.run("--touch")  # bundles are another rule; take the old arrays as they are, then change the seed
    checkout.configure(extractors={**extractors, "look": {**extractors["look"], "seed": 6}}, bundles=[])
    written = checkout.rerun()
    assert any(name.startswith("features/look.zarr/") for name in written)
    assert not any(name.startswith("features/sound.zarr/") for name in written)
    assert not any(name.startswith(checkout.experiment("avel")) for name in written)
    assert any(name.startswith(checkout.experiment("avin")) for name in written)


@pytest.mark.parametrize("bookkeeping", [True, False], ids=["with .snakemake", "results only"])
def test_a_fresh_clone_with_old_results_copied_in_reruns_nothing(finished, tmp_path, bookkeeping):
    root = tmp_path / "somewhere" / "clone"
    root.mkdir(parents=True)
    sources_to(root)  # new files, with new times
    shutil.copy(finished.root / "study.yaml", root)
    shutil.copy(finished.root / "workflow" / "tables" / "small.yaml", root / "workflow" / "tables")
    for name in ("data", "results", *([".snakemake"] if bookkeeping else [])):
        shutil.copytree(finished.root / name, root / name)  # keeps times, as `cp -a` and `rsync -a` do
    done = Checkout(root).run()
    assert "Nothing to be done" in done.stdout + done.stderr


def checked(checkout: Checkout) -> subprocess.CompletedProcess[str]:
    """Run `avpipe results check` in the checkout."""
    command = [sys.executable, "-m", "avpipe", "results", "check", "--study", "study.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.root)}
    return subprocess.run(
        command, cwd=checkout.root, env=environment, capture_output=True, text=True, check=False
    )


def test_copied_results_of_other_code_configuration_or_inputs_are_listed(checkout):
    shutil.rmtree(checkout.root / ".snakemake")  # as in another clone to which only results/ was copied
    done = checked(checkout)
    assert (done.returncode, "all 6 arrays and runs" in done.stdout) == (0, True), done.stdout + done.stderr

    checkout.append("avpipe/models/avin.py", "EDITED = True")
    assert "Nothing to be done" in checkout.run().stderr, "Snakemake does not see it"
    done = checked(checkout)
    avin, avel = (f"results/small/{checkout.experiment(name)}" for name in ("avin", "avel"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == [f"{avin}seed{seed}: other code" for seed in (0, 1)]
    assert "2 of 6 arrays and runs" in done.stdout
    assert avel not in done.stdout

    extractors = yaml.safe_load((checkout.root / "study.yaml").read_text())["extractors"]
    checkout.configure(extractors={**extractors, "look": {**extractors["look"], "seed": 6}})
    checkout.append("avpipe/features/vggish.py", "EDITED = True")
    labels = checkout.results / "manifest.json"
    labels.write_text(labels.read_text().replace('"labels": "', '"labels": "f'))
    listed = checked(checkout).stdout
    assert "sound.zarr: other code\n" in listed
    assert "look.zarr: other configuration\n" in listed
    assert f"{avin}seed0: other code, inputs\n" in listed
    assert f"{avel}seed1: other inputs\n" in listed
