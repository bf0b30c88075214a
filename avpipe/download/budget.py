"""How often a site may be asked: one budget an address of ours, shared by all jobs of this machine.

Sites limit the address that asks, not the process. So each request takes its turn in a small file under a lock, and
when the site says stop, the file says so to every job: nobody asks until the pause is over.
"""

import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from avpipe.clips import Status
from avpipe.download.outcome import Outcome
from avpipe.files import write_json
from avpipe.locking import locked

BURST = 3
"""Requests that may follow each other at once after a quiet time."""
FIRST_PAUSE = 900.0
"""Seconds of the first pause if the site names none; each further one without an answer between is twice as long."""
LONGEST_PAUSE = 4 * 3600.0
LONGEST_WISH = 24 * 3600.0
"""Seconds of a pause that a site may ask for."""
LOOK = 5.0
"""Seconds after which a waiting job looks whether another one was told to stop."""


@dataclass(frozen=True)
class Pause:
    """The site is not asked for now.

    Args:
        status: bot check or rate limit.
        reason: the site's message.
        seconds: how long it still lasts.
    """

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
    """Where time comes from; tests have their own."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    boot: Callable[[], str] = field(default=lambda: _boot())


@dataclass(frozen=True)
class _State:
    """What the file says. Durations in seconds as of `clock`; they run down while the machine is up.

    Args:
        boot: which start of the machine `clock` belongs to.
        clock: monotonic time: setting the date changes no budget.
        wall: the date, for after a restart, when `clock` began anew.
        owed: until the requests that were allowed are earned.
        closed: until the site may be asked again.
        stops: pauses since the site last answered.
        status, reason: of the last pause.
    """

    boot: str = ""
    clock: float = 0.0
    wall: float = 0.0
    owed: float = 0.0
    closed: float = 0.0
    stops: int = 0
    status: str = Status.RATE_LIMITED.value
    reason: str = ""


class Budget:
    """The budget of one site, seen from one address.

    Args:
        folder: on a disk of this machine or a shared one; the machine's name is part of the file's.
        site: the site and the proxy, if there is one: another address has another budget.
        rate: requests an hour; None: no limit, until the site says stop.
        clock: for tests.
    """

    def __init__(self, folder: Path, site: str, rate: float | None, clock: Clock | None = None) -> None:
        self.path = folder / f"{platform.node() or 'machine'}-{site}.json"
        self.interval = 3600.0 / rate if rate else 0.0
        self.clock = clock or Clock()

    def take(self) -> Pause | None:
        """Wait for a turn. Gives None when it has come, or the pause, at once, if the site said stop.

        A process that is killed while it waits has used its turn: the budget errs on the site's side.
        """
        if not self.interval:
            return self.pause()
        with self._state() as change:
            state = change.state
            if state.closed > 0:
                return _pause(state)
            wait = max(0.0, state.owed - (BURST - 1) * self.interval)
            change.state = replace(state, owed=state.owed + self.interval)
        if wait > 0:  # not in step with the other jobs, nor with the clock
            wait += random.uniform(0, self.interval / 2)
        until = self.clock.monotonic() + wait
        while (left := until - self.clock.monotonic()) > 0:
            self.clock.sleep(min(left, LOOK))
            if pause := self.pause():
                return pause
        return None

    def stop(self, status: Status, reason: str, wish: float | None) -> None:
        """The site said stop.

        Args:
            status, reason: what it said.
            wish: seconds that it asks us to wait, if it does (Retry-After).
        """
        with self._state() as change:
            state = change.state
            stops = state.stops + (state.closed <= 0)  # several jobs may hear the same stop
            pause = min(FIRST_PAUSE * 2 ** (stops - 1), LONGEST_PAUSE) * random.uniform(1, 1.1)
            if wish is not None:
                pause = min(wish, LONGEST_WISH)
            closed = max(state.closed, pause)
            change.state = replace(state, closed=closed, stops=stops, status=status.value, reason=reason)

    def answered(self) -> None:
        """The site gave an answer about a clip, whatever it was: the next pause is a first one again."""
        if self._read().stops:
            with self._state() as change:
                change.state = replace(change.state, stops=0)

    def pause(self) -> Pause | None:
        """The pause, if there is one."""
        state = self._read()
        return _pause(state) if state.closed > 0 else None

    @contextmanager
    def _state(self) -> Iterator["_Change"]:
        """The state to look at and change, under the lock; written if it was changed."""
        with locked(self.path.with_suffix(".lock")):
            before = self._read()
            change = _Change(before)
            yield change
            if change.state is not before:
                write_json(self.path, asdict(change.state))

    def _read(self) -> _State:
        """The state as of now. The file is written whole, so what cannot be read was not written by us."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            found = {}
        now = replace(_State(), boot=self.clock.boot(), clock=self.clock.monotonic(), wall=self.clock.wall())
        if not isinstance(found, Mapping) or set(found) != set(asdict(now)):
            return now
        state = _State(**found)
        passed = now.clock - state.clock
        if state.boot != now.boot or passed < 0:
            passed = max(0.0, now.wall - state.wall)
        return replace(
            now,
            owed=max(0.0, state.owed - passed),
            closed=max(0.0, state.closed - passed),
            stops=state.stops,
            status=state.status,
            reason=state.reason,
        )


class _Change:
    """A state, and the one to put in its place."""

    def __init__(self, state: _State) -> None:
        self.state = state


def budget_folder(environment: Mapping[str, str]) -> Path:
    """Where budgets are kept: $XDG_CACHE_HOME/avpipe/budget, else ~/.cache/avpipe/budget."""
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "avpipe" / "budget"


def _pause(state: _State) -> Pause:
    return Pause(Status(state.status), state.reason, state.closed)


def _boot() -> str:
    """Which start of the machine this is; systems that do not say it are told apart by a clock that went back."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""
