"""A small study that Snakemake runs: a copy of the checkout, a few rendered clips, two models, one table.

It is built once for all tests and all pytest workers; each test works on its own copy, with file times kept.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent

STUDY = {
    "notice": "TEST",
    "dataset": {
        "name": "small",
        "kind": "ave",
        "annotations": "data/annotations",
        "sources": [{"kind": "local", "path": "data/clips"}],
    },
    "shard_size": 12,
    "extractors": {
        "sound": {"backbone": "vggish", "weights": "random"},
        "look": {"backbone": "resnet18", "weights": "random", "image_size": 32},
    },
    "bundles": [["sound", "look"]],
    "tables": ["small"],
    "seeds": [0, 1],
    "training": {"epochs": 2, "batch_size": 8},
}

TABLE = {
    "title": "A small table",
    "paper": "none",
    "printed": "nowhere",
    "task": "localization",
    "metrics": {"accuracy": "Acc."},
    "settings": ["supervised"],
    "rows": [
        {
            "row": "avel",
            "method": "AVEL",
            "model": "avel",
            "options": {"inputs": "audio"},
            "features": {"audio": "sound"},
        },
        {"row": "avin", "method": "AVIN", "model": "avin", "features": {"audio": "sound", "visual": "look"}},
    ],
}


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in which a test may edit anything."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results" / "small"

    def start(self, *arguments: str, cores: int = 2, **options: Any) -> subprocess.Popen[str]:
        """Start Snakemake here as a user would; options are those of Popen."""
        snakemake = str(Path(sys.executable).parent / "snakemake")
        command = [snakemake, *arguments, "--cores", str(cores), "--configfile", "study.yaml"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.Popen(command, cwd=self.root, env=environment, text=True, **options)

    def run(self, *arguments: str, check: bool = True, cores: int = 2) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here to its end."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(*arguments, cores=cores, **pipes) as process:
            output, errors = process.communicate(timeout=600)
        done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout}\n{done.stderr}")
        return done

    def files(self, dataset: str = "small") -> dict[str, int]:
        """Every result file with the time it was written; logs and bookkeeping left out."""
        results = self.root / "results" / dataset
        skipped = ("logs", "benchmarks", "files")
        return {
            str(path.relative_to(results)): path.stat().st_mtime_ns
            for path in sorted(results.rglob("*"))
            if path.is_file() and path.relative_to(results).parts[0] not in skipped and "/." not in str(path)
        }

    def rerun(self, *arguments: str, dataset: str = "small") -> set[str]:
        """Run Snakemake; the result files that it wrote."""
        before = self.files(dataset)
        self.run(*arguments)
        return {name for name, written in self.files(dataset).items() if before.get(name) != written}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text in a source file."""
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def append(self, name: str, line: str) -> None:
        """Add a line to a source file."""
        with (self.root / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")

    def configure(self, **changes: object) -> None:
        """Change top-level keys of the study."""
        path = self.root / "study.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}), encoding="utf-8")

    def experiment(self, start: str) -> str:
        """The run folder of the experiment whose name begins so."""
        (found,) = (self.results / "runs").glob(f"{start}*")
        return f"runs/{found.name}/"

    def copy(self, to: Path) -> "Checkout":
        """The same, elsewhere, with the times of all files."""
        shutil.copytree(self.root, to, symlinks=True)
        return Checkout(to)


def sources_to(root: Path) -> None:
    """Copy what a fresh clone holds, as far as Snakemake needs it."""
    for name in ("avpipe", "workflow", "envs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "profiles").symlink_to("workflow/profiles")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, root / name)


def write_study(root: Path) -> None:
    """The study, its table and its data: rendered clips with annotations in AVE's format."""
    from avpipe.datasets.demo import render_demo

    (root / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    (root / "workflow" / "tables" / "small.yaml").write_text(yaml.safe_dump(TABLE), encoding="utf-8")
    render_demo(root / "rendered", clips=24, seed=0)
    (root / "data").mkdir()
    (root / "rendered" / "source").rename(root / "data" / "clips")
    (root / "rendered" / "annotations" / "ave").rename(root / "data" / "annotations")
    shutil.rmtree(root / "rendered")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The small study, run to its end once for all tests."""
    shared_by_workers = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared_by_workers = shared_by_workers.parent
    root = shared_by_workers / "small-study"
    with (shared_by_workers / "small-study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "finished").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            sources_to(root)
            write_study(root)
            Checkout(root).run()
            (root / "finished").touch()
    return Checkout(root)


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished small study."""
    return finished.copy(tmp_path / "checkout")
