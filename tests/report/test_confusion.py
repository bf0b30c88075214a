"""Confusion matrices are means over seeds of shares of the true class, with every class numbered and named."""

import numpy as np
import pytest

from avpipe.report.confusion import mean_confusion
from avpipe.report.predictions import RowPredictions

from .conftest import BACKGROUND, BELL, SPEECH, Toy, figure_of, localized, texts


def test_a_line_is_the_mean_over_seeds_of_a_true_classs_predictions() -> None:
    truth = [BELL, BELL, BELL, BELL, BACKGROUND]
    first = localized(a=(truth, [BELL, BELL, BELL, SPEECH, BACKGROUND]))
    second = localized(a=(truth, [BELL, BACKGROUND, BACKGROUND, BACKGROUND, BELL]))
    shares = mean_confusion(RowPredictions("AVEL", {0: first, 1: second}, ()), 3)
    # of four bells 3, 1, 0 and then 1, 0, 3; of one background 0, 0, 1 and then 1, 0, 0; no speech at all
    np.testing.assert_allclose(shares, [[50.0, 12.5, 37.5], [np.nan] * 3, [50.0, 0.0, 50.0]])


def test_each_row_has_its_matrix_and_every_class_its_number_and_name(toy: Toy) -> None:
    spec = figure_of("confusion")
    table = localized(a=([BELL, BELL, SPEECH, BACKGROUND], [BELL, SPEECH, SPEECH, BACKGROUND]))
    for row in (0, 1):
        toy.write(spec, row, 0, table)
    figure = toy.draw(spec)
    said = texts(figure)
    for method in ("AVEL", "AVIN"):
        assert f"{method}: 75.0 % of segments right, 0.0 % of event segments taken for background" in said
    for number, name in enumerate(["Bell", "Male speech, man speaking", "background"]):
        assert said[said.index(f"{name} +0") - 1] == str(number)
    for axis in figure.axes[:2]:
        assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "2"]
        assert {(*text.get_position(), text.get_text()) for text in axis.texts} == {
            (BELL, BELL, "50"), (SPEECH, BELL, "50"), (SPEECH, SPEECH, "100"), (BACKGROUND, BACKGROUND, "100"),
        }  # fmt: skip
    assert any("Mean over 1 seed." in text and "Missing: AVEL: seed 1 no run yet" in text for text in said)


def test_a_class_has_its_gain_and_each_method_its_events_taken_for_background(toy: Toy) -> None:
    spec, truth = figure_of("confusion"), [BELL, BELL, BELL, BELL, SPEECH, BACKGROUND]
    toy.write(spec, 0, 0, localized(a=(truth, [BELL, BACKGROUND, BACKGROUND, SPEECH, SPEECH, BACKGROUND])))
    toy.write(spec, 1, 0, localized(a=(truth, [BELL, BELL, BELL, BACKGROUND, BELL, BACKGROUND])))
    said = texts(toy.draw(spec))
    assert {"Bell +50", "Male speech, man speaking -100", "background +0"} <= set(said)
    assert any("40.0 % of event segments taken for background" in text for text in said)
    assert any("20.0 % of event segments taken for background" in text for text in said)


@pytest.mark.parametrize(("classes", "numbered"), [(13, True), (29, False)])
def test_shares_are_written_if_there_is_room(classes: int, numbered: bool, toy: Toy) -> None:
    rows = [f"{index},category {index}" for index in range(classes - 1)]
    (toy.results / "categories.csv").write_text("\n".join(["index,category", *rows, ""]))
    spec = figure_of("confusion")
    toy.write(spec, 0, 0, localized(a=([0, classes - 1], [0, 0])))
    assert bool(toy.draw(spec).axes[0].texts) is numbered
