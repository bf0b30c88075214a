"""What the tasks of experiments have in common: the model with its options, and training by the recipe."""

import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from avpipe.models import MODELS, create_model
from avpipe.models.standardization import Scales, standardize_inputs
from avpipe.plan import registry
from avpipe.plan.experiment import Experiment
from avpipe.training.data import SPLITS, Data
from avpipe.training.fit import Fitted, fit
from avpipe.training.pretrained import Pretrained, start_from
from avpipe.training.resume import States
from avpipe.training.task import Task


class ExperimentTask(Task):
    """A task of one experiment, made as `TASK(experiment, TASK.open(...), model_class)` (see `avpipe.training.TASKS`).

    Args:
        experiment: model, options, setting and recipe.
        data: its clips.
        model: the model's class; its `default_...` attributes say what "default" in the recipe means.
    """

    reads: ClassVar[tuple[Literal["features", "preset"], ...]]
    """What an experiment of this task gives: `features`, or the `preset` of clips. A literal, read while planning."""
    workers = 0
    """Processes that decode clips."""

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        self.experiment, self.data = experiment, data
        self.splits: tuple[str, ...] = SPLITS
        self.module: nn.Module | None = None
        self.start: Pretrained | None = None
        self.scales: Scales = {}

    @classmethod
    def open(
        cls, experiment: Experiment, results: Path, device: torch.device, resident_bytes: int | None
    ) -> Data:
        """The experiment's usable clips; arguments and errors as `avpipe.training.run.train_experiment`."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """Why the task cannot use these clips, or None."""
        return None

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores of model-free baselines on the test split: description -> metrics."""
        return {}

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
