"""Maps of features: the right segments, each kind for itself, the same every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.predictions import read_rows
from avpipe.report.spec import FigureSpec, TSNEFigure
from avpipe.report.style import Heading
from avpipe.report.tsne import draw_tsne, read_segments, silhouette, tsne_map

BELL, SPEECH, NOTHING = 0, 1, 2
CLIPS = {"b": ([BELL, NOTHING], [BELL, BELL]), "a": ([SPEECH, BELL], [BELL, BELL])}


def tsne(parsed: Callable[..., FigureSpec], **options: Any) -> TSNEFigure:
    spec = parsed("tsne", options)
    assert isinstance(spec, TSNEFigure)
    return spec


@pytest.fixture
def write_features(write_run: Callable[..., Path], study: Study) -> Callable[..., None]:
    """A run of AVEL with two clips, and features that count: clip a 0 and 1, clip b 2 and 3."""

    def write(spec: TSNEFigure, seed: int = 0, clips: tuple[str, ...] = ("b", "a")) -> None:
        folder = write_run(spec.experiments(study)["avel", "supervised"], seed, CLIPS)
        numbers = {"a": [0.0, 1.0], "b": [2.0, 3.0]}
        features = np.array([numbers.get(clip, [9.0, 9.0]) for clip in clips])[:, :, None]
        np.savez(folder / "embeddings.npz", clips=np.array(clips), audio=features, fused=features * 10)

    return write


def test_segments_meet_their_labels_whatever_the_order_of_the_clips(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_features: Callable[..., None]
) -> None:
    spec = tsne(parsed, seed=1)
    write_features(spec, seed=1)
    rows = read_rows(spec, study, results, (1,))
    (found,) = read_segments(spec, study, results, rows, [BELL, SPEECH])
    assert found.method == "AVEL"
    assert found.truth.tolist() == [SPEECH, BELL, BELL]  # a0, a1, b0; b1 is background
    assert found.embeddings["audio"].tolist() == [[0], [1], [2]]
    assert found.embeddings["fused"].tolist() == [[0], [10], [20]]
    (bells,) = read_segments(spec, study, results, rows, [BELL])
    assert bells.embeddings["audio"].tolist() == [[1], [2]]


def test_features_of_other_clips_are_an_error(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_features: Callable[..., None]
) -> None:
    spec = tsne(parsed)
    write_features(spec, clips=("a", "c"))
    with pytest.raises(ValueError, match=r"has other clips than predictions\.parquet"):
        draw_tsne(spec, study, results, Heading("Title"))


def test_what_a_model_or_a_run_does_not_have_is_said(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_features: Callable[..., None],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = tsne(parsed)
    write_features(spec)
    said = texts(draw_tsne(spec, study, results, Heading("Title")))
    assert "not a part of this model" in said  # its features have no "visual"
    assert "fewer than 4 segments" in said
    assert {"Bell", "Male speech, man speaking"} <= set(said)
    assert "Missing: AVIN: seed 0 no run yet (metrics.json is missing)." in " ".join(said)


def test_an_unknown_category_is_an_error_with_a_suggestion(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_features: Callable[..., None]
) -> None:
    spec = tsne(parsed, categories=["Bel"])
    write_features(spec)
    with pytest.raises(
        ConfigError, match=r"tsne: options.categories: no category 'Bel'; did you mean 'Bell'\?"
    ):
        draw_tsne(spec, study, results, Heading("Title"))


def clusters(apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Two groups of 20 points with spread 1 in 60 dimensions, their centres `apart`."""
    truth = np.repeat([0, 1], 20)
    noise = np.random.default_rng(0).normal(size=(40, 60))
    return noise + apart * truth[:, None] / np.sqrt(60), truth


def test_groups_that_are_apart_stay_apart_on_the_map() -> None:
    features, truth = clusters(50.0)
    places = tsne_map(features, perplexity=30)  # more than 39 / 3: fewer neighbours are taken
    assert places.shape == (40, 2)
    own = np.array(
        [np.linalg.norm(places[truth == t] - places[truth == t].mean(0), axis=1).max() for t in (0, 1)]
    )
    between = np.linalg.norm(places[truth == 0].mean(0) - places[truth == 1].mean(0))
    assert between > own.sum()
    np.testing.assert_array_equal(tsne_map(features, perplexity=30), places)


def test_the_silhouette_tells_groups_that_are_apart_from_groups_that_are_not() -> None:
    def by_hand(features: np.ndarray, truth: np.ndarray) -> float:
        """Rousseeuw 1987: mean of (b - a) / max(a, b), a and b the mean distances to own and to the nearest other group."""
        distances = np.linalg.norm(features[:, None] - features, axis=-1)
        scores = []
        for i, own in enumerate(truth):
            same = (truth == own) & (np.arange(len(truth)) != i)
            a, b = distances[i, same].mean(), distances[i, truth != own].mean()
            scores.append((b - a) / max(a, b))
        return float(np.mean(scores))

    for apart in (0.0, 50.0):
        features, truth = clusters(apart)
        assert silhouette(features, truth) == pytest.approx(by_hand(features, truth))
    assert silhouette(features, np.zeros(40, np.int64)) is None
