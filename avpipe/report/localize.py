"""Where in a person's own video does the sound come from? A video and a picture with the heat map of a trained network."""

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from avpipe.clips import Status
from avpipe.media.convert import convert_clip
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.media.segments import VideoFrames, decode_audio
from avpipe.metrics.source_localization import enlarged
from avpipe.models import load_model
from avpipe.plan.experiment import Experiment
from avpipe.report.heat_maps import Frames, clip_response, heat_limits, write_heat_picture, write_heat_video
from avpipe.training.alignment import stereo
from avpipe.training.source_localization import sound_maps

TASKS = ("alignment", "source_localization")


def localize_video(
    video: Path, run: Path, out: Path, *, start: float = 0.0, seconds: float = 30.0, device: str = "cpu"
) -> dict[str, float]:
    """Write a video with the heat map of a run's network and the sound, and beside it, as png, its strongest frame.

    Args:
        video: any file with pictures and sound.
        run: folder of a run of the task alignment or source_localization, runs/{experiment}/seed{n}.
        out: the mp4 file to write; the picture gets the same name with the ending png.
        start, seconds: the part of the video; the network's window at least.
        device: of the network.

    Returns:
        For the log: `seconds` of the video, `response` (the largest value of the maps) and `at`, when that is.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the run is of another task or failed, or the video has no pictures, no sound, or too little of them.
        OSError, ChildProcessError: what is written cannot be written.
    """
    experiment = Experiment.read(run.parent / "experiment.json")
    if experiment.task not in TASKS or experiment.preset is None:
        raise ValueError(f"{run} is a run of the task {experiment.task}; give one of {' or '.join(TASKS)}")
    trained = experiment if experiment.task == "alignment" else experiment.pretraining
    assert (
        trained is not None
    )  # a run of source_localization without a pretraining has failed and has no weights
    model = load_model(run / "checkpoint.pt").to(device)
    recipe = trained.recipe
    if seconds < recipe.window:
        raise ValueError(f"--seconds: the network needs {recipe.window:g} s at least, found {seconds:g}")
    preset = experiment.preset.model_copy(
        update={"seconds": seconds, "pad": False, "shortest": recipe.window}
    )
    with tempfile.TemporaryDirectory() as folder, FFmpegGroup() as group:
        made = convert_clip(video, start, math.nan, preset, Path(folder, "clip"), group, 60 + 10 * seconds)
        if made.status is not Status.PRESENT or made.video is None or made.audio is None:
            raise ValueError(f"{video}: {made.status.value}: {made.reason}; it needs pictures and sound")
        decoder = VideoFrames(made.video.read_bytes(), preset)
        frames = decoder.at(np.arange(decoder.count))
        waveform = decode_audio(made.audio.read_bytes(), preset)
    pictures = torch.from_numpy(frames).permute(3, 0, 1, 2)  # (T, H, W, 3) -> (3, T, H, W)
    with torch.inference_mode():
        maps = sound_maps(model, pictures.to(device), stereo(waveform).to(device), recipe, preset)
    height, width = preset.height, preset.width
    if made.width and made.height:
        width = 2 * max(round(height * made.width / made.height / 2), 1)  # the source's proportions
    shown, limits = _resized(frames, height, width), heat_limits(maps)
    strongest = int(maps.reshape(len(maps), -1).max(axis=1).argmax())
    large = np.stack([enlarged(map_, height, width).astype(np.float32) for map_ in maps])
    write_heat_video(out, shown, large, preset.fps, waveform, preset.sample_rate, limits)
    write_heat_picture(out.with_suffix(".png"), shown[strongest], large[strongest], limits)
    at = start + float((strongest + 0.5) / preset.fps)
    return {"seconds": float(len(frames) / preset.fps), "response": clip_response(maps), "at": at}


def _resized(frames: Frames, height: int, width: int) -> Frames:
    """(T, H, W, 3) -> (T, height, width, 3) uint8."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    found = functional.interpolate(pictures, size=(height, width), mode="bilinear", antialias=True)
    resized: Frames = found.permute(0, 2, 3, 1).contiguous().numpy()
    return resized
