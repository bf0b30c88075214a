"""On a cluster: what each job asks for, and a study on a real Slurm where there is one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import STUDY, Checkout, sources_to

pytestmark = pytest.mark.slow

SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")
PROFILE = ("--workflow-profile", "workflow/profiles/slurm")


def planned(checkout: Checkout, cores: int = 8) -> list[str]:
    """Rule, threads and resources of every job that a dry run prints, from fetching to tables."""
    lines = checkout.run("-n", "--forcerun", "fetch", cores=cores).stdout.splitlines()
    kept = re.compile(r"rule \w+:|    threads: |    resources: ")
    return sorted("\n".join(line for line in lines if kept.match(line)).split("rule ")[1:])


def test_threads_do_not_depend_on_the_cores_of_the_machine_that_plans(checkout: Checkout) -> None:
    assert planned(checkout, 8) == planned(checkout, 64)


def test_every_job_says_how_much_memory_and_time_it_needs(checkout: Checkout) -> None:
    jobs = [job for job in planned(checkout) if not job.startswith("all:")]
    assert {job.split(":")[0] for job in jobs} >= {"fetch", "normalise", "train", "table"}
    assert [job for job in jobs if not re.search("runtime=.*mem_mb=", job)] == []


def test_only_downloads_from_the_internet_take_turns(checkout: Checkout) -> None:
    local = {"kind": "local", "path": "data/clips"}
    web = {"kind": "http", "url": "https://example.org/{clip}.mp4"}
    for sources, turns in (([local], 0), ([local, web], 1)):
        checkout.configure(dataset={**STUDY["dataset"], "sources": sources})
        fetching = [job for job in planned(checkout) if job.startswith("fetch:")]
        assert fetching
        assert all(f"downloads={turns}" in job for job in fetching)


def test_slurm_is_asked_for_little_first_and_for_more_after_a_failure(
    checkout: Checkout, tmp_path: Path
) -> None:
    """Slurm's programs are replaced: sbatch writes down its arguments and fails, the others say nothing."""
    asked, programs = tmp_path / "asked", tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "scontrol", "sinfo", "squeue", "sacct", "sacctmgr", "sshare"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {asked}; exit 1\n' if name == "sbatch" else "#!/bin/sh\n"
        )
        program.chmod(0o755)
    done = subprocess.run(
        [
            SNAKEMAKE,
            *PROFILE,
            "--forcerun=normalise",
            "--configfile=study.yaml",
            "--slurm-init-seconds-before-status-checks=1",
        ],
        cwd=checkout.root,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert asked.exists(), done.stderr
    first_shard = [line for line in asked.read_text().splitlines() if "_canonical_0 " in line]
    assert all("rule_normalise" in line and "--cpus-per-task=4" in line for line in first_shard)
    minutes_and_mb = [re.findall(r"(?:-t|--mem) (\d+)", line) for line in first_shard]
    assert minutes_and_mb == [["120", "2000"], ["240", "4000"], ["360", "6000"]]


@pytest.mark.slurm
def test_the_quick_study_on_slurm_gives_the_tables_of_a_local_run(tmp_path: Path) -> None:
    if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here")
    folders = {"local": ["--cores", "2"], "slurm": list(PROFILE)}
    for name, options in folders.items():
        sources_to(tmp_path / name)
        quick = ["all", "--configfile", "workflow/configs/quick.yaml"]
        done = subprocess.run(
            [SNAKEMAKE, *options, *quick], cwd=tmp_path / name, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
    local, slurm = (tmp_path / name / "results" / "quick" for name in folders)
    compared = sorted(
        file.relative_to(local)
        for pattern in ("tables/*", "runs/*/seed*/predictions.parquet", "features/*.zarr/c/**/*")
        for file in local.glob(pattern)
        if file.is_file()
    )
    assert {file.parts[0] for file in compared} == {"tables", "runs", "features"}
    different = [str(file) for file in compared if (local / file).read_bytes() != (slurm / file).read_bytes()]
    assert different == []
