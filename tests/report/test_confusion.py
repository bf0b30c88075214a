"""Confusion matrices are means over seeds of shares of the true class, with every class numbered and named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from avpipe.plan.study import Study
from avpipe.report.confusion import draw_confusion, mean_confusion
from avpipe.report.predictions import Predictions
from avpipe.report.spec import ConfusionFigure, FigureSpec
from avpipe.report.style import Heading

BELL, SPEECH, NOTHING = 0, 1, 2


def drawn(spec: FigureSpec, study: Study, results: Path) -> Figure:
    assert isinstance(spec, ConfusionFigure)
    return draw_confusion(spec, study, results, Heading("Title"))


def test_a_line_is_the_mean_over_seeds_of_what_a_class_is_taken_for() -> None:
    truth = [BELL, BELL, BELL, BELL, NOTHING]
    first = pd.DataFrame({"truth": truth, "prediction": [BELL, BELL, BELL, SPEECH, NOTHING]})
    second = pd.DataFrame({"truth": truth, "prediction": [BELL, NOTHING, NOTHING, NOTHING, BELL]})
    shares = mean_confusion(Predictions("AVEL", {0: first, 1: second}, ()), 3)
    # of four bells 3, 1, 0 and then 1, 0, 3; of one background 0, 0, 1 and then 1, 0, 0; no speech at all
    expected = [[50.0, 12.5, 37.5], [np.nan] * 3, [50.0, 0.0, 50.0]]
    np.testing.assert_allclose(shares, expected)


def test_each_row_has_its_matrix_and_every_class_its_number_and_name(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = parsed("confusion")
    for experiment in spec.experiments(study).values():
        write_run(experiment, 0, {"a": ([BELL, BELL, SPEECH, NOTHING], [BELL, SPEECH, SPEECH, NOTHING])})
    figure = drawn(spec, study, results)
    said = texts(figure)
    assert {"AVEL: 75.0 % of segments right", "AVIN: 75.0 % of segments right"} <= set(said)
    for number, name in enumerate(["Bell", "Male speech, man speaking", "background"]):
        assert said[said.index(name) - 1] == str(number)
    for axis in figure.axes[:2]:
        assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "2"]
        assert {(*text.get_position(), text.get_text()) for text in axis.texts} == {
            (BELL, BELL, "50"), (SPEECH, BELL, "50"), (SPEECH, SPEECH, "100"), (NOTHING, NOTHING, "100"),
        }  # fmt: skip


@pytest.mark.parametrize(("classes", "numbered"), [(13, True), (29, False)])
def test_shares_are_written_where_there_is_room(
    classes: int, numbered: bool, parsed: Callable[..., FigureSpec], study: Study, results: Path,
    write_run: Callable[..., Path],
) -> None:  # fmt: skip
    rows = [f"{index},category {index}" for index in range(classes - 1)]
    (results / "categories.csv").write_text("\n".join(["index,category", *rows, ""]))
    spec = parsed("confusion")
    write_run(spec.experiments(study)["avel", "supervised"], 0, {"a": ([0, classes - 1], [0, 0])})
    figure = drawn(spec, study, results)
    assert bool(figure.axes[0].texts) is numbered


def test_what_is_missing_is_named(
    parsed: Callable[..., FigureSpec], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = parsed("confusion")
    write_run(spec.experiments(study)["avel", "supervised"], 1, {"a": ([BELL], [BELL])})
    said = " ".join(texts(drawn(spec, study, results)))
    assert "Mean over 1 seed." in said
    assert "Missing: AVEL: seed 0 no run yet" in said
    assert "Missing: AVIN: seed 0 no run yet" in said
