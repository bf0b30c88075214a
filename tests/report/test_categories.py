"""Bars show the share found of each category's segments, and name what is missing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.categories import draw_categories
from avpipe.report.spec import CategoriesFigure, FigureSpec
from avpipe.report.style import Heading

BELL, SPEECH, NOTHING = 0, 1, 2
ONE_CLIP = {"a": ([BELL, BELL, SPEECH, NOTHING], [BELL, SPEECH, SPEECH, NOTHING])}
OTHER_SEED = {"a": ([BELL, BELL, SPEECH, NOTHING], [BELL, BELL, NOTHING, NOTHING])}


def drawn_bars(spec: FigureSpec, study: Study, results: Path) -> Figure:
    assert isinstance(spec, CategoriesFigure)
    return draw_categories(spec, study, results, Heading("Title"))


def heights(figure: Figure) -> list[list[float]]:
    """method -> height of each bar."""
    return [
        [bar.get_height() for bar in container]
        for container in figure.axes[0].containers
        if hasattr(container, "patches")
    ]


def test_bars_are_means_over_seeds_of_the_share_found(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = parsed("categories")
    avel = spec.experiments(study)["avel", "supervised"]
    write_run(avel, 0, ONE_CLIP)  # of two bells one is found, of one speech one, of one background one
    write_run(avel, 1, OTHER_SEED)  # two of two, none of one, one of one
    assert heights(drawn_bars(spec, study, results)) == [[75.0, 50.0, 100.0]]


def test_asked_for_categories_stand_in_the_asked_order(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = parsed("categories", {"categories": ["Male speech, man speaking", "Bell"], "background": False})
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    figure = drawn_bars(spec, study, results)
    assert heights(figure) == [[100.0, 50.0]]
    labels = [" ".join(label.get_text().split()) for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Male speech, man speaking", "Bell"]


def test_without_a_choice_the_most_frequent_categories_are_shown(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = parsed("categories", {"limit": 1, "background": False})
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    assert heights(drawn_bars(spec, study, results)) == [[50.0]]  # Bell: two segments


def test_an_unknown_category_is_an_error_with_a_suggestion(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = parsed("categories", {"categories": ["Belt"]})
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    with pytest.raises(
        ConfigError, match=r"categories: options.categories: no category 'Belt'; did you mean 'Bell'\?"
    ):
        drawn_bars(spec, study, results)


def test_missing_runs_are_named_below_the_bars(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = parsed("categories")
    avel = spec.experiments(study)["avel", "supervised"]
    write_run(avel, 0, ONE_CLIP)
    write_run(avel, 1, ONE_CLIP, status="failed", reason="cost $5 and $6")
    caption = next(text for text in texts(drawn_bars(spec, study, results)) if "Missing" in text)
    assert "Mean over 1 seed." in caption
    assert "Missing: AVEL: seed 1 failed: cost $5 and $6." in caption
    assert "Missing: AVIN: seed 0 no run yet (metrics.json is missing); seed 1 no run yet" in caption
