"""Trains an experiment: data, task and starting weights, then `fit` for every seed, then the runs' files.

An experiment's seeds are trained one after another on features that are loaded once; features that each seed has its own
of are loaded for each. Every run records the checkpoints that the protocols choose, so that a table can report another
protocol without a training.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from avpipe.clips import manifest_digest
from avpipe.features.device import claim_device, default_locks
from avpipe.models import MODELS
from avpipe.plan import fingerprint, registry
from avpipe.plan.experiment import Experiment, check_experiment
from avpipe.training import TASKS
from avpipe.training.data import Data, feature_scales
from avpipe.training.devices import open_fabric, own_device
from avpipe.training.experiment_task import ExperimentTask
from avpipe.training.fit import Fitted
from avpipe.training.logs import say
from avpipe.training.pretrained import read_pretrained
from avpipe.training.results import METRICS, is_written, write_run
from avpipe.training.resume import States


def train_experiment(
    experiment: Experiment,
    results: Path,
    seeds: Sequence[int],
    device: str = "auto",
    log: Path | None = None,
    threads: int | None = None,
    *,
    save_seconds: float = 30.0,
    save_steps: int | None = None,
    resident_bytes: int | None = None,
    gpu_percent: int = 100,
    adopt: bool = False,
) -> None:
    """Train and evaluate every seed; write metrics.json, predictions.parquet and checkpoint.pt to
    `runs/{experiment.id}/seed{n}/`.

    A run without usable clips, or whose loss is not finite, is written as failed, with the reason. A killed job
    continues from the last saved state and gives the same numbers. An experiment with `pretraining` starts from the
    model of that experiment's run of the same seed, and fails if that run failed. Started by torchrun, all its processes
    train together.

    Args:
        experiment: what to train.
        results: R, the dataset's folder.
        seeds: of the runs.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        log: the job's log file, named in metrics.json; lines go to stderr.
        threads: of the processor; None leaves torch's choice.
        save_seconds: between saved states.
        save_steps: of the optimizer between saved states, besides; None: time alone decides.
        resident_bytes: main memory for features; None: half of what is free. Changes speed, not numbers.
        gpu_percent: of a GPU, which other jobs may share.
        adopt: leave a run as it is that another process has written meanwhile, if it is this very training's.

    Raises:
        FileNotFoundError: a table is missing, or the pretraining run that this one starts from.
        FeaturesError: features are missing, unfinished or damaged.
        ValueError: the experiment does not fit the model, the task or the features; a `ConfigError` names the key.
    """
    check_experiment(experiment)
    folder = results / "runs" / experiment.id
    with claim_device(own_device(device), default_locks(), gpu_percent) as place, deterministic(place):
        fabric = open_fabric(place, experiment.recipe.precision)
        about = {
            "experiment": experiment.model_dump(mode="json"),
            "experiment_id": experiment.id,
            "code": code_fingerprint(experiment),
            "device": place.type,
        }
        states: list[States] = []
        for seed in seeds:
            if not states or experiment.per_seed:
                data, task = open_task(experiment.at(seed), results, place, resident_bytes)
                if threads is not None:
                    task.workers = decoding_processes(experiment, place, threads)
                    torch.set_num_threads(threads - task.workers)
                reason = why_not(experiment, data) or task.problem()
                clips = ", ".join(f"{len(split)}/{split.named} {name}" for name, split in data.splits.items())
                where = f"failed, {reason}" if reason else data.store.where
                say(f"{experiment.id} on {place}: usable clips {clips}; {where}")
                facts = describe_run(experiment.at(seed), data, results, log) | {
                    "baselines": {} if reason else task.baselines()
                }
                if experiment.recipe.standardize and reason is None:
                    task.scales = feature_scales(data, "train")
            task.start = read_pretrained(experiment, results, seed)
            which_run = {**about, "seed": seed}
            if task.start:
                which_run["pretraining"] = task.start.describe()
            problem = reason or (task.start.problem if task.start else None)
            which_run["data"] = data.digest
            identity = {**which_run, "torch": str(torch.__version__)}
            states.append(States(folder / ".resume" / f"seed{seed}", identity, save_seconds, save_steps))
            if adopt and is_written(folder / f"seed{seed}", {**which_run, **facts}):
                say(f"{experiment.id} seed {seed}: another process has trained it meanwhile")
                continue
            fitted: Fitted | None = None
            if problem is None:
                own, name = folder / f"seed{seed}", f"{experiment.id} seed {seed}"
                fitted = task.train(seed, fabric=fabric, states=states[-1], folder=own, name=name)
                problem = fitted.reason
            if fabric.global_rank == 0:
                written = {**which_run, **facts}
                write_run(folder / f"seed{seed}", fitted, problem, task.metrics, written, task.options())
    if fabric.global_rank == 0:
        for saved, seed in zip(states, seeds, strict=True):
            if (folder / f"seed{seed}" / METRICS).is_file():  # else a restarted Snakemake has deleted the run
                saved.forget()
        with contextlib.suppress(OSError):  # not empty while other seeds are in training
            (folder / ".resume").rmdir()


def decoding_processes(experiment: Experiment, device: torch.device, threads: int) -> int:
    """How many of a job's threads decode clips. On a CPU one does: a step of AV-BT computes a thousand times as long as it waits."""
    if experiment.preset is None:
        return 0
    return threads - 1 if device.type == "cuda" else min(threads - 1, 1)


