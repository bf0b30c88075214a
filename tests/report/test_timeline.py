"""A timeline shows frames, sound, truth and predictions, and marks what is wrong without colour alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from avpipe.report.timeline import Timeline, _readable, draw_timelines
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from avpipe.report.style import BACKGROUND, COLOURS, INK, Heading

HEADING = Heading("Title", "Take care.")


def timeline(**changes: Any) -> Timeline:
    parts: dict[str, Any] = {
        "clip": "a", "categories": ("Bell", "Dog"), "truth": np.array([2, 0, 0, 2]),
        "predictions": {"AVEL": np.array([2, 0, 1, 2]), "AVIN": "seed 0 failed: out of memory"},
        "frames": np.zeros((4, 32, 32, 3), np.uint8), "waveform": np.zeros(64000, np.float32),
    }  # fmt: skip
    return Timeline(**parts | changes)


def hatched(figure: Figure) -> list[tuple[float, float]]:
    """Start and end in seconds of every hatched box."""
    boxes = [
        c for axis in figure.axes for c in axis.collections if isinstance(c, PolyCollection) and c.get_hatch()
    ]
    return [
        (path.vertices[:, 0].min(), path.vertices[:, 0].max()) for box in boxes for path in box.get_paths()
    ]


def test_names_of_events_and_methods_are_written(texts: Callable[[Figure], list[str]]) -> None:
    said = texts(draw_timelines([timeline()], HEADING))
    assert {"Title", "Take care.", "Frames", "Sound", "Truth", "Bell", "Dog", "background"} <= set(said)
    assert "AVEL 75 % right" in said  # three of four
    assert "seed 0 failed: out of memory" in said


def test_exactly_the_wrong_segments_are_hatched() -> None:
    ((start, end),) = hatched(draw_timelines([timeline()], HEADING))
    assert 2 < start < end < 3


def test_a_clip_without_video_or_sound_says_so(texts: Callable[[Figure], list[str]]) -> None:
    said = texts(draw_timelines([timeline(frames="no video", waveform="no audio")], HEADING))
    assert {"no video", "no audio"} <= set(said)


def test_a_silent_clip_and_a_strange_shape_are_drawn() -> None:
    strange = timeline(waveform=np.zeros(0, np.float32), aspect=0.3)
    draw_timelines([strange], HEADING).draw_without_rendering()


def test_clips_stand_one_below_the_other_and_a_category_has_one_colour_in_all(
    texts: Callable[[Figure], list[str]],
) -> None:
    dog_first = timeline(clip="b", truth=np.array([1, 1, 2, 2]))
    figure = draw_timelines([timeline(), dog_first], HEADING)
    assert {"Clip a", "Clip b"} <= set(texts(figure))
    colours: dict[str, set[Any]] = {}
    for axis in figure.axes:
        for text in axis.texts:
            if text.get_bbox_patch() is not None:
                colours.setdefault(text.get_text(), set()).add(text.get_bbox_patch().get_facecolor())
    assert len(colours["Bell"]) == len(colours["Dog"]) == 1
    assert colours["Bell"] != colours["Dog"]


@pytest.mark.parametrize("colour", [*COLOURS, BACKGROUND])
def test_names_can_be_read_on_every_colour(colour: str) -> None:
    """WCAG's contrast ratio, 3 at least (large text and graphics)."""

    def luminance(name: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(colour), luminance(_readable(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3
    assert _readable(colour) in ("white", INK)
