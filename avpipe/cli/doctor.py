"""`avpipe doctor`: checks that everything a study needs is installed, and says how to get what is missing."""

import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from avpipe.download.budget import Budget
from avpipe.download.unpack import RAR_TOOL
from avpipe.media.ffmpeg import FFmpegError, ffmpeg_binary, ffmpeg_version

OLD = 90
"""Days after which yt-dlp counts as old: YouTube changes, and yt-dlp follows about once a month."""
LITTLE, FULL = 20 << 30, 1 << 30
"""Free bytes of the disk below which a check warns, and fails."""
INSTALL = "run `make setup`"


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: of what was checked.
        verdict: fail: no study can run; warn: some studies cannot run, or will soon fail.
        found: for example the version, or the error.
        advice: what to do, if the verdict is not ok.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(results: Path, budgets: Path) -> list[Check]:
    """Run every check.

    Args:
        results: where studies write; need not exist yet.
        budgets: folder of request budgets.
    """
    site = [*_yt_dlp(date.today()), *_javascript(), *_pauses(budgets)]
    return [*_ffmpeg(), *_torch(), *site, *_rar(), *_disk(results)]


def check_table(checks: Iterable[Check]) -> Table:
    """The checks as a table for the terminal."""
    table = Table("", "check", "found", "what to do", show_lines=False)
    colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
    for check in checks:
        verdict = f"[{colours[check.verdict]}]{check.verdict}[/]"
        table.add_row(verdict, check.name, escape(check.found), escape(check.advice))
    return table


def _ffmpeg() -> Iterator[Check]:
    try:
        yield Check("ffmpeg", Verdict.OK, f"{ffmpeg_version()}, {ffmpeg_binary()}")
    except (FFmpegError, OSError, subprocess.CalledProcessError) as error:
        yield Check("ffmpeg", Verdict.FAIL, str(error), f"install ffmpeg with libx264, or {INSTALL}")


def _torch() -> Iterator[Check]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ", ".join(torch.cuda.get_device_name(index) for index in range(count)) or "no CUDA device"
    advice = "" if count else "training on the processor works and takes longer"
    yield Check("PyTorch", Verdict.OK, f"{torch.__version__}; {devices}", advice)


def _yt_dlp(today: date) -> Iterator[Check]:
    version = importlib.metadata.version("yt-dlp")
    year, month, day = (int(part) for part in version.split(".")[:3])
    age = (today - date(year, month, day)).days
    found = f"{version}, {age} days old"
    if age > OLD:
        advice = (
            "needed for YouTube, which may have changed since: .venv/bin/uv pip install -U 'yt-dlp[default]'"
        )
        yield Check("yt-dlp", Verdict.WARN, found, advice)
    else:
        yield Check("yt-dlp", Verdict.OK, found)


def _javascript() -> Iterator[Check]:
    """YouTube hides the addresses of its files behind scripts; without a runtime most formats are missing."""
    import yt_dlp

    found = [info for kind in yt_dlp.globals.supported_js_runtimes.value.values() if (info := kind().info)]
    names = [f"{info.name} {info.version}{'' if info.supported else ' (too old)'}" for info in found]
    if any(info.supported for info in found):
        yield Check("JavaScript runtime", Verdict.OK, "; ".join(names))
    else:
        advice = "yt-dlp needs one for YouTube: install deno (.venv/bin/uv pip install deno), or a new node"
        yield Check("JavaScript runtime", Verdict.WARN, "; ".join(names) or "none", advice)


def _rar() -> Iterator[Check]:
    """UCF-101 is published as a rar file."""
    found = shutil.which(RAR_TOOL)
    advice = "" if found else f"only rar archives need it: install {RAR_TOOL} (libarchive-tools)"
    yield Check("rar", Verdict.OK, found or f"no {RAR_TOOL}", advice)


def _pauses(budgets: Path) -> Iterator[Check]:
    """Sites that must not be asked at the moment."""
    host = platform.node() or "machine"
    for path in sorted(budgets.glob(f"{host}-*.json")):
        site = path.stem.removeprefix(f"{host}-")
        if pause := Budget(budgets, site, rate=1).pause():
            found = f"{site} ({pause.status}): {pause.reason}"
            yield Check("downloads", Verdict.WARN, found, "wait, then run `avpipe download retry`")


def _disk(results: Path) -> Iterator[Check]:
    """Free disk space, and whether results can be written."""
    folder = results.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free in {results}"
    if free < LITTLE:
        verdict = Verdict.FAIL if free < FULL else Verdict.WARN
        yield Check("disk", verdict, found, "free some space, or choose another disk")
    else:
        yield Check("disk", Verdict.OK, found)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        yield Check("results", Verdict.OK, f"{results} can be written")
    except OSError as error:
        advice = "make the folder writable, or run in another one"
        yield Check("results", Verdict.FAIL, f"{folder}: {error.strerror}", advice)