def open_task(
    experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None = None
) -> tuple[Data, ExperimentTask]:
    """The experiment's clips and its task. Raises as `train_experiment`."""
    task_class = registry.load(TASKS, experiment.task, "task")
    data = task_class.open(experiment, results, device, resident_bytes)
    return data, task_class(experiment, data, registry.load(MODELS, experiment.model, "model"))


def why_not(experiment: Experiment, data: Data) -> str | None:
    """Why the experiment cannot run on these clips; None if it can."""
    recipe = experiment.recipe
    needed = ["train", "test"]
    if recipe.needs_validation:
        needed.append("val")
    for name in needed:
        split = data.splits[name]
        if not len(split):
            roles = ", ".join(
                f"{extractor} ({role})" for role, extractor in sorted(experiment.features.items())
            )
            needed_of_each = f"valid {roles}" if roles else "the parts of a clip that the task reads"
            return f"no usable clip in the split {name}: {split.named} named, none has {needed_of_each}"
    if recipe.drop_last and len(data.splits["train"]) < recipe.batch_size:
        return f"{len(data.splits['train'])} training clips make no batch of {recipe.batch_size} (recipe: drop_last)"
    return None


def code_fingerprint(experiment: Experiment) -> str:
    """The fingerprint of everything that a run executes: this module, `fit`, the task and that one model."""
    named = ((TASKS, experiment.task, "task"), (MODELS, experiment.model, "model"))
    modules = [registry.target(table, name, kind).split(":")[0] for table, name, kind in named]
    return fingerprint.fingerprint(__name__, *modules)


def describe_run(experiment: Experiment, data: Data, results: Path, log: Path | None) -> dict[str, Any]:
    """What metrics.json says about clips, features, log and environment."""
    return {
        "counts": data.counts(),
        "manifest": manifest_digest(results),
        "features": describe_features(experiment, data),
        "log": str(log) if log else None,
        "environment": fingerprint.environment(),
    }


def describe_features(experiment: Experiment, data: Data) -> dict[str, dict[str, Any]]:
    """Role -> extractor, weights and their hash, from the array's attributes."""
    described: dict[str, dict[str, Any]] = {}
    for role, extractor in experiment.features.items():
        attributes = dict(data.features[role].array.attrs)
        described[role] = {
            "extractor": extractor,
            "weights": attributes.get("weights"),
            "sha256": attributes.get("sha256"),
        }
    return described


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms where torch has them (it warns otherwise), and restore the caller's random state."""
    before = torch.get_deterministic_debug_mode()
    debugging: Any = torch.utils.deterministic
    fill = debugging.fill_uninitialized_memory
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler
    debugging.fill_uninitialized_memory = False  # costs time
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_deterministic_debug_mode(before)
        debugging.fill_uninitialized_memory = fill
