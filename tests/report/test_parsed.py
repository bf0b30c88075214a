"""Audio and visual events over time: which clips, which lines, and what is hatched."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from avpipe.plan.section import ConfigError
from avpipe.report.parsed import read_lanes, typical_clips

from .conftest import Toy, figure_of, parsing_table, texts

NONE, ALL = "." * 10, "#" * 10
LABELS = {
    ("a", "audio", "Bell"): ("###.......", "..##......"),
    ("a", "visual", "Bell"): ("#.........", "#........."),
}


def test_a_typical_clip_has_different_audio_and_visual_events_and_average_correctness() -> None:
    table = parsing_table({
        ("audio only", "audio", "Bell"): (ALL, "#####....."),
        ("at once", "audio", "Bell"): (ALL, "#####....."), ("at once", "visual", "Bell"): (ALL, "#####....."),
        ("bad", "audio", "Bell"): (ALL, NONE), ("bad", "visual", "Bell"): ("#########.", NONE),
        ("middling", "audio", "Bell"): (ALL, "#####....."), ("middling", "visual", "Bell"): ("########..", "####......"),
        ("good", "audio", "Bell"): (ALL, ALL), ("good", "visual", "Bell"): ("########..", "########.."),
    })  # fmt: skip
    assert typical_clips(table, 1) == ("middling",)
    assert set(typical_clips(table, 3)) == {"bad", "middling", "good"}
    assert len(typical_clips(table, 9)) == 5


def test_lanes_are_the_true_or_predicted_categories_audio_first() -> None:
    han = parsing_table(
        {("a", "visual", "Bell"): ("##........", "#........."), ("b", "audio", "Bell"): (ALL, ALL)}
    )
    ma = parsing_table(
        {("a", "visual", "Bell"): ("##........", NONE), ("a", "audio", "Horn"): (NONE, "..#.......")}
    )
    lanes = read_lanes("a", {"HAN": han, "MA": ma})
    assert [(lane.modality, lane.category) for lane in lanes] == [("audio", "Horn"), ("visual", "Bell")]
    said = [{name: list(np.flatnonzero(marked)) for name, marked in lane.rows.items()} for lane in lanes]
    assert said == [{"Truth": [], "HAN": [], "MA": [2]}, {"Truth": [0, 1], "HAN": [0], "MA": []}]


def test_truth_is_above_predictions_and_wrong_predictions_are_hatched(toy_with_clips: Toy) -> None:
    spec = figure_of("parsed", {"clips": ["a"]})
    for row in (0, 1):
        toy_with_clips.write(spec, row, 0, parsing_table(LABELS))
    figure = toy_with_clips.draw(spec)
    frames, _, audio, visual = figure.axes
    assert len(frames.images) == 10
    bars = [c for c in audio.collections if isinstance(c, PolyCollection)]
    boxes = [(c.get_paths()[0].get_extents(), c.get_hatch()) for c in bars]
    wide = [(box.x0, box.y0 > 2, hatch) for box, hatch in boxes if box.width == 1]
    assert [place for place in wide if place[1]] == [(0, True, None), (1, True, None), (2, True, None)]
    assert sorted(wide[3:], key=str) == [(2, False, None)] * 2 + [(3, False, "////")] * 2
    assert {"audio Bell", "visual Bell", "Truth", "HAN", "MA", "predicted, but not true"} <= set(
        texts(figure)
    )
    assert visual.get_xlabel() == "seconds"


def test_a_clip_without_events_is_named(toy_with_clips: Toy) -> None:
    spec = figure_of("parsed", {"clips": ["mute"]})
    toy_with_clips.write(spec, 0, 0, parsing_table(LABELS))
    with pytest.raises(ConfigError, match=r"parsed: options.clips: 'mute'"):
        toy_with_clips.draw(spec)
