"""Bars: in how many clips each category is heard, seen, and both at the same time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avpipe.datasets.labels import parsing_labels
from avpipe.plan.study import Study
from avpipe.report.predictions import NothingToDraw, read_categories
from avpipe.report.spec import EventsFigure
from avpipe.report.style import BACKGROUND, COLOURS, Heading, framed_figure

NAMES = ("audio", "visual", "audio-visual")


def draw_events(spec: EventsFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """Three bars a category, the most frequently heard first.

    Raises:
        NothingToDraw: if no clip of these splits has an event of audio or visual.
    """
    counts, clips = count_events(results, spec.options.splits)
    splits = ", ".join(spec.options.splits)
    if not counts.any():
        raise NothingToDraw(
            f"Nothing to draw: no clip of the splits {splits} has audio or visual events in events.parquet."
        )
    categories = read_categories(results)
    order = np.lexsort((-counts[:, 1], -counts[:, 0]))
    figure = framed_figure(
        (max(7.0, 1.0 + 0.42 * len(categories)), 3.9), heading, _caption(counts, clips, splits)
    )
    axis = figure.subplots()
    for i, name in enumerate(NAMES):
        places = np.arange(len(order)) - 0.27 + 0.27 * i
        axis.bar(places, counts[order, i], 0.25, label=name, color=COLOURS[i])
    names = [categories[index].replace("_", " ") for index in order]
    axis.set_xticks(range(len(order)), names, rotation=40, ha="right", rotation_mode="anchor")
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.6, len(order) - 0.4)
    axis.set_ylabel("clips")
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=BACKGROUND, linewidth=0.8)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(NAMES), frameon=False, borderaxespad=0.2
    )
    return figure


def count_events(results: Path, splits: tuple[str, ...]) -> tuple[npt.NDArray[np.int64], int]:
    """Clips of some splits in which each category is heard, seen, and both in one segment; and how many clips have either.

    Args:
        results: with events.parquet, manifest.parquet and categories.csv.
        splits: whose clips count.

    Returns:
        (C, 3), and the number of clips with an event of audio or visual.
    """
    manifest = pd.read_parquet(results / "manifest.parquet", columns=["clip", "split"])
    clips, events = manifest[manifest["split"].isin(splits)], pd.read_parquet(results / "events.parquet")
    categories = read_categories(results)
    heard, seen = (parsing_labels(events, clips, categories, m) for m in ("audio", "visual"))  # (N, T, C)
    present = np.stack(
        [heard.any(axis=1), seen.any(axis=1), (heard & seen).any(axis=1)], axis=-1
    )  # (N, C, 3)
    return present.sum(axis=0), int(present.any(axis=(1, 2)).sum())


def _caption(counts: npt.NDArray[np.int64], clips: int, splits: str) -> list[str]:
    totals = ", ".join(f"{total} {name}" for total, name in zip(counts.sum(axis=0), NAMES, strict=True))
    return [
        f"A clip counts once for a category. {clips} clips ({splits}), together {totals}. Audio-visual: heard and seen in the "
        "same second; those clips count as audio and as visual too."
    ]
