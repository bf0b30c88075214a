"""Which clips are shown, and where what is seen, heard and predicted in them comes from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from avpipe.report.timeline import Timeline

from avpipe.config.section import ConfigError
from avpipe.config.study import Study
from avpipe.report.clips import read_clip, read_timelines, typical_clips
from avpipe.report.spec import FigureSpec, SegmentsFigure

from .conftest import BACKGROUND, SHADES

ONE_CLIP = {"a": ([0, 0, 1, BACKGROUND], [0, 1, 1, BACKGROUND])}


def predictions(**clips: tuple[str, str]) -> pd.DataFrame:
    """clip -> truth and prediction, a letter a segment: e and f events, b background."""
    rows = [
        (clip, segment, "efb".index(t), "efb".index(p))
        for clip, (truth, prediction) in clips.items()
        for segment, (t, p) in enumerate(zip(truth, prediction, strict=True))
    ]
    return pd.DataFrame(rows, columns=["clip", "segment", "truth", "prediction"])


def test_the_typical_clip_has_event_and_background_and_average_accuracy() -> None:
    table = predictions(
        whole=("eeee", "eebb"),  # 50 % right, but the event fills the clip
        all_right=("eebb", "eebb"),  # 100 %
        half=("eebb", "ebeb"),  # 50 %; the mean of the three is 50 %
        all_wrong=("eebb", "bbee"),  # 0 %
    )
    assert typical_clips(table, BACKGROUND, 1) == ("half",)


def test_ties_for_the_typical_clip_go_to_the_first_name() -> None:
    assert typical_clips(predictions(z=("eb", "eb"), y=("eb", "eb")), BACKGROUND, 1) == ("y",)


def test_where_every_event_fills_its_clip_one_is_shown_all_the_same() -> None:
    assert typical_clips(predictions(a=("ee", "ee")), BACKGROUND, 1) == ("a",)


def test_several_clips_are_of_several_categories_as_long_as_there_are_any() -> None:
    table = predictions(
        a=("eb", "eb"), b=("eb", "eb"), c=("eb", "eb"), d=("fb", "bf"),  # 100 %, 100 %, 100 %, 0 %
        e=("ff", "ff"),  # the event fills the clip
    )  # fmt: skip
    assert typical_clips(table, BACKGROUND, 2) == ("a", "d")
    assert typical_clips(table, BACKGROUND, 9) == ("a", "d", "b", "c", "e")


def test_a_clips_frames_and_sound_come_from_its_shard(with_clip: Path) -> None:
    content = read_clip("a", "canonical", with_clip)
    assert isinstance(content["frames"], np.ndarray)
    assert content["frames"].shape == (10, 64, 64, 3)
    assert np.allclose(content["frames"].mean(axis=(1, 2, 3)), SHADES, atol=6)
    assert isinstance(content["waveform"], np.ndarray)
    assert content["waveform"].shape == (160_000,)
    assert content["aspect"] == pytest.approx(16 / 9)


def test_what_a_clip_does_not_have_is_said(with_clip: Path) -> None:
    assert read_clip("mute", "canonical", with_clip)["waveform"] == "no audio"
    assert "clip gone is not in" in read_clip("gone", "canonical", with_clip)["frames"]
    assert read_clip("other", "canonical", with_clip)["frames"] == "clip other is not in clips.parquet"
    assert "other/3.tar is missing" in read_clip("a", "other", with_clip)["frames"]


def timelines(spec: FigureSpec, study: Study, results: Path) -> list[Timeline]:
    assert isinstance(spec, SegmentsFigure)
    return read_timelines(spec, study, results)


def test_a_timeline_has_the_first_seed_that_each_row_has(
    parsed: Callable[..., FigureSpec], study: Study, with_clip: Path, write_run: Callable[..., Path]
) -> None:
    spec = parsed("segments")
    write_run(spec.experiments(study)["avel", "supervised"], 1, ONE_CLIP)
    (timeline,) = timelines(spec, study, with_clip)
    assert timeline.clip == "a"
    assert timeline.truth.tolist() == ONE_CLIP["a"][0]
    assert list(timeline.predictions) == ["AVEL, seed 1", "AVIN"]
    assert list(timeline.predictions["AVEL, seed 1"]) == ONE_CLIP["a"][1]
    assert "no run yet" in timeline.predictions["AVIN"]


def test_clips_that_are_asked_for_stand_in_the_asked_order(
    parsed: Callable[..., FigureSpec], study: Study, with_clip: Path, write_run: Callable[..., Path]
) -> None:
    spec = parsed("segments", {"clips": ["mute", "a"]})
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP | {"mute": ([2, 1], [2, 2])})
    first, second = timelines(spec, study, with_clip)
    assert (first.clip, second.clip) == ("mute", "a")
    assert first.truth.tolist() == [2, 1]
    assert first.waveform == "no audio"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": ["b"]}, "segments: options.clips: 'b' is no test clip with predictions"),
        ({"seed": 5}, r"segments: options.seed: 5 is not among the study's seeds \[0, 1\]"),
        ({"seed": 1}, "segments: options.seed: no row has predictions of seed 1"),
    ],
)
def test_a_clip_or_seed_that_is_not_there_is_an_error(
    options: dict[str, Any], message: str, parsed: Callable[..., FigureSpec], study: Study, with_clip: Path,
    write_run: Callable[..., Path],
) -> None:  # fmt: skip
    spec = parsed("segments", options)
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    with pytest.raises(ConfigError, match=message):
        timelines(spec, study, with_clip)
