"""Programs outside Python: where they are, and what they can do."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

JAVASCRIPT = {"deno": "deno", "node": "node", "quickjs": "qjs", "bun": "bun"}
"""JavaScript runtimes that yt-dlp can use, best first: its name for one -> the program."""


class FFmpegError(RuntimeError):
    """There is no ffmpeg that can do the work; the message says what to install."""


@cache
def ffmpeg_binary() -> str:
    """The ffmpeg on PATH if it has libx264, else the one of the imageio-ffmpeg wheel.

    Raises:
        FFmpegError: if neither can be had.
    """
    found = shutil.which("ffmpeg")
    if found and _encodes_x264(found):
        return found
    import imageio_ffmpeg

    try:
        bundled: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise FFmpegError("no ffmpeg with libx264: install ffmpeg, or the package imageio-ffmpeg") from error
    return bundled


def _encodes_x264(binary: str) -> bool:
    listed = subprocess.run(
        [binary, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    )
    return " libx264 " in listed.stdout


@cache
def ffmpeg_version() -> str:
    """For example "7.1.1": what canonical clips are made with."""
    shown = subprocess.run([ffmpeg_binary(), "-version"], capture_output=True, text=True, check=True).stdout
    return shown.split(maxsplit=3)[2]


def javascript_runtimes(beside: Path) -> dict[str, str]:
    """The JavaScript runtimes that are installed, best first: yt-dlp's name -> path.

    Args:
        beside: the Python that runs; the package `deno` puts its program beside it.
    """
    found = {
        name: shutil.which(program) or shutil.which(program, path=str(beside.parent))
        for name, program in JAVASCRIPT.items()
    }
    return {name: path for name, path in found.items() if path}
