"""Training from clips: which clips, what is random, and what follows the epoch."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from avpipe.media.presets import CANONICAL
from avpipe.metrics.metric import Metric
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.training.fit import fit
from avpipe.training.raw_task import RawTask
from avpipe.training.task import Evaluation
from tests.builders import tar_of
from tests.predicting import Net, Predicting

from .conftest import SHARD, write_study

EXPERIMENT = Experiment(
    task="predicting", model="predicting", preset=CANONICAL, setting="self-supervised", recipe=Recipe()
)


@pytest.fixture
def results(tmp_path):
    """A study whose first clip has no sound, and whose second clip could not be read at all."""
    study = write_study(tmp_path)
    folder = tmp_path / "segments" / "canonical"
    folder.mkdir(parents=True)
    for shard in range(80 // SHARD):
        names = [f"clip{row}" for row in range(shard * SHARD, (shard + 1) * SHARD)]
        parts = {f"{name}.{part}": b"" for name in names for part in ("mp4", "flac", "json")}
        missing = ("clip0.flac", "clip1.mp4", "clip1.flac", "clip1.json")
        (folder / f"{shard}.tar").write_bytes(tar_of({n: c for n, c in parts.items() if n not in missing}))
    return study.results


def task(results) -> Predicting:
    return Predicting(EXPERIMENT, Predicting.open(EXPERIMENT, results, torch.device("cpu"), None), Net)


def test_usable_are_the_clips_that_have_all_parts(results):
    data = task(results).data
    assert data.counts() == {
        "train": 46,
        "train_named": 48,
        "val": 16,
        "val_named": 16,
        "test": 16,
        "test_named": 16,
    }
    made = task(results).datasets()
    assert [clip.clip for clip in made["train"].clips] == [f"clip{n}" for n in range(2, 48)]


def test_another_tar_is_other_data_and_a_missing_one_is_named(results):
    before, tar = task(results).data.digest, results / "segments" / "canonical" / "4.tar"
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    assert task(results).data.digest != before
    tar.unlink()
    with pytest.raises(FileNotFoundError, match=r"4\.tar"):
        task(results)


@dataclass
class Drawn:
    """A random number a clip."""

    number: torch.Tensor


class Draws(RawTask):
    """Notes the numbers that were drawn for every batch."""

    metrics = {"loss": Metric("Loss", "", higher_is_better=False)}  # noqa: RUF012

    def read(self, clip):
        return Drawn(torch.rand(1))

    def model(self):
        return nn.Linear(1, 1)

    def loss(self, model, batch, progress):
        self.trained.append(sorted(batch.number.flatten().tolist()))
        return {"loss": model(batch.number).mean()}

    def evaluate(self, model, loader):
        self.evaluated.append([batch.number.flatten().tolist() for batch in loader])
        return Evaluation({"loss": 0.0}, None)


def test_every_epoch_and_seed_draws_anew_for_training_and_never_for_evaluation(results):
    def drawn(seed: int) -> tuple[list[list[float]], list[list[list[float]]]]:
        draws = Draws(EXPERIMENT, Draws.open(EXPERIMENT, results, torch.device("cpu"), None), nn.Linear)
        draws.trained, draws.evaluated, draws.seed = [], [], seed
        fit(draws, Recipe(epochs=2, batch_size=46), seed)
        return draws.trained, draws.evaluated

    (first, second), (one, other, *_) = drawn(0)
    assert len(first) == 46
    assert not set(first) & set(second)
    assert one == other
    assert drawn(0)[0] == [first, second]
    assert not set(drawn(1)[0][0]) & set(first)
