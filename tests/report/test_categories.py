"""Bars show the share of each category's segments that is predicted, and the caption names missing runs."""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from avpipe.plan.section import ConfigError

from .conftest import BACKGROUND, BELL, SPEECH, Toy, bar_heights, figure_of, localized, texts

TRUTH = [BELL, BELL, SPEECH, BACKGROUND]
ONE_CLIP = localized(a=(TRUTH, [BELL, SPEECH, SPEECH, BACKGROUND]))
OTHER_SEED = localized(a=(TRUTH, [BELL, BELL, BACKGROUND, BACKGROUND]))


def test_bars_are_means_over_seeds_of_the_share_found(toy: Toy) -> None:
    spec = figure_of("categories")
    toy.write(spec, 0, 0, ONE_CLIP)  # one of two bells, one of one speech, one of one background
    toy.write(spec, 0, 1, OTHER_SEED)  # two of two, none of one, one of one
    assert bar_heights(toy.draw(spec)) == [[75.0, 50.0, 100.0]]


def test_an_error_bar_is_the_deviation_over_seeds_and_ends_at_0_and_100_percent(toy: Toy) -> None:
    spec = figure_of("categories")
    toy.write(spec, 0, 0, ONE_CLIP)
    toy.write(spec, 0, 1, OTHER_SEED)
    (axis,) = toy.draw(spec).axes
    (bars,) = [part for part in axis.containers if isinstance(part, ErrorbarContainer)]
    (spreads,) = bars.lines[2]
    bell = np.std(
        [50, 100], ddof=1
    )  # 35.4 around 75; 70.7 around 50 for speech; none around 100 for background
    ends = [segment[:, 1] for segment in spreads.get_segments()]
    np.testing.assert_allclose(ends, [(75 - bell, 100), (0, 100), (100, 100)])


@pytest.mark.parametrize(
    ("options", "names", "heights"),
    [
        ({"categories": ["Male speech, man speaking", "Bell"]}, ["Male speech, man speaking", "Bell"], [100.0, 50.0]),
        ({"limit": 1}, ["Bell"], [50.0]),  # two segments are a Bell, one is speech
    ],
)  # fmt: skip
def test_the_categories_asked_for_are_shown_else_the_most_frequent(
    options: dict[str, object], names: list[str], heights: list[float], toy: Toy
) -> None:
    spec = figure_of("categories", options | {"background": False})
    toy.write(spec, 0, 0, ONE_CLIP)
    figure = toy.draw(spec)
    assert bar_heights(figure) == [heights]
    assert [" ".join(label.get_text().split()) for label in figure.axes[0].get_xticklabels()] == names


@pytest.mark.parametrize("kind", ["categories", "tsne"])
def test_an_unknown_category_is_an_error_with_a_suggestion(kind: str, toy: Toy) -> None:
    spec = figure_of(kind, {"categories": ["Belt"]})
    toy.write(spec, 0, 0, ONE_CLIP)
    with pytest.raises(ConfigError, match=rf"{kind}: options.categories: .*'Belt'.*'Bell'"):
        toy.draw(spec)


def test_missing_runs_are_named_below_the_bars(toy: Toy) -> None:
    spec = figure_of("categories")
    toy.write(spec, 0, 0, ONE_CLIP)
    toy.write(spec, 0, 1, ONE_CLIP, status="failed", reason="cost $5 and $6")
    caption = next(text for text in texts(toy.draw(spec)) if "Missing" in text)
    assert "Mean over 1 seed." in caption
    assert "Missing: AVEL: seed 1 failed: cost $5 and $6." in caption
    assert "Missing: AVIN: seed 0 no run yet (metrics.json is missing); seed 1 no run yet" in caption
