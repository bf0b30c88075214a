"""Figures show what the runs say, name what is missing, and come out the same bytes every time."""

import io
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.figure import Figure
from PIL import Image

from avpipe.config.section import ConfigError
from avpipe.config.study import Study
from avpipe.report import figures
from avpipe.tables.spec import CategoriesFigure, FigureSpec, SegmentsFigure, parse_figure

BELL, SPEECH, NOTHING = 0, 1, 2
SHADES = [25 * second for second in range(10)]
ONE_CLIP = {"a": ([BELL, BELL, SPEECH, NOTHING], [BELL, SPEECH, SPEECH, NOTHING])}
OTHER_SEED = {"a": ([BELL, BELL, SPEECH, NOTHING], [BELL, BELL, NOTHING, NOTHING])}


def bars(data: dict[str, Any], **options: Any) -> CategoriesFigure:
    spec = parse_figure(data | {"kind": "categories", "options": options}, "bars")
    assert isinstance(spec, CategoriesFigure)
    return spec


def segments(data: dict[str, Any], **options: Any) -> SegmentsFigure:
    spec = parse_figure(data | {"kind": "segments", "options": options}, "segments")
    assert isinstance(spec, SegmentsFigure)
    return spec


def read(spec: FigureSpec, study: Study, results: Path) -> list[figures.Predictions]:
    experiments = spec.experiments(study)
    return [
        figures.read_predictions(r.method, experiments[r.row, spec.setting], study, results)
        for r in spec.rows
    ]


def drawn_bars(spec: CategoriesFigure, study: Study, results: Path) -> Figure:
    return figures.draw_categories(
        spec, read(spec, study, results), figures.read_categories(results), "Title", None
    )


def heights(figure: Figure) -> list[list[float]]:
    """method -> height of each bar."""
    return [
        [bar.get_height() for bar in container]
        for container in figure.axes[0].containers
        if hasattr(container, "patches")
    ]


