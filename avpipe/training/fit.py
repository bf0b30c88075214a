"""The one training loop. It knows nothing of tasks: `avpipe.training.task.Task` is all that it asks for.

All randomness of a run follows from its seed: weights are drawn on the CPU, batches are shuffled by a generator of their
own, and algorithms are deterministic where torch has deterministic ones. Within an epoch nothing waits for the device.

With several processes (torchrun) each takes its part of every batch, and gradients are averaged over the processes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from avpipe.models.parallel import use_whole_batches
from avpipe.plan.recipe import Recipe
from avpipe.training.data import Loader, in_order
from avpipe.training.devices import OneProcess
from avpipe.training.logs import RunLog, say
from avpipe.training.optimizers import make_optimizer, make_schedule
from avpipe.training.resume import States
from avpipe.training.task import Evaluation, Task


@dataclass
class Kept:
    """The weights of an epoch that a protocol chose, in main memory, and the score that it was chosen by."""

    epoch: int
    score: float
    weights: dict[str, Tensor]


@dataclass
class Fitted:
    """How a training ended.

    Args:
        model: with the weights of the protocol's checkpoint, if there is one.
        weights: a copy of them in main memory; {} without a checkpoint.
        parameters: their number.
        reason: why it failed, or None.
        epochs: protocol -> epoch of its checkpoint: "validation" (the best on that split, the first of equals), "last",
            and under protocol best_test "best_test".
        evaluations: protocol -> its checkpoint's evaluation on the test split.
        rows: of log.csv: `epoch`, `lr`, `loss` and the validation scores.
        seconds: of training and evaluation, those before a kill included.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    parameters: int
    reason: str | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def fit(
    task: Task,
    recipe: Recipe,
    seed: int,
    *,
    fabric: Any = None,
    states: States | None = None,
    folder: Path | None = None,
    name: str = "training",
) -> Fitted:
    """Train a task's model, choose checkpoints on its validation split, and evaluate those on its test split.

    A training whose loss is not finite ends with a reason. With `states`, a killed training continues where the last
    state was saved, in the middle of an epoch too, and gives the same numbers.

    Args:
        task: see `Task`.
        recipe: how to train.
        seed: all randomness follows from it.
        fabric: devices and processes, see `devices.open_fabric`; None: this process on its CPU.
        states: where states are saved; None: nowhere.
        folder: gets log.csv and tensorboard/; None: no such files.
        name: starts every printed line.
    """
    training = _Training(task, recipe, seed, fabric or OneProcess(recipe.precision), states, name)
    return training.run(folder)


