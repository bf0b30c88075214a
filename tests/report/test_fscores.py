"""F-scores of the categories, worked by hand."""

import numpy as np
import pytest

from avpipe.report.fscores import category_fscores

from .conftest import Toy, bar_heights, figure_of, parsing_table, texts

SPEECH = "Male speech, man speaking"
NOTHING = "." * 10


def test_f_is_over_all_segments_together() -> None:
    # Bell: in a 3 true, 2 of them found, 1 more predicted; in b 1 true, not found. 2 * 2 / (4 + 3).
    labels = {
        ("a", "audio", "Bell"): ("###.......", ".###......"),
        ("b", "audio", "Bell"): ("#.........", NOTHING),
    }
    assert category_fscores(parsing_table(labels), ("Bell",)) == pytest.approx([400 / 7])


def test_a_category_that_is_never_true_has_no_score_even_if_it_is_predicted() -> None:
    labels = {
        ("a", "audio", "Bell"): (NOTHING, "#........."),
        ("a", "audio", SPEECH): ("#.........", NOTHING),
    }
    bell, speech = category_fscores(parsing_table(labels), ("Bell", SPEECH))
    assert np.isnan(bell)
    assert speech == 0


def test_bars_are_means_over_seeds_audio_left_visual_right(toy: Toy) -> None:
    spec = figure_of("fscores")
    whole, half = ("##########", "##########"), ("##########", "#####.....")  # F 1 and 2 * 5 / 15
    for row, seed, audio, visual in ((0, 0, whole, half), (0, 1, half, half), (1, 0, half, whole)):
        table = parsing_table({("a", "audio", "Bell"): audio, ("a", "visual", SPEECH): visual})
        toy.write(spec, row, seed, table)
    figure = toy.draw(spec)
    third = 200 / 3
    np.testing.assert_allclose(bar_heights(figure, 0), [[(100 + third) / 2, np.nan], [third, np.nan]])
    np.testing.assert_allclose(bar_heights(figure, 1), [[np.nan, third], [np.nan, 100]])
    assert any("Missing: MA: seed 1 no run yet" in text for text in texts(figure))
