"""All jobs of a machine together ask a site no oftener than it was agreed, and not at all after it said stop."""

import json
import multiprocessing
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avpipe.clips import Status
from avpipe.download import budget as module
from avpipe.download.budget import BURST, DAY, FIRST_PAUSE, LONGEST_PAUSE, Budget


@dataclass
class Time:
    """A clock that is moved by hand, and an event that is never set."""

    now: float = 1.8e9
    slept: list[float] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def wait(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.now += seconds
        self.then()
        return False


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Time:
    random.seed(0)
    clock = Time()
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


@pytest.fixture
def budget(tmp_path: Path, now: Any) -> Budget:
    return Budget(tmp_path, "site", rate=360, stopped=now)  # one in 10 s


def minutes_of_pause(budget: Budget) -> int:
    pause = budget.pause()
    return int(re.findall(r"again in (\d+) min", pause.reason)[0]) if pause else 0


def test_after_a_burst_requests_come_at_the_rate_with_some_jitter(budget: Budget, now: Time) -> None:
    begun, times = now.now, []
    for _ in range(BURST + 20):
        assert budget.take() is None
        times.append(now.now - begun)
    assert times[:BURST] == [0.0] * BURST
    for number, moment in enumerate(times[BURST:], start=1):
        assert number * 10 - 1e-3 <= moment
    assert times[-1] <= 20 * 10 + 5 * 20, "jitter is at most half an interval each"


def test_a_quiet_time_earns_no_more_than_a_burst(budget: Budget, now: Time) -> None:
    now.now += 7 * 24 * 3600
    for _ in range(BURST):
        budget.take()
    assert now.slept == []
    budget.take()
    assert sum(now.slept) >= 10


def test_setting_the_date_back_costs_a_day_at_most(budget: Budget, now: Time) -> None:
    budget.stop(Status.RATE_LIMITED, "too many", wish=600)
    now.now -= 20 * 365 * 24 * 3600
    assert minutes_of_pause(budget) == DAY / 60


def test_pauses_double_until_the_site_answers_and_have_a_limit(budget: Budget, now: Time) -> None:
    for expected in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
        budget.stop(Status.RATE_LIMITED, "too many", wish=None)
        budget.stop(Status.RATE_LIMITED, "another job got the same answer", wish=None)
        assert expected / 60 <= minutes_of_pause(budget) <= 1.1 * expected / 60 + 1
        now.now += 1.1 * expected
        assert budget.pause() is None
    for _ in range(10):
        budget.stop(Status.RATE_LIMITED, "too many", wish=None)
        now.now += 1.1 * LONGEST_PAUSE
        assert budget.pause() is None
    budget.answered()
    budget.stop(Status.RATE_LIMITED, "too many", wish=None)
    assert 0 < minutes_of_pause(budget) <= 1.1 * FIRST_PAUSE / 60 + 1


@pytest.mark.parametrize(("wish", "minutes"), [(30.0, 1), (7200.0, 120), (1e9, DAY / 60)])
def test_the_sites_own_wish_counts_within_reason(budget: Budget, wish: float, minutes: int) -> None:
    budget.stop(Status.BOT_CHECK, "not a bot?", wish=wish)
    pause = budget.take()
    assert pause is not None
    assert (pause.status, pause.attempts) == (Status.BOT_CHECK, 0)
    assert pause.reason.endswith(f"(again in {minutes:g} min): not a bot?")


def test_a_waiting_job_learns_of_the_stop_that_another_was_told(
    tmp_path: Path, now: Any, budget: Budget
) -> None:
    other = Budget(tmp_path, "site", rate=360)
    now.then = lambda: len(now.slept) == 2 and other.stop(Status.RATE_LIMITED, "too many", wish=None)
    for _ in range(BURST):
        assert budget.take() is None
    assert budget.take() is not None
    assert len(now.slept) == 2


def test_another_site_and_another_address_have_their_own_budgets(tmp_path: Path) -> None:
    Budget(tmp_path, "site", 360).stop(Status.RATE_LIMITED, "too many", wish=None)
    assert Budget(tmp_path, "site", 9999).take() is not None
    assert Budget(tmp_path, "site-proxy", 360).take() is None


@pytest.mark.parametrize("content", ["", "null", '{"owed": 1}'])
def test_a_file_that_is_not_ours_is_replaced(budget: Budget, content: str) -> None:
    budget.path.write_text(content)
    assert budget.take() is None
    assert "earned" in json.loads(budget.path.read_text())


def ask(folder: Path, queue: "multiprocessing.Queue[float]", count: int) -> None:
    budget = Budget(folder, "site", rate=36_000)  # one in 0.1 s
    for _ in range(count):
        budget.take()
        queue.put(time.monotonic())


def test_four_processes_share_the_rate(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[float] = context.Queue()
    processes = [context.Process(target=ask, args=(tmp_path, queue, 6)) for _ in range(4)]
    for process in processes:
        process.start()
    times = sorted(queue.get(timeout=30) for _ in range(24))
    for process in processes:
        process.join()
    for first in range(24):
        for last in range(first, 24):
            allowed = BURST + (times[last] - times[first] + 0.05) / 0.1 + 1  # jitter may add one
            assert last - first + 1 <= allowed
