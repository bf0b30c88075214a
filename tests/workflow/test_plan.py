"""`avpipe plan` counts the jobs that Snakemake runs, and a range of shards is what its command makes."""

import subprocess
from pathlib import Path

import pytest
import yaml

from avpipe.plan.cost import study_cost
from avpipe.plan.plan import Plan
from avpipe.plan.study import validate_study

from .conftest import Checkout, sources_to, write_study


def jobs(output: str) -> dict[str, int]:
    """The table "Job stats" of a dry run."""
    rows = output.partition("Job stats:")[2].partition("total")[0].splitlines()
    return {row.split()[0]: int(row.split()[1]) for row in rows if row and row.split()[-1].isdecimal()}


def test_the_jobs_are_those_that_snakemake_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources_to(tmp_path)
    write_study(tmp_path)
    fresh = Checkout(tmp_path)
    fresh.configure(shard_size=8)  # 24 clips: shards 0 to 2
    monkeypatch.chdir(tmp_path)
    plan = Plan(validate_study(yaml.safe_load(Path("study.yaml").read_text())), Path("workflow"))
    whole = study_cost(plan)  # counts the clips in the annotation files
    assert whole.clips == 24

    # A range of shards, by the command that is printed for it.
    targets = study_cost(plan, clips=24, shards=(1, 2)).targets
    expanded = subprocess.run(["bash", "-c", f"echo {targets}"], capture_output=True, text=True, check=True)
    fresh.run(*expanded.stdout.split())
    assert {path.stem for path in (fresh.results / "downloads").glob("*.parquet")} == {"1", "2"}
    for feature in ("sound", "look"):
        chunks = (fresh.results / "features" / f"{feature}.zarr" / "c").iterdir()
        assert {path.name for path in chunks} == {"1", "2"}

    # With what is left, all jobs were made that the plan counts. (Snakemake counts the target rule `all` as well.)
    left = jobs(fresh.run("-n", "--quiet", "rules").stdout)
    assert left["extract_sound_look"] == left["normalise"] == left["fetch"] == 1
    assert study_cost(plan, clips=24, shards=(1, 2)).jobs + sum(left.values()) - left["all"] == whole.jobs
