"""The lock of a run or a shard: who waits, who takes over, also from another node."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from avpipe.lock import STALE, _machine, sole_writer

PERIOD = 0.2
HOLD = """
import sys, time
from pathlib import Path
from avpipe.lock import sole_writer
with sole_writer(Path(sys.argv[1]), "it", 0.2):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / ".seed0.lock"


@pytest.fixture
def other(path):
    """A process that holds the lock for a minute."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def seconds_to_take(path: Path) -> float:
    started = time.monotonic()
    with sole_writer(path, "it", PERIOD) as waited:
        assert waited
        return time.monotonic() - started


def from_elsewhere(path: Path) -> None:
    """Make the lock look as if another machine had written it."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "node7", "machine": "other boot"}))


def test_a_free_lock_is_taken_at_once_and_leaves_nothing(path):
    with sole_writer(path, "it", PERIOD) as waited:
        assert not waited
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_while_the_holder_lives_the_second_waits(path, other, capfd):
    """Longer than a lock without heartbeat would live, and as if from another node."""
    from_elsewhere(path)
    released = 1.5 * STALE * PERIOD

    def end() -> None:
        time.sleep(released)
        path.unlink()

    threading.Thread(target=end).start()
    assert seconds_to_take(path) >= released - 0.05
    assert "waiting for process" in capfd.readouterr().err


def test_a_holder_of_this_machine_that_was_killed_is_followed_at_once(path, other, capfd):
    other.kill()
    other.wait()
    assert path.exists()
    assert seconds_to_take(path) < STALE * PERIOD / 3
    assert "has died" in capfd.readouterr().err


def test_a_holder_that_waits_for_its_parent_to_notice_its_end_is_dead(path, other):
    other.kill()
    time.sleep(0.2)
    assert Path(f"/proc/{other.pid}").exists()
    assert seconds_to_take(path) < STALE * PERIOD / 3


def test_a_process_number_that_was_given_again_does_not_keep_the_lock(path):
    path.parent.mkdir()
    path.write_text(
        json.dumps({"host": "here", "machine": _machine(), "pid": os.getpid(), "started": "1", "token": "x"})
    )
    assert seconds_to_take(path) < STALE * PERIOD / 3


def test_a_holder_of_another_node_is_followed_when_its_heartbeat_is_missing(path, other):
    from_elsewhere(path)
    other.kill()
    other.wait()
    assert (STALE - 1) * PERIOD <= seconds_to_take(path) <= 3 * STALE * PERIOD


def test_the_file_systems_clock_counts_and_not_this_machines(path, other, monkeypatch):
    """A machine whose clock is an hour ahead must not take every lock for stale."""
    from_elsewhere(path)
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 3600)
    started = time.monotonic()
    with suppress(TimeoutError):
        monkeypatch.setattr(time, "sleep", _until(started + 1))
        with sole_writer(path, "it", PERIOD):
            pytest.fail("took the lock of a living process")


def _until(deadline):
    pause = time.sleep

    def sleep(seconds):
        if time.monotonic() > deadline:
            raise TimeoutError
        pause(seconds)

    return sleep


def test_an_unfinished_lock_file_is_taken_for_a_holder_until_it_is_old(path):
    path.parent.mkdir()
    path.touch()
    assert seconds_to_take(path) >= (STALE - 1) * PERIOD


def test_who_slept_and_lost_the_lock_ends_and_leaves_it(path, other):
    path.write_text(json.dumps({**json.loads(path.read_text()), "token": "another's"}))
    assert other.wait(timeout=10 * PERIOD) == -15
    assert json.loads(path.read_text())["token"] == "another's"


def test_of_many_that_wait_for_a_dead_one_each_gets_it_alone(path, tmp_path):
    """Ten processes append two lines each, in turn."""
    path.parent.mkdir()
    path.write_text(
        json.dumps({"host": "h", "machine": _machine(), "pid": 2**22 + 1, "started": "1", "token": "x"})
    )
    lines = tmp_path / "lines"
    code = (
        "import sys, time; from pathlib import Path; from avpipe.lock import sole_writer\n"
        "with sole_writer(Path(sys.argv[1]), 'it', 0.2):\n"
        "    for _ in range(2):\n"
        "        open(sys.argv[2], 'a').write(sys.argv[3] + '\\n'); time.sleep(0.05)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(lines), str(number)])
        for number in range(10)
    ]
    assert [process.wait(timeout=60) for process in started] == [0] * 10
    found = lines.read_text().split()
    assert found[::2] == found[1::2]
    assert len(set(found)) == 10
