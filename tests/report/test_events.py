"""Clips are counted once for a category with an audio event, a visual event, or both in one second."""

from typing import Any

import pandas as pd
import pytest

from avpipe.plan.section import ConfigError
from avpipe.report.events import count_events
from avpipe.report.predictions import NothingToDraw

from .conftest import ROWS, Toy, bar_heights, figure_of, texts

SPEECH = "Male speech, man speaking"


def spec(**keys: Any) -> Any:
    return figure_of("events", **{"rows": []} | keys)


@pytest.fixture
def toy_with_events(toy: Toy) -> Toy:
    """Two test clips, one training clip."""
    events = [
        ("a", "audio", "Bell", 0, 3), ("a", "audio", "Bell", 5, 7), ("a", "visual", "Bell", 2, 4),
        ("a", "audio", SPEECH, 0, 5), ("a", "visual", SPEECH, 5, 10),
        ("b", "audio", SPEECH, 0, 10), ("c", "visual", "Bell", 0, 10), ("c", "video", SPEECH, None, None),
    ]  # fmt: skip
    table = pd.DataFrame(events, columns=["clip", "modality", "category", "onset", "offset"])
    table.astype({"onset": float, "offset": float}).to_parquet(toy.results / "events.parquet")
    clips = pd.DataFrame({"clip": ["a", "b", "c"], "split": ["test", "test", "train"]})
    clips.to_parquet(toy.results / "manifest.parquet")
    return toy


def test_a_clip_counts_once_and_audio_visual_needs_the_same_second(toy_with_events: Toy) -> None:
    # Bell: twice audio and once visual in a, both in second 2. Speech: audio in a and b, visual in a, never both.
    counts, clips = count_events(toy_with_events.results, ("test",))
    assert (counts.tolist(), clips) == ([[1, 1, 1], [2, 1, 0]], 2)
    counts, clips = count_events(toy_with_events.results, ("train", "test"))
    assert (counts.tolist(), clips) == ([[1, 2, 1], [2, 1, 0]], 3)


def test_the_category_with_most_audio_events_is_first(toy_with_events: Toy) -> None:
    figure = toy_with_events.draw(spec())
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [SPEECH, "Bell"]
    assert bar_heights(figure) == [[2, 1], [1, 1], [0, 1]]
    assert any("2 clips (test), together 3 audio, 2 visual, 1 audio-visual" in text for text in texts(figure))


def test_a_split_without_such_events_is_named(toy_with_events: Toy) -> None:
    with pytest.raises(NothingToDraw, match="splits val"):
        toy_with_events.draw(spec(options={"splits": ["val"]}))


def test_the_figure_needs_no_run_and_has_no_rows(toy: Toy) -> None:
    assert spec().experiments(toy.study) == {}
    with pytest.raises(ConfigError, match="rows"):
        spec(rows=ROWS["parsing"])
