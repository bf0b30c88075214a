"""Clips are counted once for a category that is heard, seen, or both in one second."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from avpipe.plan.section import ConfigError
from avpipe.plan.study import Study
from avpipe.report.events import count_events, draw_events
from avpipe.report.predictions import NothingToDraw
from avpipe.report.spec import EventsFigure, parse_figure
from avpipe.report.style import Heading

SPEECH = "Male speech, man speaking"
FIGURE = {"kind": "events", "title": "Events", "paper": "Nobody, 2020", "printed": "Figure 1"}


@pytest.fixture
def with_events(results: Path) -> Path:
    """Two test clips, one of training."""
    events = [
        ("a", "audio", "Bell", 0, 3), ("a", "audio", "Bell", 5, 7), ("a", "visual", "Bell", 2, 4),
        ("a", "audio", SPEECH, 0, 5), ("a", "visual", SPEECH, 5, 10),
        ("b", "audio", SPEECH, 0, 10), ("c", "visual", "Bell", 0, 10), ("c", "video", SPEECH, None, None),
    ]  # fmt: skip
    table = pd.DataFrame(events, columns=["clip", "modality", "category", "onset", "offset"])
    table.astype({"onset": float, "offset": float}).to_parquet(results / "events.parquet")
    clips = pd.DataFrame({"clip": ["a", "b", "c"], "split": ["test", "test", "train"]})
    clips.to_parquet(results / "manifest.parquet")
    return results


def spec(**options) -> EventsFigure:
    parsed = parse_figure(FIGURE | {"options": options}, "events")
    assert isinstance(parsed, EventsFigure)
    return parsed


def test_a_clip_counts_once_and_audio_visual_needs_the_same_second(with_events: Path) -> None:
    # Bell: heard twice and seen in a, together in second 2. Speech: heard in a and b, seen in a, never together.
    counts, clips = count_events(with_events, ("test",))
    assert counts.tolist() == [[1, 1, 1], [2, 1, 0]]
    assert clips == 2
    counts, clips = count_events(with_events, ("train", "test"))
    assert counts.tolist() == [[1, 2, 1], [2, 1, 0]]
    assert clips == 3


def test_what_is_heard_most_stands_first(
    with_events: Path, study: Study, texts: Callable[[Figure], list[str]]
) -> None:
    figure = draw_events(spec(), study, with_events, Heading("Title"))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [SPEECH, "Bell"]
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert heights == [[2, 1], [1, 1], [0, 1]]
    assert any("2 clips (test), together 3 audio, 2 visual, 1 audio-visual" in text for text in texts(figure))


def test_a_split_without_such_events_is_said(with_events: Path, study: Study) -> None:
    with pytest.raises(NothingToDraw, match="no clip of the splits val has audio or visual events"):
        draw_events(spec(splits=["val"]), study, with_events, Heading("Title"))


def test_it_needs_no_run_and_has_no_rows(study: Study) -> None:
    assert spec().experiments(study) == {}
    with pytest.raises(ConfigError, match="rows"):
        parse_figure(FIGURE | {"rows": [{"row": "han", "method": "HAN", "model": "han"}]}, "events")
