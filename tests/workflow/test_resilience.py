"""Killed, short of space, or wrongly configured: a clear message, nothing lost, the same result afterwards."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import zarr

from .conftest import Checkout

pytestmark = pytest.mark.slow
ALONE = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def kill_during(checkout: Checkout, command: str, after: float, targets: list[str]) -> None:
    """Start Snakemake, wait until a job runs `avpipe COMMAND` here, wait a little more, kill -9 everything."""
    with checkout.start(*targets, **ALONE) as process:
        deadline = time.monotonic() + 120
        while not job_runs(checkout.root, command):
            assert process.poll() is None, f"Snakemake ended before a job ran {command!r}"
            assert time.monotonic() < deadline, f"no job ran {command!r}"
            time.sleep(0.05)
        time.sleep(after)
        kill_session(process.pid)
        process.wait()
    checkout.run("--unlock")


def job_runs(root: Path, command: str) -> bool:
    """Does a Python process with this checkout as its folder run `python -m avpipe COMMAND`?"""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if (
                f"-m avpipe {command}" in line
                and line.startswith("python")
                and (folder / "cwd").resolve() == root.resolve()
            ):
                return True
        except OSError:  # it ended meanwhile
            continue
    return False


def kill_session(leader: int) -> None:
    """SIGKILL to every process of the session, as a machine that goes down would."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                os.kill(int(folder.name), signal.SIGKILL)
        except ProcessLookupError:
            continue


def measured(checkout: Checkout, experiment: str) -> dict[str, object]:
    """The metrics of every seed of an experiment."""
    paths = sorted((checkout.results / experiment).glob("seed*/metrics.json"))
    return {path.parent.name: json.loads(path.read_text())["metrics"] for path in paths}


