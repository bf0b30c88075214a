"""On a real Slurm, which `slurm.sh` starts: the quick study gives the tables of a local run, and what clusters do to jobs.

Much of the time Snakemake waits until it looks at its jobs again. So all plays are begun at once (`plays`), each in a checkout
of its own, and a test waits for the end of one.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, sources_to

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).with_name("slurm.sh")
QUICK = "workflow/configs/quick.yaml"
DOCUMENTED = re.compile(rf"^    (\.venv/bin/snakemake --workflow-profile .*{QUICK})$", re.MULTILINE)
EPOCHS = 300
STATES = "runs/*/.resume/*/*.pt"
COMMAND = ".venv/bin/snakemake --workflow-profile workflow/profiles/slurm all --configfile study.yaml"
POLL = "slurm-init-seconds-before-status-checks"


def slurm_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run slurm.sh. Its daemons keep what they print to themselves, so that nobody waits for their end."""
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@dataclass
class Clone:
    """A checkout with `.venv`, as the documentation has it; the profile looks at jobs after 1, 12 and 33 s, not after 20, 50 and 90."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results" / "quick"

    def start_here(self, targets: str) -> subprocess.Popen[str]:
        """Start the quick study without Slurm."""
        return self.start(f".venv/bin/snakemake --cores 2 {targets} --configfile {QUICK}")

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command of the documentation; what it prints goes to the file `printed`, beside earlier prints."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        with self.printed.open("a") as out:
            return subprocess.Popen(
                shlex.split(command),
                cwd=self.root,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, command: str, seconds: float = 600) -> None:
        finish(self, self.start(command), seconds)

    @property
    def printed(self) -> Path:
        return self.root / "printed"


def finish(clone: Clone, process: subprocess.Popen[str], seconds: float = 400) -> None:
    """Wait for the end of a Snakemake, which must succeed."""
    assert process.wait(timeout=seconds) == 0, clone.printed.read_text()


@dataclass(frozen=True)
class Slurm:
    """A Slurm that was started for these tests; SLURM_CONF leads its programs to it."""

    folder: Path

    def ask(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def jobs(self, clone: Clone, fields: str = "%i", *options: str) -> list[list[str]]:
        """Fields of a checkout's jobs, the oldest first."""
        lines = self.ask("squeue", "-h", "--sort=i", "-o", f"%Z {fields}", *options).splitlines()
        found = [line.split() for line in lines]
        return [fields for folder, *fields in found if Path(folder) == clone.root]

    def node(self, state: str) -> None:
        self.ask("scontrol", "update", "nodename=ALL", f"state={state}", "reason=test")

    def stop_controller(self) -> None:
        pid = int((self.folder / "slurmctld.pid").read_text())
        os.kill(pid, 15)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30)

    def start_controller(self) -> None:
        done = slurm_script("controller", self.folder)
        assert done.returncode == 0, done.stderr


def wait_for(condition: Callable[[], Any], seconds: float, why: Callable[[], str] = str) -> Any:
    """The condition's value, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s: {why()}"
        time.sleep(0.2)
    return value


def make_clone(root: Path) -> Clone:
    sources_to(root)
    (root / ".venv").symlink_to(Path(sys.executable).parent.parent)
    profile = root / "workflow" / "profiles" / "slurm" / "profile.yaml"
    profile.write_text(re.sub(rf"{POLL}: \d+", f"{POLL}: 1", profile.read_text()))
    return Clone(root)


def training_clone(features: Clone, root: Path) -> Clone:
    """A checkout with all features, and a study of one training that takes some ten seconds."""
    shutil.copytree(features.root, root, symlinks=True)
    study = yaml.safe_load((root / QUICK).read_text())
    study |= {"tables": ["one"], "figures": [], "seeds": [0]}
    study["training"] |= {"epochs": EPOCHS, "evaluate_every": EPOCHS}
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    table = yaml.safe_load((root / "workflow" / "tables" / "avin_fusion.yaml").read_text())
    (row,) = table["rows"][-1:]
    del row["published"]
    table |= {"rows": [row], "settings": ["supervised"]}
    (root / "workflow" / "tables" / "one.yaml").write_text(yaml.safe_dump(table))
    run = root / "avpipe" / "training" / "run.py"  # states are saved each second, not every half minute
    run.write_text(run.read_text().replace("save_seconds: float = 30.0", "save_seconds: float = 0.5"))
    (root / "printed").unlink()
    return Clone(root)


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """Name of a play -> its end. All run at once, after the quick study's features were computed without Slurm."""
    folder, root = tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("checkouts")
    local = make_clone(root / "local")
    features = [f"results/quick/{name}" for name in ("clips.parquet", "features/vggish.csv")]
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        with local.start_here(" ".join(features)) as extracting:
            started = slurm_script("start", folder, 16, 2)
            if started.returncode:
                extracting.terminate()
            else:
                finish(local, extracting)
        if started.returncode == 77:
            pytest.skip(started.stderr.strip().splitlines()[-1])
        assert started.returncode == 0, started.stdout + started.stderr
        stack.callback(slurm_script, "stop", folder)
        slurm, pool = Slurm(folder), stack.enter_context(ThreadPoolExecutor())
        short = {
            play.__name__: pool.submit(play, slurm, training_clone(local, root / play.__name__))
            for play in (killed_snakemake, fake_gpu, two_processes)
        }
        clone = training_clone(local, root / "attempts")
        short["quick_study"] = pool.submit(quick_study, slurm, make_clone(root / "quick"), local)
        yield {**short, "attempts": pool.submit(attempts, slurm, clone, list(short.values()))}


