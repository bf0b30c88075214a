"""Audio-visual video parsing: which categories occur in the audio, and which in the visual track, of each segment?

Training labels name a clip's categories only (weak labels, events of the modality "video"), neither their modality nor
their time. Validation and test clips have the events of each modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from avpipe.datasets.labels import clip_labels, parsing_labels
from avpipe.metrics.metric import Metric
from avpipe.metrics.parsing import parsing_scores
from avpipe.metrics.predictions import MODALITIES
from avpipe.models.base import FeatureBatch, ParsingBatch, ParsingOutput, model_default
from avpipe.plan.experiment import Experiment
from avpipe.plan.registry import suggest
from avpipe.training.data import Data
from avpipe.training.feature_task import Arrays, FeatureTask
from avpipe.training.task import Evaluation

EPSILON = 1e-7
"""Distance from 0 and 1 to which the loss clamps probabilities, as the released HAN; P_clip can exceed 1."""


def smooth_labels(labels: Tensor, smoothing: float) -> Tensor:
    """y (1 - e) + e / 2: with e = 0.1, 1 becomes 0.95 and 0 becomes 0.05, as the released HAN does for visual."""
    return labels * (1 - smoothing) + smoothing / 2


def clamped_binary_cross_entropy(probabilities: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities, clamped since pooling can exceed 1; both (B, C)."""
    return functional.binary_cross_entropy(probabilities.clamp(EPSILON, 1 - EPSILON), target)


