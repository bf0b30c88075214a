"""Two processes train one model: the numbers are those of one process, within rounding.

A toy of linear layers, two kinds of batch normalization and a contrastive loss: all but the linear layers need the
whole batch.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from avpipe.metrics.metric import Metric
from avpipe.models.multisensory_layers import BatchRenorm
from avpipe.models.parallel import gather
from avpipe.plan.recipe import Recipe
from avpipe.training import fit as fit_module
from avpipe.training.devices import open_fabric
from avpipe.training.fit import fit
from avpipe.training.task import Evaluation

from .conftest import read, run


@dataclass
class Pair:
    """Two views of a clip, (B, 6) each."""

    one: torch.Tensor
    other: torch.Tensor


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8),
            BatchRenorm(8, gamma=True),
            nn.ReLU(),
            nn.Linear(8, 4),
        )

    def forward(self, batch: Pair) -> Pair:
        return Pair(self.layers(batch.one), self.layers(batch.other))


class Contrast:
    """Each clip's two views are told from all views of the batch."""

    metrics = {"loss": Metric("Loss", "", higher_is_better=False)}  # noqa: RUF012

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole

    def datasets(self):
        random = torch.Generator().manual_seed(0)
        pairs = [Pair(*torch.randn(2, 6, generator=random)) for _ in range(30)]
        return {"train": pairs[:24], "val": pairs[24:]}

    def model(self) -> nn.Module:
        return Encoder()

    def loss(self, model, batch, progress):
        said = model(batch)
        one, other = (gather(view) if self.whole else view for view in (said.one, said.other))
        return {"contrast": nn.functional.cross_entropy(one @ other.T, torch.arange(len(one)))}

    def evaluate(self, model, loader):
        (batch,) = loader
        said = model(batch)
        loss = nn.functional.cross_entropy(said.one @ said.other.T, torch.arange(len(said.one)))
        return Evaluation({"loss": float(loss)}, None)


RECIPE = Recipe(epochs=4, batch_size=5, optimizer="sgd", lr=0.05, clip_norm=1.0, accumulate=2)


def trained(fabric=None, **options) -> list[float]:
    """The weights of the last epoch: batches of 5 clips, which two processes cannot share evenly, and one of 4."""
    recipe = RECIPE.model_copy(update={"protocol": "last"})
    weights = fit(Contrast(**options), recipe, 0, fabric=fabric).weights
    assert not any("module" in name for name in weights)
    return torch.cat([weight.flatten().double() for weight in weights.values()]).tolist()


def main() -> None:
    """What each of the two processes does; the first one prints."""
    torch.set_num_threads(1)
    fabric = open_fabric(torch.device("cpu"), "float32")
    found = {"both": trained(fabric), "loss of parts": trained(fabric, whole=False)}
    fit_module.use_whole_batches = lambda model: None
    found["plain batch-norm"] = trained(fabric)
    if fabric.global_rank == 0:
        print(json.dumps(found))


def in_two_processes(code: str, *arguments: str) -> str:
    """What the first of two processes prints; both run `code` as torchrun would start them."""
    port = str(20_000 + os.getpid() % 20_000)
    started = []
    for rank in "01":
        given = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
        }
        about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        command = [sys.executable, "-c", code, *arguments]
        environment = {**os.environ, **given, **about}
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return printed[0]


TOY = "import sys; sys.path.insert(0, sys.argv[1]); from tests.training.test_processes import main; main()"


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_where_all_that_needs_the_whole_batch_has_it(request):
    expected = torch.tensor(trained())
    found = json.loads(in_two_processes(TOY, str(request.config.rootpath)))
    difference = {case: (torch.tensor(weights) - expected).abs().max() for case, weights in found.items()}
    assert difference["both"] < 1e-5
    assert difference["loss of parts"] > 1e-3
    assert difference["plain batch-norm"] > 1e-3


EXPERIMENT = """
import sys
from pathlib import Path
from avpipe.plan.experiment import Experiment
from avpipe.training.run import train_experiment
train_experiment(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2]), [0], "cpu", threads=1, save_steps=1)
"""


@pytest.mark.slow
def test_an_experiment_trained_by_two_processes_is_written_once_and_scores_the_same(make_study, describe):
    study = make_study()
    plain = {
        "optimizer": "sgd",
        "lr": 0.05,
        "batch_size": 9,
    }  # Adam would divide small roundings by small gradients
    experiment = describe("cmran", options={"dropout": 0.0}, **plain)
    run(experiment, study.results)
    alone = read(experiment, study.results)
    in_two_processes(EXPERIMENT, experiment.to_json(), str(study.results))
    together = read(experiment, study.results)
    assert together["metrics.json"]["metrics"] == alone["metrics.json"]["metrics"]
    losses = [[float(row["loss"]) for row in each["log.csv"]] for each in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in alone["checkpoint.pt"]["weights"].items():
        torch.testing.assert_close(together["checkpoint.pt"]["weights"][name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_avpipe_train_starts_two_processes_that_score_as_one_with_a_log_each(make_study, describe, tmp_path):
    study = make_study()
    plain = {"optimizer": "sgd", "lr": 0.05, "batch_size": 9}
    experiment = describe("cmran", options={"dropout": 0.0}, **plain)
    run(experiment, study.results)
    alone = read(experiment, study.results)
    file = study.results / "runs" / experiment.id / "experiment.json"
    file.write_text(experiment.to_json())
    log = tmp_path / "train.log"
    command = [sys.executable, "-m", "avpipe", "train", str(file), "--seed=0", "--device=cpu", f"--log={log}"]
    with log.open("w") as out:
        done = subprocess.run(
            [*command, "--processes=2", "--threads=2"], stdout=out, stderr=subprocess.STDOUT, check=False
        )
    assert done.returncode == 0, log.read_text()
    together = read(experiment, study.results)
    assert together["metrics.json"]["metrics"] == alone["metrics.json"]["metrics"]
    for name, weight in alone["checkpoint.pt"]["weights"].items():
        torch.testing.assert_close(together["checkpoint.pt"]["weights"][name], weight, rtol=1e-3, atol=1e-5)
    assert log.read_text().count("usable clips") == 1, "the first process's lines, not both processes'"
    each = [
        path.read_text().count("usable clips")
        for path in log.with_name("train.log.processes").rglob("stderr.log")
    ]
    assert each == [1, 1]
    assert not list(file.parent.glob(".seed*.lock"))
