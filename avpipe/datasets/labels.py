"""Events as arrays: the category of every segment, and the categories of every clip."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.clips import manifest_file

_ROUNDING = 1e-9  # rounding error allowed in a share of a second, so that 0.1 to 0.6 counts as half a second


def segment_labels(
    events: pd.DataFrame, clips: pd.DataFrame, categories: Sequence[str], segments: int = 10
) -> npt.NDArray[np.int64]:
    """The category of every 1 s segment of every clip, from the audio-visual events.

    Segment t, the seconds [t, t + 1), has the category whose events cover most of it, if they cover at least half;
    among equals the first of `categories`. Otherwise it is background, C. So an event of whole seconds [onset, offset)
    labels the segments onset to offset - 1, as in AVE's own labels.

    Args:
        events: columns clip, modality, category, onset, offset (seconds). Only modality "audiovisual" and clips of
            `clips` count.
        clips: its column clip names the N rows of the result.
        categories: the C categories in index order.
        segments: T.

    Returns:
        (N, T) int64, values 0 to C.

    Raises:
        ValueError: for an event whose category is not in `categories`.
    """
    rows, indices, chosen = _located(events, clips, categories, "audiovisual")
    onset, offset = chosen["onset"].to_numpy(), chosen["offset"].to_numpy()
    labels = np.full((len(clips), segments), len(categories), dtype=np.int64)
    most = np.full((len(clips), segments), 0.5 - 2 * _ROUNDING)
    for index in np.unique(indices):
        own = indices == index
        share = _covered(rows[own], onset[own], offset[own], len(clips), segments)
        more = share > most + _ROUNDING
        labels[more] = index
        most[more] = share[more]
    return labels


def clip_labels(
    events: pd.DataFrame, clips: pd.DataFrame, categories: Sequence[str], modality: str = "audiovisual"
) -> npt.NDArray[np.float32]:
    """Which categories occur in every clip: the labels of weakly supervised training.

    Args:
        events, clips, categories: as in `segment_labels`.
        modality: of the events that count; "video" are LLP's weak labels.

    Returns:
        (N, C) float32 of 0 and 1, without background.

    Raises:
        ValueError: for an event whose category is not in `categories`.
    """
    rows, indices, _ = _located(events, clips, categories, modality)
    labels = np.zeros((len(clips), len(categories)), dtype=np.float32)
    labels[rows, indices] = 1
    return labels


def parsing_labels(
    events: pd.DataFrame, clips: pd.DataFrame, categories: Sequence[str], modality: str, segments: int = 10
) -> npt.NDArray[np.bool_]:
    """The categories in every 1 s segment of every clip in one modality; a segment may have several.

    Segment t has a category if its events together cover at least half of [t, t + 1). So an event of whole seconds
    [onset, offset) labels the segments onset to offset - 1, as in LLP's evaluation.

    Args:
        events, clips, categories: as in `segment_labels`.
        modality: of the events that count: "audio", "visual" or "audiovisual".
        segments: T.

    Returns:
        (N, T, C) bool; all false for a clip without events.

    Raises:
        ValueError: for an event whose category is not in `categories`.
    """
    rows, indices, chosen = _located(events, clips, categories, modality)
    size = len(clips), len(categories)
    covered = _covered(
        rows * size[1] + indices,
        chosen["onset"].to_numpy(),
        chosen["offset"].to_numpy(),
        size[0] * size[1],
        segments,
    )
    return (covered >= 0.5 - _ROUNDING).reshape(*size, segments).transpose(0, 2, 1)


def manifest_labels(results: Path) -> npt.NDArray[np.bool_] | None:
    """The audio-visual categories in every segment of a manifest's clips, in its order.

    Args:
        results: folder with the manifest.

    Returns:
        (N, T, C) bool as of `parsing_labels`, or None if the dataset has no audio-visual events.
    """
    events = pd.read_parquet(manifest_file(results, "events.parquet"))
    if not (events["modality"] == "audiovisual").any():
        return None
    clips = pd.read_parquet(results / "manifest.parquet", columns=["clip"])
    return parsing_labels(events, clips, read_categories(results), "audiovisual")


def read_categories(results: Path) -> tuple[str, ...]:
    """Names of the categories in the order of their indices, from `results`/categories.csv."""
    table = pd.read_csv(
        manifest_file(results, "categories.csv"), dtype={"category": str}, keep_default_na=False
    )
    return tuple(table.sort_values("index")["category"])


def _located(
    events: pd.DataFrame, clips: pd.DataFrame, categories: Sequence[str], modality: str
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], pd.DataFrame]:
    """The events of `clips` in one modality, with the indices of each event's clip and category."""
    chosen = events[events["modality"] == modality]
    rows = pd.Index(clips["clip"]).get_indexer(pd.Index(chosen["clip"]))
    chosen, rows = chosen[rows >= 0], rows[rows >= 0]
    indices = pd.Index(list(categories), dtype=object).get_indexer(pd.Index(chosen["category"], dtype=object))
    if (indices < 0).any():
        raise ValueError(
            f"an event has the category {chosen['category'][indices < 0].iloc[0]!r}, expected one of {[*categories]}"
        )
    return rows, indices, chosen


def _covered(
    rows: npt.NDArray[np.intp],
    onset: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    clips: int,
    segments: int,
) -> npt.NDArray[np.float64]:
    """(clips, segments): the share of each segment that the union of its clip's intervals covers."""
    order = np.lexsort((onset, rows))
    rows, onset, offset = rows[order], onset[order], offset[order]
    reached = pd.Series(offset).groupby(rows).cummax().groupby(rows).shift(fill_value=-np.inf).to_numpy()
    onset = np.maximum(onset, reached)[:, None]  # overlapping intervals count once
    start = np.arange(segments)
    shares = np.clip(
        np.minimum(offset[:, None], start + 1) - np.maximum(onset, start), 0, 1
    )  # (intervals, T)
    covered = np.zeros((clips, segments))
    np.add.at(covered, rows, shares)
    return covered