@pytest.mark.parametrize("after", [0.5, 2.0])
def test_killed_while_normalising_the_tars_are_the_same_after_a_second_run(checkout, finished, after):
    segments = checkout.results / "segments" / "canonical"
    for path in segments.iterdir():
        path.unlink()
    targets = [f"results/small/segments/canonical/{shard}.tar" for shard in range(2)]
    kill_during(checkout, "media normalise", after, targets)
    checkout.run(*targets)
    originals = finished.results / "segments" / "canonical"
    assert sorted(p.name for p in segments.iterdir()) == sorted(p.name for p in originals.iterdir())
    for path in originals.iterdir():
        assert (segments / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("after", [1.0, 4.0])
def test_killed_while_extracting_the_features_are_the_same_after_a_second_run(checkout, finished, after):
    features = checkout.results / "features"
    for path in features.glob("*.zarr/c/*/*/*"):
        path.unlink()
    targets = [f"results/small/features/sound.zarr/c/{shard}/0/0" for shard in range(2)]
    kill_during(checkout, "features extract", after, targets)
    checkout.run(*targets)
    for name in ("sound", "look"):
        again = zarr.open_array(features / f"{name}.zarr", mode="r")[:]
        before = zarr.open_array(finished.results / "features" / f"{name}.zarr", mode="r")[:]
        assert again.shape == before.shape
        assert abs(again - before).max() <= 1e-5 * abs(before).max()


@pytest.mark.parametrize("after", [1.0, 4.0])
def test_killed_while_training_the_metrics_are_the_same_after_a_second_run(checkout, finished, after):
    experiment = checkout.experiment("avin")
    for path in (checkout.results / experiment).glob("seed*/*.*"):
        path.unlink()
    targets = [f"results/small/{experiment}seed{seed}/metrics.json" for seed in (0, 1)]
    kill_during(checkout, "train", after, targets)
    checkout.run(*targets)
    assert measured(checkout, experiment) == measured(finished, experiment)
    assert len(measured(checkout, experiment)) == 2


def test_ctrl_c_keeps_finished_work_and_needs_no_unlocking(checkout):
    tar = checkout.results / "segments" / "canonical" / "1.tar"
    tar.unlink()
    with checkout.start(str(tar.relative_to(checkout.root)), **ALONE) as process:
        while not job_runs(checkout.root, "media normalise"):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
    assert not job_runs(checkout.root, "media normalise")
    checkout.run(str(tar.relative_to(checkout.root)))
    assert tar.exists()


def test_long_jobs_say_in_their_log_and_on_the_terminal_how_far_they_are(checkout):
    checkout.edit("avpipe/progress.py", "FIRST, EVERY = 10.0, 30.0", "FIRST, EVERY = 0.0, 0.0")
    stderr = checkout.run("results/small/features/sound.zarr/c/0/0/0").stderr
    logs = checkout.results / "logs"
    for job, log in (
        ("fetch shard 0", "fetch/0.log"),
        ("normalise shard 0", "normalise/canonical/0.log"),
        ("extract shard 0, sound and 1 more", "extract/sound_look/0.log"),
    ):
        assert f"{job}: 12 of 12 clips, " in stderr
        assert f"{job}: 12 of 12 clips, " in (logs / log).read_text()


def test_broken_and_missing_clips_become_outcomes_with_a_reason_and_a_count_in_tables(checkout):
    clips = pd.read_parquet(checkout.results / "clips.parquet")
    tests = clips[clips.split == "test"]
    broken, gone = tests.iloc[0], tests.iloc[1]  # of one shard
    (checkout.root / "data" / "clips" / f"{broken.source}.mp4").write_bytes(b"\0" * 5000)
    (checkout.root / "data" / "clips" / f"{gone.source}.mp4").unlink()
    checkout.run()
    after = pd.read_parquet(checkout.results / "clips.parquet").set_index("clip")
    assert len(after) == len(clips)
    assert (after.loc[broken["clip"], "status"], after.loc[gone["clip"], "status"]) == ("corrupt", "missing")
    assert after.loc[broken["clip"], "reason"]
    table = pd.read_csv(checkout.results / "tables" / "small.csv")
    assert table.note.str.contains(f"{len(tests) - 2} of {len(tests)}").all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_sise": 4}, "did you mean 'shard_size'"),
        ({"dataset": {"name": "small", "kind": "avee", "annotations": "data"}}, "did you mean 'ave'"),
        ({"extractors": {"sound": {"backbone": "vggis"}}, "bundles": []}, "did you mean 'vggish'"),
        (
            {"dataset": {"name": "small", "kind": "ave", "annotations": "data/nothing"}},
            "no files in data/nothing",
        ),
    ],
    ids=["key", "dataset", "backbone", "folder"],
)
def test_a_wrong_study_is_refused_before_any_job_without_a_traceback(checkout, changes, message):
    checkout.configure(**changes)
    done = checkout.run("--dry-run", check=False)
    assert done.returncode
    assert message in done.stdout + done.stderr
    assert "Traceback (most recent call last)" not in done.stdout + done.stderr


def test_a_broken_annotation_file_is_reported_with_name_and_line(checkout):
    path = checkout.root / "data" / "annotations" / "Annotations.txt"
    path.write_text(path.read_text() + "Church bell&only two fields\n")
    done = checkout.run(check=False)
    assert done.returncode
    assert "Annotations.txt" in done.stdout + done.stderr
    assert "only two fields" in done.stdout + done.stderr


def test_a_file_in_place_of_a_results_folder_is_reported(checkout):
    downloads = checkout.results / "downloads"
    downloads.rename(checkout.root / "elsewhere")
    downloads.write_text("a file")
    done = checkout.run("results/small/downloads/0.parquet", check=False)
    assert done.returncode
    assert "downloads" in done.stdout + done.stderr


def test_a_table_without_a_measured_number_is_named_in_the_last_line(checkout):
    assert "WARNING: no number" not in checkout.run().stderr
    checkout.configure(
        training={"epochs": 2, "batch_size": 1000, "drop_last": True}
    )  # no batch: every run fails
    last = checkout.run().stderr.strip().splitlines()[-1]
    assert last.startswith("WARNING: no number could be measured for small:")
