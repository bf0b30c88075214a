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
from avpipe.metrics.metric import Metric
from avpipe.models.base import EventOutput, LocalizationBatch, SegmentOutput, model_default
from avpipe.plan.experiment import Experiment
from avpipe.plan.registry import suggest
from avpipe.training.data import Data
from avpipe.training.feature_task import Arrays, FeatureTask
from avpipe.training.task import Evaluation


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


class Localization(FeatureTask):
    """The task of an experiment; see `avpipe.training.task`.

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

    settings: ClassVar[Sequence[str]] = ("supervised", "weakly-supervised")
    recipe_keys: ClassVar[Sequence[str]] = ("loss", "pooling", "weak_labels")
    metrics: ClassVar[Mapping[str, Metric]] = {"accuracy": Metric("Accuracy", "%")}
    batch = LocalizationBatch

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        recipe = experiment.recipe
        self.weak = experiment.setting == "weakly-supervised"
        default = model_default(model, "default_loss")
        if self.weak:
            default = model_default(model, "default_weak_loss") or default
        loss = str(default) if recipe.loss == "default" else recipe.loss
        if loss not in LOSSES:
            raise ValueError(f"localization has no loss {loss!r}; {suggest(loss, list(LOSSES))}")
        self.criterion = LOSSES[loss]
        pooling = model_default(model, "default_pooling") if recipe.pooling == "default" else recipe.pooling
        self.pooling, self.durations = str(pooling), recipe.weak_labels == "durations"
        self.background = len(data.categories)

    def labels(self, split: str) -> dict[str, Tensor]:
        """`target`, float32: of the segments, (N, T, C + 1); of clips for weakly supervised training, (N, C + 1).

        0 or 1; with `weak_labels: durations` shares of the clip's segments, which sum to one.
        """
        clips, categories = self.data.splits[split].clips, self.data.categories
        segments = segment_labels(self.data.events, clips, categories, self.data.segments)
        target = np.eye(self.background + 1, dtype=bool)[segments]  # (N, T) -> (N, T, C + 1)
        if self.weak and split == "train":
            if self.durations:
                target = target.mean(axis=1)
            else:
                present = self._present()
                target = np.concatenate([present, ~present.any(axis=1, keepdims=True)], axis=1)  # (N, C + 1)
        return {"target": torch.from_numpy(target).float()}

    def _present(self) -> np.ndarray:
        """(N, C) bool: the category occurs in the training clip."""
        return clip_labels(self.data.events, self.data.splits["train"].clips, self.data.categories) > 0

    def terms(self, output: SegmentOutput | EventOutput, batch: LocalizationBatch) -> dict[str, Tensor]:
        """The recipe's loss, and the model's own loss terms."""
        assert batch.target is not None
        if isinstance(output, SegmentOutput):
            scores = (
                pool_over_time(output.segment_logits, self.pooling) if self.weak else output.segment_logits
            )
            loss = self.criterion(scores, batch.target).mean()
        else:
            loss = self._two_part_loss(output.event_logits, output.category_logits, batch.target)
        return {"recipe": loss, **output.losses}

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

    def predict(self, output: SegmentOutput | EventOutput) -> dict[str, Tensor]:
        """`prediction` (B, T) int64, C = background, and its probability `confidence` (B, T)."""
        if isinstance(output, SegmentOutput):
            confidence, prediction = output.segment_logits.softmax(dim=-1).max(dim=-1)
            return {"prediction": prediction, "confidence": confidence}
        event = output.event_logits.sigmoid()  # (B, T)
        probability, category = output.category_logits.softmax(dim=-1).max(dim=-1, keepdim=True)  # (B, 1)
        prediction = torch.where(event > 0.5, category, self.background)
        return {
            "prediction": prediction,
            "confidence": torch.where(event > 0.5, event * probability, 1 - event),
        }

    def assess(self, clips: np.ndarray, truth: Arrays, predictions: Arrays) -> Evaluation:
        """`accuracy`: the share of right segments. The table has a row a segment: clip, segment, truth, prediction, confidence."""
        labels = truth["target"].argmax(axis=-1)  # (N, T)
        count, segments = labels.shape
        table = pd.DataFrame(
            {
                "clip": np.repeat(clips, segments),
                "segment": np.tile(np.arange(segments), count),
                "truth": labels.ravel(),
                "prediction": predictions["prediction"].ravel(),
                "confidence": predictions["confidence"].ravel().astype(np.float64),
            }
        )
        return Evaluation({"accuracy": segment_accuracy(labels, predictions["prediction"])}, table)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Predict background in every segment; where weak labels do not teach background, also the best without it."""
        truth = self.truth("test", "target").argmax(axis=-1)
        predicted = {"background everywhere": np.full_like(truth, self.background)}
        if self.weak and not self.durations and self._present().any(axis=1).all():
            predicted[NO_BACKGROUND] = np.where(truth == self.background, 0, truth)
        return {name: {"accuracy": segment_accuracy(truth, each)} for name, each in predicted.items()}
