"""Running ffmpeg with limits of time and memory, and so that it ends when this process ends."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from subprocess import DEVNULL, PIPE
from types import TracebackType
from typing import IO

MEMORY = 4 << 30
"""Bytes of address space for one ffmpeg (Linux): enough for an 8K picture, too little for a decompression bomb."""
LINE = 4096  # most bytes of a message that are read
MESSAGES = 200  # most different error messages that are kept of one run

_OPTIONS = ("-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+verbose")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_GUARD = "import os, signal, sys; sys.stdin.buffer.read(); os.killpg(0, signal.SIGKILL)"
_PREFIX = re.compile(r"\[(?P<name>[^\]@]*?)(?: @ 0x[0-9a-f]+)?\] ")
_LEVEL = re.compile(r"\[(?P<level>panic|fatal|error|warning|info|verbose|debug)\] ")
_STOPPED = re.compile(r"\[info\] Exiting normally, received signal (?P<number>\d+)\.")
_SOUND = re.compile(r"\[graph[_ ]\d+[^\]]* @ [^\]]*\] \[verbose\] tb:\S+ samplefmt:")
_OUTPUT = re.compile(r"(?:out|vost|aost)#|\w+: Application provided invalid")
_OWN = re.compile(
    r"$|graph|Parsed_|a?buffer$|[a-z]+#\d"
)  # names of ffmpeg's own parts; not of decoders and formats
_FRAMES = re.compile(r"\[Parsed_fps_\d+ @ [^\]]*\] \[verbose\] \d+ frames in, (?P<count>\d+) frames out;")
_SAMPLES = re.compile(r"\[Parsed_ashowinfo_\d+ @ [^\]]*\] \[info\] n:.* nb_samples:(?P<count>\d+)")


class FFmpegError(RuntimeError):
    """There is no ffmpeg that can do the work; the message says what to install."""


class FFmpegKilledError(ChildProcessError):
    """ffmpeg was ended by a signal, twice. That says nothing of the clip, so it is no outcome of a clip."""


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


@dataclass
class Finished:
    """The result of one run of ffmpeg.

    Args:
        code: exit status; negative if it was ended by a signal.
        timed_out: whether the time limit stopped it.
        frames: pictures that the filter `fps` gave.
        samples: samples, in each channel, that the filter `ashowinfo` listed.
        sounds: how often the filters of the sound were set up; more than once if its layout or rate changed.
        errors: messages about the source, without addresses -> how often each came.
        disk: errno if an output could not be written.
        first: part of ffmpeg -> the first of its errors, outputs included.
        stopped: the signal after which ffmpeg tidied up and ended, as after SIGTERM; 0 if there was none.
    """

    code: int = 0
    timed_out: bool = False
    frames: int = 0
    samples: int = 0
    sounds: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    disk: int | None = None
    first: dict[str, str] = field(default_factory=dict)
    stopped: int = 0

    @property
    def gave_up(self) -> bool:
        """Whether ffmpeg itself ended with an error."""
        return self.code != 0 and not self.timed_out

    def message(self) -> str:
        """One message for a table, the same in every run.

        The most frequent error if ffmpeg ended well. If it gave up: the first error of a decoder or of the file's format,
        else of ffmpeg's own parts, which only report what follows from it. (Its parts run in threads: which of them is
        the first to report differs from run to run.)
        """
        if self.errors and not self.code:
            return min(self.errors, key=lambda text: (-self.errors[text], text))
        causes = [text for part, text in self.first.items() if not _OWN.match(part)]
        return min(causes or self.first.values(), default=f"ffmpeg ended with status {self.code}")


class FFmpegGroup:
    """Runs ffmpeg processes in one process group that ends with this process.

    A small guard process leads the group and waits on a pipe that only this process holds. When this process ends, even by
    kill -9, the pipe closes and the guard kills the group and itself. (PR_SET_PDEATHSIG exists on Linux only, and would
    need code between fork and exec, which is unsafe beside threads.)

    Use as a context manager; `run` may be called from several threads.

    Args:
        at_once: processes that run at the same time; further calls of `run` wait.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._turn = threading.BoundedSemaphore(at_once)
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "FFmpegGroup":
        command = [sys.executable, "-I", "-S", "-c", _GUARD]
        self._guard = subprocess.Popen(command, stdin=PIPE, stdout=DEVNULL, process_group=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait()

    def run(self, arguments: Sequence[str], timeout: float) -> Finished:
        """Run ffmpeg with `arguments` for at most `timeout` seconds; once more if a signal ended it.

        Raises:
            FFmpegKilledError: if a signal ended both runs.
            OSError: if ffmpeg reported that the disk is full or cannot be written.
            RuntimeError: outside the `with` block, or if the guard was killed.
        """
        with self._turn:
            finished = self._run(arguments, timeout)
            if finished.code < 0 and not finished.timed_out:
                finished = self._run(arguments, timeout)
        if finished.code < 0 and not finished.timed_out:
            raise FFmpegKilledError(f"ffmpeg was ended twice by {_signal_name(-finished.code)}")
        if finished.disk is not None:
            raise OSError(finished.disk, f"ffmpeg: {os.strerror(finished.disk)}")
        return finished

    def _run(self, arguments: Sequence[str], timeout: float) -> Finished:
        guard = self._guard
        if guard is None or guard.poll() is not None:
            raise RuntimeError("the process that guards ffmpeg is gone")
        command = [ffmpeg_binary(), *_OPTIONS, *arguments]
        finished = Finished()
        # A static ffmpeg 7.0.2 crashes where it loads the system's tables of letters, for names in MPEG-TS.
        environment = {**os.environ, "GCONV_PATH": os.devnull}
        with subprocess.Popen(
            command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, process_group=guard.pid, env=environment
        ) as process:
            if hasattr(resource, "prlimit"):
                resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))

            def stop() -> None:
                finished.timed_out = True
                process.kill()

            timer = threading.Timer(timeout, stop)
            timer.start()
            try:
                assert process.stderr is not None
                _read(process.stderr, finished)
                finished.code = process.wait()
                if finished.stopped and finished.code == 255:
                    finished.code = -finished.stopped
            except BaseException:
                process.kill()
                raise
            finally:
                timer.cancel()
        return finished


