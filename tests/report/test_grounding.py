"""The groups of a clip's segments, and the similarities that a pretrained model finds."""

import numpy as np
import pytest

from avpipe.plan.section import ConfigError
from avpipe.report.grounding import matrix, mixed_clips

from .conftest import Toy, figure_of, grounding_table, texts

HALVES = [0] * 5 + [5] * 5
FIGURE_5 = [0, 0, 2, 0, 0, 5, 6, 7, 8, 9]


def test_the_clip_shown_has_half_of_its_pairs_in_one_group() -> None:
    # Shares of pairs of different segments in one group: all 1, none 0, halves 2 * 5 * 4 / 90.
    table = grounding_table(all=[0] * 10, none=list(range(10)), halves=HALVES)
    assert mixed_clips(table, 2) == ("halves", "all")


def test_a_matrix_has_segments_down_and_others_across() -> None:
    table = grounding_table(a=[0, 0, 2])
    table["audio_visual"] = table["segment"] * 10.0 + table["other"]
    assert matrix(table, "audio_visual").tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert matrix(table, "same_group").tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_each_group_has_a_line_and_every_row_its_matrices(toy_with_clips: Toy) -> None:
    spec = figure_of("grounding", {"clips": ["a"]})
    for row in (0, 1):
        toy_with_clips.write(spec, row, 0, grounding_table(a=FIGURE_5))
    figure = toy_with_clips.draw(spec)
    groups = figure.axes[2]
    (line,) = groups.lines
    assert list(line.get_xdata()) == [0.5, 1.5, 3.5, 4.5]
    assert [text.get_text() for text in groups.texts] == [str(n) for n in range(1, 11)]
    images = [axis.images[0].get_array() for axis in figure.axes[3:] if axis.images]
    truths = [image for image in images if set(np.unique(image)) == {0.0, 1.0}]
    assert len(truths) == 2
    assert all(np.array_equal(truth, np.equal.outer(FIGURE_5, FIGURE_5)) for truth in truths)
    assert {"Uni segment", "Cross segment", "audio with visual"} <= set(texts(figure))


def test_colours_show_the_sign_of_a_cosine_and_every_axis_says_what_it_counts(toy_with_clips: Toy) -> None:
    spec = figure_of("grounding", {"clips": ["a"]})
    toy_with_clips.write(spec, 0, 0, grounding_table(a=FIGURE_5).assign(audio_visual=-0.8))
    drawn = [axis for axis in toy_with_clips.draw(spec).axes[3:] if axis.images]
    groups, *cosines = (axis.images[0] for axis in drawn)
    assert groups.get_clim() == (0, 1)
    assert [image.get_clim() for image in cosines] == [(-1, 1)] * 3
    red, _, blue, _ = cosines[-1].to_rgba(-0.8)
    assert blue > red
    assert [axis.get_xlabel() for axis in drawn] == [
        "segment",
        *[f"{m} of segment" for m in ("audio", "visual", "visual")],
    ]
    assert all("segment" in axis.get_ylabel() for axis in drawn)


def test_a_missing_run_and_a_clip_without_predictions_are_named(toy_with_clips: Toy) -> None:
    spec = figure_of("grounding")
    toy_with_clips.write(spec, 0, 0, grounding_table(a=HALVES))
    assert any("Missing: Cross: seed 0 no run yet" in text for text in texts(toy_with_clips.draw(spec)))
    with pytest.raises(ConfigError, match=r"grounding: options.clips: 'b'"):
        toy_with_clips.draw(figure_of("grounding", {"clips": ["b"]}))
