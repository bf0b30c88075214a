"""A small study on disk, as the earlier stages leave it: three categories that are easy to tell apart."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from avpipe.files import write_json
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training import fit
from avpipe.training.run import train_experiment

CATEGORIES = ("Bark", "Bell", "Horn")
SEGMENTS = 10
SHARD = 16
AUDIO_DIM, MAP = 6, (2, 2, 8)


@dataclass
class Study:
    """A dataset's results folder, and what was put into it."""

    results: Path
    clips: pd.DataFrame
    truth: np.ndarray

    def split(self, name: str) -> np.ndarray:
        """(N, T) true labels of a split."""
        return self.truth[(self.clips["split"] == name).to_numpy()]


def write_features(results: Path, name: str, values: np.ndarray, shard: int = SHARD) -> None:
    """One zarr array, (N, T, ...), chunk = clip, zarr shard = workflow shard."""
    path = results / "features" / f"{name}.zarr"
    shape = values.shape[1:]
    attributes = {
        "rows": "../../rows.csv",
        "manifest": "../../manifest.json",
        "weights": "random",
        "sha256": "0" * 64,
    }
    array = zarr.create_array(
        store=path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *shape),
        shards=(shard, *shape),
        fill_value=np.nan,
        overwrite=True,
        attributes=attributes,
        config={"write_empty_chunks": False},
    )
    array[:] = values


