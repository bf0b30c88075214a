"""How often a site may be asked: one budget a site and address of ours, shared by all jobs of this machine.

Sites limit the address that asks, not the process. So each request takes its turn in a small file under a lock. When
the site says stop, the file tells every job, and nobody asks until the pause is over.
"""

import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from avpipe.clips import Status
from avpipe.download.outcome import Outcome
from avpipe.files import output_errors, write_json

BURST = 3
"""Requests that may follow each other at once after a quiet time."""
FIRST_PAUSE = 900.0
"""Seconds of the first pause if the site names none; each further one without an answer between is twice as long."""
LONGEST_PAUSE = 4 * 3600.0
DAY = 24 * 3600.0
"""Seconds of the longest pause that a site may ask for, and of the longest wait if somebody sets the date back."""
LOOK = 5.0
"""Seconds after which a waiting job looks whether another one was told to stop."""


@dataclass(frozen=True)
class Pause:
    """The site must not be asked now: the site's own status and message, and the seconds that are left."""

    status: Status
    reason: str
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """What becomes of a clip that is not asked for because of it."""
        minutes = math.ceil(self.seconds / 60)
        return Outcome(
            self.status, f"not asked, for the site said stop (again in {minutes} min): {self.reason}"
        )


@dataclass(frozen=True)
class Clock:
    """Where the time (seconds since 1970) comes from, and how to wait."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _State:
    """The content of the file.

    Args:
        earned: time at which the requests that were allowed so far will have been earned at the site's rate.
        closed: time until which nobody may ask.
        stops: pauses since the site last answered.
        status, reason: of the last pause.
    """

    earned: float = 0.0
    closed: float = 0.0
    stops: int = 0
    status: str = Status.RATE_LIMITED.value
    reason: str = ""


class Budget:
    """The budget of one site, asked from one address.

    Args:
        folder: on a disk of this machine or a shared one; the machine's name is part of the file's.
        site: the site, and the proxy if there is one: another address has another budget.
        rate: requests an hour; None: no limit until the site says stop.
        clock: for tests, and for callers whose waiting can be ended.
    """

    def __init__(self, folder: Path, site: str, rate: float | None, clock: Clock | None = None) -> None:
        self.path = folder / f"{platform.node() or 'machine'}-{site}.json"
        self.interval = 3600.0 / rate if rate else 0.0
        self.clock = clock or Clock()

    def take(self) -> Pause | None:
        """Wait for a turn. Gives None when it has come, or the pause at once if the site said stop.

        A process that is killed while it waits has used its turn.
        """
        if not self.interval:
            return self.pause()
        with self._state() as state:
            if pause := self._pause(state):
                return pause
            owed = self._left(state.earned)
            state.earned = self.clock.now() + owed + self.interval
        wait = owed - (BURST - 1) * self.interval
        if wait > 0:  # so that jobs do not ask in step with each other
            wait += random.uniform(0, self.interval / 2)
        until = self.clock.now() + wait
        while (left := min(wait, until - self.clock.now())) > 0:
            self.clock.sleep(min(left, LOOK))
            if pause := self.pause():
                return pause
        return None

    def stop(self, status: Status, reason: str, wish: float | None) -> None:
        """Note that the site said stop.

        Args:
            status, reason: what it said.
            wish: seconds that it asks us to wait (Retry-After), if it does.
        """
        with self._state() as state:
            left = self._left(state.closed)
            state.stops += left <= 0  # several jobs may get the same answer
            pause = min(FIRST_PAUSE * 2 ** (state.stops - 1), LONGEST_PAUSE) * random.uniform(1, 1.1)
            seconds = max(left, pause if wish is None else min(wish, DAY))
            state.closed, state.status, state.reason = self.clock.now() + seconds, status.value, reason

    def answered(self) -> None:
        """Note that the site gave an answer about a clip, whatever it was: the next pause is a first one again."""
        if self._read().stops:
            with self._state() as state:
                state.stops = 0

    def pause(self) -> Pause | None:
        """The pause, if there is one."""
        return self._pause(self._read())

    def _pause(self, state: _State) -> Pause | None:
        left = self._left(state.closed)
        return Pause(Status(state.status), state.reason, left) if left > 0 else None

    def _left(self, until: float) -> float:
        return min(max(0.0, until - self.clock.now()), DAY)

    @contextmanager
    def _state(self) -> Iterator[_State]:
        """The state, to look at and change while no other job does."""
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                state = self._read()
                before = asdict(state)
                yield state
                if asdict(state) != before:
                    write_json(self.path, asdict(state))

    def _read(self) -> _State:
        """What the file says. The file is always whole; one that cannot be read is not ours, and counts as none."""
        try:
            return _State(**json.loads(self.path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return _State()


def budget_folder(environment: Mapping[str, str]) -> Path:
    """Where budgets are kept: $XDG_CACHE_HOME/avpipe/budget, else ~/.cache/avpipe/budget."""
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "avpipe" / "budget"
