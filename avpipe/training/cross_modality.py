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
from avpipe.models.base import AVOutput
from avpipe.models.layers import intervals
from avpipe.plan.experiment import Experiment
from avpipe.training.data import Data, SplitSet
from avpipe.training.task import Predictions

DIRECTIONS = {"audio_to_visual": "a2v", "visual_to_audio": "v2a"}
"""Direction -> its name in metrics.json, after the papers' A2V and V2A."""


class CrossModality:
    """The task of an experiment; see `avpipe.training.task.Task`.

    The loss is the model's own (AVDLN's contrastive loss, DAM's cross-entropy, DCCA's correlation).

    Args:
        experiment: its recipe says whether the validation split is needed.
        data: clips and events.
        model: ignored; every model of this task has its own loss.
    """

    main_metric = "accuracy"
    split_set: SplitSet = "match"
    settings: ClassVar[Sequence[str]] = ("supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ()
    metrics: ClassVar[Mapping[str, str]] = {
        "accuracy_a2v": "%",
        "accuracy_v2a": "%",
        "accuracy": "%",
        "chance": "%",
    }

    def __init__(self, experiment: Experiment, data: Data, model: type[Any]) -> None:
        self.data, self.needed = data, {"test"}
        if experiment.recipe.needs_validation:
            self.needed.add("val")
        self.events = {
            name: segment_labels(data.events, split.clips, data.categories, data.segments)
            < len(data.categories)
            for name, split in data.splits.items()
        }

    def problem(self) -> str | None:
        """Name a split that is needed and makes no query; None if every one makes one."""
        for name in self.needed:
            if not (query_intervals(self.events[name])[1] > 0).any():
                return f"no clip of the split {name} has one event that is shorter than the clip"
        return None

    def targets(self, device: torch.device) -> dict[str, Tensor]:
        """`event`: (N, T) float32, 1 on the event's segments."""
        return {"event": torch.from_numpy(self.events["train"]).to(device, torch.float32)}

    def loss(self, output: AVOutput, targets: dict[str, Tensor]) -> Tensor:
        """The sum of the model's loss terms. Raises ValueError if it has none."""
        if not output.losses:
            raise ValueError("a cross-modality model must give its loss in `losses` where there are targets")
        return torch.stack(list(output.losses.values())).sum()

    def predict(self, output: AVOutput) -> dict[str, Tensor]:
        """The model's answers: `similarity` (B, T, T), or both directions (B, I, T). Raises ValueError if it gave neither."""
        if output.similarity is not None:
            return {"similarity": output.similarity}
        if output.audio_to_visual is None or output.visual_to_audio is None:
            raise ValueError(
                "a cross-modality model must give `similarity`, or `audio_to_visual` with `visual_to_audio`"
            )
        return {"audio_to_visual": output.audio_to_visual, "visual_to_audio": output.visual_to_audio}

    def _answers(self, predictions: Predictions, split: str) -> dict[str, np.ndarray]:
        """The queries of a split and where the model finds them.

        Returns:
            `clip` (Q,), positions in the split; `onset` and `length` (Q,); for each direction the first segment found
            (Q,).
        """
        onset, length = query_intervals(self.events[split])
        clip = np.flatnonzero(length)
        onset, length = onset[clip], length[clip]
        answers = {"clip": clip, "onset": onset, "length": length}
        for direction in DIRECTIONS:
            pairs = _pairs(predictions, direction, clip, self.events[split])
            answers[direction] = locate(pairs, onset, length)
        return answers

    def scores(self, predictions: Predictions, split: str) -> dict[str, float]:
        """`accuracy_a2v`, `accuracy_v2a`, their mean `accuracy`, and `chance`, the accuracy of a random position.

        NaN if no clip of the split makes a query.
        """
        answers = self._answers(predictions, split)
        if not len(answers["clip"]):
            return dict.fromkeys(self.metrics, float("nan"))
        both = {
            f"accuracy_{short}": exact_match_accuracy(answers[direction], answers["onset"])
            for direction, short in DIRECTIONS.items()
        }
        chance = chance_accuracy(answers["length"], self.events[split].shape[1])
        return {**both, "accuracy": sum(both.values()) / len(both), "chance": chance}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Always answer with the clip's first, or last, segments, as many as the query has."""
        onset, length = query_intervals(self.events[split])
        onset, length = onset[length > 0], length[length > 0]
        if not len(onset):
            return {}
        ends = {"first": np.zeros_like(onset), "last": self.events[split].shape[1] - length}
        return {
            f"always the {end} segments": {"accuracy": exact_match_accuracy(answer, onset)}
            for end, answer in ends.items()
        }

    def table(self, predictions: Predictions, split: str) -> pd.DataFrame:
        """One row a query and direction: clip, direction, onset and length (the truth), prediction (the onset found)."""
        answers = self._answers(predictions, split)
        count = len(answers["clip"])
        clips = self.data.splits[split].clips["clip"].to_numpy()[answers["clip"]]
        return pd.DataFrame(
            {
                "clip": np.tile(clips, len(DIRECTIONS)),
                "direction": np.repeat(np.array(list(DIRECTIONS), dtype=object), count),
                "onset": np.tile(answers["onset"], len(DIRECTIONS)),
                "length": np.tile(answers["length"], len(DIRECTIONS)),
                "prediction": np.concatenate([answers[direction] for direction in DIRECTIONS]),
            }
        )

    def empty_table(self) -> pd.DataFrame:
        """The columns of `table` without rows."""
        count, segments = self.events["test"].shape
        return self.table({"similarity": np.zeros((count, segments, segments))}, "test").head(0)


def _pairs(
    predictions: Predictions, direction: str, clip: np.ndarray, events: np.ndarray
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
