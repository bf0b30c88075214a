"""Pretraining by audio-visual grounding, without labels: which segments of a clip belong together?

Lamba et al., Cross-Modal learning for Audio-Visual Video Parsing, Interspeech 2021, section 3.2. The trained model
initializes that of another experiment (`Experiment.pretraining`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from avpipe.metrics.metric import Metric
from avpipe.models import MODELS
from avpipe.models.base import FeatureBatch, GroundingOutput
from avpipe.models.grounding import compared
from avpipe.plan import registry
from avpipe.plan.experiment import Experiment
from avpipe.training.data import Data
from avpipe.training.feature_task import Arrays, FeatureTask
from avpipe.training.task import Evaluation

KINDS = {"uni": ((0, 0), (1, 1)), "cross": ((0, 1),)}
"""Scored similarities, (query, key) modality, 0 audio and 1 visual; (1, 0) is the transpose of (0, 1)."""


class Pretraining(FeatureTask):
    """The task of an experiment; see `avpipe.training.task`.

    The loss is the model's own. Two segments are predicted to be in one group if their cosine reaches the middle of
    the two margins. The scores are balanced accuracies of this prediction: `grounding_uni` for pairs within a modality,
    `grounding_cross` for an audio with a visual segment, `grounding` for those that the model's objective compares.
    Pairs in one group and other pairs weigh the same, so chance is 0.5 for any numbers of them; a model that finds
    all segments alike has 0.5 too.

    Args:
        experiment: the model's options objective, positive_margin and negative_margin are used.
        data: clips; their events are ignored.
        model: ignored; every model of this task has its own loss.
    """

    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = {
        "grounding": Metric("Grounding", "%"),
        "grounding_uni": Metric("Grounding within a modality", "%"),
        "grounding_cross": Metric("Grounding across modalities", "%"),
        "one_group": Metric("Pairs in one group", "%"),
    }
    batch = FeatureBatch

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        super().__init__(experiment, data, model)
        known = registry.options_of(registry.target(MODELS, experiment.model, "model"))
        options = {name: option["default"] for name, option in known.items()} | experiment.options
        pairs = compared(options["objective"])
        self.kinds = [kind for kind, members in KINDS.items() if members[0] in pairs]
        self.threshold = (options["positive_margin"] + options["negative_margin"]) / 2

    def labels(self, split: str) -> dict[str, Tensor]:
        """Empty: the groups follow from the model's inputs."""
        return {}

    def terms(self, output: GroundingOutput, batch: FeatureBatch) -> dict[str, Tensor]:
        """The model's loss terms. Raises ValueError if it has none."""
        if not output.losses:
            raise ValueError(
                "a model for pretraining must return its loss in `losses`, as avpipe.models.avg does"
            )
        return output.losses

    def predict(self, output: GroundingOutput) -> dict[str, Tensor]:
        """`grounding` (B, 2, 2, T, T) and `groups` (B, T)."""
        return {"grounding": output.grounding, "groups": output.groups}

    def assess(self, clips: np.ndarray, truth: Arrays, predictions: Arrays) -> Evaluation:
        """`grounding_uni`, `grounding_cross`, `grounding`, and `one_group`, the share of pairs that are in one group.

        The table has a row for every ordered pair of a clip's segments: clip, segment, other, same_group (bool), and the
        cosines audio_audio, visual_visual and audio_visual, the last of the audio of `segment` with the visual of `other`.
        """
        same, cosines = _same(predictions["groups"]), predictions["grounding"]
        others = ~np.eye(same.shape[1], dtype=bool)
        scores = {}
        for kind, members in KINDS.items():
            pairs = others if kind == "uni" else np.ones_like(others)  # a segment is always similar to itself
            predicted = np.stack([cosines[:, m, n][:, pairs] for m, n in members])
            together = np.broadcast_to(same[:, pairs], predicted.shape)
            scores[f"grounding_{kind}"] = balanced_accuracy(predicted >= self.threshold, together)
        mean = float(np.mean([scores[f"grounding_{kind}"] for kind in self.kinds]))
        clip, segment, other = np.nonzero(np.ones_like(same))
        table = pd.DataFrame(
            {
                "clip": clips[clip],
                "segment": segment,
                "other": other,
                "same_group": same[clip, segment, other],
                "audio_audio": cosines[clip, 0, 0, segment, other].astype(np.float64),
                "visual_visual": cosines[clip, 1, 1, segment, other].astype(np.float64),
                "audio_visual": cosines[clip, 0, 1, segment, other].astype(np.float64),
            }
        )
        return Evaluation(scores | {"grounding": mean, "one_group": float(same[:, others].mean())}, table)


def _same(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(N, T) -> (N, T, T) bool: both segments are in one group."""
    return groups[:, :, None] == groups[:, None, :]


def balanced_accuracy(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """The mean of the accuracies on true and on false pairs; of the existing kind if one is missing; NaN without pairs."""
    parts = [
        float((predicted[truth == kind] == kind).mean()) for kind in (True, False) if (truth == kind).any()
    ]
    return float(np.mean(parts)) if parts else float("nan")
