"""On a cluster: what each job asks for. Nothing here needs a Slurm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import STUDY, Checkout

pytestmark = pytest.mark.slow

SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")
PROFILE = ("--workflow-profile", "workflow/profiles/slurm")


def planned(checkout: Checkout, cores: int = 8) -> list[str]:
    """Rule, threads and resources of every job that a dry run prints, from fetching to tables."""
    printed = checkout.run("-n", "--forcerun", "fetch", cores=cores).stdout
    lines = [line.strip() for line in printed.splitlines()]  # the jobs of a group are indented
    kept = re.compile(r"rule \w+:|threads: |resources: ")
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


def asked(checkout: Checkout, folder: Path, *options: str) -> list[str]:
    """The options of each sbatch. Slurm's programs are replaced: sbatch writes down its options and fails, others say nothing."""
    written, programs = folder / "asked", folder / "bin"
    programs.mkdir()
    for name in ("sbatch", "scontrol", "sinfo", "squeue", "sacct", "sacctmgr", "sshare"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {written}; exit 1\n' if name == "sbatch" else "#!/bin/sh\n"
        )
        program.chmod(0o755)
    done = subprocess.run(
        [
            SNAKEMAKE,
            *PROFILE,
            "--configfile=study.yaml",
            "--slurm-init-seconds-before-status-checks=1",
            *options,
        ],
        cwd=checkout.root,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert written.exists(), done.stderr
    return [line.partition(" --wrap=")[0] for line in written.read_text().splitlines()]


def minutes_and_mb(line: str) -> list[int]:
    return [int(number) for number in re.findall(r"(?:-t|--mem) (\d+)", line)]


def test_slurm_is_asked_for_little_first_and_for_more_after_a_failure(
    checkout: Checkout, tmp_path: Path
) -> None:
    lines = asked(checkout, tmp_path, "--forcerun=normalise")
    assert all("rule_shard_extract_sound_look_normalise" in line for line in lines)
    assert all("--cpus-per-task=4" in line for line in lines)
    both_shards = sorted(minutes_and_mb(line) for line in lines)
    assert both_shards == [[360, 8000]] * 2 + [[720, 16000]] * 2 + [[1080, 24000]] * 2


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_shards_stages_are_one_job_but_for_those_that_need_a_gpu(
    checkout: Checkout, tmp_path: Path, device: str
) -> None:
    """On a CPU one bundle of extractors after another, so that the job needs no more than the larger one."""
    checkout.configure(bundles=[], device=device)
    for path in (*checkout.results.glob("segments/canonical/1.*"), checkout.results / "downloads/1.parquet"):
        path.unlink()
    (line,) = [line for line in asked(checkout, tmp_path, "--retries=0") if "fetch" in line]
    (name,) = re.findall("rule_[a-z_]+", line)
    stages = "extract_look_extract_sound_fetch_normalise" if device == "auto" else "fetch_normalise"
    assert name == f"rule_shard_{stages}"
    fetch, normalise, extract = 240, 120, 240
    minutes = fetch + normalise + (2 * extract if device == "auto" else 0)
    assert minutes_and_mb(line) == [minutes, 8000 if device == "auto" else 2000]
    assert "--cpus-per-task=4" in line


def test_downloading_from_the_internet_is_a_job_of_its_own(checkout: Checkout, tmp_path: Path) -> None:
    web = {"kind": "http", "url": "https://example.org/{clip}.mp4"}
    checkout.configure(dataset={**STUDY["dataset"], "sources": [web]})
    assert all("rule_fetch_wildcards" in line for line in asked(checkout, tmp_path, "--retries=0"))


def test_a_training_asks_for_one_gpu_of_a_kind_and_for_the_cpus_that_feed_it(
    checkout: Checkout, tmp_path: Path
) -> None:
    checkout.configure(device="cuda")
    changed = [f"train:{key}" for key in ("slurm_partition=gpu", "gpu_model=a100", "cpus_per_gpu=4")]
    lines = asked(checkout, tmp_path, "--retries=0", "--forcerun=train", "--set-resources", *changed)
    assert len(lines) == 2
    for line in lines:
        assert "-p gpu" in line
        assert "--gpus=a100:1" in line
        assert "--cpus-per-gpu=4" in line


def test_a_group_of_trainings_has_one_gpu_and_their_time_together(checkout: Checkout, tmp_path: Path) -> None:
    checkout.configure(device="cuda")
    grouped = ["--groups=train=trainings", "--group-components=trainings=4"]
    grouped += ["--resources", "gpu=1", "--set-resource-scopes", "gpu=local"]
    (line,) = asked(checkout, tmp_path, "--retries=0", "--forcerun=train", *grouped)
    assert "--gpus=1" in line
    assert minutes_and_mb(line)[0] == 2 * 60


def test_short_jobs_run_where_snakemake_runs(checkout: Checkout, tmp_path: Path) -> None:
    """Slurm is asked for the trainings only, once Snakemake has made what they read."""
    lines = asked(checkout, tmp_path, "--retries=0", "--forcerun", "clips", "coverage_sound_look")
    assert {name for line in lines for name in re.findall("rule_[a-z]+", line)} == {"rule_train"}


def test_another_device_reruns_nothing(checkout: Checkout) -> None:
    assert "Nothing to be done" in checkout.run("-n").stdout
    checkout.configure(device="cuda")
    assert "Nothing to be done" in checkout.run("-n").stdout