def quick_study(slurm: Slurm, clone: Clone, local: Clone) -> None:
    """By the documented command, and on this machine without Slurm."""
    (command,) = DOCUMENTED.findall((ROOT / "docs" / "cluster.md").read_text(encoding="utf-8"))
    with clone.start(command) as process:
        finish(local, local.start_here("all"))
        finish(clone, process)
    compared = sorted(
        file.relative_to(local.results)
        for pattern in ("tables/*", "runs/*/seed*/predictions.parquet", "features/*.zarr/c/**/*")
        for file in local.results.glob(pattern)
        if file.is_file()
    )
    assert {file.parts[0] for file in compared} == {"tables", "runs", "features"}
    assert [
        str(file)
        for file in compared
        if (local.results / file).read_bytes() != (clone.results / file).read_bytes()
    ] == []
    comments = [comment for _, comment in slurm.jobs(clone, "%i %k", "--states=all")]
    assert len([comment for comment in comments if "rule_shard" in comment]) == 2, (
        "all stages of a shard are one job"
    )
    short = ("table", "figure", "clips", "coverage", "manifest")
    assert not any(f"rule_{name}" in comment for comment in comments for name in short)


def running_training(
    slurm: Slurm, clone: Clone, process: subprocess.Popen[str], after: str = "0", seconds: float = 300
) -> str:
    """The number of the job that trains, as soon as it has saved a state, or has gone on from the state of `after`."""

    def job() -> str | None:
        assert process.poll() is None, clone.printed.read_text()
        begun = "going on after epoch" in log_of(clone) if int(after) else any(clone.results.glob(STATES))
        for (number,) in slurm.jobs(clone, "%i", "--states=running"):
            if begun and int(number) > int(after) and log_of(clone).startswith(f"Slurm job {number} on "):
                return number
        return None

    found: str = wait_for(job, seconds, clone.printed.read_text)
    return found


def trainer(clone: Clone) -> int:
    """The number of the process that trains, from the newest lock."""
    lock = max(clone.results.glob("runs/*/.seed*.lock"), key=lambda path: path.stat().st_mtime)
    return int(json.loads(lock.read_text())["pid"])


def log_of(clone: Clone) -> str:
    """The log of the last training, which alone writes to it; "" before it."""
    logs = list((clone.results / "logs" / "train").glob("*.log"))
    return max(logs, key=lambda path: path.stat().st_mtime).read_text() if logs else ""


def finished_runs(clone: Clone) -> list[dict[str, Any]]:
    """metrics.json of the study's runs."""
    found = [json.loads(path.read_text()) for path in clone.results.glob("runs/*/seed*/metrics.json")]
    return [run for run in found if run["experiment"]["recipe"]["epochs"] == EPOCHS]