class Parsing(FeatureTask):
    """The task of an experiment; see `avpipe.training.task`.

    The loss is the weighted sum of binary cross-entropies of the clip's probabilities and of each modality's, the
    latter with smoothed labels, and of the model's own terms. A segment has a category if its probability reaches
    `threshold` and the gate is open: for both modalities if the clip's probability reaches `gate_threshold` (HAN's
    evaluation), or for each if its own does (MA's).

    Args:
        experiment: its setting and recipe (loss_weights, label_smoothing, gate, threshold, gate_threshold) are used.
        data: clips and events.
        model: its `default_loss_weights` and `default_label_smoothing` are used where the recipe sets nothing.

    Raises:
        ValueError: for another setting than weakly-supervised.
    """

    settings: ClassVar[Sequence[str]] = ("weakly-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = (
        "loss_weights",
        "label_smoothing",
        "threshold",
        "gate",
        "gate_threshold",
    )
    metrics: ClassVar[Mapping[str, Metric]] = {
        "segment_type": Metric("Type@AV, segments", "%"),
        "segment_audio": Metric("Audio, segments", "%"),
        "segment_visual": Metric("Visual, segments", "%"),
        "segment_audio_visual": Metric("Audio-visual, segments", "%"),
        "segment_event": Metric("Event@AV, segments", "%"),
        "event_type": Metric("Type@AV, events", "%"),
        "event_audio": Metric("Audio, events", "%"),
        "event_visual": Metric("Visual, events", "%"),
        "event_audio_visual": Metric("Audio-visual, events", "%"),
        "event_event": Metric("Event@AV, events", "%"),
    }
    batch = ParsingBatch

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        recipe = experiment.recipe
        self.recipe = recipe
        defaults = model_default(model, "default_loss_weights")
        self.weights = {**defaults, **recipe.loss_weights}
        self.known_terms = frozenset(defaults)  # includes terms that the model's options switch off
        self.smoothing = recipe.label_smoothing or model_default(model, "default_label_smoothing")

    def labels(self, split: str) -> dict[str, Tensor]:
        """For training, `clip_labels`, `audio_labels` and `visual_labels`, (N, C) float32, 0 or 1: the weak label three times.

        For evaluation, `segment_labels` (N, T, 2, C) bool.

        Raises:
            ValueError: if no training clip has a weak label.
        """
        events, categories, segments = self.data.events, self.data.categories, self.data.segments
        clips = self.data.splits[split].clips
        if split != "train":
            tracks = [parsing_labels(events, clips, categories, m, segments) for m in MODALITIES]
            return {"segment_labels": torch.from_numpy(np.stack(tracks, axis=2))}
        weak = torch.from_numpy(clip_labels(events, clips, categories, "video"))
        if not weak.any():
            raise ValueError(
                "parsing learns from labels of whole clips (modality `video` in events.parquet) and no training clip "
                "has one; LLP's annotations, and the demo's, have them"
            )
        return dict.fromkeys(("clip_labels", "audio_labels", "visual_labels"), weak)

    def loss(self, model: nn.Module, batch: FeatureBatch, progress: float) -> dict[str, Tensor]:
        """See `FeatureTask.loss`; the model knows the progress."""
        return super().loss(model, replace(cast(ParsingBatch, batch), progress=progress), progress)

    def terms(self, output: ParsingOutput, batch: ParsingBatch) -> dict[str, Tensor]:
        """The weighted terms.

        A label removed from one modality (`audio_labels` or `visual_labels` 0, `clip_labels` 1) is 0, not e / 2.

        Raises:
            ValueError: for a weight of an unknown term.
        """
        assert batch.clip_labels is not None
        assert batch.audio_labels is not None
        target = batch.audio_labels if self.recipe.clip_target == "audio" else batch.clip_labels
        terms = {"clip": clamped_binary_cross_entropy(output.clip_probabilities, target)}
        terms |= output.losses
        for index, modality in enumerate(MODALITIES):
            labels = getattr(batch, f"{modality}_labels")
            removed = labels < batch.clip_labels
            smoothed = smooth_labels(labels, self.smoothing[index]).masked_fill(removed, 0.0)
            terms[modality] = clamped_binary_cross_entropy(output.modality_probabilities[:, index], smoothed)
        known = {*terms, *self.known_terms}
        for name in self.recipe.loss_weights:
            if name not in known:
                raise ValueError(
                    f"loss_weights: the loss has no term {name!r}; {suggest(name, sorted(known))}"
                )
        return {name: self.weights.get(name, 1.0) * term for name, term in terms.items()}

    def predict(self, output: ParsingOutput) -> dict[str, Tensor]:
        """`prediction` (B, T, 2, C) bool, and its probability `confidence`, of the same shape."""
        segments, of_modality = output.parsing_probabilities, output.modality_probabilities
        # (B, 1 or 2, C)
        gates = output.clip_probabilities.unsqueeze(1) if self.recipe.gate == "clip" else of_modality
        gate = (gates >= self.recipe.gate_threshold).unsqueeze(1)  # (B, 1, 1 or 2, C)
        return {"prediction": (segments >= self.recipe.threshold) & gate, "confidence": segments}

    def assess(self, clips: np.ndarray, truth: Arrays, predictions: Arrays) -> Evaluation:
        """The ten scores of `avpipe.metrics.parsing`.

        The table has a row for each true or predicted combination of clip, modality, segment and category (its name),
        with truth, prediction (both bool) and confidence.
        """
        true, prediction = truth["segment_labels"], predictions["prediction"]
        where = np.nonzero(true | prediction)
        clip, segment, modality, category = where
        table = pd.DataFrame(
            {
                "clip": clips[clip],
                "modality": np.array(MODALITIES, dtype=object)[modality],
                "segment": segment,
                "category": np.array(self.data.categories, dtype=object)[category],
                "truth": true[where],
                "prediction": prediction[where],
                "confidence": predictions["confidence"][where].astype(np.float64),
            }
        )
        return Evaluation(_scores(true, prediction), table)

    def baselines(self) -> dict[str, dict[str, float]]:
        """The test split's own weak labels in every segment of both tracks. No lower bound but an oracle: no parser knows them."""
        truth = self.truth("test", "segment_labels")
        weak = (
            clip_labels(self.data.events, self.data.splits["test"].clips, self.data.categories, "video") > 0
        )
        everywhere = np.broadcast_to(weak[:, None, None], truth.shape)
        return {"the clips' true weak labels everywhere": _scores(truth, everywhere)}


def _scores(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """The ten scores of (N, T, 2, C)."""
    return parsing_scores(truth[:, :, 0], truth[:, :, 1], prediction[:, :, 0], prediction[:, :, 1])
