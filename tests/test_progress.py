"""A long job says how far it is, in its log and in the terminal; a short job says nothing."""

import os
import subprocess
import sys

import pytest

from avpipe import progress
from avpipe.progress import Progress


def test_the_first_line_comes_after_ten_seconds_and_the_next_ones_every_thirty(monkeypatch, capsys):
    clock = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    job = Progress("extract shard 3", 64, "clips")
    for _ in range(63):
        clock += 1
        job.advance()
    assert capsys.readouterr().err.splitlines() == [
        "extract shard 3: 10 of 64 clips, 60 a minute, 54 s left",
        "extract shard 3: 40 of 64 clips, 60 a minute, 24 s left",
    ]


@pytest.mark.parametrize(
    ("total", "done", "seconds", "line"),
    [
        (300, 100, 600, "x: 101 of 300 units, 0.1 a minute, 33 h 10 min left"),
        (20, 0, 30, "x: 1 of 20 units, 2 a minute, 10 min left"),  # 19 x 30 s = 9.5 min
        (None, 0, 20, "x: 1 units, 3 a minute"),
    ],
)
def test_rate_and_time_left_are_those_of_this_job_not_of_the_one_that_it_continues(
    total, done, seconds, line, monkeypatch, capsys
):
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    job = Progress("x", total, "units", done)
    clock += seconds
    job.advance()
    assert capsys.readouterr().err == f"{line}\n"


def test_before_anything_is_done_no_time_left_is_guessed(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0)
    Progress("x", 20, "units").advance(0)
    assert capsys.readouterr().err == "x: 0 of 20 units, 0 a minute\n"


CODE = """
import os
from avpipe import progress
progress.FIRST = 0
progress.Progress("x", None, "clips").advance()
print("AVPIPE_PROGRESS_FD" in os.environ)
"""


@pytest.mark.parametrize("terminal", ["open", "closed"])
def test_a_job_of_the_workflow_writes_to_the_terminal_too_and_goes_on_without_it(terminal):
    reader, writer = os.pipe()
    if terminal == "closed":
        os.close(reader)
    environment = {**os.environ, "AVPIPE_PROGRESS_FD": str(writer)}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(
        command, env=environment, pass_fds=[writer], capture_output=True, text=True, check=True
    )
    os.close(writer)
    assert done.stderr.startswith("x: 1 clips")
    assert done.stdout == "False\n", "a child process does not have the open file"
    if terminal == "open":
        assert os.read(reader, 1000).decode() == done.stderr
        os.close(reader)
