"""Audio-visual event localization: label each segment of a clip with an event category or background.

Supervised, the labels are the category of each segment. Weakly supervised, they are the set of the clip's categories
(background, for a clip without an event), and segment scores are pooled over time. Both are evaluated on segments. With
`weak_labels: durations` the weak labels also tell what share of the clip each category and background take, as in the
released weak PSP and in AVSDN's paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from avpipe.datasets.labels import clip_labels, segment_labels
from avpipe.metrics.localization import segment_accuracy
from avpipe.models.base import AVOutput
from avpipe.plan.experiment import Experiment
from avpipe.plan.registry import suggest
from avpipe.training.data import Data, SplitSet
from avpipe.training.task import Predictions


def soft_margin(logits: Tensor, target: Tensor) -> Tensor:
    """The released AVEL's loss: MultiLabelSoftMarginLoss on softmax probabilities.

    Logits (..., K), target (..., K), 0 or 1 -> (...), the mean over the K classes. It applies a sigmoid to the
    probabilities once more, so its values lie between about 0.709 (uniform over 29 classes) and 0.680 (certain and right).
    """
    return functional.multilabel_soft_margin_loss(logits.softmax(dim=-1), target, reduction="none")


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the target as a distribution; several categories of a clip share it equally.

    Logits (..., K), target (..., K), 0 to 1 -> (...); 0 if the target is all zero.
    """
    target = target / target.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each class on softmax probabilities: the released weak PSP's loss, and AVSDN's.

    Logits (..., K), target (..., K), 0 to 1 -> (...), the mean over the K classes.
    """
    return functional.binary_cross_entropy(logits.softmax(dim=-1), target, reduction="none").mean(dim=-1)


LOSSES = {
    "soft_margin": soft_margin,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


NO_BACKGROUND = "every event right, background never (each training clip has an event, so weak labels do not teach background)"
"""The baseline that a weakly supervised model cannot pass unless something else tells it what background is."""


def pool_over_time(scores: Tensor, pooling: str) -> Tensor:
    """Segment scores (B, T, K) -> clip scores (B, K): each class's "max" (AVEL's code) or "mean"."""
    return scores.amax(dim=1) if pooling == "max" else scores.mean(dim=1)


class Localization:
    """The task of an experiment; see `avpipe.training.task.Task`.

    For a model with `segment_logits`, the recipe's loss is on them, and a segment's prediction is the largest of C + 1.

    A model with `event_logits` and `category_logits` follows the rule of CMRAN's and CPSP's released code. Supervised,
    the loss is binary cross-entropy on the event plus the recipe's loss on the category of clips with an event. Weakly
    supervised, it is the recipe's loss on the pooled products sigmoid(event) * category, over C + 1 classes if the
    model scores background too, else over C classes without the clips that have no event. A segment's prediction is
    the clip's largest category where sigmoid(event) > 0.5, else background.

    Args:
        experiment: its setting and recipe (loss, pooling, weak_labels) are used.
        data: clips and events.
        model: its `default_loss` and `default_pooling` are what "default" means; weakly supervised,
            `default_weak_loss` if it has one.

    Raises:
        ValueError: for a loss that does not exist.
    """

    main_metric = "accuracy"
    split_set: SplitSet = "usual"
    settings: ClassVar[Sequence[str]] = ("supervised", "weakly-supervised")
    recipe_keys: ClassVar[Sequence[str]] = ("loss", "pooling", "weak_labels")
    metrics: ClassVar[Mapping[str, str]] = {"accuracy": "%"}

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        recipe = experiment.recipe
        self.weak = experiment.setting == "weakly-supervised"
        default = getattr(model, "default_weak_loss", model.default_loss) if self.weak else model.default_loss
        loss = str(default) if recipe.loss == "default" else recipe.loss
        if loss not in LOSSES:
            raise ValueError(f"localization has no loss {loss!r}; {suggest(loss, list(LOSSES))}")
        self.criterion = LOSSES[loss]
        self.pooling = str(model.default_pooling) if recipe.pooling == "default" else recipe.pooling
        self.data, self.durations = data, recipe.weak_labels == "durations"
        self.background = len(data.categories)
        self.truth = {
            name: segment_labels(data.events, split.clips, data.categories, data.segments)
            for name, split in data.splits.items()
        }

    def problem(self) -> str | None:
        """None: the training loop finds every problem of this task."""
        return None

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """`target`: (N, T, C + 1) supervised, (N, C + 1) weakly supervised, float32.

        0 or 1; with `weak_labels: durations` shares of the clip's segments, which sum to one.
        """
        of_segments = np.eye(self.background + 1, dtype=bool)[self.truth["train"]]  # (N, T) -> (N, T, C + 1)
        if self.weak and self.durations:
            target = of_segments.mean(axis=1)
        elif self.weak:
            present = self._present()
            target = np.concatenate([present, ~present.any(axis=1, keepdims=True)], axis=1)  # (N, C + 1)
        else:
            target = of_segments
        return {"target": torch.from_numpy(target).to(device, torch.float32)}

    def _present(self) -> np.ndarray:
        """(N, C) bool: the category occurs in the training clip."""
        return clip_labels(self.data.events, self.data.splits["train"].clips, self.data.categories) > 0

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The recipe's loss plus the model's own loss terms."""
        target = targets["target"]
        if output.segment_logits is not None:
            scores = (
                pool_over_time(output.segment_logits, self.pooling) if self.weak else output.segment_logits
            )
            loss = self.criterion(scores, target).mean()
        else:
            loss = self._two_part_loss(*_two_parts(output), target)
        return torch.stack([loss, *output.losses.values()]).sum()

    def _two_part_loss(self, event: Tensor, category: Tensor, target: Tensor) -> Tensor:
        """The loss of event (B, T) and category (B, C) logits; weakly supervised, categories may be (B, C + 1)."""
        if self.weak:
            # (B, T, 1) * (B, 1, C or C + 1) -> (B, C or C + 1)
            scores = pool_over_time(event.sigmoid().unsqueeze(-1) * category.unsqueeze(1), self.pooling)
            if scores.shape[-1] == target.shape[-1]:
                return self.criterion(scores, target).mean()
            return self._category_loss(scores, target[:, :-1])
        event_loss = functional.binary_cross_entropy_with_logits(event, 1 - target[..., -1])
        return event_loss + self._category_loss(category, target[..., :-1].amax(dim=1))

    def _category_loss(self, logits: Tensor, present: Tensor) -> Tensor:
        """The recipe's loss over the clips with an event, (B, C) and (B, C); zero without such clips."""
        has_event = (present.amax(dim=-1) > 0).float()  # (B,), 0 or 1
        return (self.criterion(logits, present) * has_event).sum() / has_event.sum().clamp(min=1)

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """`prediction` (B, T) int64, C = background, and its probability `confidence` (B, T)."""
        if output.segment_logits is not None:
            confidence, prediction = output.segment_logits.softmax(dim=-1).max(dim=-1)
            return {"prediction": prediction, "confidence": confidence}
        event_logits, category_logits = _two_parts(output)
        event = event_logits.sigmoid()  # (B, T)
        probability, category = category_logits.softmax(dim=-1).max(dim=-1, keepdim=True)  # (B, 1)
        prediction = torch.where(event > 0.5, category, self.background)
        return {
            "prediction": prediction,
            "confidence": torch.where(event > 0.5, event * probability, 1 - event),
        }

    def scores(self, predictions: Predictions, split: str) -> dict[str, float]:
        """`accuracy`: the share of right segments among all segments of the split."""
        return {"accuracy": segment_accuracy(self.truth[split], predictions["prediction"])}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Predict background in every segment; where weak labels do not teach background, also the best without it."""
        truth = self.truth[split]
        predicted = {"background everywhere": np.full_like(truth, self.background)}
        if self.weak and not self.durations and self._present().any(axis=1).all():
            predicted[NO_BACKGROUND] = np.where(truth == self.background, 0, truth)
        return {name: self.scores({"prediction": each}, split) for name, each in predicted.items()}

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """One row a segment: clip, segment, truth, prediction, confidence."""
        clips, (_, segments) = self.data.splits[split].clips["clip"].to_numpy(), self.truth[split].shape
        return pd.DataFrame(
            {
                "clip": np.repeat(clips, segments),
                "segment": np.tile(np.arange(segments), len(clips)),
                "truth": self.truth[split].ravel(),
                "prediction": predictions["prediction"].ravel(),
                "confidence": predictions["confidence"].ravel().astype(np.float64),
            }
        )

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without rows."""
        shape = self.truth["test"].shape
        blank = {"prediction": np.zeros(shape, np.int64), "confidence": np.zeros(shape)}
        return self.table(blank, "test").head(0)


def _two_parts(output: AVOutput) -> tuple[Tensor, Tensor]:
    """Event and category logits. Raises ValueError if the model gave neither these nor segment logits."""
    if output.event_logits is None or output.category_logits is None:
        raise ValueError(
            "a localization model must give `segment_logits`, or `event_logits` with `category_logits`"
        )
    return output.event_logits, output.category_logits
