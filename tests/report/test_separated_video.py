"""Separating a person's video: sounds of several kinds, a hidden half, what is written. The network is small and not trained."""

import av
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.files import write_json
from avpipe.media.presets import Preset
from avpipe.media.probe import probe
from avpipe.models.multisensory_separation import MultisensorySeparation
from avpipe.plan.experiment import Experiment
from avpipe.plan.recipe import Recipe
from avpipe.report.separated_video import separate_video

OPTIONS = {"base_channels": 1, "dim": 8}
SMALL = Preset(name="small", seconds=3, fps=8, width=32, height=32, sample_rate=21_000, channels=2, pad=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "seed0"
    folder.mkdir()
    asked = Experiment(
        task="separation", model="multisensory_separation", options=OPTIONS, preset=SMALL,
        setting="self-supervised", recipe=Recipe(window=2.135, crop=28),
    )  # fmt: skip
    write_json(folder / "metrics.json", {"experiment": asked.model_dump(mode="json")})
    torch.manual_seed(0)
    weights = MultisensorySeparation(**OPTIONS).state_dict()
    torch.save({"model": asked.model, "options": OPTIONS, "weights": weights}, folder / "checkpoint.pt")
    return folder


def video(path, sound: np.ndarray | None, rate: int, seconds: float = 2.7):
    """A video of 64 x 48 at 10 pictures a second that is dark, then bright from 1.5 s on; sound is (samples, channels)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        layout = "mono" if sound is None or sound.shape[1] == 1 else "stereo"
        coded = None if sound is None else container.add_stream("pcm_s16le", rate=rate, layout=layout)
        for index in range(round(seconds * 10)):
            picture = np.full((48, 64, 3), 30 if index < 15 else 220, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        for first in range(0, 0 if sound is None else len(sound), 1024):
            samples = (sound[first : first + 1024] * 32_767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate, first
            container.mux(coded.encode(frame))
        if coded is not None:
            container.mux(coded.encode())
    return path


def noise(seconds: float, rate: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (round(seconds * rate), channels))


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (21_000, 2)])
def test_sounds_keep_their_rate_and_length_and_videos_play_them(tmp_path, run, rate, channels):
    source = video(tmp_path / "source.mkv", noise(2.7, rate, channels), rate)
    found = separate_video(source, run, tmp_path / "out", device="cpu")
    names = ["off.mp4", "off.wav", "on.mp4", "on.wav", "spectrograms.png"]
    assert sorted(path.name for path in found.files) == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert found.windows == 2  # 2.7 s: no multiple of the 2 s of a window
    assert found.seconds == pytest.approx(2.7, abs=0.11)
    for name in ("on", "off"):
        separated, found_rate = soundfile.read(tmp_path / "out" / f"{name}.wav")
        assert (found_rate, separated.ndim) == (rate, 1)
        assert len(separated) == round(found.seconds * rate)
        assert separated.std() > 0
        media = probe(tmp_path / "out" / f"{name}.mp4")
        assert media.video is not None
        assert media.audio is not None
        assert (media.video.width, media.video.height, media.video.fps) == (64, 48, 10)
        assert media.audio.seconds == pytest.approx(media.video.seconds, abs=0.15)


def test_shot_cuts_are_named_and_a_hidden_half_is_hidden_from_the_network_and_from_the_viewer(tmp_path, run):
    source = video(tmp_path / "source.mkv", noise(2.7, 21_000, 2), 21_000)
    sounds = {}
    for side in ("left", "right"):
        arguments = [
            "separate",
            str(source),
            "--run",
            str(run),
            "--out",
            str(tmp_path / side),
            "--mask",
            side,
        ]
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        assert "1 shot cuts, at 1.50 s" in result.output
        sounds[side], _ = soundfile.read(tmp_path / side / "on.wav")
        with av.open(str(tmp_path / side / "on.mp4")) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        halves = {"left": picture[4:-4, 4:28].mean(), "right": picture[4:-4, 36:-4].mean()}
        assert halves[side] == pytest.approx(128, abs=3)
        assert halves["right" if side == "left" else "left"] == pytest.approx(30, abs=3)
    assert not np.array_equal(sounds["left"], sounds["right"])


def test_silence_stays_quiet(tmp_path, run):
    source = video(tmp_path / "source.mkv", np.zeros((42_000, 2)), 21_000, seconds=2)
    separate_video(source, run, tmp_path / "out", device="cpu")
    separated, _ = soundfile.read(tmp_path / "out" / "on.wav")
    assert np.abs(separated).max() < 1e-2


def test_files_without_sound_and_runs_of_other_tasks_are_refused(tmp_path, run):
    source = video(tmp_path / "source.mkv", None, 0)
    with pytest.raises(ValueError, match="has no sound"):
        separate_video(source, run, tmp_path / "out", device="cpu")
    asked = {
        "task": "alignment",
        "model": "multisensory",
        "preset": "multisensory",
        "setting": "self-supervised",
    }
    write_json(tmp_path / "metrics.json", {"experiment": {**asked, "recipe": {}}})
    with pytest.raises(ValueError, match="run of the task alignment"):
        separate_video(source, tmp_path, tmp_path / "out", device="cpu")
