"""The one training loop, for every task and model.

An experiment's seeds are trained one after another on features that are loaded once. All randomness of a run follows
from its seed: weights are drawn on the CPU, batches are shuffled by a generator of their own, and algorithms are
deterministic where torch has deterministic ones. After each evaluation the loop keeps, for each of the three protocols,
its checkpoint's scores and predictions on the test split, so that every run records what each protocol would report.
Within an epoch nothing waits for the device.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from avpipe.clips import manifest_digest
from avpipe.features.device import claim_device, default_locks
from avpipe.models import MODELS, create_model
from avpipe.models.base import AVBatch, AVOutput
from avpipe.models.standardization import Scales, standardize_inputs
from avpipe.plan import fingerprint, registry
from avpipe.plan.experiment import Experiment, check_experiment
from avpipe.training import TASKS
from avpipe.training.data import Data, Reader, feature_scales, open_data
from avpipe.training.logs import RunLog, say
from avpipe.training.optimizers import make_optimizer, make_schedule
from avpipe.training.pretrained import Pretrained, read_pretrained, start_from
from avpipe.training.results import Checkpoint, RunOutcome, better, weights_of, write_run
from avpipe.training.resume import load_state, save_state
from avpipe.training.task import Predictions, RefiningTask, Task

EVALUATION_BATCH = 128


def train_experiment(
    experiment: Experiment,
    results: Path,
    seeds: Sequence[int],
    device: str = "auto",
    log: Path | None = None,
    threads: int | None = None,
    *,
    save_every: float = 30.0,
    resident_bytes: int | None = None,
    gpu_percent: int = 100,
) -> None:
    """Train and evaluate every seed; write metrics.json, predictions.parquet and checkpoint.pt to
    `runs/{experiment.id}/seed{n}/`.

    A run without usable clips, or whose loss is not finite, is written as failed, with the reason. A killed job
    continues from the last saved state and gives the same numbers. An experiment with `pretraining` starts from the
    model of that experiment's run of the same seed, and fails if that run failed.

    Args:
        experiment: what to train.
        results: R, the dataset's folder.
        seeds: of the runs.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        log: the job's log file, named in metrics.json; lines go to stderr.
        threads: of the processor; None leaves torch's choice.
        save_every: seconds between saved states.
        resident_bytes: main memory for features; None: half of what is free. Changes speed, not numbers.
        gpu_percent: of a GPU, which other jobs may share.

    Raises:
        FileNotFoundError: a table is missing, or the pretraining run that this one starts from.
        FeaturesError: features are missing, unfinished or damaged.
        ValueError: the experiment does not fit the model, the task or the features; a `ConfigError` names the key.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    check_experiment(experiment)
    folder = results / "runs" / experiment.id
    with claim_device(device, default_locks(), gpu_percent) as place, deterministic(place):
        task_class = registry.load(TASKS, experiment.task, "task")
        which = task_class.split_set, experiment.setting == "weakly-supervised"
        data, reader = open_data(experiment.features, results, place, resident_bytes, *which)
        task: Task = task_class(experiment, data, registry.load(MODELS, experiment.model, "model"))
        reason = why_not(experiment, data) or task.problem()
        clips = ", ".join(f"{len(split)}/{split.named} {name}" for name, split in data.splits.items())
        say(
            f"{experiment.id} on {place}: usable clips {clips}; {f'failed, {reason}' if reason else reader.where}"
        )
        about = {
            "experiment": experiment.model_dump(mode="json"),
            "experiment_id": experiment.id,
            "code": code_fingerprint(experiment),
            "device": place.type,
        }
        facts = describe_run(experiment, data, results, log) | {
            "baselines": {} if reason else task.baselines("test")
        }
        options = model_options(experiment, data)
        standardize = experiment.recipe.standardize and reason is None
        scales = feature_scales(reader, data.splits["train"]) if standardize else {}
        for seed in seeds:
            start = read_pretrained(experiment, results, seed)
            which_run = {**about, "seed": seed} | ({"pretraining": start.describe()} if start else {})
            outcome = RunOutcome(reason=reason or (start.problem if start else None))
            if outcome.reason is None:
                identity = {**which_run, "data": data.digest, "torch": str(torch.__version__)}
                run = Run(experiment, data, task, reader, place, seed, folder, identity, start, scales)
                outcome = run.train(save_every)
            table = table_of(task, outcome, experiment.recipe.protocol)
            write_run(folder / f"seed{seed}", outcome, table, {**which_run, **facts}, options)
    forget_states(folder, seeds)


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
            return f"no usable clip in the split {name}: {split.named} named, none has valid {roles}"
    if recipe.drop_last and len(data.splits["train"]) < recipe.batch_size:
        return f"{len(data.splits['train'])} training clips make no batch of {recipe.batch_size} (recipe: drop_last)"
    return None


