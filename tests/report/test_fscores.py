"""F-scores of the categories, worked by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.fscores import category_fscores, draw_fscores
from avpipe.report.spec import FScoresFigure, parse_figure
from avpipe.report.style import Heading

from .conftest import parsing_table

SPEECH = "Male speech, man speaking"


@pytest.fixture
def spec(figure_data: dict[str, Any]) -> FScoresFigure:
    rows = [{"row": "han", "method": "HAN", "model": "han"}, {"row": "ma", "method": "MA", "model": "ma"}]
    keys = {"kind": "fscores", "task": "parsing", "setting": "weakly-supervised", "rows": rows}
    parsed = parse_figure(figure_data | keys, "fscores")
    assert isinstance(parsed, FScoresFigure)
    return parsed


def test_f_is_over_all_segments_together() -> None:
    # Bell: in a 3 true, 2 of them found, 1 more said; in b 1 true, not found. 2 * 2 / (4 + 3).
    table = parsing_table(
        {
            ("a", "audio", "Bell"): ("###.......", ".###......"),
            ("b", "audio", "Bell"): ("#.........", ".........."),
        }
    )
    assert category_fscores(table, ("Bell",)) == pytest.approx([400 / 7])


def test_a_category_that_is_never_true_has_no_score_though_it_is_said() -> None:
    table = parsing_table(
        {
            ("a", "audio", "Bell"): ("..........", "#........."),
            ("a", "audio", SPEECH): ("#.........", ".........."),
        }
    )
    bell, speech = category_fscores(table, ("Bell", SPEECH))
    assert np.isnan(bell)
    assert speech == 0


def test_bars_are_means_over_seeds_audio_left_visual_right(
    spec: FScoresFigure, study: Study, results: Path, write_predictions: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    (han, ma) = spec.experiments(study).values()
    whole, half = ("##########", "##########"), ("##########", "#####.....")  # F 1 and 2 * 5 / 15
    write_predictions(han, 0, parsing_table({("a", "audio", "Bell"): whole, ("a", "visual", SPEECH): half}))
    write_predictions(han, 1, parsing_table({("a", "audio", "Bell"): half, ("a", "visual", SPEECH): half}))
    write_predictions(ma, 0, parsing_table({("a", "audio", "Bell"): half, ("a", "visual", SPEECH): whole}))
    figure = draw_fscores(spec, study, results, Heading("Title"))
    heights = [
        [[bar.get_height() for bar in bars] for bars in axis.containers if hasattr(bars, "patches")]
        for axis in figure.axes
    ]
    third = 200 / 3
    expected = [[[(100 + third) / 2, np.nan], [third, np.nan]], [[np.nan, third], [np.nan, 100]]]
    np.testing.assert_allclose(heights, expected)
    assert any("Missing: MA: seed 1 no run yet" in text for text in texts(figure))
