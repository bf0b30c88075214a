"""Programs that yt-dlp starts: ffmpeg, which cuts an excerpt, and a JavaScript runtime."""

import shutil
from pathlib import Path

JAVASCRIPT = {"deno": "deno", "node": "node", "quickjs": "qjs", "bun": "bun"}
"""JavaScript runtimes that yt-dlp can use, best first: its name for one -> the program."""


def ffmpeg_for_cutting() -> str:
    """Any ffmpeg will do, because streams are copied: the one on PATH, else the one of the imageio-ffmpeg wheel."""
    import imageio_ffmpeg

    found: str = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
    return found


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
