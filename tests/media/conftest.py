"""Media files whose content tells the time, and a normalised shard of the real clips."""

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from avpipe.media import ffmpeg


def write_media(
    path: Path,
    *,
    times: Sequence[float] | None = None,
    level: Callable[[float], int] = lambda time: 128,
    size: tuple[int, int] = (64, 48),
    video_codec: str = "libx264",
    video_options: dict[str, str] | None = None,
    sound: npt.NDArray[Any] | None = None,
    sample_rate: int = 16_000,
    audio_codec: str = "flac",
    audio_start: float = 0.0,
    ticks: int = 90_000,
) -> Path:
    """Write a media file.

    Args:
        path: its extension decides the container.
        times: when each picture is first shown, seconds; None for no video.
        level: grey level of the picture shown from a time on.
        size: width and height.
        sound: (channels, samples) in [-1, 1]; None for no audio.
        audio_start: when the sound begins.
        ticks: of the pictures' clock in a second; AVI and MPEG-4 know only their frame rate.
    """
    with av.open(str(path), "w") as container:
        video = audio = None
        if times is not None:
            options = {"g": "300", "crf": "10", "bf": "2"} if video_codec == "libx264" else {}
            rate = Fraction((len(times) - 1) / (times[-1] - times[0])).limit_denominator(1001)
            video = container.add_stream(video_codec, rate=rate, options={**options, **(video_options or {})})
            video.width, video.height = size
            video.pix_fmt = "yuv420p" if video_codec != "mjpeg" else "yuvj420p"
            video.time_base = video.codec_context.time_base = Fraction(1, ticks)
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
            audio.time_base = Fraction(1, sample_rate)
        if video is not None and times is not None:
            for time in times:
                image = np.full((size[1], size[0], 3), level(time), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = round(time * ticks), Fraction(1, ticks)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio is not None and sound is not None:
            wanted = {"flac": "s16", "pcm_s16le": "s16", "aac": "fltp", "libopus": "flt"}[audio_codec]
            first = round(audio_start * sample_rate)
            for start in range(0, sound.shape[1], 1024):
                piece = np.ascontiguousarray(sound[:, start : start + 1024].astype(np.float32))
                block = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                block.sample_rate, block.pts, block.time_base = (
                    sample_rate,
                    first + start,
                    Fraction(1, sample_rate),
                )
                resampler = av.AudioResampler(format=wanted, layout=layout, rate=sample_rate)
                for converted in resampler.resample(block):
                    container.mux(audio.encode(converted))
            container.mux(audio.encode())
    return path


def frame_times(fps: Fraction | int, seconds: float, start: float = 0.0) -> list[float]:
    """Times of the pictures of a constant rate."""
    return [start + float(index / Fraction(fps)) for index in range(math.floor(seconds * fps))]


@pytest.fixture(scope="session")
def media() -> Any:
    """`write_media` and `frame_times`."""

    class Media:
        write = staticmethod(write_media)
        times = staticmethod(frame_times)

    return Media


def write_shard(folder: Path, files: dict[str, Path | None], **columns: Sequence[Any]) -> tuple[Path, Path]:
    """A manifest and a downloads table of one shard: clip -> file, or None for one that was not found."""
    clips = list(files)
    rows = pd.DataFrame({"clip": clips, "dataset": "test", "split": "none", "source": clips})
    rows = rows.assign(start=math.nan, end=math.nan, shard=0, row=range(len(clips)))
    rows.assign(**columns).to_parquet(folder / "manifest.parquet")
    found = [file is not None for file in files.values()]
    downloads = pd.DataFrame(
        {
            "clip": clips,
            "status": ["present" if yes else "unavailable" for yes in found],
            "reason": ["" if yes else "HTTP 404" for yes in found],
            "path": [str(file) if file else None for file in files.values()],
        }
    )
    downloads.to_parquet(folder / "downloads.parquet")
    return folder / "manifest.parquet", folder / "downloads.parquet"


@pytest.fixture(scope="session")
def shard_of() -> Any:
    """`write_shard`."""
    return write_shard


def _ffmpegs() -> list[str]:
    """Every ffmpeg on PATH and of imageio-ffmpeg that encodes H.264; put others on PATH to test them."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    bundled = sorted((Path(imageio_ffmpeg.__file__).parent / "binaries").glob("ffmpeg*"))
    found = [path for path in [*(folder / "ffmpeg" for folder in folders), *bundled] if path.is_file()]
    return [str(path) for path in dict.fromkeys(found) if ffmpeg._encodes_x264(str(path))]


@pytest.fixture(params=_ffmpegs())
def each_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with each ffmpeg of this machine; its path."""
    monkeypatch.setattr(ffmpeg, "ffmpeg_binary", lambda: request.param)
    return str(request.param)
