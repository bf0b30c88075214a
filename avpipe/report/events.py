"""Bars: in how many clips each category has audio events, visual events, and both at the same time."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from avpipe.clips import manifest_file
from avpipe.datasets.labels import parsing_labels, read_categories
from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import FigureSpec
from avpipe.report.style import Heading, draw_bars, framed_figure, legend_above
from avpipe.tables.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("audio", "visual", "audio-visual")


class EventsOptions(Section):
    """Which clips are counted."""

    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        default=("test",), min_length=1, description="LLP's training clips have no audio or visual events"
    )


class EventsFigure(FigureSpec):
    """Clips with audio, visual and audio-visual events of each category. It reads the annotations and has no rows."""

    task: str = "parsing"
    rows: tuple[Row, ...] = Field(default=(), max_length=0)
    options: EventsOptions = Field(default_factory=EventsOptions)
    dataset_files = ("events.parquet", "categories.csv", "manifest.parquet")
    caption = (
        "Clips with annotated audio and visual events of each category; audio-visual: both in the same second. A clip counts "
        "once for a category."
    )

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """Three bars a category, the category with most audio events first."""
        from matplotlib.ticker import MaxNLocator

        counts, clips = count_events(results, self.options.splits)
        splits = ", ".join(self.options.splits)
        if not counts.any():
            message = f"no clip of the splits {splits} has audio or visual events in events.parquet"
            raise NothingToDraw(f"Nothing to draw: {message}.")
        totals = ", ".join(f"{total} {name}" for total, name in zip(counts.sum(axis=0), NAMES, strict=True))
        caption = f"{self.caption} {clips} clips ({splits}), together {totals}."
        order = np.lexsort((-counts[:, 1], -counts[:, 0]))
        names = [name.replace("_", " ") for name in np.array(read_categories(results))[order]]
        figure = framed_figure((max(7.0, 1.0 + 0.42 * len(names)), 3.9), heading, [caption])
        axis = figure.subplots()
        draw_bars(axis, names, {name: counts[None, order, i] for i, name in enumerate(NAMES)}, rotation=40)
        axis.set_ylabel("clips")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        legend_above(axis)
        return figure


def count_events(results: Path, splits: tuple[str, ...]) -> tuple[npt.NDArray[np.int64], int]:
    """Clips in which each category has an audio event, a visual event, and both in one segment.

    Args:
        results: with events.parquet, manifest.parquet and categories.csv.
        splits: whose clips count.

    Returns:
        (C, 3) numbers of clips, and the number of clips with any such event.
    """
    manifest = pd.read_parquet(results / "manifest.parquet", columns=["clip", "split"])
    clips, events = (
        manifest[manifest["split"].isin(splits)],
        pd.read_parquet(manifest_file(results, "events.parquet")),
    )
    categories = read_categories(results)
    audio, visual = (parsing_labels(events, clips, categories, m) for m in ("audio", "visual"))  # (N, T, C)
    present = np.stack(
        [labels.any(axis=1) for labels in (audio, visual, audio & visual)], axis=-1
    )  # (N, C, 3)
    return present.sum(axis=0), int(present.any(axis=(1, 2)).sum())