def code_fingerprint(experiment: Experiment) -> str:
    """The fingerprint of everything that a run executes: this loop, the task and that one model."""
    named = ((TASKS, experiment.task, "task"), (MODELS, experiment.model, "model"))
    modules = [registry.target(table, name, kind).split(":")[0] for table, name, kind in named]
    return fingerprint.fingerprint(__name__, *modules)


def model_options(experiment: Experiment, data: Data) -> dict[str, Any]:
    """The experiment's options. Sizes, and `setting`, are filled in if the model has such options."""
    known = registry.options_of(registry.target(MODELS, experiment.model, "model"))
    given = data.sizes() | {"setting": experiment.setting}
    return {**{name: value for name, value in given.items() if name in known}, **experiment.options}


def describe_run(experiment: Experiment, data: Data, results: Path, log: Path | None) -> dict[str, Any]:
    """What metrics.json says about clips, features, log and environment."""
    return {
        "counts": data.counts(),
        "manifest": manifest_digest(results),
        "features": describe_features(experiment, data),
        "log": str(log) if log else None,
        "environment": fingerprint.environment(),
    }


def table_of(task: Task, outcome: RunOutcome, protocol: str) -> pd.DataFrame:
    """The predictions on the test split of the protocol's checkpoint; no rows if the run failed."""
    chosen = outcome.checkpoints.get(protocol)
    return task.table(chosen.predictions, "test") if chosen and not outcome.reason else task.empty_table()


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


def forget_states(folder: Path, seeds: Sequence[int]) -> None:
    """Remove the saved states of finished seeds."""
    for seed in seeds:
        resume_file(folder, seed).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty while other seeds are in training
        (folder / ".resume").rmdir()


def resume_file(folder: Path, seed: int) -> Path:
    """The file of a seed's saved state."""
    return folder / ".resume" / f"seed{seed}.pt"


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


