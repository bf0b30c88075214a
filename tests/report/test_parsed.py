"""Audio and visual events over time: which clips, which lines, and what is hatched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.figures import draw_figure
from avpipe.report.parsed import draw_parsed, read_lanes, typical_clips
from avpipe.report.spec import ParsedFigure, parse_figure
from avpipe.report.style import Heading

from .conftest import parsing_table

NONE, ALL = "." * 10, "#" * 10


@pytest.fixture
def spec(figure_data: dict[str, Any]) -> Callable[..., ParsedFigure]:
    def make(**options: Any) -> ParsedFigure:
        rows = [{"row": "han", "method": "HAN", "model": "han"}, {"row": "ma", "method": "MA", "model": "ma"}]
        keys = {"kind": "parsed", "task": "parsing", "setting": "weakly-supervised", "rows": rows}
        parsed = parse_figure(figure_data | keys | {"options": options}, "parsed")
        assert isinstance(parsed, ParsedFigure)
        return parsed

    return make


def test_a_typical_clip_has_events_that_are_heard_and_seen_at_other_times_and_is_parsed_as_well_as_most() -> (
    None
):
    table = parsing_table({
        ("heard only", "audio", "Bell"): (ALL, "#####....."),
        ("at once", "audio", "Bell"): (ALL, "#####....."), ("at once", "visual", "Bell"): (ALL, "#####....."),
        ("bad", "audio", "Bell"): (ALL, NONE), ("bad", "visual", "Bell"): ("#########.", NONE),
        ("middling", "audio", "Bell"): (ALL, "#####....."), ("middling", "visual", "Bell"): ("########..", "####......"),
        ("good", "audio", "Bell"): (ALL, ALL), ("good", "visual", "Bell"): ("########..", "########.."),
    })  # fmt: skip
    assert typical_clips(table, 1) == ("middling",)
    assert set(typical_clips(table, 3)) == {"bad", "middling", "good"}
    assert len(typical_clips(table, 9)) == 5


def test_lanes_are_what_is_true_or_said_audio_first() -> None:
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


def write_both(spec: ParsedFigure, study: Study, write_predictions: Callable[..., Path]) -> None:
    labels = {
        ("a", "audio", "Bell"): ("###.......", "..##......"),
        ("a", "visual", "Bell"): ("#.........", "#........."),
    }
    for experiment in spec.experiments(study).values():
        write_predictions(experiment, 0, parsing_table(labels))


def test_truth_stands_above_predictions_and_what_is_wrong_is_hatched(
    spec: Callable[..., ParsedFigure], study: Study, with_clip: Path, write_predictions: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    write_both(spec(), study, write_predictions)
    figure = draw_parsed(spec(clips=["a"]), study, with_clip, Heading("Title"))
    frames, _, audio, visual = figure.axes
    assert len(frames.images) == 10
    bars = [c for c in audio.collections if isinstance(c, PolyCollection)]
    boxes = [(c.get_paths()[0].get_extents(), c.get_hatch()) for c in bars]
    wide = [(box.x0, box.y0 > 2, hatch) for box, hatch in boxes if box.width == 1]
    assert [place for place in wide if place[1]] == [(0, True, None), (1, True, None), (2, True, None)]
    assert sorted(wide[3:], key=str) == [(2, False, None)] * 2 + [(3, False, "////")] * 2
    assert {"audio Bell", "visual Bell", "Truth", "HAN", "MA"} <= set(texts(figure))
    assert visual.get_xlabel() == "seconds"


def test_a_clip_without_events_is_named(
    spec: Callable[..., ParsedFigure], study: Study, with_clip: Path, write_predictions: Callable[..., Path]
) -> None:
    write_both(spec(), study, write_predictions)
    with pytest.raises(ConfigError, match="'mute' is no test clip with events"):
        draw_parsed(spec(clips=["mute"]), study, with_clip, Heading("Title"))


def test_the_same_bytes_come_out_every_time(
    spec: Callable[..., ParsedFigure], study: Study, with_clip: Path, write_predictions: Callable[..., Path]
) -> None:
    write_both(spec(), study, write_predictions)
    written = []
    for _ in range(2):
        draw_figure("p", spec(), study, with_clip)
        written.append([(with_clip / "figures" / f"p.{kind}").read_bytes() for kind in ("svg", "png")])
    assert written[0] == written[1]
