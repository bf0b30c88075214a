"""A small study with predictions, made up so that every drawn number can be worked out by hand."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.figure import Figure
from matplotlib.text import Text

from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study
from avpipe.report.spec import FigureSpec, parse_figure

CATEGORIES = ("Bell", "Male speech, man speaking")
BACKGROUND = 2
SHADES = [25 * second for second in range(10)]
"""Grey of each second of the fixture's clips."""


@pytest.fixture
def study() -> Study:
    """Two seeds, published weights."""
    return Study.model_validate(
        {
            "dataset": {"name": "toy", "kind": "ave"},
            "extractors": {
                "vggish": {"backbone": "vggish"},
                "vgg16_map": {"backbone": "vgg16", "pooling": "map"},
            },
            "seeds": [0, 1],
        }
    )


@pytest.fixture
def figure_data() -> dict[str, Any]:
    """The content of a figure's file with two rows; `kind` and `options` are added by the tests."""
    return {
        "title": "A small figure", "paper": "Nobody, 2020", "printed": "Figure 1", "task": "localization",
        "defaults": {"features": {"audio": "vggish", "visual": "vgg16_map"}},
        "rows": [
            {"row": "avel", "method": "AVEL", "model": "avel"},
            {"row": "avin", "method": "AVIN", "model": "avin"},
        ],
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The study's folder with categories.csv."""
    lines = [f'{index},"{name}"' for index, name in enumerate(CATEGORIES)]
    (tmp_path / "categories.csv").write_text("\n".join(["index,category", *lines, ""]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def write_run(results: Path) -> Callable[..., Path]:
    """Write metrics.json and predictions.parquet of one seed: clip -> (truth, prediction)."""

    def write(
        experiment: Experiment,
        seed: int,
        clips: dict[str, tuple[Sequence[int], Sequence[int]]],
        **changes: Any,
    ) -> Path:
        folder = results / "runs" / experiment.id / f"seed{seed}"
        folder.mkdir(parents=True)
        record = {"status": "ok", "reason": None, "metrics": {"validation": {"accuracy": 0.5}}}
        (folder / "metrics.json").write_text(json.dumps(record | changes), encoding="utf-8")
        rows = [
            (clip, segment, t, p, 0.5)
            for clip, (truth, prediction) in clips.items()
            for segment, (t, p) in enumerate(zip(truth, prediction, strict=True))
        ]
        table = pd.DataFrame(rows, columns=["clip", "segment", "truth", "prediction", "confidence"])
        table.to_parquet(folder / "predictions.parquet", index=False)
        return folder

    return write


@pytest.fixture
def write_predictions(results: Path) -> Callable[..., Path]:
    """Write metrics.json and any predictions.parquet of one seed."""

    def write(experiment: Experiment, seed: int, table: pd.DataFrame) -> Path:
        folder = results / "runs" / experiment.id / f"seed{seed}"
        folder.mkdir(parents=True)
        record = {"status": "ok", "reason": None, "metrics": {"validation": {}}}
        (folder / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
        table.to_parquet(folder / "predictions.parquet", index=False)
        return folder

    return write


def parsing_table(labels: dict[tuple[str, str, str], tuple[str, str]]) -> pd.DataFrame:
    """Predictions of video parsing: (clip, modality, category) -> truth and prediction, ten characters each, # is true."""
    rows = [
        (clip, modality, segment, category, truth[segment] == "#", said[segment] == "#", 0.5)
        for (clip, modality, category), (truth, said) in labels.items()
        for segment in range(10)
        if "#" in (truth[segment], said[segment])
    ]
    columns = ["clip", "modality", "segment", "category", "truth", "prediction", "confidence"]
    return pd.DataFrame(rows, columns=columns)


def grounding_table(clips: dict[str, Sequence[int]]) -> pd.DataFrame:
    """Predictions of pretraining: clip -> the group of each segment; similarities tell them apart with margins of 0.1."""
    rows = [
        (clip, i, j, groups[i] == groups[j], *[1.0 - 0.1 * (groups[i] != groups[j])] * 3)
        for clip, groups in clips.items()
        for i in range(len(groups))
        for j in range(len(groups))
    ]
    cosines = ["audio_audio", "visual_visual", "audio_visual"]
    return pd.DataFrame(rows, columns=["clip", "segment", "other", "same_group", *cosines])


@pytest.fixture
def parsed(figure_data: dict[str, Any]) -> Callable[..., FigureSpec]:
    """The figure of this kind with these options; other keyword arguments are keys of its file."""

    def parse(kind: str, options: dict[str, Any] | None = None, **keys: Any) -> FigureSpec:
        return parse_figure(
            figure_data | {"kind": kind} | ({"options": options} if options else {}) | keys, kind
        )

    return parse


@pytest.fixture
def texts() -> Callable[[Figure], list[str]]:
    """Every text in a figure, line breaks as spaces."""

    def read(figure: Figure) -> list[str]:
        drawn = figure.findobj(Text)
        return [" ".join(t.get_text().split()) for t in drawn if isinstance(t, Text) and t.get_text().strip()]

    return read


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
