"""`--use-conda` and `--use-apptainer`, with stand-ins for both: neither channels nor images can be reached here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avpipe.plan.plan import JOBS

from . import stand_in_conda
from .conftest import Checkout, sources_to, write_study
from .test_environments import ROOT, modules_of

ENVIRONMENTS = sorted({job.environment for job in JOBS.values()})


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_imports_every_module_of_its_jobs(environment: str, tmp_path: Path) -> None:
    stand_in_conda.create(ROOT / "envs" / f"{environment}.yaml", tmp_path / "prefix")
    rules = [rule for rule, job in JOBS.items() if job.environment == environment]
    modules = sorted({"avpipe.cli"}.union(*map(modules_of, rules)))
    code = f"import importlib\nfor name in {modules}: importlib.import_module(name)"
    python = tmp_path / "prefix" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", code], env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_what_an_environment_does_not_name_is_not_there(tmp_path: Path) -> None:
    stand_in_conda.create(ROOT / "envs" / "media.yaml", tmp_path)
    done = subprocess.run([tmp_path / "bin" / "python", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in done.stderr


def test_a_study_runs_in_environments_that_snakemake_creates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = stand_in_conda.install(tmp_path / "conda")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    root = tmp_path / "checkout"
    root.mkdir()
    sources_to(root)
    write_study(root)
    checkout = Checkout(root)
    checkout.configure(seeds=[0], training={"epochs": 1, "batch_size": 8})
    checkout.run("--use-conda")
    assert (checkout.results / "tables" / "small.md").is_file()
    created = {path for path in (root / ".snakemake" / "conda").iterdir() if path.is_dir()}
    assert len(created) == len(ENVIRONMENTS)
    activated = set((tmp_path / "conda" / "activated").read_text().split())
    assert activated == {str(path) for path in created}, "a job ran elsewhere"


def test_the_image_is_of_the_lock_and_has_what_the_environments_have() -> None:
    image = (ROOT / "envs" / "Dockerfile").read_text()
    assert re.search(r"^COPY requirements.lock /$", image, re.MULTILINE)
    assert re.search(r"pip install .*--no-deps --requirement /requirements.lock$", image, re.MULTILINE)
    (python,) = re.findall(r"^FROM python:([0-9.]+)-", image, re.MULTILINE)
    (deno,) = re.findall(r"^FROM denoland/deno:bin-([0-9]+)\.", image, re.MULTILINE)
    for environment in ENVIRONMENTS:
        text = (ROOT / "envs" / f"{environment}.yaml").read_text()
        assert f"- python={python}\n" in text
        assert "deno" not in text or f"- deno>={deno} " in text
        if ffmpeg := re.findall(r"- (imageio-ffmpeg==\S+)", text):
            assert ffmpeg[0] in (ROOT / "requirements.lock").read_text().splitlines()
    assert 'container: "avpipe.sif"' in (ROOT / "Snakefile").read_text()


def test_jobs_run_in_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for apptainer notes the image, and runs the command with a Python that the host's PATH does not have."""
    programs = tmp_path / "programs"
    inside = tmp_path / "inside" / "bin"
    for folder in (programs, inside):
        folder.mkdir(parents=True)
    (inside / "python").write_text(f'#!/bin/sh\necho >> {tmp_path}/python\nexec {sys.executable} "$@"\n')
    (inside / "python").chmod(0o755)
    (programs / "apptainer").write_text(
        '#!/bin/bash\n[ "$1" = --version ] && { echo apptainer version 1.3.0; exit; }\n'
        f'echo "${{@: -4:1}}" >> {tmp_path}/images\nPATH={inside}:/usr/bin:/bin exec bash -c "${{@: -1}}"\n'
    )
    (programs / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    root = tmp_path / "checkout"
    root.mkdir()
    sources_to(root)
    write_study(root)
    Checkout(root).run("--use-apptainer", "results/small/downloads/0.parquet")
    assert set((tmp_path / "images").read_text().split()) == {"avpipe.sif"}
    assert len((tmp_path / "python").read_text().splitlines()) == 2, "manifest and fetch"
