"""Initialize a run from its pretraining checkpoint of the same seed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from avpipe.files import read_json
from avpipe.models.checkpoint import read_checkpoint
from avpipe.plan.experiment import Experiment


@dataclass(frozen=True)
class Pretrained:
    """The result of a pretraining run.

    Args:
        experiment_id: of the pretraining.
        weights: name -> tensor; empty if the run failed.
        digest: hash of names and numbers; part of the dependent run's identity.
        problem: why there are no weights, or None.
    """

    experiment_id: str
    weights: dict[str, Tensor]
    digest: str
    problem: str | None = None

    def describe(self) -> dict[str, str]:
        """The entry in metrics.json."""
        return {"experiment_id": self.experiment_id, "weights": self.digest}


def checkpoint_before(experiment: Experiment, results: Path, seed: int) -> Path | None:
    """The checkpoint that a run starts from, in its own dataset's results or in those of another dataset beside them."""
    before, other = experiment.pretraining, experiment.pretrained_on
    if before is None:
        return None
    folder = results.resolve().parent / other if other else results
    return folder / "runs" / before.id / f"seed{seed}" / "checkpoint.pt"


def read_pretrained(experiment: Experiment, results: Path, seed: int) -> Pretrained | None:
    """Read the experiment's pretraining checkpoint of this seed; None if it has no pretraining.

    Args:
        experiment: the dependent one.
        results: R, the dataset's folder.
        seed: of both runs.

    Raises:
        FileNotFoundError: if that run is missing.
        ValueError: if its checkpoint is not one of avpipe's.
    """
    before, path = experiment.pretraining, checkpoint_before(experiment, results, seed)
    if before is None or path is None:
        return None
    if not path.is_file():
        who = (
            f"the study of {experiment.pretrained_on} does, if it has the same model, options, features and recipe"
            if experiment.pretrained_on
            else f"Snakemake does; by hand: `avpipe train {path.parents[1] / 'experiment.json'} --seed {seed}`"
        )
        raise FileNotFoundError(
            f"{path} is missing: {experiment.id} starts from the model of {before.id}, seed {seed}. Train that first ({who})"
        )
    weights = read_checkpoint(path)["weights"]
    problem = None if weights else f"its pretraining {before.id} has no model: {_reason(path)}"
    return Pretrained(before.id, weights, weights_digest(weights), problem)


def _reason(checkpoint: Path) -> str:
    """Why the run has no weights, from its metrics.json."""
    try:
        return read_json(checkpoint.with_name("metrics.json"))["reason"] or "no reason given"
    except (OSError, ValueError, KeyError):
        return "and no metrics.json says why"


def weights_digest(weights: dict[str, Tensor]) -> str:
    """Sixteen hex digits that depend on names, types, shapes and numbers only, not on the file."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def start_from(model: nn.Module, pretrained: Pretrained) -> list[str]:
    """Copy every pretrained weight whose name the model has; its other weights stay as initialized.

    Returns:
        Names of the weights that were copied.

    Raises:
        ValueError: if no name is shared, or a shape differs.
    """
    own = model.state_dict()
    shared = {name: weight for name, weight in pretrained.weights.items() if name in own}
    source = f"the pretrained model of {pretrained.experiment_id}"
    if not shared:
        raise ValueError(f"{source} shares no weight with {type(model).__name__}")
    for name, weight in shared.items():
        if weight.shape != own[name].shape:
            raise ValueError(
                f"{name} is {tuple(weight.shape)} in {source} and {tuple(own[name].shape)} in {type(model).__name__}: give "
                "both models the same options (hidden_dim, layers, ...) and features"
            )
    model.load_state_dict(shared, strict=False)
    return list(shared)
