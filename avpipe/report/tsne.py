"""t-SNE maps of the test segments' features, before and after fusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from avpipe.datasets.labels import read_categories
from avpipe.plan.section import Section
from avpipe.plan.study import Study
from avpipe.report.predictions import (
    NothingToDraw,
    RowPredictions,
    any_truth,
    chosen_categories,
    missing_lines,
    read_rows,
)
from avpipe.report.spec import FigureSpec
from avpipe.report.style import BACKGROUND, SOFT, Heading, colour, framed_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.floating]
PANELS = {
    "audio": "audio, before fusion", "visual": "visual, before fusion", "audio_fused": "audio, after fusion",
    "visual_fused": "visual, after fusion", "fused": "after fusion",
}  # fmt: skip
"""Name in embeddings.npz -> what stands above its map, from left to right; those of one modality after fusion where a row has them."""
MARKERS = "os^DvP<X>*"
COMPONENTS = 50
"""Principal components that t-SNE is given, as its authors do."""
_LEGEND = 4
"""Categories in a line of the legend."""


class TSNEOptions(Section):
    """Which segments are mapped, and how."""

    categories: tuple[str, ...] = Field(
        default=(), description="their names, in this order; empty: those with most test segments"
    )
    limit: int = Field(default=8, ge=2, description="how many, where `categories` is empty")
    seed: int | None = Field(default=None, description="whose model is shown; none: the study's first seed")
    perplexity: float = Field(default=30.0, gt=1, description="of t-SNE; at most a third of the segments")


@dataclass(frozen=True)
class MappedSegments:
    """The segments of one row that are mapped.

    Args:
        method: the row's printed name.
        truth: (N,) class indices.
        embeddings: name -> (N, D) features.
    """

    method: str
    truth: npt.NDArray[np.int64]
    embeddings: dict[str, Floats]


class TSNEFigure(FigureSpec):
    """Features of the test segments before and after fusion, mapped by t-SNE, coloured by category."""

    options: TSNEOptions = Field(default_factory=TSNEOptions)
    caption = (
        "Test segments without background, t-SNE of each kind of features for itself; distances between far groups mean little. "
        "Silhouette: of the features themselves, 1 where categories lie apart, 0 where they mix."
    )

    def run_files(self, study: Study) -> dict[str, tuple[int, ...]]:
        """One seed's predictions, and the embeddings of its model."""
        return dict.fromkeys(("metrics.json", "predictions.parquet", "embeddings.npz"), (self.seed(study),))

    def draw(self, study: Study, results: Path, heading: Heading) -> "Figure":
        """A map for each kind of features; a line of maps for each row of the figure."""
        seed, options = self.seed(study), self.options
        rows, categories = read_rows(self, study, results, (seed,)), read_categories(results)
        shown = chosen_categories(self, options.categories, options.limit, any_truth(rows), categories)
        found, missing = read_segments(self, study, results, rows, shown), missing_lines(rows)
        if not any(len(segments.truth) for segments in found):
            raise NothingToDraw("Nothing to draw: no test segment of these categories.", *missing)
        heights = [3.4] * len(found) + [0.1 + 0.2 * -(-len(shown) // _LEGEND)]
        fused = {name for segments in found for name in segments.embeddings if name.endswith("_fused")}
        panels = {name: PANELS[name] for name in PANELS if not name.endswith("_fused") or name in fused}
        size = (3.4 * len(panels), sum(heights))
        figure = framed_figure(size, heading, [f"{self.caption} Seed {seed}.", *missing])
        grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights)
        for line, segments in enumerate(found):
            axes = [figure.add_subplot(grid[line, column]) for column in range(len(panels))]
            axes[0].set_ylabel(segments.method, weight="bold")
            for axis, (name, title) in zip(axes, panels.items(), strict=True):
                _draw_map(axis, segments, name, title, shown, options.perplexity)
        _write_legend(figure.add_subplot(grid[-1, :]), [categories[index] for index in shown])
        return figure


def read_segments(
    spec: TSNEFigure, study: Study, results: Path, rows: list[RowPredictions], shown: Sequence[int]
) -> list[MappedSegments]:
    """For each row that has predictions, the test segments of the categories shown.

    Raises:
        ValueError: if embeddings.npz and predictions.parquet are of different clips.
    """
    seed, experiments = spec.seed(study), spec.experiments(study)
    found = []
    for row, predictions in zip(spec.rows, rows, strict=True):
        if not predictions.seeds:
            continue
        table = predictions.seeds[seed].sort_values(["clip", "segment"])
        path = results / "runs" / experiments[row.row, spec.setting].id / f"seed{seed}" / "embeddings.npz"
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        clips = arrays.pop("clips")
        order = np.argsort(clips)
        if clips[order].tolist() != table["clip"].drop_duplicates().tolist():
            message = "has other clips than predictions.parquet beside it; run `avpipe embed` again"
            raise ValueError(f"{path} {message}")
        truth = table["truth"].to_numpy(np.int64)
        chosen = np.isin(truth, shown)
        flat = {name: a[order].reshape(len(truth), -1)[chosen] for name, a in arrays.items()}
        found.append(MappedSegments(row.method, truth[chosen], flat))
    return found


def tsne_map(features: Floats, perplexity: float) -> Floats:
    """t-SNE's place of each segment.

    Args:
        features: (N, D), N at least 4.
        perplexity: at most a third of the segments is used.

    Returns:
        (N, 2).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = min(COMPONENTS, *features.shape)
    with threadpool_limits(1):  # with several threads the sums differ a little, and so would the whole map
        components = PCA(count, svd_solver="full").fit_transform(features.astype(np.float64))
        fewer = min(perplexity, (len(features) - 1) / 3)
        return np.asarray(TSNE(perplexity=fewer, init="pca", random_state=0).fit_transform(components))


def silhouette(features: Floats, truth: npt.NDArray[np.int64]) -> float | None:
    """Mean silhouette, -1 to 1: how much nearer segments are to their category than to the next; None for one category."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(set(truth.tolist())) < len(truth):
        return None
    return float(silhouette_score(features, truth))


def _draw_map(
    axis: "Axes", segments: MappedSegments, name: str, title: str, shown: Sequence[int], perplexity: float
) -> None:
    """One map, or why there is none."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(visible=True, color=BACKGROUND)
    features = segments.embeddings.get(name)
    if features is None or len(features) < 4:
        axis.set_title(title, size=10)
        text = "not a part of this model" if features is None else "fewer than 4 segments"
        axis.text(0.5, 0.5, text, ha="center", va="center", color=SOFT, transform=axis.transAxes)
        return
    score = silhouette(features, segments.truth)
    axis.set_title(title if score is None else f"{title}\nsilhouette {score:.2f}", size=10)
    places = tsne_map(features, perplexity)
    for i, category in enumerate(shown):
        own = places[segments.truth == category]
        axis.plot(*own.T, markersize=3.5, markeredgewidth=0, alpha=0.75, **_marker(i))


def _marker(category: int) -> dict[str, Any]:
    """Form and colour of a category."""
    return {"linestyle": "", "marker": MARKERS[category % len(MARKERS)], "color": colour(category)}


def _write_legend(axis: "Axes", names: list[str]) -> None:
    """Marker and name of every category."""
    from matplotlib.lines import Line2D

    axis.axis("off")
    handles = [Line2D([], [], **_marker(i)) for i in range(len(names))]
    axis.legend(handles, names, loc="center", ncols=_LEGEND, frameon=False, borderaxespad=0)
