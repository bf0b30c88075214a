"""Cross-modality localization: find an audio event in the visual segments (A2V), and a visual event in the audio (V2A).

Trained with the event's segments on every training clip, including those that the event fills, as the released AVDLN.
Evaluated on clips that make a query (`avpipe.metrics.cross_modality`): the model answers every possible query of a
clip; which one is asked, only the metrics know.

AVE's authors split the clips anew for this task (`*_order_match.h5`): all 402 clips of the new test split have a short
event, only 141 of the usual one. The new splits are used if the annotations have them (`match_split` in
manifest.parquet), else the usual ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avpipe.datasets.labels import segment_labels
from avpipe.metrics.cross_modality import chance_accuracy, exact_match_accuracy, locate, query_intervals
from avpipe.metrics.metric import Metric
from avpipe.metrics.predictions import DIRECTIONS
from avpipe.models.base import CrossModalityBatch, QueryOutput, SimilarityOutput
from avpipe.models.layers import intervals
from avpipe.training.feature_task import Arrays, FeatureTask
from avpipe.training.task import Evaluation


class CrossModality(FeatureTask):
    """The task of an experiment; see `avpipe.training.task`.

    The loss is the model's own (AVDLN's contrastive loss, DAM's cross-entropy, DCCA's correlation).

    Args:
        experiment: its setting and recipe are checked.
        data: clips and events.
        model: ignored; every model of this task has its own loss.
    """

    settings: ClassVar[Sequence[str]] = ("supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ()
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("Accuracy", "%"),
        "accuracy_a2v": Metric("A2V accuracy", "%"),
        "accuracy_v2a": Metric("V2A accuracy", "%"),
        "chance": Metric("Accuracy of a random position", "%"),
    }
    split_set = "match"
    batch = CrossModalityBatch

    def problem(self) -> str | None:
        """Name a split that is needed and makes no query; None if every one makes one."""
        for name in ("test", "val") if self.experiment.recipe.needs_validation else ("test",):
            if not (query_intervals(self.truth(name, "event") > 0)[1] > 0).any():
                return f"no clip of the split {name} has one event that is shorter than the clip"
        return None

    def labels(self, split: str) -> dict[str, Tensor]:
        """`event`: (N, T) float32, 1 on the event's segments."""
        clips, categories = self.data.splits[split].clips, self.data.categories
        segments = segment_labels(self.data.events, clips, categories, self.data.segments)
        return {"event": torch.from_numpy(segments < len(categories)).float()}

    def terms(self, output: SimilarityOutput | QueryOutput, batch: CrossModalityBatch) -> dict[str, Tensor]:
        """The model's loss terms. Raises ValueError if it has none."""
        if not output.losses:
            raise ValueError("a cross-modality model must give its loss in `losses` where there are targets")
        return output.losses

    def predict(self, output: SimilarityOutput | QueryOutput) -> dict[str, Tensor]:
        """The model's answers: `similarity` (B, T, T), or both directions (B, I, T)."""
        if isinstance(output, SimilarityOutput):
            return {"similarity": output.similarity}
        return {"audio_to_visual": output.audio_to_visual, "visual_to_audio": output.visual_to_audio}

    def assess(self, clips: np.ndarray, truth: Arrays, predictions: Arrays) -> Evaluation:
        """`accuracy_a2v`, `accuracy_v2a`, their mean `accuracy`, and `chance`, the accuracy of a random position.

        NaN if no clip makes a query. The table has a row a query and direction: clip, direction, onset and length (the
        truth), prediction (the onset found).
        """
        events = truth["event"] > 0
        onset, length = query_intervals(events)
        clip = np.flatnonzero(length)
        onset, length, count = onset[clip], length[clip], len(clip)
        found = {d: locate(_pairs(predictions, d, clip, events), onset, length) for d in DIRECTIONS}
        table = pd.DataFrame(
            {
                "clip": np.tile(clips[clip], len(DIRECTIONS)),
                "direction": np.repeat(np.array(list(DIRECTIONS), dtype=object), count),
                "onset": np.tile(onset, len(DIRECTIONS)),
                "length": np.tile(length, len(DIRECTIONS)),
                "prediction": np.concatenate([found[direction] for direction in DIRECTIONS]),
            }
        )
        if not count:
            return Evaluation(dict.fromkeys(self.metrics, float("nan")), table)
        both = {
            f"accuracy_{short}": exact_match_accuracy(found[direction], onset)
            for direction, short in DIRECTIONS.items()
        }
        chance = chance_accuracy(length, events.shape[1])
        return Evaluation({**both, "accuracy": sum(both.values()) / len(both), "chance": chance}, table)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Always answer with the clip's first, or last, segments, as many as the query has."""
        onset, length = query_intervals(self.truth("test", "event") > 0)
        onset, length = onset[length > 0], length[length > 0]
        if not len(onset):
            return {}
        ends = {"first": np.zeros_like(onset), "last": self.data.segments - length}
        return {
            f"always the {end} segments": {"accuracy": exact_match_accuracy(answer, onset)}
            for end, answer in ends.items()
        }


def _pairs(
    predictions: Arrays, direction: str, clip: np.ndarray, events: np.ndarray
) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """(Q, T, T) similarities of the query's modality (axis 1) and the other (axis 2), for the clips that make a query.

    For a model that compares whole queries, every segment of a query has the query's similarities.
    """
    if "similarity" in predictions:
        pairs = predictions["similarity"][clip]
        return pairs if direction == "audio_to_visual" else pairs.swapaxes(1, 2)
    members = intervals(events.shape[1]).numpy()
    interval = (events[clip][:, None] == members).all(axis=2).argmax(axis=1)  # (Q,)
    rows = predictions[direction][clip, interval]  # (Q, T)
    return np.broadcast_to(rows[:, None], (*rows.shape[:1], events.shape[1], events.shape[1]))
