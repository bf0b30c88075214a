"""Killed, short of space, or wrongly configured: a clear message, nothing lost, the same result afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import zarr

from .conftest import Checkout

pytestmark = pytest.mark.slow


def command_for(targets: list[str]) -> list[str]:
    """Snakemake for some files. (It does not make a missing file anew that nothing asks for.)"""
    return [
        str(Path(sys.executable).parent / "snakemake"),
        *targets,
        "--cores",
        "2",
        "--configfile",
        "study.yaml",
    ]


def kill_during(checkout: Checkout, command: str, after: float, targets: list[str]) -> None:
    """Start Snakemake, wait until a job runs `avpipe COMMAND` here, wait a little more, kill -9 everything."""
    arguments = command_for(targets)
    with subprocess.Popen(
        arguments,
        cwd=checkout.root,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
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


def numbers(root: Path, experiment: str) -> dict[str, object]:
    """What every seed of an experiment measured."""
    runs = root / "results" / "small" / experiment
    return {
        path.parent.name: json.loads(path.read_text())["metrics"]
        for path in sorted(runs.glob("seed*/metrics.json"))
    }


@pytest.mark.parametrize("after", [0.5, 2.0])
def test_killed_while_normalising_the_tars_come_out_the_same(
    checkout: Checkout, finished: Checkout, after: float
) -> None:
    segments = checkout.root / "results" / "small" / "segments" / "canonical"
    for path in segments.iterdir():
        path.unlink()
    targets = [f"results/small/segments/canonical/{shard}.tar" for shard in range(3)]
    kill_during(checkout, "media normalise", after, targets)
    checkout.run(*targets)
    originals = finished.root / "results" / "small" / "segments" / "canonical"
    assert sorted(p.name for p in segments.iterdir()) == sorted(p.name for p in originals.iterdir())
    for path in originals.iterdir():
        assert (segments / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("after", [1.0, 4.0])
def test_killed_while_extracting_the_features_come_out_the_same(
    checkout: Checkout, finished: Checkout, after: float
) -> None:
    features = checkout.root / "results" / "small" / "features"
    for path in features.glob("*.zarr/c/*/*/*"):
        path.unlink()
    targets = [f"results/small/features/sound.zarr/c/{shard}/0/0" for shard in range(3)]
    kill_during(checkout, "features extract", after, targets)
    checkout.run(*targets)
    for name in ("sound", "look"):
        again = zarr.open_array(features / f"{name}.zarr", mode="r")[:]
        before = zarr.open_array(finished.root / "results" / "small" / "features" / f"{name}.zarr", mode="r")[
            :
        ]
        assert again.shape == before.shape
        assert abs(again - before).max() <= 1e-5 * abs(before).max()


@pytest.mark.parametrize("after", [1.0, 4.0])
def test_killed_while_training_the_numbers_come_out_the_same(
    checkout: Checkout, finished: Checkout, after: float
) -> None:
    experiment = checkout.experiment("avin")
    for path in (checkout.root / "results" / "small" / experiment).glob("seed*/*.*"):
        path.unlink()
    targets = [f"results/small/{experiment}seed{seed}/metrics.json" for seed in (0, 1)]
    kill_during(checkout, "train", after, targets)
    checkout.run(*targets)
    assert numbers(checkout.root, experiment) == numbers(finished.root, experiment)
    assert len(numbers(checkout.root, experiment)) == 2


def test_ctrl_c_keeps_finished_work_and_needs_no_unlocking(checkout: Checkout) -> None:
    tar = checkout.root / "results" / "small" / "segments" / "canonical" / "1.tar"
    tar.unlink()
    arguments = command_for([str(tar.relative_to(checkout.root))])
    with subprocess.Popen(
        arguments,
        cwd=checkout.root,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not job_runs(checkout.root, "media normalise"):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)
    assert not job_runs(checkout.root, "media normalise")
    checkout.run(str(tar.relative_to(checkout.root)))
    assert tar.exists()


def test_a_broken_clip_becomes_an_outcome_with_a_reason_and_a_count_downstream(checkout: Checkout) -> None:
    clips = pd.read_parquet(checkout.root / "results" / "small" / "clips.parquet")
    broken = clips[clips.split == "test"].iloc[0]
    (checkout.root / "data" / "clips" / f"{broken.source}.mp4").write_bytes(b"\0" * 5000)
    checkout.run()
    after = pd.read_parquet(checkout.root / "results" / "small" / "clips.parquet").set_index("clip")
    assert len(after) == len(clips)
    assert after.loc[broken["clip"], "status"] == "corrupt"
    assert after.loc[broken["clip"], "reason"]
    tests = int((clips.split == "test").sum())
    table = pd.read_csv(checkout.root / "results" / "small" / "tables" / "small.csv")
    assert table.note.str.contains(f"{tests - 1} of {tests}").all()


def test_a_missing_clip_becomes_an_outcome(checkout: Checkout) -> None:
    clips = pd.read_parquet(checkout.root / "results" / "small" / "clips.parquet")
    gone = clips.iloc[0]
    (checkout.root / "data" / "clips" / f"{gone.source}.mp4").unlink()
    checkout.run("results/small/clips.parquet")
    after = pd.read_parquet(checkout.root / "results" / "small" / "clips.parquet").set_index("clip")
    assert after.loc[gone["clip"], "status"] == "missing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_sise": 4}, "did you mean 'shard_size'"),
        ({"tables": ["smal"]}, "did you mean 'small'"),
        (
            {"dataset": {"name": "small", "kind": "avee", "annotations": "data/annotations"}},
            "did you mean 'ave'",
        ),
        (
            {"dataset": {"name": "small", "kind": "ave", "annotations": "data/nothing"}},
            "no files in data/nothing",
        ),
        (
            {"extractors": {"sound": {"backbone": "vggis"}, "look": {"backbone": "resnet18"}}},
            "did you mean 'vggish'",
        ),
    ],
)
def test_a_wrong_study_is_refused_at_once_by_name(
    checkout: Checkout, changes: dict[str, object], message: str
) -> None:
    checkout.configure(**changes)
    done = checkout.run("--dry-run", check=False)
    assert done.returncode
    said = done.stdout + done.stderr
    assert message in said
    assert "Traceback (most recent call last)" not in said


def test_a_broken_annotation_file_stops_with_its_name_and_line(checkout: Checkout) -> None:
    path = checkout.root / "data" / "annotations" / "Annotations.txt"
    path.write_text(path.read_text() + "Church bell&only two fields\n")
    done = checkout.run(check=False)
    assert done.returncode
    assert "Annotations.txt" in done.stdout + done.stderr
    assert "only two fields" in done.stdout + done.stderr


def test_a_full_disk_is_named_and_finished_work_is_kept(checkout: Checkout, tmp_path: Path) -> None:
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small_disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        segments = checkout.root / "results" / "small" / "segments" / "canonical"
        for path in segments.iterdir():
            path.unlink()
        segments.rmdir()
        segments.symlink_to(small_disk)
        done = checkout.run("results/small/segments/canonical/0.tar", check=False)
        assert done.returncode
        assert "disk is full" in done.stdout + done.stderr
        assert not list(small_disk.glob("*.tar"))
        segments.unlink()
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
    checkout.run("results/small/segments/canonical/0.tar")
    assert (segments / "0.tar").exists()


def test_a_file_where_the_results_should_go_is_named(checkout: Checkout) -> None:
    downloads = checkout.root / "results" / "small" / "downloads"
    downloads.rename(checkout.root / "elsewhere")
    downloads.write_text("a file")
    done = checkout.run("results/small/downloads/0.parquet", check=False)
    assert done.returncode
    assert "downloads" in done.stdout + done.stderr