def test_bars_are_means_over_seeds_of_the_share_found(
    figure_data: dict[str, Any], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = bars(figure_data)
    avel = spec.experiments(study)["avel", "supervised"]
    write_run(avel, 0, ONE_CLIP)  # of two bells one is found, of one speech one, of one background one
    write_run(avel, 1, OTHER_SEED)  # two of two, none of one, one of one
    assert heights(drawn_bars(spec, study, results)) == [[75.0, 50.0, 100.0]]


def test_asked_for_categories_stand_in_the_asked_order(
    figure_data: dict[str, Any], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = bars(figure_data, categories=["Male speech, man speaking", "Bell"], background=False)
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    figure = drawn_bars(spec, study, results)
    assert heights(figure) == [[100.0, 50.0]]
    labels = [" ".join(label.get_text().split()) for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Male speech, man speaking", "Bell"]


def test_without_a_choice_the_most_frequent_categories_are_shown(
    figure_data: dict[str, Any], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = bars(figure_data, limit=1, background=False)
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    assert heights(drawn_bars(spec, study, results)) == [[50.0]]  # Bell: two segments


def test_an_unknown_category_is_an_error_with_a_suggestion(
    figure_data: dict[str, Any], study: Study, results: Path, write_run: Callable[..., Path]
) -> None:
    spec = bars(figure_data, categories=["Belt"])
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    with pytest.raises(
        ConfigError, match=r"bars: options.categories: no category 'Belt'; did you mean 'Bell'\?"
    ):
        drawn_bars(spec, study, results)


def test_missing_runs_are_named_below_the_bars(
    figure_data: dict[str, Any], study: Study, results: Path, write_run: Callable[..., Path],
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    spec = bars(figure_data)
    avel = spec.experiments(study)["avel", "supervised"]
    write_run(avel, 0, ONE_CLIP)
    write_run(avel, 1, ONE_CLIP, status="failed", reason="cost $5 and $6")
    caption = next(text for text in texts(drawn_bars(spec, study, results)) if "Missing" in text)
    assert "Mean over 1 seed." in caption
    assert "Missing: AVEL: seed 1 failed: cost $5 and $6." in caption
    assert "Missing: AVIN: seed 0 no run yet (metrics.json is missing); seed 1 no run yet" in caption


def test_without_any_run_the_figure_says_so(
    figure_data: dict[str, Any], study: Study, results: Path, monkeypatch: pytest.MonkeyPatch,
    texts: Callable[[Figure], list[str]],
) -> None:  # fmt: skip
    written: list[Figure] = []
    monkeypatch.setattr(figures, "write_figure", lambda figure, base, title: written.append(figure))
    for spec in (bars(figure_data), segments(figure_data)):
        figures.draw_figure(spec.name, spec, study, results)
    for figure in written:
        assert any(
            "Nothing to draw: no run has predictions." in text and "AVIN: seed 0" in text
            for text in texts(figure)
        )


def predictions(**clips: tuple[str, str]) -> pd.DataFrame:
    """clip -> truth and prediction, a letter a segment: e event, b background."""
    rows = [
        (clip, segment, "eb".index(t), "eb".index(p))
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
    assert figures.typical_clip(table, background=1) == "half"


def test_ties_for_the_typical_clip_go_to_the_first_name() -> None:
    assert figures.typical_clip(predictions(z=("eb", "eb"), y=("eb", "eb")), background=1) == "y"


def test_where_every_event_fills_its_clip_one_is_shown_all_the_same() -> None:
    assert figures.typical_clip(predictions(a=("ee", "ee")), background=1) == "a"


def encoded_video(shades: list[int]) -> bytes:
    """H.264 with 16 frames a second and a grey shade for each second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(16), options={"g": "16", "bf": "0"})
        stream.width = stream.height = 64
        for shade in shades:
            for _ in range(16):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.fixture
def with_clip(results: Path) -> Path:
    """clips.parquet and a shard with clip "a": ten seconds, dark to bright, with a tone; "mute" has no sound."""
    sound = io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(10 * 16000) / 16000)
    soundfile.write(sound, tone, 16000, format="FLAC")
    video = encoded_video(SHADES)
    members = {
        "a.mp4": video,
        "a.flac": sound.getvalue(),
        "a.json": b'{"row": 0}',
        "mute.mp4": video,
        "mute.json": b'{"row": 1}',
    }
    path = results / "segments" / "canonical" / "3.tar"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    clips = {"clip": ["a", "mute", "gone"], "shard": [3, 3, 3], "width": [320.0] * 3, "height": [180.0] * 3}
    pd.DataFrame(clips).to_parquet(results / "clips.parquet", index=False)
    return results


def test_a_clips_frames_and_sound_come_from_its_shard(with_clip: Path) -> None:
    content = figures.read_clip("a", "canonical", with_clip)
    assert isinstance(content["frames"], np.ndarray)
    assert content["frames"].shape == (10, 64, 64, 3)
    assert np.allclose(content["frames"].mean(axis=(1, 2, 3)), SHADES, atol=6)
    assert isinstance(content["waveform"], np.ndarray)
    assert content["waveform"].shape == (160_000,)
    assert content["aspect"] == pytest.approx(16 / 9)


def test_what_a_clip_does_not_have_is_said(with_clip: Path) -> None:
    assert figures.read_clip("mute", "canonical", with_clip)["waveform"] == "no audio"
    assert "clip gone is not in" in figures.read_clip("gone", "canonical", with_clip)["frames"]
    assert (
        figures.read_clip("other", "canonical", with_clip)["frames"] == "clip other is not in clips.parquet"
    )
    assert "other/3.tar is missing" in figures.read_clip("a", "other", with_clip)["frames"]


def test_a_timeline_has_the_first_seed_that_each_row_has(
    figure_data: dict[str, Any], study: Study, with_clip: Path, write_run: Callable[..., Path]
) -> None:
    spec = segments(figure_data)
    experiments = spec.experiments(study)
    write_run(experiments["avel", "supervised"], 1, ONE_CLIP)
    timeline = figures.read_timeline(spec, read(spec, study, with_clip), study, with_clip)
    assert timeline.clip == "a"
    assert timeline.truth.tolist() == ONE_CLIP["a"][0]
    assert list(timeline.predictions) == ["AVEL, seed 1", "AVIN"]
    assert list(timeline.predictions["AVEL, seed 1"]) == ONE_CLIP["a"][1]
    assert "no run yet" in timeline.predictions["AVIN"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "b"}, "segments: options.clip: 'b' is no test clip with predictions"),
        ({"seed": 5}, r"segments: options.seed: 5 is not among the study's seeds \[0, 1\]"),
        ({"seed": 1}, "segments: options.seed: no row has predictions of seed 1"),
    ],
)
def test_a_clip_or_seed_that_is_not_there_is_an_error(
    options: dict[str, Any], message: str, figure_data: dict[str, Any], study: Study, with_clip: Path,
    write_run: Callable[..., Path],
) -> None:  # fmt: skip
    spec = segments(figure_data, **options)
    write_run(spec.experiments(study)["avel", "supervised"], 0, ONE_CLIP)
    with pytest.raises(ConfigError, match=message):
        figures.read_timeline(spec, read(spec, study, with_clip), study, with_clip)


def test_both_files_are_written_the_same_every_time_and_without_dates(
    figure_data: dict[str, Any], study: Study, with_clip: Path, write_run: Callable[..., Path]
) -> None:
    demo = Study.model_validate(study.model_dump() | {"dataset": {"name": "demo", "kind": "demo"}})
    for kind in (bars, segments):
        spec = kind(figure_data)
        if kind is bars:
            for experiment in spec.experiments(demo).values():
                write_run(experiment, 0, ONE_CLIP)
        files = [with_clip / "figures" / f"{spec.name}.{ending}" for ending in ("svg", "png")]
        figures.draw_figure(spec.name, spec, demo, with_clip)
        first = [file.read_bytes() for file in files]
        figures.draw_figure(spec.name, spec, demo, with_clip)
        assert [file.read_bytes() for file in files] == first
        assert b"dc:date" not in first[0]
        assert b"[DEMO] A small figure" in first[0]
        with Image.open(files[1]) as picture:
            assert picture.width > 1000
            assert picture.info["Title"] == "[DEMO] A small figure"
