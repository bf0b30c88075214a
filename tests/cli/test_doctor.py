"""The doctor reports what is missing and what to do; it fails only for what stops a study."""

import importlib.metadata
import io
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yt_dlp
from rich.console import Console
from typer.testing import CliRunner

from avpipe.cli import app, doctor
from avpipe.cli.doctor import Check, Verdict, check_table, examine
from avpipe.download import Status
from avpipe.download.budget import Budget
from avpipe.media.ffmpeg import FFmpegError


def test_a_machine_that_is_set_up_fails_no_check(tmp_path):
    checks = {check.name: check for check in examine(tmp_path / "results", tmp_path / "budget")}
    assert {check.name for check in checks.values() if check.verdict is Verdict.FAIL} <= {"disk"}
    assert set(checks) >= {"ffmpeg", "PyTorch", "yt-dlp", "JavaScript runtime", "rar"}
    assert checks["results"].verdict is Verdict.OK
    assert not (tmp_path / "results").exists(), "the doctor creates no folder"


@pytest.mark.parametrize(
    ("today", "verdict"), [(date(2026, 9, 1), Verdict.OK), (date(2027, 9, 1), Verdict.WARN)]
)
def test_an_old_yt_dlp_is_reported_with_its_age(monkeypatch, today, verdict):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2026.8.19")
    (check,) = doctor._yt_dlp(today)
    assert check.verdict is verdict
    assert f"{(today - date(2026, 8, 19)).days} days" in check.found


@pytest.mark.parametrize(("supported", "verdict"), [(True, Verdict.OK), (False, Verdict.WARN)])
def test_a_javascript_runtime_that_yt_dlp_does_not_use_is_a_warning(monkeypatch, supported, verdict):
    node = SimpleNamespace(info=SimpleNamespace(name="node", version="18.2.0", supported=supported))
    kinds = {"deno": lambda: SimpleNamespace(info=None), "node": lambda: node}
    monkeypatch.setattr(yt_dlp.globals, "supported_js_runtimes", SimpleNamespace(value=kinds))
    (check,) = doctor._javascript()
    assert check.verdict is verdict
    assert ("18.2.0 (too old)" in check.found) is not supported


def test_no_ffmpeg_fails(monkeypatch):
    def nothing() -> str:
        raise FFmpegError("no ffmpeg with libx264")

    monkeypatch.setattr(doctor, "ffmpeg_version", nothing)
    (check,) = doctor._ffmpeg()
    assert check.verdict is Verdict.FAIL
    assert "install" in check.advice


def test_a_full_disk_fails_and_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))

    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    disk, results = doctor._disk(tmp_path)
    assert (disk.verdict, results.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert "Permission denied" in results.found


def test_a_site_that_asked_for_a_pause_is_reported(tmp_path):
    Budget(tmp_path, "www.youtube.com", rate=250).stop(Status.BOT_CHECK, "Sign in to confirm", wish=3600)
    (check,) = doctor._pauses(tmp_path)
    assert check.verdict is Verdict.WARN
    assert check.found.startswith("www.youtube.com (bot_check)")
    assert "(again in 60 min): Sign in to confirm" in check.found


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.OK, 0), (Verdict.WARN, 0), (Verdict.FAIL, 1)])
def test_the_command_exits_with_1_only_for_a_failure(monkeypatch, verdict, code):
    monkeypatch.setattr(doctor, "examine", lambda *folders: [Check("thing", verdict, "found", "do this")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    for word in (verdict.value, "thing", "found", "do this"):
        assert word in result.output


def test_square_brackets_in_messages_are_printed():
    console = Console(file=io.StringIO(), width=100)
    console.print(check_table([Check("x", Verdict.WARN, "[youtube] [/nothing] said", "")]))
    assert "[youtube] [/nothing] said" in console.file.getvalue()  # type: ignore[attr-defined]
