"""Measures training on the CPU: avpipe's loop and a bare loop written by hand, HAN and its released form.

Features are random, of the real shapes, in memory, with one seed. The two sides of a ratio take turns, an epoch at a
time. Each side's median of CPU seconds counts, so that other processes on the machine matter little. The bare loop has
the same model, loss, optimizer and batches as avpipe's, and nothing else. HAN's released form is the same network made
of `torch.nn.MultiheadAttention`, one modality after the other, with the frames mapped before they are averaged. Last,
memory: PSP on as many maps as AVE has, float16, in a process of its own.
"""

import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import zarr
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset

from avpipe.models.base import FeatureBatch, LocalizationBatch, ParsingBatch, ParsingOutput, SegmentOutput
from avpipe.models.han import HAN
from avpipe.models.psp import PSP
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.devices import OneProcess
from avpipe.training.fit import _Training
from avpipe.training.optimizers import make_optimizer
from avpipe.training.run import open_task

HAN_SHAPES = {"audio": (10, 128), "visual": (10, 8, 2048), "motion": (10, 512)}
PSP_SHAPES = {"audio": (10, 128), "visual": (10, 7, 7, 512)}
AVE_TRAINING_CLIPS, PSP_EPOCHS = 3_339, 300
ROUNDS, THREADS = 5, 1
MEMORY_STEPS = 5

Loss = Callable[[Any, Any], Tensor]


