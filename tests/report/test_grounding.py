"""The groups of a clip, and the similarities that a pretrained model finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.figures import draw_figure
from avpipe.report.grounding import draw_grounding, matrix, mixed_clips
from avpipe.report.spec import GroundingFigure, parse_figure
from avpipe.report.style import Heading

from .conftest import grounding_table

HALVES = [0] * 5 + [5] * 5
FIGURE_5 = [0, 0, 2, 0, 0, 5, 6, 7, 8, 9]


@pytest.fixture
def spec(figure_data: dict[str, Any]) -> Callable[..., GroundingFigure]:
    def make(**options: Any) -> GroundingFigure:
        rows = [
            {
                "row": objective,
                "method": objective.capitalize(),
                "model": "avg",
                "options": {"objective": objective},
            }
            for objective in ("uni", "cross")
        ]
        keys = {"kind": "grounding", "task": "pretraining", "setting": "self-supervised", "rows": rows}
        parsed = parse_figure(figure_data | keys | {"options": options}, "grounding")
        assert isinstance(parsed, GroundingFigure)
        return parsed

    return make


def test_the_clip_shown_has_half_of_its_pairs_in_one_group() -> None:
    # Shares of pairs of different segments in one group: all 1, none 0, halves 2 * 5 * 4 / 90.
    table = grounding_table({"all": [0] * 10, "none": list(range(10)), "halves": HALVES})
    assert mixed_clips(table, 2) == ("halves", "all")


def test_a_matrix_has_segments_down_and_others_across() -> None:
    table = grounding_table({"a": [0, 0, 2]})
    table["audio_visual"] = table["segment"] * 10.0 + table["other"]
    assert matrix(table, "audio_visual").tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert matrix(table, "same_group").tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_groups_have_lines_of_their_own_and_every_row_its_matrices(
    spec: Callable[..., GroundingFigure], study: Study, with_clip: Path, write_predictions: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    figure_spec = spec(clips=["a"])
    for experiment in figure_spec.experiments(study).values():
        write_predictions(experiment, 0, grounding_table({"a": FIGURE_5}))
    figure = draw_grounding(figure_spec, study, with_clip, Heading("Title"))
    groups = figure.axes[2]
    (line,) = groups.lines
    assert list(line.get_xdata()) == [0.5, 1.5, 3.5, 4.5]
    assert [text.get_text() for text in groups.texts] == [str(n) for n in range(1, 11)]
    images = [axis.images[0].get_array() for axis in figure.axes[3:] if axis.images]
    same = np.equal.outer(FIGURE_5, FIGURE_5)
    truths = [image for image in images if set(np.unique(image)) == {0.0, 1.0}]
    assert len(truths) == 2
    assert all(np.array_equal(truth, same) for truth in truths)
    assert {"Uni", "Cross", "sound with picture"} <= set(texts(figure))


def test_a_clip_without_predictions_and_a_run_that_is_missing_are_named(
    spec: Callable[..., GroundingFigure], study: Study, with_clip: Path, write_predictions: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    uni = spec().experiments(study)["uni", "self-supervised"]
    write_predictions(uni, 0, grounding_table({"a": HALVES}))
    figure = draw_grounding(spec(), study, with_clip, Heading("Title"))
    assert any("Missing: Cross: seed 0 no run yet" in text for text in texts(figure))
    with pytest.raises(ConfigError, match="'b' is no test clip with predictions"):
        draw_grounding(spec(clips=["b"]), study, with_clip, Heading("Title"))


def test_the_same_bytes_come_out_every_time(
    spec: Callable[..., GroundingFigure],
    study: Study,
    with_clip: Path,
    write_predictions: Callable[..., Path],
) -> None:
    for experiment in spec().experiments(study).values():
        write_predictions(experiment, 0, grounding_table({"a": HALVES}))
    written = []
    for _ in range(2):
        draw_figure("g", spec(), study, with_clip)
        written.append([(with_clip / "figures" / f"g.{kind}").read_bytes() for kind in ("svg", "png")])
    assert written[0] == written[1]
