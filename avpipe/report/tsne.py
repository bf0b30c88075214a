"""Maps by t-SNE of the test segments' features, before and after fusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avpipe.plan.study import Study
from avpipe.report.predictions import (
    NothingToDraw,
    Predictions,
    chosen_categories,
    missing_lines,
    read_categories,
    read_rows,
)
from avpipe.report.spec import TSNEFigure
from avpipe.report.style import BACKGROUND, COLOURS, SOFT, Heading, framed_figure

Floats = npt.NDArray[np.floating]
PANELS = {"audio": "audio, before fusion", "visual": "visual, before fusion", "fused": "after fusion"}
"""Name in embeddings.npz -> what stands above its map; in the order of the data's way."""
MARKERS = "os^DvP<X>*"
COMPONENTS = 50
"""Principal components that t-SNE is given: its authors' own first step."""
_LEGEND = 4
"""Categories in a line of the legend."""


@dataclass(frozen=True)
class Segments:
    """The segments that are mapped, of one row.

    Args:
        method: the row's printed name.
        truth: (N,) class indices.
        embeddings: name -> (N, D) features.
    """

    method: str
    truth: npt.NDArray[np.int64]
    embeddings: dict[str, Floats]


def draw_tsne(spec: TSNEFigure, study: Study, results: Path, heading: Heading) -> Figure:
    """A map for each kind of features; a row of maps for each row of the figure.

    Raises:
        ConfigError: if `spec.options` names a category or a seed that is not there.
        NothingToDraw: if no run has predictions and features.
    """
    seed, options = spec.seed(study), spec.options
    rows, categories = read_rows(spec, study, results, (seed,)), read_categories(results)
    shown = chosen_categories(spec, options.categories, options.limit, rows, categories)
    found, missing = read_segments(spec, study, results, rows, shown), missing_lines(rows)
    if not any(len(segments.truth) for segments in found):
        raise NothingToDraw("Nothing to draw: no test segment of these categories.", *missing)
    legend = 0.1 + 0.2 * -(-len(shown) // _LEGEND)
    heights = [3.4] * len(found) + [legend]
    size = (3.4 * len(PANELS), sum(heights))
    figure = framed_figure(size, heading, [*_caption(seed), *missing])
    grid = figure.add_gridspec(len(heights), len(PANELS), height_ratios=heights)
    for line, segments in enumerate(found):
        for column, (name, title) in enumerate(PANELS.items()):
            axis = figure.add_subplot(grid[line, column])
            _draw_map(axis, segments, name, title, shown, options.perplexity)
            if column == 0:
                axis.set_ylabel(segments.method, weight="bold")
    _write_legend(figure.add_subplot(grid[-1, :]), [categories[index] for index in shown])
    return figure


def read_segments(
    spec: TSNEFigure, study: Study, results: Path, rows: list[Predictions], shown: Sequence[int]
) -> list[Segments]:
    """Of each row that has predictions, the test segments of the categories shown.

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
            arrays = {name: file[name] for name in file.files}
        clips = arrays.pop("clips")
        order = np.argsort(clips)
        if clips[order].tolist() != table["clip"].drop_duplicates().tolist():
            raise ValueError(
                f"{path} has other clips than predictions.parquet beside it; run `avpipe embed` again"
            )
        truth = table["truth"].to_numpy(np.int64)
        chosen = np.isin(truth, shown)
        flat = {name: a[order].reshape(len(truth), -1)[chosen] for name, a in arrays.items()}
        found.append(Segments(row.method, truth[chosen], flat))
    return found


def tsne_map(features: Floats, perplexity: float) -> Floats:
    """Where t-SNE puts each segment; the same numbers whatever the number of processors.

    Args:
        features: (N, D), N at least 4.
        perplexity: a third of the segments at most is taken.

    Returns:
        (N, 2).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = min(COMPONENTS, *features.shape)
    with threadpool_limits(1):
        components = PCA(count, svd_solver="full").fit_transform(features.astype(np.float64))
        fewer = min(perplexity, (len(features) - 1) / 3)
        found = TSNE(perplexity=fewer, init="pca", random_state=0).fit_transform(components)
    return np.asarray(found, np.float64).round(3)


def silhouette(features: Floats, truth: npt.NDArray[np.int64]) -> float | None:
    """How much nearer segments are to their own category than to the next, -1 to 1; None where there is one category."""
    from sklearn.metrics import silhouette_score

    if not 2 <= len(set(truth.tolist())) < len(truth):
        return None
    return float(silhouette_score(features, truth))


def _draw_map(
    axis: Axes, segments: Segments, name: str, title: str, shown: Sequence[int], perplexity: float
) -> None:
    """One map, or why there is none."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(visible=True, color=BACKGROUND)
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
        axis.plot(
            own[:, 0],
            own[:, 1],
            linestyle="",
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            markersize=3.5,
            markeredgewidth=0,
            alpha=0.75,
        )


def _write_legend(axis: Axes, names: list[str]) -> None:
    """Marker and name of every category."""
    axis.axis("off")
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)])
        for i in range(len(names))
    ]
    axis.legend(handles, names, loc="center", ncols=_LEGEND, frameon=False, borderaxespad=0)


def _caption(seed: int) -> list[str]:
    return [
        f"Test segments of the model of seed {seed}, t-SNE of each kind of features for itself; background is left out. "
        "Silhouette: of the features themselves, 1 where categories lie apart, 0 where they mix."
    ]
