"""The sounds of a video's on-screen and off-screen sources, by a trained network of the task `separation`.

Owens and Efros (ECCV 2018) separate whole videos window by window, and, where several sources are on screen, hide one half of
the picture: the sound of the visible half is then the on-screen sound. They say that this fails across shot cuts.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor, nn

from avpipe.features.device import claim_device, default_locks
from avpipe.files import read_json, whole_file
from avpipe.media.convert import convert_clip
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.media.presets import Preset
from avpipe.media.probe import Media, probe
from avpipe.media.segments import VideoFrames
from avpipe.media.shots import shot_cuts
from avpipe.models import load_model
from avpipe.models.long_sound import separate_long
from avpipe.models.spectrogram import decibels, spectrogram, stft, waveform
from avpipe.plan.experiment import Experiment
from avpipe.report.style import Heading, figure_style, framed_figure
from avpipe.training.separation import Side, hide_half, window_of
from avpipe.training.source_localization import squashed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sound = npt.NDArray[np.float32]

LONGEST = 3600.0
"""Seconds of a video that are separated at most."""
LARGEST = 1280
"""Pixels of the longer side of the videos that are written, at most."""
RANGE = 80
"""Decibels below the loudest value that a spectrogram shows."""


@dataclass(frozen=True)
class Separated:
    """What was made of a video.

    Args:
        seconds: of the video.
        windows: that the network was given.
        cuts: seconds at which shots begin.
        files: that were written.
    """

    seconds: float
    windows: int
    cuts: list[float]
    files: list[Path]


def separate_video(
    video: Path, run: Path, out: Path, hidden: Side | None = None, device: str = "auto"
) -> Separated:
    """Write on.wav, off.wav, on.mp4, off.mp4 and spectrograms.png, each whole or not at all.

    The pictures are brought to the format of the run, and squashed to the size of its crops, as in the released code. The
    sound keeps its rate; both separated sounds are mono, and have nothing above 10.5 kHz.

    Args:
        video: any file with pictures and sound; of a longer one, the first hour counts.
        run: the run's folder, runs/{id}/seed{n}.
        out: the folder for the files, made if missing.
        hidden: the half of the pictures that is grey for the network, and in the videos that are written.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        FileNotFoundError: a file, or the run, is missing.
        ValueError: the run is of another task or failed, or the file has no pictures or no sound.
        ChildProcessError: ffmpeg failed.
    """
    experiment = Experiment.model_validate(read_json(run / "metrics.json")["experiment"])
    if experiment.task != "separation":
        raise ValueError(
            f"{run} is a run of the task {experiment.task}; separating a video needs one of separation"
        )
    model, media = load_model(run / "checkpoint.pt"), probe(video)
    if media.video is None or media.audio is None:
        raise ValueError(f"{video} has no {'sound' if media.video else 'pictures'}; separation needs both")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, FFmpegGroup() as group:
        pictures, sound, rate = _read(video, media, experiment, Path(folder), group)
        with claim_device(device, default_locks()) as place, torch.inference_mode():
            found, windows = _separated(model.to(place), experiment, pictures, sound, rate, hidden)
        sounds: dict[str, Sound] = {"mixture": sound.mean(0).numpy(), "on": found[0], "off": found[1]}
        files = [out / "spectrograms.png"]
        write_spectrograms(files[0], sounds, rate, Heading(video.name))
        for name in ("on", "off"):
            files += [out / f"{name}.wav", out / f"{name}.mp4"]
            with whole_file(files[-2]) as temporary:
                soundfile.write(temporary, sounds[name], rate, format="WAV")
            _write_video(files[-1], Path(folder, "shown.mp4"), files[-2], hidden, group)
    return Separated(sound.shape[1] / rate, windows, shot_cuts(pictures), files)


def _read(
    video: Path, media: Media, experiment: Experiment, folder: Path, group: FFmpegGroup
) -> tuple[VideoFrames, Tensor, int]:
    """The pictures in the network's format, and the sound (channels, L) with its rate; shown.mp4 is for people.

    All three are cut to where the file has both pictures and sound.
    """
    assert media.video is not None
    assert media.audio is not None
    assert experiment.preset is not None  # `check_experiment`
    scale = min(1.0, LARGEST / max(media.video.width, media.video.height))
    width, height = (max(16, round(n * scale / 2) * 2) for n in (media.video.width, media.video.height))
    fps = media.video.fps if 1 <= media.video.fps <= 240 else 30.0  # NaN, or the rate of a time base
    shown = Preset.model_validate({
        "name": "shown", "seconds": LONGEST, "fps": round(fps, 2), "width": width, "height": height,
        "sample_rate": min(max(media.audio.sample_rate, 4000), 192_000),
        "channels": min(media.audio.channels, 2), "pad": False,
    })  # fmt: skip
    given = experiment.preset.model_copy(update={"seconds": LONGEST, "pad": False})
    for preset, name in ((given, "given"), (shown, "shown")):
        nan = float("nan")
        timeout = 600 + LONGEST
        made = convert_clip(video, nan, nan, preset, folder / name, group, timeout)
        if made.video is None or made.audio is None:
            raise ValueError(f"{video} cannot be separated: {made.reason}")
    samples, rate = soundfile.read(folder / "shown.flac", dtype="float32", always_2d=True)
    return VideoFrames((folder / "given.mp4").read_bytes(), given), torch.from_numpy(samples.T), rate


def _separated(
    model: nn.Module,
    experiment: Experiment,
    pictures: VideoFrames,
    sound: Tensor,
    rate: int,
    hidden: Side | None,
) -> tuple[Sound, int]:
    """The on-screen and the off-screen sound, (2, L), and how many windows there were."""
    recipe, preset, place = experiment.recipe, pictures.preset, next(model.parameters()).device
    count, samples = window_of(recipe.window, preset)
    seconds: list[float] = []

    def separate(window: Tensor, second: float) -> Tensor:
        seconds.append(second)
        indices = np.clip(round(second * preset.fps) + np.arange(count), 0, pictures.count - 1)
        frames = torch.from_numpy(pictures.at(indices)).permute(3, 0, 1, 2)  # (T, H, W, 3) -> (3, T, H, W)
        frames = squashed(frames, recipe.crop)
        frames = hide_half(frames, hidden) if hidden else frames
        mixture = window[None].to(place)
        found = model(frames[None].to(place), mixture)
        phase = found.phase if recipe.phase == "predicted" else spectrogram(mixture.mean(1)).phase[:, None]
        return waveform(found.magnitude, phase)[0].cpu()

    return separate_long(sound, rate, separate, samples).numpy(), len(seconds)


def _write_video(path: Path, pictures: Path, sound: Path, hidden: Side | None, group: FFmpegGroup) -> None:
    """An mp4 of the pictures, with the hidden half grey, and the sound."""
    coding = ["-c:v", "copy"]
    if hidden:
        box = f"drawbox=x={'0' if hidden == 'left' else 'iw/2'}:y=0:w=iw/2:h=ih:color=gray:t=fill"
        coding = ["-vf", f"{box},format=yuv420p", "-c:v", "libx264", "-crf", "18"]
    inputs = ["-i", f"file:{pictures}", "-i", f"file:{sound}", "-map", "0:v", "-map", "1:a"]
    with whole_file(path) as temporary:
        output = ["-c:a", "aac", "-movflags", "+faststart", "-f", "mp4", "-y", f"file:{temporary}"]
        finished = group.run([*inputs, *coding, *output], timeout=600 + LONGEST)
        if finished.code or finished.timed_out:
            raise ChildProcessError(f"ffmpeg cannot write {path}: {finished.message()}")


def spectrograms(sounds: Mapping[str, Sound], rate: int, heading: Heading) -> "Figure":
    """Spectrograms below one another, in decibels below the loudest value of the first sound.

    Args:
        sounds: what stands at the left -> (L,).
        rate: samples a second.
        heading: above.
    """
    size = (8.0, 1.5 * len(sounds))
    figure = framed_figure(size, heading, [f"Brightness: the upper {RANGE} dB of the first sound."])
    axes = figure.subplots(len(sounds), 1, squeeze=False, sharex=True)[:, 0]
    loudest = None
    for axis, (name, sound) in zip(axes, sounds.items(), strict=True):
        values = decibels(stft(torch.from_numpy(sound).float())).numpy().T
        loudest = values.max() if loudest is None else loudest
        ends = (0, len(sound) / rate, 0, rate / 2000)
        axis.imshow(
            values,
            origin="lower",
            aspect="auto",
            extent=ends,
            vmin=loudest - RANGE,
            vmax=loudest,
            cmap="magma",
        )
        axis.set_ylabel(f"{name}\nkHz")
    axes[-1].set_xlabel("seconds")
    return figure


def write_spectrograms(path: Path, sounds: Mapping[str, Sound], rate: int, heading: Heading) -> None:
    """Write `spectrograms` as a png file, whole or not at all."""
    with figure_style(), whole_file(path) as temporary:
        spectrograms(sounds, rate, heading).savefig(temporary, format="png", dpi=120)