class _Training:
    """A training under way: all that a saved state must hold."""

    def __init__(
        self, task: Task, recipe: Recipe, seed: int, fabric: Any, states: States | None, name: str
    ) -> None:
        self.task, self.recipe, self.fabric, self.states, self.name = task, recipe, fabric, states, name
        self.first, self.device = fabric.global_rank == 0, fabric.device
        self.main, self.metric = next(iter(task.metrics.items()))
        self.sets = task.datasets()
        torch.manual_seed(seed)  # for weights, then dropout
        self.network = task.model()
        if fabric.world_size > 1:
            use_whole_batches(self.network)
            torch.manual_seed(seed + 1_000_003 * fabric.global_rank)  # each process drops out other units
        self.network.to(self.device)
        if recipe.epochs:  # else there is nothing to optimize, and making an optimizer takes torch a second
            self.optimizer = make_optimizer(recipe, self.network)
            best: Literal["max", "min"] = "max" if self.metric.higher_is_better else "min"
            self.schedule = make_schedule(recipe, self.optimizer, best)
        self.model = fabric.setup_module(self.network)
        self.shuffler = torch.Generator().manual_seed(seed)
        self.rows: list[dict[str, float]] = []
        self.kept: dict[str, Kept] = {}
        self.step, self.total, self.order = 0, torch.zeros((), device=self.device), self.shuffler.get_state()
        self.reason: str | None = None
        self.started = self.saved = time.perf_counter()

    def run(self, folder: Path | None) -> Fitted:
        """Train from the last saved state, or from the start."""
        state = self.states.load() if self.states else None
        if state:
            self._restore(state)
        epochs = self.recipe.epochs
        with RunLog(
            folder if self.first else None, self.name, epochs, self.rows, quiet=not self.first
        ) as log:
            while len(self.rows) < epochs and self.reason is None:
                log.epoch(self._epoch(len(self.rows) + 1))
                if len(self.rows) == epochs or self.reason or self._is_due():
                    self._save()
                    log.write_csv()
        if self.reason:
            say(f"{self.name}: failed, {self.reason}")
        return self._finish()

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train on all training clips once, or on those that are left of an epoch, and evaluate; the row of the log."""
        recipe = self.recipe
        batches = self._batches()
        if hasattr(self.sets["train"], "epoch"):
            self.sets["train"].epoch = epoch
        loader = Loader(self.sets["train"], [self._part(b) for b in batches[self.step :]], self.device)
        used = sum(len(batch) for batch in batches)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.model.train()
        for clips, batch in zip(batches[self.step :], loader, strict=True):
            # Batches whose gradients make one step of the optimizer; fewer at the epoch's end.
            group = min(recipe.accumulate, len(batches) - self.step // recipe.accumulate * recipe.accumulate)
            complete = (self.step + 1) % recipe.accumulate == 0 or self.step + 1 == len(batches)
            progress = (epoch - 1 + self.step / len(batches)) / recipe.epochs
            with self.fabric.no_backward_sync(self.model, enabled=not complete):
                loss = torch.stack(list(self.task.loss(self.model, batch, progress).values())).sum()
                self.fabric.backward(loss / group if group > 1 else loss)
            self.total += loss.detach() * len(clips)
            self.step += 1
            if complete:
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                if self.step < len(batches) and self._is_due():
                    self._save()
        return self._end_epoch(epoch, rate, used)

    def _batches(self) -> list[list[int]]:
        """The epoch's batches; positions in the training dataset."""
        recipe, count = self.recipe, len(self.sets["train"])  # type: ignore[arg-type]
        self.order = self.shuffler.get_state()
        order = torch.randperm(count, generator=self.shuffler) if recipe.shuffle else torch.arange(count)
        batches = [batch.tolist() for batch in order.split(recipe.batch_size)]
        short = len(batches[-1]) < (recipe.batch_size if recipe.drop_last else self.fabric.world_size)
        return batches[:-1] if short else batches

    def _part(self, batch: Sequence[int]) -> Sequence[int]:
        """The clips of a batch that this process takes."""
        rank, count = self.fabric.global_rank, self.fabric.world_size
        return batch[rank * len(batch) // count : (rank + 1) * len(batch) // count]

    def _end_epoch(self, epoch: int, rate: float, used: int) -> dict[str, float]:
        if self.fabric.world_size > 1:  # a task that does not gather has a loss of its own in each process
            self.total = self.fabric.all_reduce(self.total, reduce_op="mean")
        loss = float(self.total) / used
        self.step, self.total = 0, torch.zeros((), device=self.device)
        row = {"epoch": epoch, "lr": rate, "loss": loss}
        if not math.isfinite(loss):
            self.reason = f"the loss became {loss} in epoch {epoch}; try a smaller lr, or clip_norm"
        elif epoch % self.recipe.evaluate_every == 0 or epoch == self.recipe.epochs:
            row |= self._choose("validation", "val", epoch)
            if self.recipe.protocol == "best_test":
                row |= self._choose("best_test", "test", epoch)
        self._step_schedule(row)
        return row

    def _choose(self, protocol: str, split: str, epoch: int) -> dict[str, float]:
        """Score a split; keep the weights if the protocol prefers them to those before. {} without the split."""
        if split not in self.sets:
            return {}
        scores = self._evaluate(split).scores
        kept = self.kept.get(protocol)
        if self.metric.better(scores[self.main], kept.score if kept else None):
            self.kept[protocol] = Kept(epoch, scores[self.main], weights_of(self.network))
        return {f"{split}_{name}": value for name, value in scores.items()}

    def _evaluate(self, split: str) -> Evaluation:
        self.model.eval()
        with torch.inference_mode() if self.fabric.world_size == 1 else torch.no_grad():
            return self.task.evaluate(self.model, in_order(self.sets[split], self.device))

    def _step_schedule(self, row: dict[str, float]) -> None:
        """Step the learning rate's schedule after an epoch. A plateau of the validation score counts evaluated epochs only."""
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            watched = "loss" if self.recipe.watch == "loss" else f"val_{self.main}"
            if watched in row:
                self.schedule.step(row[watched])
        elif self.schedule is not None:
            self.schedule.step()

    def _finish(self) -> Fitted:
        """Evaluate the checkpoints that are reported; the model is left with the protocol's weights."""
        recipe, evaluations = self.recipe, dict[str, Evaluation]()
        epochs = {protocol: kept.epoch for protocol, kept in self.kept.items()} | {"last": recipe.epochs}
        weights = {protocol: kept.weights for protocol, kept in self.kept.items()}
        if recipe.protocol == "last":
            weights["last"] = weights_of(self.network)
        for protocol in ["last", *sorted(self.kept, key=lambda p: p == recipe.protocol)]:
            if protocol != "last":
                self.network.load_state_dict(weights[protocol])
            if self.reason is None and "test" in self.sets:
                same = epochs[protocol] == recipe.epochs and "last" in evaluations
                evaluations[protocol] = evaluations["last"] if same else self._evaluate("test")
        if recipe.protocol == "last":
            self.network.load_state_dict(weights["last"])
        parameters = sum(p.numel() for p in self.network.parameters())
        seconds = time.perf_counter() - self.started
        chosen = weights.get(recipe.protocol, {})
        return Fitted(self.model, chosen, parameters, self.reason, epochs, evaluations, self.rows, seconds)

    def _is_due(self) -> bool:
        """Whether to save a state after this step; all processes agree."""
        states = self.states
        if states is None:
            return False
        by_step = states.steps is not None and self.step % states.steps == 0
        late = states.seconds is not None and time.perf_counter() - self.saved >= states.seconds
        return by_step or bool(self.fabric.broadcast(late) if self.fabric.world_size > 1 else late)

    def _save(self) -> None:
        if self.states is None:
            return
        random = [torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        every: list[Any] = [random]
        if self.fabric.world_size > 1:
            every = [None] * self.fabric.world_size
            distributed.all_gather_object(every, random)
        if self.first:
            state = {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict() if self.schedule else None,
                "kept": {protocol: vars(kept) for protocol, kept in self.kept.items()},
                "rows": self.rows,
                "step": self.step,
                "total": self.total,
                "order": self.order if self.step else self.shuffler.get_state(),
                "random": every,
                "reason": self.reason,
                "seconds": time.perf_counter() - self.started,
            }
            self.states.save((len(self.rows), self.step), state)
        self.saved = time.perf_counter()

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        self.kept = {protocol: Kept(**kept) for protocol, kept in state["kept"].items()}
        self.rows += state["rows"]
        self.step, self.total, self.reason = state["step"], state["total"].to(self.device), state["reason"]
        self.shuffler.set_state(state["order"])
        random = state["random"][self.fabric.global_rank]
        torch.set_rng_state(random[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random[1], self.device)
        self.started -= state["seconds"]
        inside = f", step {self.step} of the next" if self.step else ""
        say(f"{self.name}: going on after epoch {len(self.rows)}{inside}")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters and buffers in main memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
