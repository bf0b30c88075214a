"""A timeline shows frames, sound, truth and predictions, and marks what is wrong without colour alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from avpipe.report.style import BACKGROUND, COLOURS, INK
from avpipe.report.timeline import Timeline, _readable, draw_timeline


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
    said = texts(draw_timeline(timeline(), "Title", "Take care."))
    assert {"Title", "Take care.", "Frames", "Sound", "Truth", "Bell", "Dog", "background"} <= set(said)
    assert "AVEL 75 % right" in said  # three of four
    assert "seed 0 failed: out of memory" in said


def test_exactly_the_wrong_segments_are_hatched() -> None:
    ((start, end),) = hatched(draw_timeline(timeline(), "Title", None))
    assert 2 < start < end < 3


def test_a_clip_without_video_or_sound_says_so(texts: Callable[[Figure], list[str]]) -> None:
    said = texts(draw_timeline(timeline(frames="no video", waveform="no audio"), "Title", None))
    assert {"no video", "no audio"} <= set(said)


def test_a_silent_clip_and_a_strange_shape_are_drawn() -> None:
    draw_timeline(
        timeline(waveform=np.zeros(0, np.float32), aspect=0.3), "Title", None
    ).draw_without_rendering()


@pytest.mark.parametrize("colour", [*COLOURS, BACKGROUND])
def test_names_can_be_read_on_every_colour(colour: str) -> None:
    """WCAG's contrast ratio, 3 at least (large text and graphics)."""

    def luminance(name: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(colour), luminance(_readable(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3
    assert _readable(colour) in ("white", INK)
