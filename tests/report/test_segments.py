"""Which clips are shown, whose predictions, and how wrong segments are marked without relying on colour."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.report.clips import ClipMedia
from avpipe.report.segments import Timeline, _readable, draw_timelines, read_timelines, typical_clips
from avpipe.report.style import BACKGROUND as GREY
from avpipe.report.style import COLOURS, INK, Heading

from .conftest import BACKGROUND, CATEGORIES, Toy, figure_of, localized, texts

NAMES = (*CATEGORIES, "background")
ONE_CLIP = ([0, 0, 1, BACKGROUND], [0, 1, 1, BACKGROUND])


def predictions(**clips: tuple[str, str]) -> pd.DataFrame:
    """clip -> truth and prediction, a letter a segment: e and f events, b background."""
    return localized(
        **{clip: (["efb".index(c) for c in t], ["efb".index(c) for c in p]) for clip, (t, p) in clips.items()}
    )


@pytest.mark.parametrize(
    ("clips", "count", "chosen"),
    [
        (  # "whole" is 50 % right, but its event fills the clip; the others' mean is 50 %
            {"whole": ("eeee", "eebb"), "right": ("eebb", "eebb"), "half": ("eebb", "ebeb"), "wrong": ("eebb", "bbee")},
            1, ("half",),
        ),
        ({"z": ("eb", "eb"), "y": ("eb", "eb")}, 1, ("y",)),  # equal: the first name
        ({"a": ("ee", "ee")}, 1, ("a",)),  # every event fills its clip
        (  # a to c are 100 % right, d of another category 0 %, e's event fills the clip
            {"a": ("eb", "eb"), "b": ("eb", "eb"), "c": ("eb", "eb"), "d": ("fb", "bf"), "e": ("ff", "ff")},
            9, ("a", "d", "b", "c", "e"),
        ),
    ],
)  # fmt: skip
def test_typical_clips_have_event_and_background_average_accuracy_and_different_categories(
    clips: dict[str, tuple[str, str]], count: int, chosen: tuple[str, ...]
) -> None:
    assert typical_clips(predictions(**clips), BACKGROUND, count) == chosen


def test_a_timeline_shows_the_first_seed_that_each_row_has(toy_with_clips: Toy) -> None:
    spec = figure_of("segments")
    toy_with_clips.write(spec, 0, 1, localized(a=ONE_CLIP))
    (timeline,) = read_timelines(spec, toy_with_clips.study, toy_with_clips.results)
    assert timeline.clip == "a"
    assert timeline.truth.tolist() == [NAMES[label] for label in ONE_CLIP[0]]
    assert list(timeline.predictions) == ["AVEL, seed 1", "AVIN"]
    assert list(timeline.predictions["AVEL, seed 1"]) == [NAMES[label] for label in ONE_CLIP[1]]
    assert "no run yet" in timeline.predictions["AVIN"]


def test_clips_that_are_asked_for_keep_their_order(toy_with_clips: Toy) -> None:
    spec = figure_of("segments", {"clips": ["mute", "a"]})
    toy_with_clips.write(spec, 0, 0, localized(a=ONE_CLIP, mute=([2, 1], [2, 2])))
    first, second = read_timelines(spec, toy_with_clips.study, toy_with_clips.results)
    assert (first.clip, second.clip) == ("mute", "a")
    assert first.truth.tolist() == [NAMES[2], NAMES[1]]
    assert first.media.waveform == "no audio"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clips": ["b"]}, "segments: options.clips: 'b'"), ({"seed": 1}, "segments: options.seed: .* seed 1")],
)
def test_a_clip_or_seed_without_predictions_is_an_error(
    options: dict[str, Any], message: str, toy_with_clips: Toy
) -> None:
    spec = figure_of("segments", options)
    toy_with_clips.write(spec, 0, 0, localized(a=ONE_CLIP))
    with pytest.raises(ConfigError, match=message):
        toy_with_clips.draw(spec)


def timeline(media: dict[str, Any] | None = None, **changes: Any) -> Timeline:
    silent = {"frames": np.zeros((4, 32, 32, 3), np.uint8), "waveform": np.zeros(64000, np.float32)}
    parts: dict[str, Any] = {
        "clip": "a", "truth": np.array(["background", "Bell", "Bell", "background"]),
        "predictions": {"AVEL": np.array(["background", "Bell", "Dog", "background"]), "AVIN": "seed 0 failed: out of memory"},
        "media": ClipMedia(**silent | (media or {})),
    }  # fmt: skip
    return Timeline(**parts | changes)


def drawn(*timelines: Timeline) -> Figure:
    return draw_timelines(timelines, Heading("Title", "Take care."), "Caption.")


def test_names_are_written_and_exactly_the_wrong_segments_are_hatched() -> None:
    figure = drawn(timeline())
    said = set(texts(figure))
    assert {
        "Title",
        "Take care.",
        "Caption.",
        "Frames",
        "Audio",
        "Truth",
        "Bell",
        "Dog",
        "background",
    } <= said
    assert {"AVEL 75 % right", "seed 0 failed: out of memory"} <= said  # three of four segments
    boxes = [c for a in figure.axes for c in a.collections if isinstance(c, PolyCollection) and c.get_hatch()]
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["wrong"]
    assert legend.get_patches()[0].get_hatch() == boxes[0].get_hatch()
    ((start, end),) = [
        (p.vertices[:, 0].min(), p.vertices[:, 0].max()) for box in boxes for p in box.get_paths()
    ]
    assert 2 < start < end < 3


def test_a_clip_without_video_or_audio_says_so() -> None:
    assert {"no video", "no audio"} <= set(
        texts(drawn(timeline({"frames": "no video", "waveform": "no audio"})))
    )


def test_an_empty_waveform_and_a_narrow_picture_are_drawn() -> None:
    drawn(timeline({"waveform": np.zeros(0, np.float32), "aspect": 0.3})).draw_without_rendering()


def test_a_category_has_one_colour_in_all_clips() -> None:
    figure = drawn(timeline(), timeline(clip="b", truth=np.array(["Dog", "Dog", "background", "background"])))
    assert {"Clip a", "Clip b"} <= set(texts(figure))
    colours: dict[str, set[Any]] = {}
    for text in (text for axis in figure.axes for text in axis.texts):
        if text.get_bbox_patch() is not None:
            colours.setdefault(text.get_text(), set()).add(text.get_bbox_patch().get_facecolor())
    assert len(colours["Bell"]) == len(colours["Dog"]) == 1
    assert colours["Bell"] != colours["Dog"]


@pytest.mark.parametrize("fill", [*COLOURS, GREY])
def test_names_can_be_read_on_every_colour(fill: str) -> None:
    """WCAG's contrast ratio, 3 at least (large text and graphics)."""

    def luminance(name: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light, dark = sorted((luminance(fill), luminance(_readable(fill))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3
    assert _readable(fill) in ("white", INK)
