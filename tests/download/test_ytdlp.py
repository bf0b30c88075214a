"""What goes on inside yt-dlp's process: what it connects to, what it objects to, what it passes on."""

import threading
import time
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avpipe.download import ytdlp
from avpipe.download.ytdlp import Request, _Guard, _last_words, _Log, _retry_after_of


def request(start: float | None = None, end: float | None = None) -> Request:
    return Request("https://site/a", "/nowhere", start, end, [], ["default"], "ffmpeg", 1 << 20, True)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1"]
)
def test_a_private_address_is_refused_unless_the_configuration_leads_there(address: str) -> None:
    with pytest.raises(OSError, match="address that is not public"):
        _Guard([])("socket.connect", (None, (address, 80)))
    _Guard([address])("socket.connect", (None, (address, 80)))


def test_a_public_address_and_a_socket_of_this_machine_are_fine() -> None:
    guard = _Guard([])
    guard("socket.connect", (None, ("8.8.8.8", 443)))
    guard("socket.connect", (None, ("2001:4860:4860::8888", 443, 0, 0)))
    guard("socket.connect", (None, "/run/user/1000/bus"))
    guard("open", ("/etc/passwd", "r", 0))


def test_a_name_counts_by_its_address_and_so_does_a_url_that_ffmpeg_is_given() -> None:
    guard = _Guard([])
    with pytest.raises(OSError, match="not public"):
        guard("socket.connect", (None, ("localhost", 80)))
    with pytest.raises(OSError, match="not public"):
        guard("subprocess.Popen", ("ffmpeg", ["ffmpeg", "-i", "http://127.0.0.1:8080/x"], None, None))
    with pytest.raises(OSError, match="not public"):
        guard("subprocess.Popen", ("ffmpeg", ["ffmpeg", "-i", "https://[::1]/x"], None, None))
    guard("subprocess.Popen", ("ffmpeg", ["ffmpeg", "-i", "file:x.mp4"], None, None))


@pytest.mark.parametrize(
    ("info", "start", "objection"),
    [
        ({"duration": 30}, 10.0, None),
        ({"duration": 30}, None, None),
        ({}, 10.0, None),
        ({"duration": 30}, 30.5, None),  # the site rounds
        ({"duration": 30}, 31.0, "ends before the clip's interval"),
        ({"is_live": True}, None, "is live"),
    ],
)
def test_a_video_that_cannot_have_the_clip_is_not_downloaded(
    info: dict[str, Any], start: float | None, objection: str | None
) -> None:
    said = _Log(request(start))
    found = said.objection(info)
    assert (found is None) == (objection is None)
    if objection:
        assert objection in str(found)
        assert said.failed("ERROR: something vague").messages == [found]


def test_a_file_that_is_too_large_is_told_in_yt_dlps_words() -> None:
    said = _Log(request())
    said.info("[generic] a: Downloading webpage")
    said.debug("[download] File is larger than max-filesize (9 bytes > 8 bytes). Aborting.")
    assert "max-filesize" in said.failed("yt-dlp downloaded 0 files").messages[0]


def caused(wait: str | None) -> Exception:
    """An error as yt-dlp wraps it: the HTTP error is the cause of the cause."""
    headers = Message()
    if wait is not None:
        headers["Retry-After"] = wait
    http = Exception("HTTP Error 429")
    http.response = SimpleNamespace(headers=headers)  # type: ignore[attr-defined]
    extractor = Exception("Unable to download webpage")
    extractor.cause = http  # type: ignore[attr-defined]
    outer = Exception("ERROR: Unable to download webpage")
    outer.exc_info = (type(extractor), extractor, None)  # type: ignore[attr-defined]
    return outer


def test_the_sites_retry_after_is_found_behind_the_error() -> None:
    assert _retry_after_of(caused("120")) == 120
    later = formatdate(time.time() + 100, usegmt=True)
    assert _retry_after_of(caused(later)) == pytest.approx(100, abs=2)
    assert _retry_after_of(caused(None)) is None
    assert _retry_after_of(Exception("no response behind it")) is None
    loop = Exception("a")
    loop.__context__ = loop
    assert _retry_after_of(loop) is None


def test_the_end_of_a_log_is_kept_without_addresses_of_memory() -> None:
    log = "\n".join(f"[http @ 0x55d{number:x}] line {number}" for number in range(100)) + "\n\n"
    assert _last_words(log) == [f"[http] line {number}" for number in range(100 - ytdlp.WORDS, 100)]
    assert _last_words("x" * 9999) == ["x" * 200]
    hole = "[hls @ 0x55d1] Failed to open segment 3 of playlist 0"
    assert _last_words(f"{hole}\n{log}") == ["[hls] Failed to open segment 3 of playlist 0"]


def test_no_answer_is_an_answer_with_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho MemoryError >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("avpipe.download.ytdlp.sys.executable", str(broken))
    (tmp_path / "work").mkdir()
    asked = Request("https://site/a", str(tmp_path / "work"), None, None, [], [], "/bin/true", 1, True)
    answer = ytdlp.ask(asked, 20, threading.Event())
    assert answer.path is None
    assert answer.messages == ("yt-dlp ended with status 3", "MemoryError")
