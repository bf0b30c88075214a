"""Scores of predictions that are given as a table, wherever they were made.

The columns are those of predictions.parquet; others are ignored. Truth and predictions have the columns of `KEYS`, which say
what a row is about, and

- localization: `truth` and `prediction`, the index of a segment's category; background is the last;
- parsing: `truth` and `prediction`, whether the segment has the category. Rows that are not there are false;
- cross_modality: `onset`, the event's first segment, and `prediction`, the one that was found.

Segments count from 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.metrics.cross_modality import exact_match_accuracy, query_intervals
from avpipe.metrics.localization import segment_accuracy
from avpipe.metrics.parsing import parsing_scores

MODALITIES = ("audio", "visual")
DIRECTIONS = {"audio_to_visual": "a2v", "visual_to_audio": "v2a"}
"""Direction -> its name in metrics.json, after the papers' A2V and V2A."""
KEYS = {
    "localization": ("clip", "segment"),
    "parsing": ("clip", "segment", "modality", "category"),
    "refined_parsing": ("clip", "segment", "modality", "category"),
    "cross_modality": ("clip", "direction"),
}
"""Task -> the columns that tell its rows apart."""
NAMED = 5
"""Clips that a message names."""


def truth_table(
    task: str, clips: Sequence[str], labels: npt.NDArray[np.generic], categories: Sequence[str]
) -> pd.DataFrame:
    """Labels of N clips as a table of truth.

    Args:
        task: of `KEYS`.
        clips: N names.
        labels: localization (N, T) int, categories with background C; parsing (N, T, 2, C) bool, of audio and visual;
            cross_modality (N, T) bool, the event's segments.
        categories: C names.

    Returns:
        A row for each segment (for parsing, each modality and category of it); for cross_modality, for both directions of
        each clip that makes a query, with the column `length`, too.
    """
    if task == "cross_modality":
        onset, length = query_intervals(labels.astype(bool))
        rows = pd.DataFrame({"clip": clips, "onset": onset, "length": length})[length > 0]
        return pd.concat([rows.assign(direction=d) for d in DIRECTIONS], ignore_index=True)
    of_axes = (clips, range(labels.shape[1]), MODALITIES, categories)[: labels.ndim]
    keys = KEYS[task]
    table = pd.MultiIndex.from_product(of_axes, names=keys).to_frame(index=False)
    return table.assign(truth=labels.ravel())


def prediction_scores(task: str, truth: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, float]:
    """The task's scores, fractions 0 to 1; for cross_modality without `chance`.

    Args:
        task: of `KEYS`.
        truth: of every clip to score. Clips that only `predictions` has do not count.
        predictions: of all of them.

    Raises:
        ValueError: for a task without such scores, a missing column, a clip without predictions (parsing: one that has
            events), a segment, modality, category or direction that the truth does not have, or a row that stands twice.
    """
    if task not in KEYS:
        raise ValueError(f"no scores of predictions for the task {task!r}, only for {', '.join(KEYS)}")
    keys = list(KEYS[task])
    answer = "onset" if task == "cross_modality" else "truth"
    for name, table, column in (("truth", truth, answer), ("predictions", predictions, "prediction")):
        if absent := [each for each in (*keys, column) if each not in table]:
            raise ValueError(f"{name}: no column {', '.join(absent)}; expected {', '.join(keys)}, {column}")
    predictions = predictions.loc[predictions["clip"].isin(truth["clip"]), [*keys, "prediction"]]
    _check(task, keys, truth, predictions, answer)
    joined = truth[[*keys, answer]].merge(predictions, how="outer" if "category" in keys else "left", on=keys)
    if "category" in keys:
        return _parsing_scores(joined.fillna({"truth": False, "prediction": False}))
    if (left := joined["prediction"].isna()).any():
        raise ValueError(_no_prediction(joined.loc[left, "clip"], truth))
    if task == "localization":
        return {"accuracy": segment_accuracy(joined["truth"], joined["prediction"])}
    scores = {}
    for direction, short in DIRECTIONS.items():
        own = joined[joined["direction"] == direction]
        scores[f"accuracy_{short}"] = exact_match_accuracy(
            own["prediction"].to_numpy(), own["onset"].to_numpy()
        )
    return {**scores, "accuracy": sum(scores.values()) / len(scores)}


def _check(task: str, keys: list[str], truth: pd.DataFrame, predictions: pd.DataFrame, answer: str) -> None:
    """Raise ValueError where `predictions` does not fit `truth`."""
    for name in keys[1:]:
        if unknown := sorted(set(predictions[name]) - set(truth[name])):
            known = ", ".join(map(str, sorted(set(truth[name]))))
            raise ValueError(f"predictions: {name} {unknown[0]!r}; the truth has {known}")
    if (twice := predictions.duplicated(keys)).any():
        row = predictions.loc[twice, keys].iloc[0].to_dict()
        raise ValueError(
            f"predictions: two rows for {', '.join(f'{key} {value}' for key, value in row.items())}"
        )
    asked = truth if "category" not in keys else truth[truth[answer].astype(bool)]
    if len(left := asked.loc[~asked["clip"].isin(predictions["clip"]), "clip"]):
        raise ValueError(_no_prediction(left, truth))
    values = predictions["prediction"]
    if "category" in keys and not values.isin([0, 1]).all():
        raise ValueError("predictions: `prediction` must be true or false, or 1 or 0")
    if "category" not in keys and not pd.api.types.is_integer_dtype(values):
        what = "category (background is the last)" if task == "localization" else "segment (from 0)"
        raise ValueError(f"predictions: `prediction` is the index of a {what}, found {values.dtype}")


def _no_prediction(clips: pd.Series, truth: pd.DataFrame) -> str:
    missing = list(dict.fromkeys(clips))
    named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    return f"predictions: {len(missing)} of {truth['clip'].nunique()} clips have no prediction, or not all: {named}"


def _parsing_scores(joined: pd.DataFrame) -> dict[str, float]:
    """The ten scores of rows clip, segment, modality, category, truth, prediction."""
    clip, category = (pd.factorize(joined[name])[0] for name in ("clip", "category"))
    segment, visual = joined["segment"].to_numpy(), (joined["modality"] == "visual").to_numpy(np.int64)
    shape = (2, clip.max() + 1, segment.max() + 1, 2, category.max() + 1)
    both = np.zeros(shape, dtype=bool)
    both[:, clip, segment, visual, category] = joined[["truth", "prediction"]].to_numpy(bool).T
    truth, prediction = both
    return parsing_scores(truth[:, :, 0], truth[:, :, 1], prediction[:, :, 0], prediction[:, :, 1])
