"""Maps of features: the right segments, each kind of features for itself."""

import numpy as np
import pytest

from avpipe.report.predictions import read_rows
from avpipe.report.tsne import read_segments, silhouette, tsne_map

from .conftest import BACKGROUND, BELL, SPEECH, Toy, figure_of, localized, texts

TABLE = localized(b=([BELL, BACKGROUND], [BELL, BELL]), a=([SPEECH, BELL], [BELL, BELL]))


def write_features(toy: Toy, seed: int = 0, clips: tuple[str, ...] = ("b", "a")) -> None:
    """A run of AVEL with two clips, and features that count: clip a 0 and 1, clip b 2 and 3."""
    folder = toy.write(figure_of("tsne"), 0, seed, TABLE)
    numbers = {"a": [0.0, 1.0], "b": [2.0, 3.0]}
    features = np.array([numbers.get(clip, [9.0, 9.0]) for clip in clips])[:, :, None]
    np.savez(folder / "embeddings.npz", clips=np.array(clips), audio=features, fused=features * 10)


def test_features_get_their_segments_labels_in_any_order_of_the_clips(toy: Toy) -> None:
    spec = figure_of("tsne", {"seed": 1})
    write_features(toy, seed=1)
    rows = read_rows(spec, toy.study, toy.results, (1,))
    (found,) = read_segments(spec, toy.study, toy.results, rows, [BELL, SPEECH])
    assert found.method == "AVEL"
    assert found.truth.tolist() == [SPEECH, BELL, BELL]  # a0, a1, b0; b1 is background
    assert found.embeddings["audio"].tolist() == [[0], [1], [2]]
    assert found.embeddings["fused"].tolist() == [[0], [10], [20]]


def test_features_of_other_clips_are_an_error(toy: Toy) -> None:
    write_features(toy, clips=("a", "c"))
    with pytest.raises(ValueError, match="other clips"):
        toy.draw(figure_of("tsne"))


def test_what_a_model_or_a_run_does_not_have_is_named(toy: Toy) -> None:
    write_features(toy)
    said = texts(toy.draw(figure_of("tsne")))
    assert "not a part of this model" in said  # its features have no "visual"
    assert "fewer than 4 segments" in said
    assert {"Bell", "Male speech, man speaking"} <= set(said)
    assert "Missing: AVIN: seed 0 no run yet" in " ".join(said)


def clusters(apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Two groups of 20 points with deviation 1 in 60 dimensions, their centres `apart`."""
    truth = np.repeat([0, 1], 20)
    noise = np.random.default_rng(0).normal(size=(40, 60))
    return noise + apart * truth[:, None] / np.sqrt(60), truth


def test_groups_that_are_apart_stay_apart_on_the_map() -> None:
    features, truth = clusters(50.0)
    places = tsne_map(features, perplexity=30)  # more than 39 / 3: fewer neighbours are taken
    assert places.shape == (40, 2)
    centres = np.array([places[truth == t].mean(0) for t in (0, 1)])
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * np.linalg.norm(places - centres[truth], axis=1).max()


def test_the_silhouette_is_rousseeuws() -> None:
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
