"""A small study with predictions, made up so that every drawn number can be worked out by hand."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from matplotlib.figure import Figure
from matplotlib.text import Text

from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study
from avpipe.report.spec import FigureSpec, parse_figure
from avpipe.report.style import Heading
from tests.builders import encode_video, tar_of

from ..tables.conftest import WriteRun, study, write_run

__all__ = ["study", "write_run"]  # fixtures

BELL, SPEECH, BACKGROUND = 0, 1, 2
CATEGORIES = ("Bell", "Male speech, man speaking")
SHADES = [25 * second for second in range(10)]
"""Grey of each second of the toy's clips."""

NO_RUN = "no run yet (metrics.json is missing)"
ROWS: dict[str, list[dict[str, Any]]] = {
    "localization": [{"row": m, "method": m.upper(), "model": m} for m in ("avel", "avin")],
    "parsing": [{"row": m, "method": m.upper(), "model": m} for m in ("han", "ma")],
    "pretraining": [
        {"row": o, "method": o.capitalize(), "model": "avg", "options": {"objective": o}} for o in ("uni", "cross")
    ],
}  # fmt: skip
SETTINGS = {"localization": "supervised", "parsing": "weakly-supervised", "pretraining": "self-supervised"}
TASKS = {"parsed": "parsing", "fscores": "parsing", "grounding": "pretraining"}
"""Kind of figure -> its task, if it is not localization."""


def figure_data(kind: str, **keys: Any) -> dict[str, Any]:
    """The content of a figure's file with two rows; `keys` replace its keys."""
    task = TASKS.get(kind, "localization")
    return {
        "kind": kind, "title": "A small figure", "paper": "Nobody, 2020", "printed": "Figure 1", "task": task,
        "setting": SETTINGS[task], "defaults": {"features": {"audio": "vggish", "visual": "vgg16_map"}}, "rows": ROWS[task],
    } | keys  # fmt: skip


def figure_of(kind: str, options: dict[str, Any] | None = None, **keys: Any) -> Any:
    """The figure of this kind with these options."""
    return parse_figure(figure_data(kind, **({"options": options} if options else {}), **keys), kind)


@dataclass
class Toy:
    """A study with seeds 0 and 1, and its results folder with categories.csv."""

    study: Study
    results: Path
    write_run: WriteRun

    def experiment(self, spec: FigureSpec, row: int) -> Experiment:
        """Of the row with this index."""
        return list(spec.experiments(self.study).values())[row]

    def write(self, spec: FigureSpec, row: int, seed: int, table: pd.DataFrame, **changes: Any) -> Path:
        """Write a run of the row with these predictions."""
        return self.write_run(self.experiment(spec, row), seed, predictions=table, **changes)

    def draw(self, spec: FigureSpec) -> Figure:
        """The figure, unwritten."""
        return spec.draw(self.study, self.results, Heading("Title"))


@pytest.fixture
def toy(study: Study, tmp_path: Path, write_run: WriteRun) -> Toy:
    lines = [f'{index},"{name}"' for index, name in enumerate(CATEGORIES)]
    (tmp_path / "categories.csv").write_text("\n".join(["index,category", *lines, ""]), encoding="utf-8")
    return Toy(study.model_copy(update={"seeds": (0, 1)}), tmp_path, write_run)


@pytest.fixture
def toy_with_clips(toy: Toy) -> Toy:
    """With clips.parquet and a shard: clip "a" is ten seconds, dark to bright, with a tone; "mute" has no audio."""
    audio = io.BytesIO()
    soundfile.write(audio, 0.5 * np.sin(np.arange(160_000) / 6), 16_000, format="FLAC")
    video = encode_video(np.full((64, 64, 3), shade, np.uint8) for shade in np.repeat(SHADES, 16))
    members = {
        "a.mp4": video, "a.flac": audio.getvalue(), "a.json": b'{"row": 0}',
        "mute.mp4": video, "mute.json": b'{"row": 1}',
    }  # fmt: skip
    path = toy.results / "segments" / "canonical" / "3.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(tar_of(members))
    clips = {"clip": ["a", "mute", "gone"], "shard": [3, 3, 3], "width": [320.0] * 3, "height": [180.0] * 3}
    pd.DataFrame(clips).to_parquet(toy.results / "clips.parquet", index=False)
    return toy


def localized(**clips: tuple[Sequence[int], Sequence[int]]) -> pd.DataFrame:
    """Predictions of localization: clip -> truth and prediction."""
    rows = [
        (clip, segment, t, p, 0.5)
        for clip, (truth, prediction) in clips.items()
        for segment, (t, p) in enumerate(zip(truth, prediction, strict=True))
    ]
    return pd.DataFrame(rows, columns=["clip", "segment", "truth", "prediction", "confidence"])


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


def grounding_table(**clips: Sequence[int]) -> pd.DataFrame:
    """Predictions of pretraining: clip -> the group of each segment; similarity is 1 within a group, 0.9 across groups."""
    rows = [
        (clip, i, j, groups[i] == groups[j], *[1.0 - 0.1 * (groups[i] != groups[j])] * 3)
        for clip, groups in clips.items()
        for i in range(len(groups))
        for j in range(len(groups))
    ]
    cosines = ["audio_audio", "visual_visual", "audio_visual"]
    return pd.DataFrame(rows, columns=["clip", "segment", "other", "same_group", *cosines])


def texts(figure: Figure) -> list[str]:
    """Every text in a figure, line breaks as spaces."""
    drawn = figure.findobj(Text)
    return [" ".join(t.get_text().split()) for t in drawn if isinstance(t, Text) and t.get_text().strip()]


def bar_heights(figure: Figure, panel: int = 0) -> list[list[float]]:
    """method -> height of each bar."""
    bars = [container for container in figure.axes[panel].containers if hasattr(container, "patches")]
    return [[bar.get_height() for bar in method] for method in bars]
