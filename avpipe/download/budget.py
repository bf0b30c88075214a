"""Limits the rate of requests to a site. All jobs of this machine share one budget per site.

Sites limit an IP address, not a process. So each request takes its turn in a small file under a lock. When the site says
stop, the file makes every job pause.
"""

import json
import math
import platform
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from avpipe.clips import Status
from avpipe.download.outcome import Outcome
from avpipe.files import locked, write_json

BURST = 3
"""Requests without waiting after a time without requests."""
FIRST_PAUSE = 900.0
"""Seconds of the first pause, if the site names none; each further pause without an answer between is twice as long."""
LONGEST_PAUSE = 4 * 3600.0
DAY = 24 * 3600.0
"""Seconds; the longest pause that a site may ask for, and the longest wait after the clock was set back."""
LOOK = 5.0
"""Seconds between two looks of a waiting job for a pause that another job has started."""


@dataclass
class _State:
    """The content of the file. Times are seconds since 1970."""

    earned: float = 0.0  # when the requests that were allowed so far will have been earned at the site's rate
    closed: float = 0.0  # until when nobody may ask
    stops: int = 0  # pauses since the site last answered
    status: str = Status.RATE_LIMITED.value  # of the last pause
    reason: str = ""


class Budget:
    """The budget of one site.

    Args:
        folder: of the budgets' files, whose names contain the machine's name, so the disk may be shared by machines.
        site: the site's name, and the proxy's if there is one, because sites limit the address that asks.
        rate: requests an hour; None: no limit until the site says stop.
        stopped: ends waiting when it is set.
    """

    def __init__(
        self, folder: Path, site: str, rate: float | None, stopped: threading.Event | None = None
    ) -> None:
        self.path = folder / f"{platform.node() or 'machine'}-{site}.json"
        self.interval = 3600.0 / rate if rate else 0.0
        self.stopped = stopped or threading.Event()

    def take(self) -> Outcome | None:
        """Wait for a turn. Gives None when the request may be sent, or at once the outcome if the site said stop.

        Raises:
            CancelledError: because of `stopped`.
        """
        if not self.interval:
            return self.pause()
        with self._state() as state:
            if pause := self._pause(state):
                return pause
            owed = self._left(state.earned)
            state.earned = time.time() + owed + self.interval
        wait = owed - (BURST - 1) * self.interval
        if wait > 0:  # so that jobs do not ask in step with each other
            wait += random.uniform(0, self.interval / 2)
        until = time.time() + wait
        while (left := min(wait, until - time.time())) > 0:
            if self.stopped.wait(min(left, LOOK)):
                raise CancelledError
            if pause := self.pause():
                return pause
        return None

    def stop(self, status: Status, reason: str, wish: float | None) -> None:
        """Note that the site said stop.

        Args:
            status, reason: the site's answer.
            wish: the site's Retry-After in seconds, if it sent one.
        """
        with self._state() as state:
            left = self._left(state.closed)
            state.stops += left <= 0  # several jobs may get the same answer
            pause = min(FIRST_PAUSE * 2 ** (state.stops - 1), LONGEST_PAUSE) * random.uniform(1, 1.1)
            seconds = max(left, pause if wish is None else min(wish, DAY))
            state.closed, state.status, state.reason = time.time() + seconds, status.value, reason

    def answered(self) -> None:
        """Note that the site answered about a clip, so that the next pause is as long as a first one."""
        if self._read().stops:
            with self._state() as state:
                state.stops = 0

    def pause(self) -> Outcome | None:
        """The outcome of clips that are not asked for because of a pause; None if there is no pause now."""
        return self._pause(self._read())

    def _pause(self, state: _State) -> Outcome | None:
        minutes = math.ceil(self._left(state.closed) / 60)
        reason = f"not asked, for the site said stop (again in {minutes} min): {state.reason}"
        return Outcome(Status(state.status), reason) if minutes else None

    def _left(self, until: float) -> float:
        return min(max(0.0, until - time.time()), DAY)

    @contextmanager
    def _state(self) -> Iterator[_State]:
        """The state, under the lock; changes are written."""
        with locked(self.path.with_suffix(".lock")):
            state = self._read()
            yield state
            write_json(self.path, asdict(state))

    def _read(self) -> _State:
        """The state in the file; a new one if there is no file or it is damaged."""
        try:
            return _State(**json.loads(self.path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return _State()


def budget_folder() -> Path:
    """The folder of all budgets; on Linux $XDG_CACHE_HOME/avpipe/budget, else ~/.cache/avpipe/budget."""
    return user_cache_path("avpipe") / "budget"
