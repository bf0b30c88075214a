"""How far a long job is: a line now and then in its log, and in the terminal that Snakemake runs in."""

import contextlib
import os
import sys
import time

FIRST, EVERY = 10.0, 30.0
"""Seconds until the first line, so that short jobs print none, and from one line to the next."""

# The workflow's jobs write stdout and stderr to their log. Before that, the shell keeps Snakemake's stderr under this number
# (workflow/rules/common.smk). Removed from the environment, because child processes do not inherit the open file.
_snakemake_stderr = int(os.environ.pop("AVPIPE_PROGRESS_FD", "-1"))


class Progress:
    """Counts what is done of a job, and says it together with the rate and the time left.

    Args:
        what: names the job at the beginning of each line; several jobs may print at once.
        total: how many there are; None: not known.
        unit: of what, in the plural.
        done: how many were done by an earlier job.
    """

    def __init__(self, what: str, total: float | None, unit: str, done: float = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.before = done
        self.started = time.monotonic()
        self.next_line = self.started + FIRST

    def advance(self, count: float = 1) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + EVERY
            _say(self._line(now - self.started))

    def _line(self, seconds: float) -> str:
        rate = (self.done - self.before) / max(seconds, 1e-9)
        a_minute = f"{60 * rate:,.0f}" if rate > 0.15 else f"{60 * rate:.2g}"
        total = "" if self.total is None else f" of {self.total:,.0f}"
        line = f"{self.what}: {self.done:,.0f}{total} {self.unit}, {a_minute} a minute"
        if self.total is None or rate <= 0:
            return line
        return f"{line}, {_duration((self.total - self.done) / rate)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    if _snakemake_stderr >= 0:
        with contextlib.suppress(OSError):  # the terminal was closed; the job goes on
            os.write(_snakemake_stderr, f"{line}\n".encode())
