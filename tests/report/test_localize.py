"""`avpipe localize`: a person's own video with the heat map of a run's network over it."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.media.presets import Preset
from avpipe.models.multisensory import Multisensory
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.report.heat_maps import write_heat_video

TINY = Preset(name="tiny", seconds=2, fps=10, width=24, height=24, sample_rate=4000, channels=2, pad=False)


@pytest.fixture
def run(tmp_path):
    """A run of a network that was not trained, with windows of 1 s."""
    experiment = Experiment(
        task="alignment", model="multisensory", options={"dim": 8}, preset=TINY, setting="self-supervised",
        recipe=Recipe(window=1.0, overlap=4, crop=20),
    )  # fmt: skip
    folder = tmp_path / "runs" / experiment.id / "seed0"
    folder.mkdir(parents=True)
    (folder.parent / "experiment.json").write_text(experiment.to_json())
    torch.manual_seed(0)
    saved = {"model": "multisensory", "options": {"dim": 8}, "weights": Multisensory(dim=8).state_dict()}
    torch.save(saved, folder / "checkpoint.pt")
    return folder


@pytest.fixture
def video(tmp_path):
    """3.2 s of noise, 96 x 48, with sound: longer than the preset's clips."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (32, 48, 96, 3), np.uint8)
    sound = np.sin(np.arange(25_600) / 5) * random.random(25_600) / 2
    write_heat_video(tmp_path / "own.mp4", frames, np.zeros((1, 1, 1)), 10, sound, 8000)
    return tmp_path / "own.mp4"


def localize(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["localize", *map(str, arguments), "--device", "cpu"])
    assert (done.exit_code == 0) == ("error" not in done.output), done.output
    return " ".join(done.output.split())


@pytest.mark.slow
def test_a_video_with_its_sound_and_its_strongest_frame_are_written(run, video, tmp_path):
    out = tmp_path / "heat.mp4"
    said = localize(video, "--run", run, "--out", out)
    assert "heat.mp4: 3.2 s; heat.png" in said
    with av.open(str(out)) as container:
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
        assert container.streams.audio[0].codec_context.name == "aac"
    assert np.shape(pictures) == (32, 24, 48, 3)  # the height of the preset, the proportions of the video
    assert imread(out.with_suffix(".png")).shape[:2] == (24, 48)
    said = localize(video, "--run", run, "--out", out, "--start", 1, "--seconds", 1.5)
    assert "heat.mp4: 1.5 s" in said
    assert float(said.split("png: ")[1].split()[0]) > 1


def test_what_does_not_fit_is_named(run, video, tmp_path):
    out = tmp_path / "heat.mp4"
    assert "a name that ends with .mp4" in localize(video, "--run", run, "--out", tmp_path / "heat.avi")
    assert "needs 1 s at least" in localize(video, "--run", run, "--out", out, "--seconds", 0.5)
    assert "too_short" in localize(video, "--run", run, "--out", out, "--start", 2.5)
    assert "cannot be read" in localize(tmp_path / "none.mp4", "--run", run, "--out", out)
    assert "No such file" in localize(video, "--run", tmp_path / "runs" / "none" / "seed0", "--out", out)
    assert not out.exists()


def test_a_run_of_another_task_is_refused(run, video, tmp_path):
    other = Experiment(
        task="parsing",
        model="han",
        features={"audio": "vggish"},
        setting="weakly-supervised",
        recipe=Recipe(),
    )
    (Path(run).parent / "experiment.json").write_text(other.to_json())
    message = localize(video, "--run", run, "--out", tmp_path / "heat.mp4")
    assert "a run of the task parsing; give one of alignment or source_localization" in message
