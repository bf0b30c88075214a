"""All jobs of a machine together ask a site no oftener than it was agreed, and not at all after it said stop."""

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avpipe.clips import Status
from avpipe.download.budget import BURST, DAY, FIRST_PAUSE, LONGEST_PAUSE, Budget, Clock


@dataclass
class Time:
    """A clock that is moved by hand."""

    now: float = 1.8e9
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


@pytest.fixture
def now() -> Time:
    random.seed(0)
    return Time()


@pytest.fixture
def budget(tmp_path: Path, now: Time) -> Budget:
    return Budget(tmp_path, "site", rate=360, clock=now.clock)  # one in 10 s


def seconds_of_pause(budget: Budget) -> float:
    pause = budget.pause()
    return pause.seconds if pause else 0.0


def test_after_a_burst_requests_come_at_the_rate_with_some_jitter(budget: Budget, now: Time) -> None:
    begun, times = now.now, []
    for _ in range(BURST + 20):
        assert budget.take() is None
        times.append(now.now - begun)
    assert times[:BURST] == [0.0] * BURST
    for number, moment in enumerate(times[BURST:], start=1):
        assert number * 10 - 1e-3 <= moment
    assert times[-1] <= 20 * 10 + 5 * 20, "jitter is at most half an interval each"
    gaps = {
        round(after - before, 3) for before, after in zip(times[BURST:], times[BURST + 1 :], strict=False)
    }
    assert len(gaps) > 10


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
    assert seconds_of_pause(budget) == DAY


def test_pauses_double_until_the_site_answers_and_have_a_limit(budget: Budget, now: Time) -> None:
    for expected in (FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE):
        budget.stop(Status.RATE_LIMITED, "too many", wish=None)
        budget.stop(Status.RATE_LIMITED, "another job got the same answer", wish=None)
        assert expected <= seconds_of_pause(budget) <= 1.1 * expected
        now.now += 1.1 * expected
        assert budget.pause() is None
    for _ in range(10):
        budget.stop(Status.RATE_LIMITED, "too many", wish=None)
        now.now += 1.1 * LONGEST_PAUSE
        assert budget.pause() is None
    budget.answered()
    budget.stop(Status.RATE_LIMITED, "too many", wish=None)
    assert 0 < seconds_of_pause(budget) <= 1.1 * FIRST_PAUSE


@pytest.mark.parametrize(("wish", "expected"), [(30.0, 30.0), (7200.0, 7200.0), (1e9, DAY)])
def test_the_sites_own_wish_counts_within_reason(budget: Budget, wish: float, expected: float) -> None:
    budget.stop(Status.BOT_CHECK, "not a bot?", wish=wish)
    pause = budget.take()
    assert pause is not None
    assert (pause.status, pause.reason) == (Status.BOT_CHECK, "not a bot?")
    assert pause.seconds == pytest.approx(expected)


def test_a_waiting_job_learns_of_the_stop_that_another_was_told(tmp_path: Path, now: Time) -> None:
    other = Budget(tmp_path, "site", rate=36, clock=now.clock)

    def sleep(seconds: float) -> None:
        now.sleep(seconds)
        if len(now.slept) == 2:
            other.stop(Status.RATE_LIMITED, "too many", wish=None)

    budget = Budget(tmp_path, "site", rate=36, clock=Clock(lambda: now.now, sleep))
    for _ in range(BURST):
        assert budget.take() is None
    assert budget.take() is not None
    assert len(now.slept) == 2


def test_another_site_and_another_address_have_their_own_budgets(tmp_path: Path, now: Time) -> None:
    Budget(tmp_path, "site", 360, now.clock).stop(Status.RATE_LIMITED, "too many", wish=None)
    assert Budget(tmp_path, "site", 9999, now.clock).take() is not None
    assert Budget(tmp_path, "site-proxy", 360, now.clock).take() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"owed": 1}', '"x"'])
def test_a_file_that_is_not_ours_is_replaced(budget: Budget, content: str) -> None:
    budget.path.write_text(content)
    assert budget.take() is None
    assert "earned" in json.loads(budget.path.read_text())


def ask(folder: Path, queue: "multiprocessing.Queue[float]", count: int) -> None:
    budget = Budget(folder, "site", rate=36_000)  # one in 0.1 s
    for _ in range(count):
        budget.take()
        queue.put(time.monotonic())


def start(target: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def test_four_processes_share_the_rate(tmp_path: Path) -> None:
    queue: multiprocessing.Queue[float] = multiprocessing.get_context("fork").Queue()
    processes = [start(ask, tmp_path, queue, 6) for _ in range(4)]
    times = sorted(queue.get(timeout=30) for _ in range(24))
    for process in processes:
        process.join()
    for first in range(24):
        for last in range(first, 24):
            allowed = BURST + (times[last] - times[first] + 0.05) / 0.1 + 1  # jitter may add one
            assert last - first + 1 <= allowed


def test_a_process_killed_with_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    queue: multiprocessing.Queue[float] = multiprocessing.get_context("fork").Queue()
    for delay in (0.0, 0.01, 0.02, 0.05):
        process = start(ask, tmp_path, queue, 1000)
        time.sleep(delay)
        assert process.pid
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    budget = Budget(tmp_path, "site", rate=3_600_000)
    assert budget.take() is None
    json.loads(budget.path.read_text())
