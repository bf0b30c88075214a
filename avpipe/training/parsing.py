"""Audio-visual video parsing: which categories occur in the audio, and which in the visual track, of each segment?

Training labels name a clip's categories only (weak labels, events of the modality "video"), neither their modality nor
their time. Validation and test clips have the events of each modality.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from avpipe.datasets.labels import clip_labels, parsing_labels
from avpipe.metrics.parsing import parsing_scores
from avpipe.models.base import AVOutput
from avpipe.plan.experiment import Experiment
from avpipe.plan.registry import suggest
from avpipe.training.data import Data, SplitSet
from avpipe.training.task import Predictions

MODALITIES = ("audio", "visual")
EPSILON = 1e-7
"""Distance from 0 and 1 to which the loss clamps probabilities, as the released HAN; P_clip can exceed 1."""


def smooth_labels(labels: Tensor, smoothing: float) -> Tensor:
    """y (1 - e) + e / 2: with e = 0.1, 1 becomes 0.95 and 0 becomes 0.05, as the released HAN does for visual."""
    return labels * (1 - smoothing) + smoothing / 2


def clamped_binary_cross_entropy(probabilities: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities, clamped since pooling can exceed 1; both (B, C)."""
    return functional.binary_cross_entropy(probabilities.clamp(EPSILON, 1 - EPSILON), target)


class Parsing:
    """The task of an experiment; see `avpipe.training.task.Task`.

    The loss is the weighted sum of binary cross-entropies of the clip's probabilities and of each modality's, the
    latter with smoothed labels, and of the model's own terms. A segment has a category if its probability reaches
    `threshold` and the gate is open: for both modalities if the clip's probability reaches `gate_threshold` (HAN's
    evaluation), or for each if its own does (MA's).

    Args:
        experiment: its setting and recipe (loss_weights, label_smoothing, gate, threshold, gate_threshold) are used.
        data: clips and events.
        model: its `default_loss_weights` and `default_label_smoothing` are used where the recipe sets nothing.
    """

    main_metric = "segment_type"
    split_set: SplitSet = "usual"
    settings: ClassVar[Sequence[str]] = ("weakly-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = (
        "loss_weights",
        "label_smoothing",
        "threshold",
        "gate",
        "gate_threshold",
    )
    metrics: ClassVar[Mapping[str, str]] = {
        "segment_audio": "%",
        "segment_visual": "%",
        "segment_audio_visual": "%",
        "segment_type": "%",
        "segment_event": "%",
        "event_audio": "%",
        "event_visual": "%",
        "event_audio_visual": "%",
        "event_type": "%",
        "event_event": "%",
    }

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        recipe = experiment.recipe
        self.recipe, self.data = recipe, data
        self.weights = {**model.default_loss_weights, **recipe.loss_weights}
        # Includes terms that the model's options switch off.
        self.known_terms = frozenset(model.default_loss_weights)
        self.smoothing = recipe.label_smoothing or model.default_label_smoothing
        self.truth = {
            name: self._truth(split.clips) for name, split in data.splits.items() if name != "train"
        }

    def _truth(self, clips: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """(N, T, 2, C)."""
        events, categories, segments = self.data.events, self.data.categories, self.data.segments
        return np.stack([parsing_labels(events, clips, categories, m, segments) for m in MODALITIES], axis=2)

    def problem(self) -> str | None:
        """None: the training loop finds every problem of this task."""
        return None

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """`clip`, `audio` and `visual`, (N, C) float32, 0 or 1: the weak label three times.

        Raises:
            ValueError: if no training clip has a weak label.
        """
        clips = self.data.splits["train"].clips
        weak = torch.from_numpy(clip_labels(self.data.events, clips, self.data.categories, "video")).to(
            device
        )
        if not weak.any():
            raise ValueError(
                "parsing learns from labels of whole clips (modality `video` in events.parquet) and no training clip "
                "has one; LLP's annotations, and the demo's, have them"
            )
        return {"clip": weak, "audio": weak.clone(), "visual": weak.clone()}

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms.

        A label removed from one modality (`audio` or `visual` 0, `clip` 1) is 0, not e / 2.

        Raises:
            ValueError: for a weight of an unknown term.
        """
        _, of_modality, of_clip = probabilities_of(output)
        terms = {"clip": clamped_binary_cross_entropy(of_clip, targets["clip"]), **output.losses}
        for index, modality in enumerate(MODALITIES):
            removed = targets[modality] < targets["clip"]
            smoothed = smooth_labels(targets[modality], self.smoothing[index]).masked_fill(removed, 0.0)
            terms[modality] = clamped_binary_cross_entropy(of_modality[:, index], smoothed)
        known = {*terms, *self.known_terms}
        for name in self.recipe.loss_weights:
            if name not in known:
                raise ValueError(
                    f"loss_weights: the loss has no term {name!r}; {suggest(name, sorted(known))}"
                )
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """`prediction` (B, T, 2, C) bool, and its probability `confidence`, of the same shape."""
        segments, of_modality, of_clip = probabilities_of(output)
        gates = of_clip.unsqueeze(1) if self.recipe.gate == "clip" else of_modality  # (B, 1 or 2, C)
        gate = (gates >= self.recipe.gate_threshold).unsqueeze(1)  # (B, 1, 1 or 2, C)
        return {"prediction": (segments >= self.recipe.threshold) & gate, "confidence": segments}

    def scores(self, predictions: Predictions, split: str) -> dict[str, float]:
        """The ten scores of `avpipe.metrics.parsing`."""
        truth, prediction = self.truth[split], predictions["prediction"]
        return parsing_scores(truth[:, :, 0], truth[:, :, 1], prediction[:, :, 0], prediction[:, :, 1])

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The split's own weak labels in every segment of both tracks. No lower bound but an oracle: no parser knows them."""
        clips = self.data.splits[split].clips
        weak = clip_labels(self.data.events, clips, self.data.categories, "video") > 0
        everywhere = np.broadcast_to(weak[:, None, None], self.truth[split].shape)
        return {"the clips' true weak labels everywhere": self.scores({"prediction": everywhere}, split)}

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """One row for each true or predicted combination of clip, modality, segment and category.

        Columns clip, modality, segment, category (its name), truth, prediction (both bool), confidence.
        """
        truth, prediction = self.truth[split], predictions["prediction"]
        where = np.nonzero(truth | prediction)
        clip, segment, modality, category = where
        clips = self.data.splits[split].clips["clip"].to_numpy()
        return pd.DataFrame(
            {
                "clip": clips[clip],
                "modality": np.array(MODALITIES, dtype=object)[modality],
                "segment": segment,
                "category": np.array(self.data.categories, dtype=object)[category],
                "truth": truth[where],
                "prediction": prediction[where],
                "confidence": predictions["confidence"][where].astype(np.float64),
            }
        )

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without rows."""
        shape = self.truth["test"].shape
        blank = {"prediction": np.zeros(shape, bool), "confidence": np.zeros(shape)}
        return self.table(blank, "test").head(0)


def probabilities_of(output: AVOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Of segments (B, T, 2, C), modalities (B, 2, C) and clip (B, C). Raises ValueError unless the model gave all."""
    found = output.parsing_probabilities, output.modality_probabilities, output.clip_probabilities
    segments, of_modality, of_clip = found
    if segments is None or of_modality is None or of_clip is None:
        raise ValueError(
            "a parsing model must give `parsing_probabilities`, `modality_probabilities` and `clip_probabilities`"
        )
    return segments, of_modality, of_clip