def write_features(folder: Path, shapes: dict[str, tuple[int, ...]], clips: int, dtype: str) -> None:
    """A study of random features: one event a clip, `clips` for training and one each for validation and test."""
    rng = np.random.default_rng(0)
    splits = ["train"] * clips + ["val", "test"]
    names = [f"clip{i}" for i in range(len(splits))]
    folder.mkdir(parents=True)
    order = range(len(names))
    clips_table = pd.DataFrame(
        {"clip": names, "split": splits, "split_order": order, "row": order, "status": "present"}
    )
    for table in ("manifest", "clips"):
        clips_table.to_parquet(folder / f"{table}.parquet")
    columns = ["clip", "modality", "category", "onset", "offset"]
    events = [
        (clip, m, f"category{i % 25}", 2.0, 8.0)
        for i, clip in enumerate(names)
        for m in ("audiovisual", "video")
    ]
    pd.DataFrame(events, columns=columns).to_parquet(folder / "events.parquet")
    with (folder / "categories.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("index", "category"), *((i, f"category{i}") for i in range(25))])
    (folder / "rows.csv").write_text("\n".join(["clip", *names]) + "\n")
    shards = {str(k): "0" for k in range(-(-len(names) // 256))}
    manifest = {"dataset": "random", "rows": len(names), "shard_size": 256, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for role, shape in shapes.items():
        array = zarr.create_array(
            store=folder / "features" / f"{role}.zarr", shape=(len(names), *shape), dtype=dtype, chunks=(1, *shape),
            shards=(256, *shape), fill_value=np.nan,
            attributes={"rows": "../../rows.csv", "manifest": "../../manifest.json", "weights": "random", "sha256": "0"},
        )  # fmt: skip
        for first in range(0, len(names), 256):
            array[first : first + 256] = rng.standard_normal(
                (len(names[first : first + 256]), *shape), np.float32
            )


def prepare(folder: Path, model: str, batch_size: int) -> _Training:
    """A training by avpipe's `fit`, before its first step, with the features in memory."""
    parsing = model == "han"
    experiment = Experiment(
        task="parsing" if parsing else "localization",
        model=model,
        features={role: role for role in (HAN_SHAPES if parsing else PSP_SHAPES)},  # type: ignore[misc]
        setting="weakly-supervised" if parsing else "supervised",
        recipe=Recipe(batch_size=batch_size, lr=3e-4, epochs=10**6, evaluate_every=10**6),
    )
    _, task = open_task(experiment, folder, torch.device("cpu"), resident_bytes=6 << 30)
    return _Training(task, experiment.recipe, 0, OneProcess(), None, "")


def bare_epoch(run: _Training, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss) -> None:
    """One pass over the training clips, by hand."""
    clips: Any = run.sets["train"]
    model.train()
    for positions in torch.randperm(len(clips)).split(run.recipe.batch_size):
        features = {role: tensor[positions].float() for role, tensor in clips.store.tensors.items()}
        batch = clips.batch(**features, **{name: label[positions] for name, label in clips.labels.items()})
        optimizer.zero_grad()
        loss(model(batch), batch).backward()
        optimizer.step()


def han_loss(output: ParsingOutput, batch: ParsingBatch) -> Tensor:
    """The released training script's three cross-entropies."""
    attended_audio, attended_visual = output.modality_probabilities.unbind(dim=1)
    weak = batch.clip_labels
    pairs = ((output.clip_probabilities, weak), (attended_audio, weak), (attended_visual, 0.9 * weak + 0.05))
    return torch.stack([functional.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), y) for p, y in pairs]).sum()


def psp_loss(output: SegmentOutput, batch: LocalizationBatch) -> Tensor:
    """Cross-entropy over segments and the pair-similarity term that the model gives."""
    labels = batch.target.argmax(dim=-1)
    loss = functional.cross_entropy(output.segment_logits.flatten(0, 1), labels.flatten())
    return loss + output.losses["pair_similarity"]


class ReleasedHAN(nn.Module):
    """HAN as the released code builds it, of torch's own parts, without the layers that it never uses."""

    def __init__(self, dim: int = 512, classes: int = 25) -> None:
        super().__init__()
        self.audio, self.visual, self.motion = nn.Linear(128, dim), nn.Linear(2048, dim), nn.Linear(512, dim)
        self.fusion = nn.Linear(2 * dim, dim)
        self.own = nn.MultiheadAttention(dim, 1, dropout=0.1, batch_first=True)
        self.other = nn.MultiheadAttention(dim, 1, dropout=0.1, batch_first=True)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)
        self.probability, self.time, self.modality = (nn.Linear(dim, classes) for _ in range(3))

    def layer(self, own: Tensor, other: Tensor) -> Tensor:
        """(B, T, D), (B, T, D) -> (B, T, D)."""
        crossed, attended = self.other(own, other, other)[0], self.own(own, own, own)[0]
        own = self.norm1(own + self.dropout(crossed) + self.dropout(attended))
        return self.norm2(own + self.dropout(self.second(self.dropout(self.first(own).relu()))))

    def forward(self, batch: FeatureBatch) -> ParsingOutput:
        """The probabilities that `han_loss` needs."""
        audio, visual = self.audio(batch.audio), self.visual(batch.visual).mean(dim=2)
        visual = self.fusion(torch.cat([visual, self.motion(batch.motion)], dim=-1))
        attended_audio, attended_visual = self.layer(audio, visual), self.layer(visual, audio)
        both = torch.cat(
            [attended_audio.unsqueeze(-2), attended_visual.unsqueeze(-2)], dim=-2
        )  # (B, T, 2, D)
        p = self.probability(both).sigmoid()
        over_time, over_modalities = self.time(both).softmax(dim=1), self.modality(both).softmax(dim=2)
        clip = (over_time * over_modalities * p).sum(dim=2).sum(dim=1)
        over = (over_time * p).sum(dim=1)
        return ParsingOutput(parsing_probabilities=p, modality_probabilities=over, clip_probabilities=clip)


def steps_a_second(run: _Training, sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of processor time, of each side; a call is an epoch. The first round is not counted."""
    steps = -(-len(run.sets["train"]) // run.recipe.batch_size)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(ROUNDS + 1):
        for side, epoch in sides.items():
            started = time.process_time()
            epoch()
            if number:
                seconds[side].append(time.process_time() - started)
    return {side: steps / statistics.median(taken) for side, taken in seconds.items()}


def by_hand(run: _Training, model: nn.Module, loss: Loss) -> Callable[[], object]:
    """An epoch of the bare loop."""
    optimizer = make_optimizer(run.recipe, model)
    return lambda: bare_epoch(run, model, optimizer, loss)


def compare(folder: Path) -> None:
    """HAN and PSP in the loop and by hand; HAN and its released form by hand."""
    write_features(folder / "han", HAN_SHAPES, 16 * 8, "float32")
    write_features(folder / "psp", PSP_SHAPES, 64 * 2, "float16")
    run = prepare(folder / "han", "han", batch_size=16)
    sides = {
        "avpipe": lambda: run._epoch(1),
        "bare": by_hand(run, HAN(), han_loss),
        "released": by_hand(run, ReleasedHAN(), han_loss),
    }
    rate = steps_a_second(run, sides)
    print(
        f"| HAN, batch 16, steps/s: in avpipe's loop {rate['avpipe']:.1f}, in a bare loop {rate['bare']:.1f} "
        f"| {rate['avpipe'] / rate['bare']:.2f}x | >= 0.9x |",
        flush=True,
    )
    print(
        f"| HAN, batch 16, steps/s in the bare loop: avpipe's model {rate['bare']:.1f}, made of torch.nn.MultiheadAttention "
        f"{rate['released']:.1f} | {rate['bare'] / rate['released']:.2f}x | >= 1.0x |",
        flush=True,
    )
    run = prepare(folder / "psp", "psp", batch_size=64)
    psp = PSP(num_classes=25)
    rate = steps_a_second(run, {"avpipe": lambda: run._epoch(1), "bare": by_hand(run, psp, psp_loss)})
    print(
        f"| PSP on 7 x 7 x 512 maps, batch 64, steps/s: in avpipe's loop {rate['avpipe']:.2f}, in a bare loop {rate['bare']:.2f} "
        f"| {rate['avpipe'] / rate['bare']:.2f}x | >= 0.9x |",
        flush=True,
    )


def measure_memory(folder: Path) -> None:
    """PSP on AVE's number of training clips; what a process that does only this takes. Prints a row."""
    run = prepare(folder, "psp", batch_size=64)
    some = Subset(run.sets["train"], range(MEMORY_STEPS * 64))  # all clips are in memory, some are trained on
    run.sets = {**run.sets, "train": some}
    started = time.process_time()
    run._epoch(1)
    step = (time.process_time() - started) / MEMORY_STEPS
    steps = -(-AVE_TRAINING_CLIPS // 64) * PSP_EPOCHS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"| PSP, {AVE_TRAINING_CLIPS:,} clips of 10 x 7 x 7 x 512 float16 in memory, {MEMORY_STEPS} steps of 64 on one core: "
        f"{step:.2f} s a step ({PSP_EPOCHS} epochs: {step * steps / 3600:.1f} h); peak memory of the process "
        f"| {peak:.1f} GiB | < 8 GB |"
    )


def main() -> None:
    torch.set_num_threads(THREADS)
    if sys.argv[1:2] == ["memory"]:
        measure_memory(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary))
        write_features(Path(temporary) / "ave", PSP_SHAPES, AVE_TRAINING_CLIPS, "float16")
        command = [sys.executable, __file__, "memory", str(Path(temporary) / "ave")]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


if __name__ == "__main__":
    main()