def write_study(
    results: Path,
    *,
    splits: Sequence[tuple[str, int]] = (("train", 48), ("val", 16), ("test", 16)),
    noise: float = 0.3,
    dtype: str = "float32",
    categories: Sequence[str] = CATEGORIES,
    lengths: tuple[int, int] = (4, 7),
) -> Study:
    """Clips with one event each in both modalities (every eighth clip has none); features are a vector per category plus noise.

    An event begins in the first 4 s and lasts lengths[0] to lengths[1] - 1 s, or to the clip's end.
    """
    random = np.random.default_rng(0)
    names = [split for split, count in splits for _ in range(count)]
    count, background = len(names), len(categories)
    truth = np.full((count, SEGMENTS), background)
    events = []
    for i in range(count):
        if i % 8 != 7:
            onset, length = random.integers(0, 4), random.integers(*lengths)
            offset, category = np.minimum(onset + length, SEGMENTS), i % background
            truth[i, onset:offset] = category
            times = float(onset), float(offset)
            events += [
                (f"clip{i}", m, categories[category], *times) for m in ("audiovisual", "audio", "visual")
            ]
            events.append((f"clip{i}", "video", categories[category], np.nan, np.nan))
    clips = pd.DataFrame({
        "clip": [f"clip{i}" for i in range(count)], "dataset": "toy", "split": names, "source": "", "start": 0.0, "end": 10.0,
        "shard": np.arange(count) // SHARD, "row": np.arange(count), "status": "present", "reason": None,
    })  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    clips.to_parquet(results / "clips.parquet", index=False)
    order = clips.groupby("split", sort=False).cumcount()
    clips.assign(split_order=order).to_parquet(results / "manifest.parquet", index=False)
    pd.DataFrame(events, columns=["clip", "modality", "category", "onset", "offset"]).to_parquet(
        results / "events.parquet"
    )
    with (results / "categories.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "category"])
        writer.writerows(enumerate(categories))
    (results / "rows.csv").write_text("\n".join(["clip", *clips["clip"]]) + "\n")
    shards = {str(shard): "0" * 16 for shard in range(-(-count // SHARD))}
    write_json(
        results / "manifest.json", {"dataset": "toy", "rows": count, "shard_size": SHARD, "shards": shards}
    )
    visual_of = random.normal(size=(background + 1, *MAP))
    audio_of = random.normal(size=(background + 1, AUDIO_DIM))
    visual = visual_of[truth] + noise * random.normal(size=(count, SEGMENTS, *MAP))
    audio = audio_of[truth] + noise * random.normal(size=(count, SEGMENTS, AUDIO_DIM))
    write_features(results, "ears", audio.astype(dtype))
    write_features(results, "eyes", visual.astype(dtype))
    return Study(results, clips, truth)


def seed_folder(experiment: Experiment, results: Path, seed: int = 0) -> Path:
    return results / "runs" / experiment.id / f"seed{seed}"


def read(experiment: Experiment, results: Path, seed: int = 0) -> dict[str, Any]:
    """A run's files, without what differs between any two runs."""
    folder = seed_folder(experiment, results, seed)
    metrics = json.loads((folder / "metrics.json").read_text())
    log = folder / "log.csv"
    return {
        "metrics.json": {k: value for k, value in metrics.items() if k not in ("seconds", "environment")},
        "predictions.parquet": pd.read_parquet(folder / "predictions.parquet"),
        "log.csv": list(csv.DictReader(log.open())) if log.is_file() else [],
        "checkpoint.pt": torch.load(folder / "checkpoint.pt", weights_only=True),
    }


def run(
    experiment: Experiment, results: Path, seeds: Sequence[int] = (0,), **options: Any
) -> list[dict[str, Any]]:
    """Train; the content of each seed's metrics.json."""
    train_experiment(experiment, results, list(seeds), "cpu", threads=1, **options)
    return [read(experiment, results, seed)["metrics.json"] for seed in seeds]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Both runs measured, predicted and learned the same, to the last digit."""
    assert one["metrics.json"] == other["metrics.json"]
    assert one["log.csv"] == other["log.csv"]
    weights, others = one["checkpoint.pt"], other["checkpoint.pt"]
    torch.testing.assert_close(weights["weights"], others["weights"], rtol=0, atol=0)
    assert weights["options"] == others["options"]
    pd.testing.assert_frame_equal(one["predictions.parquet"], other["predictions.parquet"], check_exact=True)


class Stop(Exception):
    """Stands for whatever ends a job in the middle."""


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """stop_after(epochs, experiment, results): train until that epoch of the last seed is trained but not recorded."""

    def start(epochs: int, experiment: Experiment, results: Path, seeds: Sequence[int] = (0,)) -> None:
        original, done = fit._Training._epoch, []

        def stopping(self: fit._Training, epoch: int) -> Any:
            row = original(self, epoch)
            done.append(f"seed {seeds[-1]}" in self.name)
            if sum(done) == epochs:
                raise Stop
            return row

        with monkeypatch.context() as patch:
            patch.setattr(fit._Training, "_epoch", stopping)
            with pytest.raises(Stop):
                run(experiment, results, seeds, save_seconds=0)

    return start


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Write a study: `make_study(splits=..., noise=..., dtype=...)`, and what else `write_study` takes."""
    return lambda **options: write_study(tmp_path / "results" / "toy", **options)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The default study, to be read only; runs go to folders of their own names."""
    return write_study(tmp_path_factory.mktemp("study") / "results" / "toy")


@pytest.fixture(scope="session")
def describe() -> Callable[..., Experiment]:
    """An experiment on the toy study; keyword arguments of the recipe, and model, options, features, setting, task."""

    def make(
        model: str = "avin",
        setting: str = "supervised",
        options: dict[str, Any] | None = None,
        features: dict[str, str] | None = None,
        task: str = "localization",
        **recipe: Any,
    ) -> Experiment:
        roles = features if features is not None else {"audio": "ears", "visual": "eyes"}
        return Experiment.model_validate({
            "task": task, "model": model, "setting": setting, "features": roles,
            "options": {"hidden_dim": 8, **({"fusion_dim": 8} if model == "avin" else {}), **(options or {})},
            "recipe": Recipe(**{"epochs": 3, "batch_size": 16, "lr": 1e-2, **recipe}).model_dump(),
        })  # fmt: skip

    return make
