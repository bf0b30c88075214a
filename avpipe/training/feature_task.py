"""What tasks on features have in common: datasets, model, loss of the whole batch, evaluation."""

import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from avpipe.models import MODELS, create_model
from avpipe.models.base import FeatureBatch
from avpipe.models.parallel import gather, mean_over_clips, processes
from avpipe.models.standardization import Scales, standardize_inputs
from avpipe.plan import registry
from avpipe.plan.experiment import Experiment
from avpipe.training.data import SPLITS, Data, FeatureClips, Loader, SplitSet
from avpipe.training.fit import Fitted, fit
from avpipe.training.pretrained import Pretrained, start_from
from avpipe.training.resume import States
from avpipe.training.task import Evaluation, Task

Arrays = dict[str, np.ndarray]
"""Name -> array whose first axis is the clips of a split, in the split's order."""
Types = TypeVar("Types")


class FeatureTask(Task):
    """A task of one experiment on features, made as `TASK(experiment, data, model_class)` (see `avpipe.training.TASKS`).

    A task of this kind gives `labels`, `terms`, `predict` and `assess`, and checks its recipe in its constructor.

    Args:
        experiment: model, options, setting and recipe.
        data: clips, events and features.
        model: the model's class; its `default_...` attributes say what "default" in the recipe means.
    """

    split_set: SplitSet = "usual"
    """Which splits the task uses."""
    batch: type[FeatureBatch]
    """The type of its batches."""

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        self.experiment, self.data = experiment, data
        self.splits: tuple[str, ...] = SPLITS
        self.module: nn.Module | None = None
        self.start: Pretrained | None = None
        self.scales: Scales = {}
        self.made: dict[str, FeatureClips] = {}

    def labels(self, split: str) -> dict[str, Tensor]:
        """The labels of a split: field of the batch -> tensor, first axis the split's clips."""
        raise NotImplementedError

    def terms(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """The terms of the loss, of the model's output for a whole batch with its labels."""
        raise NotImplementedError

    def predict(self, output: Any) -> dict[str, Tensor]:
        """What `assess` needs of one batch: name -> tensor, first axis the batch's clips."""
        raise NotImplementedError

    def assess(self, clips: np.ndarray, truth: Arrays, predictions: Arrays) -> Evaluation:
        """Scores and table of a split: names (N,), its labels and what `predict` gave for it."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """Why the task cannot use these clips, or None."""
        return None

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores of model-free baselines on the test split: description -> metrics."""
        return {}

    def dataset(self, split: str) -> FeatureClips:
        """A split's clips with their labels, which are made once for all seeds."""
        if split not in self.made:
            clips, labels = self.data.splits[split], self.labels(split)
            self.made[split] = FeatureClips(self.data.store, clips, self.batch, labels)
        return self.made[split]

    def truth(self, split: str, label: str) -> np.ndarray:
        """A label of every clip of a split, for baselines."""
        return self.dataset(split).labels[label].cpu().numpy()

    def datasets(self) -> dict[str, FeatureClips]:
        """The splits that have clips."""
        return {split: self.dataset(split) for split in self.splits if len(self.data.splits[split])}

    def train(
        self, seed: int, *, fabric: Any, states: States | None, folder: Path | None, name: str
    ) -> Fitted:
        """`fit` by the experiment's recipe. A task that trains twice does so here."""
        recipe = self.experiment.recipe
        return fit(self, recipe, seed, fabric=fabric, states=states, folder=folder, name=name)

    def options(self) -> dict[str, Any]:
        """The model's options. Sizes, and `setting`, are filled in if the model has such options."""
        known = registry.options_of(registry.target(MODELS, self.experiment.model, "model"))
        given = self.data.sizes() | {"setting": self.experiment.setting}
        return {
            **{name: value for name, value in given.items() if name in known},
            **self.experiment.options,
        }

    def model(self) -> nn.Module:
        """A copy of `module`, else a new one; with the weights of `start` and standardized by `scales`, where there are any."""
        given = copy.deepcopy(self.module)
        model = given if given is not None else create_model(self.experiment.model, **self.options())
        if self.start is not None:
            start_from(model, self.start)
        standardize_inputs(model, self.scales)
        return model

    def loss(self, model: nn.Module, batch: FeatureBatch, progress: float) -> dict[str, Tensor]:
        """`terms` of the whole batch, also with several processes."""
        return self.terms(*whole_batch(model(batch), batch))

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """`assess` what `predict` says of the clips without their labels."""
        clips: list[str] = []
        predictions: dict[str, list[Tensor]] = {}
        truth: dict[str, list[Tensor]] = {}
        for batch in loader:
            clips += batch.clips
            for name, tensor in self.predict(model(batch.unlabelled())).items():
                predictions.setdefault(name, []).append(tensor)
            for name, label in labels_of(batch).items():
                truth.setdefault(name, []).append(label)
        return self.assess(np.array(clips, dtype=object), _joined(truth), _joined(predictions))


def _joined(parts: dict[str, list[Tensor]]) -> Arrays:
    return {name: torch.cat(tensors).cpu().numpy() for name, tensors in parts.items()}


def labels_of(batch: FeatureBatch) -> dict[str, Tensor]:
    """The fields of a batch that are no features."""
    features = {each.name for each in fields(FeatureBatch)}
    return {n: value for n, value in vars(batch).items() if isinstance(value, Tensor) and n not in features}


def whole_batch(output: Types, batch: Any) -> tuple[Types, Any]:
    """Output and labels of all processes' parts of a batch; what is not for the loss (features, attention) stays behind."""
    if processes() == 1:
        return output, batch
    count = len(batch.clips)
    known = vars(output)
    gathered: dict[str, Any] = {
        name: gather(value) for name, value in known.items() if isinstance(value, Tensor)
    }
    gathered["losses"] = {name: mean_over_clips(term, count) for name, term in known["losses"].items()}
    labels = {name: gather(label) for name, label in labels_of(batch).items()}
    return replace(output, **gathered), replace(batch, **labels)  # type: ignore[type-var]