def _read(stream: IO[bytes], finished: Finished) -> None:
    """Count frames and samples and collect errors from any amount of output."""
    for raw in iter(lambda: stream.readline(LINE), b""):
        line = raw.decode("utf-8", "replace").strip()
        if counted := _FRAMES.match(line):
            finished.frames += int(counted["count"])
        if counted := _SAMPLES.match(line):
            finished.samples += int(counted["count"])
        if stopped := _STOPPED.match(line):
            finished.stopped = int(stopped["number"])
        finished.sounds += bool(_SOUND.match(line))
        level = _LEVEL.search(line)
        if level is None or level["level"] not in ("panic", "fatal", "error"):
            continue
        part, text = _clean(line, level)
        if text:
            finished.disk = next((number for number in _DISK if os.strerror(number) in text), finished.disk)
            if part in finished.first or len(finished.first) < MESSAGES:
                finished.first.setdefault(part, text)
            if not _OUTPUT.match(text) and (text in finished.errors or len(finished.errors) < MESSAGES):
                finished.errors[text] += 1


def _clean(line: str, level: re.Match[str]) -> tuple[str, str]:
    """`[h264 @ 0x5581] [error] bad NAL` becomes `h264` and `h264: bad NAL`.

    The text has no addresses and no control characters, and at most 200 letters; the name is "" where ffmpeg gives none.
    """
    name = _PREFIX.match(line)
    text, part = line[level.end() :], ""
    if name and name.start() < level.start():
        part = name["name"].strip()
        text = f"{part}: {text}"
    return part, "".join(character for character in text if character.isprintable())[:200]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