@dataclass
class Run:
    """One seed of an experiment: all that does not change during training."""

    experiment: Experiment
    data: Data
    task: Task
    reader: Reader
    device: torch.device
    seed: int
    folder: Path
    identity: dict[str, Any]
    pretrained: Pretrained | None = None
    scales: Scales = field(default_factory=dict)

    def train(self, save_every: float) -> RunOutcome:
        """Train from the last saved state, or from the start."""
        recipe, begun = self.experiment.recipe, time.perf_counter()
        state = self._saved_state()
        targets = self._targets(state)
        model, optimizer, schedule, shuffler = self._start()
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        outcome = RunOutcome(parameters=sum(p.numel() for p in model.parameters()))
        rows = self._restore(state, parts, shuffler, outcome) if state else []
        name = f"{self.experiment.id} seed {self.seed}"
        started, saved = begun - outcome.seconds, time.perf_counter()
        with RunLog(self.folder / f"seed{self.seed}", name, recipe.epochs, rows) as log:
            if targets is None:
                outcome.seconds = time.perf_counter() - started
                outcome.reason = (
                    "the loss of the first training became infinite or NaN; try a smaller lr, or clip_norm"
                )
            for epoch in range(len(rows) + 1, recipe.epochs + 1):
                if outcome.reason or targets is None:
                    break
                rate = float(optimizer.param_groups[0]["lr"])
                loss = self._epoch(model, optimizer, shuffler, targets, (epoch, recipe.epochs))
                row = {"epoch": epoch, "lr": rate, "loss": loss}
                if not math.isfinite(loss):
                    outcome.reason = (
                        f"the loss became {loss} in epoch {epoch}; try a smaller lr, or clip_norm"
                    )
                elif epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs:
                    row |= self._evaluate(model, epoch, outcome)
                self._step_schedule(schedule, row)
                log.epoch(row)
                outcome.seconds = time.perf_counter() - started
                done = epoch == recipe.epochs or outcome.reason is not None
                if done or time.perf_counter() - saved >= save_every:
                    self._save(parts, shuffler, outcome, log.rows, targets)
                    log.write_csv()
                    saved = time.perf_counter()
            if outcome.reason:
                say(f"{name}: failed, {outcome.reason}")
        return outcome

    def _start(self) -> tuple[nn.Module, torch.optim.Optimizer, Any, torch.Generator]:
        """Model, optimizer, schedule and shuffler before the first step; all randomness follows from the seed."""
        recipe = self.experiment.recipe
        torch.manual_seed(self.seed)  # for weights, then dropout
        options = model_options(self.experiment, self.data)
        model = create_model(self.experiment.model, **options)
        if self.pretrained is not None:
            start_from(model, self.pretrained)
        standardize_inputs(model, self.scales)
        model = model.to(self.device)
        optimizer = make_optimizer(recipe, model)
        shuffler = torch.Generator().manual_seed(self.seed)
        return model, optimizer, make_schedule(recipe, optimizer), shuffler

    def _targets(self, state: dict[str, Any] | None) -> dict[str, Tensor] | None:
        """The task's targets; if the recipe has `refine_epochs`, refined by a first training with the same seed.

        None if the first training's loss became infinite or NaN.

        Args:
            state: the saved one, which has the refined targets, or None.
        """
        targets = self.task.targets(self.device)
        recipe = self.experiment.recipe
        epochs = recipe.epochs if recipe.refine_epochs == "same" else recipe.refine_epochs
        if not epochs or not isinstance(self.task, RefiningTask):
            return targets
        if state:
            return {name: target.to(self.device) for name, target in state["targets"].items()}
        say(f"{self.experiment.id} seed {self.seed}: first training, {epochs} epochs")
        model, optimizer, schedule, shuffler = self._start()
        for epoch in range(1, epochs + 1):
            loss = self._epoch(model, optimizer, shuffler, targets, (epoch, epochs))
            if not math.isfinite(loss):
                return None
            self._step_schedule(schedule, {"loss": loss})
        start = self.data.splits["train"].start

        def batches(positions: Tensor) -> Iterator[AVBatch]:
            return self.reader.batches((positions + start).split(EVALUATION_BATCH))

        with torch.no_grad(), self._arithmetic():
            return self.task.refine(targets, model.eval(), batches, self.seed)

    def _epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        shuffler: torch.Generator,
        targets: dict[str, Tensor],
        at: tuple[int, int],
    ) -> float:
        """Train on all training clips once, epoch `at[0]` of `at[1]`; returns the mean loss a clip."""
        recipe = self.experiment.recipe
        count = len(self.data.splits["train"])
        order = torch.randperm(count, generator=shuffler) if recipe.shuffle else torch.arange(count)
        batches = order.to(self.device).split(recipe.batch_size)
        if recipe.drop_last and len(batches[-1]) < recipe.batch_size:
            batches = batches[:-1]
        model.train()
        total = torch.zeros((), device=self.device)
        start = self.data.splits["train"].start
        pairs = zip(batches, self.reader.batches([b + start for b in batches]), strict=True)
        for step, (positions, batch) in enumerate(pairs):
            picked = {name: target.index_select(0, positions) for name, target in targets.items()}
            optimizer.zero_grad(set_to_none=True)
            batch.targets, batch.progress = picked, (at[0] - 1 + step / len(batches)) / at[1]
            loss = self.task.loss(self._apply(model, batch), picked)
            loss.backward()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            total += loss.detach() * len(positions)
        return float(total) / sum(len(positions) for positions in batches)

    def _evaluate(self, model: nn.Module, epoch: int, outcome: RunOutcome) -> dict[str, float]:
        """Score the validation and test splits; keep the checkpoints that the protocols choose."""
        main = self.task.main_metric
        scores: dict[str, float] = {}
        predictions = self.predict(model, "test")
        metrics = self.task.scores(predictions, "test")
        before = outcome.checkpoints.get(self.experiment.recipe.protocol)
        if len(self.data.splits["val"]):
            on_val = self.task.scores(self.predict(model, "val"), "val")
            scores |= {f"val_{name}": value for name, value in on_val.items()}
            if better(on_val[main], outcome.checkpoints.get("validation")):
                outcome.checkpoints["validation"] = Checkpoint(epoch, on_val[main], metrics, predictions)
        if better(metrics[main], outcome.checkpoints.get("best_test")):
            outcome.checkpoints["best_test"] = Checkpoint(epoch, metrics[main], metrics, predictions)
        outcome.checkpoints["last"] = Checkpoint(epoch, None, metrics, predictions)
        if outcome.checkpoints.get(self.experiment.recipe.protocol) is not before:
            outcome.weights = weights_of(model)
        return scores | {f"test_{name}": value for name, value in metrics.items()}

    @torch.inference_mode()
    def predict(self, model: nn.Module, split: str) -> Predictions:
        """The task's predictions for every usable clip of a split."""
        model.eval()
        clips = self.data.splits[split]
        order = torch.arange(clips.start, clips.start + len(clips), device=self.device).split(
            EVALUATION_BATCH
        )
        parts = [self.task.predict(self._apply(model, batch)) for batch in self.reader.batches(order)]
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}

    def _apply(self, model: nn.Module, batch: AVBatch) -> AVOutput:
        """The model's output for a batch, in float32, computed in the recipe's precision."""
        with self._arithmetic():
            output: AVOutput = model(batch)
        return output.in_float32()

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The recipe's precision."""
        if self.experiment.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _step_schedule(self, schedule: Any, row: dict[str, float]) -> None:
        """Step the learning rate's schedule after an epoch. A plateau of the validation score counts evaluated epochs only."""
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            of_loss = self.experiment.recipe.watch == "loss"
            watched = "loss" if of_loss else f"val_{self.task.main_metric}"
            if watched in row:
                schedule.step(row[watched])
        elif schedule is not None:
            schedule.step()

    def _save(
        self,
        parts: dict[str, Any],
        shuffler: torch.Generator,
        outcome: RunOutcome,
        rows: list[dict[str, float]],
        targets: dict[str, Tensor],
    ) -> None:
        """Save the run's state; with the targets if a first training made them."""
        state = {name: part.state_dict() if part is not None else None for name, part in parts.items()}
        state |= {
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "rows": rows,
            "shuffler": shuffler.get_state(),
        }
        state["weights"] = outcome.weights
        state["targets"] = targets if self.experiment.recipe.refine_epochs else None
        state["checkpoints"] = {name: kept.to_state() for name, kept in outcome.checkpoints.items()}
        state["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        save_state(resume_file(self.folder, self.seed), self.identity, state)

    def _saved_state(self) -> dict[str, Any] | None:
        """The last saved state of this very run, if any."""
        state, problem = load_state(resume_file(self.folder, self.seed), self.identity)
        if problem:
            say(f"starting seed {self.seed} from the beginning: {problem}")
        return state

    def _restore(
        self, state: dict[str, Any], parts: dict[str, Any], shuffler: torch.Generator, outcome: RunOutcome
    ) -> list[dict[str, float]]:
        """Load a saved state into the run's parts; returns the rows of its log."""
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(state[name])
        shuffler.set_state(state["shuffler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        outcome.reason, outcome.seconds = state["reason"], state["seconds"]
        outcome.weights = state["weights"]
        outcome.checkpoints = {
            name: Checkpoint.from_state(kept) for name, kept in state["checkpoints"].items()
        }
        say(f"seed {self.seed}: going on after epoch {len(state['rows'])}")
        return list(state["rows"])
