"""Predictions that were made elsewhere, scored against a study's labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from avpipe.clips import Status, manifest_file
from avpipe.datasets.labels import parsing_labels, read_categories, segment_labels
from avpipe.files import sha256_of
from avpipe.media.presets import CANONICAL
from avpipe.metrics.predictions import MODALITIES, prediction_scores, truth_table


@dataclass(frozen=True)
class Scored:
    """The scores of a row's files.

    Args:
        scores: of each file, metric -> recorded value.
        origin: a phrase that names the files.
    """

    scores: tuple[dict[str, float], ...]
    origin: str


def score_files(files: Sequence[str], task: str, results: Path) -> Scored:
    """Score files of predictions for the test split.

    Args:
        files: parquet, with the columns that `avpipe.metrics.predictions` describes.
        task: of the row.
        results: the study's folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has other columns, or lacks clips, which are named.
    """
    truth, scores, named = study_truth(results, task), [], []
    for file in files:
        try:
            scores.append(prediction_scores(task, truth, pd.read_parquet(file)))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        named.append(f"{file} (SHA-256 {sha256_of(Path(file))[:16]})")
    return Scored(tuple(scores), f"not trained here: scored from {', '.join(named)}")


def study_truth(results: Path, task: str, split: str = "test") -> pd.DataFrame:
    """The truth of a split's usable clips, as `avpipe.metrics.predictions.truth_table` has it.

    Args:
        results: the study's folder.
        task: localization, parsing, refined_parsing or cross_modality, whose split is the one made for it, if there is one.
        split: "train", "val" or "test".

    Raises:
        FileNotFoundError: the study has no clips yet.
        ValueError: for a split without usable clips.
    """
    clips = pd.read_parquet(results / "clips.parquet")
    manifest = pd.read_parquet(results / "manifest.parquet").set_index("clip").loc[clips["clip"]]
    match = task == "cross_modality" and "match_split" in manifest
    place = manifest["match_split" if match else "split"].to_numpy()
    clips = clips[[Status(status).usable for status in clips["status"]] & (place == split)]
    if clips.empty:
        raise ValueError(f"{results}: no usable clip in the split {split!r}")
    categories, events = read_categories(results), pd.read_parquet(manifest_file(results, "events.parquet"))
    lengths = (clips["end"] - clips["start"]).dropna()  # unknown for files that are read from their beginning
    segments = CANONICAL.segments if lengths.empty else round(float(lengths.max()))
    if "parsing" in task:
        of_each = [parsing_labels(events, clips, categories, m, segments) for m in MODALITIES]
        labels: np.ndarray = np.stack(of_each, axis=2)
    else:
        labels = segment_labels(events, clips, categories, segments)
        labels = labels < len(categories) if task == "cross_modality" else labels
    return truth_table(task, clips["clip"].tolist(), labels, categories)