def attempts(slurm: Slurm, clone: Clone, others: Sequence[Future[None]]) -> None:
    """The node is drained at first; then one training's jobs lack memory, are cancelled and run out of time, and Slurm's
    controller is started again, once the other plays need it no more. Each attempt asks for more, and its log begins anew."""
    slurm.node("drain")
    more = "--retries 5 --set-resources train:mem_mb=attempt*750 train:runtime=attempt*2"
    with clone.start(f"{COMMAND} {more}") as process:
        wait_for(lambda: slurm.jobs(clone, "%i", "--states=pending"), 300, clone.printed.read_text)
        time.sleep(5)
        assert process.poll() is None
        slurm.node("resume")
        cancelled = running_training(slurm, clone, process)
        slurm.ask("scancel", cancelled)
        late = running_training(slurm, clone, process, after=cancelled)
        # Suspended, so that it does not end before Slurm looks at the time, which it does every half minute.
        os.kill(trainer(clone), signal.SIGSTOP)
        slurm.ask("scontrol", "update", f"jobid={late}", "endtime=now")
        last = running_training(slurm, clone, process, after=late)
        suspended = trainer(clone)
        os.kill(suspended, signal.SIGSTOP)
        wait(others)
        slurm.stop_controller()  # not for long: without accounting the plugin hangs (docs/cluster.md)
        slurm.start_controller()
        os.kill(suspended, signal.SIGCONT)
        finish(clone, process)
    own = slurm.jobs(clone, "%i %T %m %l", "--states=all")
    assert own[0][1] not in ("COMPLETED", "CANCELLED", "TIMEOUT"), "750 MB are not enough"
    assert [memory for *_, memory, _ in own] == [f"{750 * attempt}M" for attempt in range(1, len(own) + 1)]
    assert (own[0][3], own[-1][3]) == ("2:00", f"{2 * len(own)}:00")
    assert [job[:2] for job in own[-3:]] == [[cancelled, "CANCELLED"], [late, "TIMEOUT"], [last, "COMPLETED"]]
    assert log_of(clone).startswith(f"Slurm job {last} on ")
    assert log_of(clone).count("usable clips") == 1
    assert "going on after epoch" in log_of(clone)
    assert len(finished_runs(clone)) == 1


def killed_snakemake(slurm: Slurm, clone: Clone) -> None:
    """The first training is suspended until the second one waits for it, so that the order does not depend on speed."""
    with clone.start(COMMAND) as process:
        first = running_training(slurm, clone, process)
        process.kill()
    trains = trainer(clone)
    os.kill(trains, signal.SIGSTOP)
    try:
        clone.run(f"{COMMAND} --unlock")
        with clone.start(COMMAND) as process:
            wait_for(lambda: "waiting for process" in log_of(clone), 300, clone.printed.read_text)
            os.kill(trains, signal.SIGCONT)
            finish(clone, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(trains, signal.SIGCONT)
    jobs = slurm.jobs(clone, "%i %T", "--states=all")
    assert [job[1] for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert jobs[0][0] == first, "the first job ran to its end"
    assert log_of(clone).count("another process has trained it meanwhile") == 1
    assert len(finished_runs(clone)) == 1


def fake_gpu(slurm: Slurm, clone: Clone) -> None:
    """The study asks for `cuda`. The job gets what it asks for, and says that there is no GPU."""
    study = yaml.safe_load((clone.root / "study.yaml").read_text())
    (clone.root / "study.yaml").write_text(yaml.safe_dump(study | {"device": "cuda"}))
    resources = "--retries 0 --set-resources train:slurm_partition=main train:cpus_per_gpu=3"
    with clone.start(f"{COMMAND} {resources}") as process:
        process.wait(timeout=400)
    ((job,),) = slurm.jobs(clone, "%i", "--states=all")
    shown = slurm.ask("scontrol", "show", "job", job)
    assert "gres:gpu:1" in shown or "gres/gpu=1" in shown
    assert "NumCPUs=3" in shown
    assert "PyTorch sees 0 CUDA devices" in log_of(clone)


def two_processes(slurm: Slurm, clone: Clone) -> None:
    """torchrun starts them inside the one job, which has a CPU for each; torch's gloo joins them, not Slurm."""
    one = {"task": "localization", "model": "avin", "setting": "supervised", "processes": 2, "seeds": [0]}
    one |= {
        "features": {"audio": "vggish", "visual": "visual_map"},
        "recipe": {"epochs": 4, "evaluate_every": 4},
    }
    study = yaml.safe_load((clone.root / "study.yaml").read_text())
    study |= {"tables": [], "experiments": {"one": one}}
    (clone.root / "study.yaml").write_text(yaml.safe_dump(study))
    clone.run(f"{COMMAND} --retries 0")
    assert slurm.jobs(clone, "%C %T", "--states=all") == [["2", "COMPLETED"]]
    (metrics,) = (json.loads(file.read_text()) for file in clone.results.glob("runs/*/seed0/metrics.json"))
    assert (metrics["status"], metrics["experiment"]["recipe"]["epochs"]) == ("ok", 4)
    logs = list((clone.results / "logs" / "train").rglob("*.log.processes/**/stderr.log"))
    assert [log.read_text().count("usable clips") for log in logs] == [1, 1]


def test_the_quick_study_by_the_documented_command_gives_the_tables_of_a_local_run(plays):
    plays["quick_study"].result()


def test_a_training_goes_on_after_all_that_clusters_do_to_it(plays):
    plays["attempts"].result()


def test_after_a_killed_snakemake_the_same_command_trains_nothing_twice(plays):
    plays["killed_snakemake"].result()


def test_with_device_cuda_a_training_asks_for_a_gpu(plays):
    plays["fake_gpu"].result()


def test_two_processes_train_together_in_one_job(plays):
    plays["two_processes"].result()
