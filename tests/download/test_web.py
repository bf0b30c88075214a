"""Downloads from a small server on the loopback address: what arrives, what is kept, and how failures are told apart."""

import contextlib
import email.utils
import hashlib
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from avpipe.config.source import Source
from avpipe.download import Status
from avpipe.download.base import WantedClip
from avpipe.download.web import WebFetcher
from avpipe.files import OutputError
from avpipe.web import Failure, Limits, is_public, retry_after

BODY = random.Random(0).randbytes(300_000)
CLIP = WantedClip("clip", "a", math.nan, math.nan)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts are noted, not waited."""
    waits: list[float] = []
    monkeypatch.setattr("avpipe.web._pause", lambda seconds, _: waits.append(seconds))
    return waits


def fetcher(server: Any, path: str = "/{source}.mp4", **limits: Any) -> WebFetcher:
    return WebFetcher(Source(kind="http", url=server.url + path), server.budgets, limits=Limits(**limits))


def answer(code: int, body: bytes = b"", **headers: str) -> Any:
    return lambda request: request.reply(code, body, **headers)


def in_turn(*answers: Any) -> Any:
    """One answer a request; the last for all that follow."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


def test_a_file_arrives_whole_with_its_digest(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.PRESENT
    assert outcome.path == str(tmp_path / "clip.mp4")
    assert Path(str(outcome.path)).read_bytes() == BODY
    assert (outcome.bytes, outcome.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert outcome.attempts == 1
    assert outcome.found_in == "http 127.0.0.1"
    assert {path.suffix for path in tmp_path.iterdir()} == {".part", ".json"}, "the journal gives the name"


def test_the_extension_comes_from_the_url_or_the_content_type(server: Any, tmp_path: Path) -> None:
    server.answers["/get"] = answer(200, BODY, Content_Type="video/webm")
    server.answers["/odd"] = answer(200, BODY, Content_Type="application/octet-stream")
    for path, name in (("/get?id={source}", "clip.webm"), ("/odd?id={source}", "clip.media")):
        assert fetcher(server, path).fetch(CLIP, tmp_path / "clip").path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("code", "status", "attempts"),
    [
        (404, Status.UNAVAILABLE, 1),
        (410, Status.UNAVAILABLE, 1),
        (401, Status.PRIVATE, 1),
        (403, Status.PRIVATE, 1),
        (451, Status.REGION_BLOCKED, 1),
        (429, Status.RATE_LIMITED, 3),
        (500, Status.NETWORK_ERROR, 3),
        (503, Status.NETWORK_ERROR, 3),
    ],
)
def test_final_answers_are_taken_once_and_others_tried_again(
    server: Any, tmp_path: Path, code: int, status: Status, attempts: int
) -> None:
    server.answers["/a.mp4"] = answer(code)
    outcome = fetcher(server, attempts=3).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is status
    assert str(code) in outcome.reason
    assert outcome.attempts == server.count("/a.mp4") == attempts
    assert list(tmp_path.iterdir()) == []


def test_waits_grow_and_are_scattered(server: Any, tmp_path: Path, no_waiting: list[float]) -> None:
    server.answers["/a.mp4"] = answer(500)
    fetcher(server, attempts=4).fetch(CLIP, tmp_path / "clip")
    assert len(no_waiting) == 3
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(no_waiting))


def test_the_server_says_how_long_to_wait(server: Any, tmp_path: Path, no_waiting: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.answers["/a.mp4"] = in_turn(
        answer(429, Retry_After="7"), answer(503, Retry_After=date), answer(200, BODY)
    )
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").status is Status.PRESENT
    assert 7 <= no_waiting[0] <= 8, "scattered, so that jobs do not come back all at once"
    assert no_waiting[1] == pytest.approx(20.5, abs=2.5)


def test_a_server_that_asks_for_too_much_patience_is_left(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(429, Retry_After="3600")
    outcome = fetcher(server, patience=60).fetch(CLIP, tmp_path / "clip")
    assert (outcome.status, outcome.attempts) == (Status.RATE_LIMITED, 1)


def broken_off_then(server: Any, *answers: Any) -> None:
    """The first answer breaks after 100,000 bytes, the next are `answers`, or a good server's."""
    server.file("/a.mp4", BODY, cut=100_000)
    broken = server.answers["/a.mp4"]
    server.file("/a.mp4", BODY)
    server.answers["/a.mp4"] = in_turn(broken, *(answers or [server.answers["/a.mp4"]]))


def test_a_connection_that_breaks_is_continued_where_it_broke(server: Any, tmp_path: Path) -> None:
    broken_off_then(server)
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert Path(str(outcome.path)).read_bytes() == BODY
    assert server.asked == [("/a.mp4", None), ("/a.mp4", "bytes=100000-")]


def test_a_partial_file_is_continued_by_the_next_run(server: Any, tmp_path: Path) -> None:
    server.file("/a.mp4", BODY, cut=100_000)
    outcome = fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.NETWORK_ERROR
    assert "100000 of 300000" in outcome.reason
    server.file("/a.mp4", BODY)
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").sha256 == hashlib.sha256(BODY).hexdigest()
    assert server.asked[-1] == ("/a.mp4", "bytes=100000-")


def test_a_partial_file_of_another_version_is_thrown_away(server: Any, tmp_path: Path) -> None:
    new = BODY[::-1]
    broken_off_then(server, answer(200, new, ETag='"v2"'))
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert Path(str(outcome.path)).read_bytes() == new


@pytest.mark.parametrize("wrong", [answer(416), answer(206, b"x", Content_Range="bytes 5-5/6")])
def test_a_server_that_cannot_continue_starts_anew(server: Any, tmp_path: Path, wrong: Any) -> None:
    broken_off_then(server, wrong, answer(200, BODY))
    assert Path(str(fetcher(server).fetch(CLIP, tmp_path / "clip").part)).read_bytes() == BODY
    assert server.asked[-1] == ("/a.mp4", None)


@pytest.mark.parametrize(
    "page",
    [
        answer(200, b"<title> Sign in </title>", Content_Type="text/html; charset=utf-8"),
        answer(200, b"\n <!DOCTYPE html><title> Sign in </title>"),
    ],
)
def test_a_web_page_is_not_taken_for_a_clip_nor_for_the_last_word(
    server: Any, tmp_path: Path, page: Any
) -> None:
    server.answers["/a.mp4"] = page
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.WEB_PAGE
    assert not outcome.status.final
    assert outcome.reason == "the server sent a web page (Sign in) instead of the file"
    assert server.count("/a.mp4") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [200, 403])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Our systems have detected unusual traffic", Status.BOT_CHECK),
        ("Solve the CAPTCHA", Status.BOT_CHECK),
        ("Verify you are human", Status.BOT_CHECK),
        ("Rate limit exceeded", Status.RATE_LIMITED),
    ],
)
def test_a_page_may_say_stop(server: Any, tmp_path: Path, code: int, words: str, status: Status) -> None:
    server.answers["/a.mp4"] = answer(code, f"<p>{words}</p>".encode(), Content_Type="text/html")
    assert fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip").status is status


def test_a_refusal_whose_page_breaks_off_is_the_refusal(server: Any, tmp_path: Path) -> None:
    def cut(request: Any) -> None:
        request.reply(403, b"<p>", Content_Type="text/html", Content_Length="1000")

    server.answers["/a.mp4"] = cut
    assert fetcher(server, silence=0.5).fetch(CLIP, tmp_path / "clip").status is Status.PRIVATE


def test_a_page_in_the_middle_of_a_file_leaves_what_has_come(server: Any, tmp_path: Path) -> None:
    broken_off_then(server, answer(200, b"<p>Sign in</p>", Content_Type="text/html"))
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").status is Status.WEB_PAGE
    server.file("/a.mp4", BODY)
    server.asked.clear()
    assert Path(str(fetcher(server).fetch(CLIP, tmp_path / "clip").part)).read_bytes() == BODY
    assert server.asked == [("/a.mp4", "bytes=100000-")]


def test_an_empty_file_is_corrupt(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200)
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").status is Status.CORRUPT


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_announced_or_not(
    server: Any, tmp_path: Path, announced: bool
) -> None:
    server.file("/a.mp4", BODY, chunked=not announced)
    outcome = fetcher(server, largest=200_000).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_pieces_without_a_length_is_whole_only_with_its_end(server: Any, tmp_path: Path) -> None:
    server.file("/a.mp4", BODY, chunked=True, cut=200_000)
    assert fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip").status is Status.NETWORK_ERROR
    server.file("/a.mp4", BODY, chunked=True)
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").sha256 == hashlib.sha256(BODY).hexdigest()


def test_a_file_whose_end_cannot_be_told_from_a_break_is_not_taken(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY, Content_Length="")
    outcome = fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.NETWORK_ERROR
    assert "how long the file is" in outcome.reason


@pytest.mark.parametrize("version", ["", 'W/"v1"'])
def test_without_a_strong_version_a_partial_file_is_not_continued(
    server: Any, tmp_path: Path, version: str
) -> None:
    server.file("/a.mp4", BODY, version=version, cut=100_000)
    fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip")
    server.file("/a.mp4", BODY[::-1], version=version)
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert Path(str(outcome.path)).read_bytes() == BODY[::-1]
    assert server.asked[-1] == ("/a.mp4", None)


def test_attempts_count_only_without_progress(server: Any, tmp_path: Path) -> None:
    body = BODY * 20  # 6 MB, cut each 1.2 MB: five answers
    server.file("/a.mp4", body, cut=1_200_000)
    outcome = fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip")
    assert (outcome.status, outcome.attempts) == (Status.PRESENT, 5)
    assert outcome.sha256 == hashlib.sha256(body).hexdigest()


def test_a_download_that_takes_too_long_is_stopped_and_kept_for_later(server: Any, tmp_path: Path) -> None:
    def drip(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        for _ in range(200):
            request.wfile.write(BODY[:100])
            request.wfile.flush()
            time_to_pass.wait(0.02)

    time_to_pass = threading.Event()
    server.answers["/a.mp4"] = drip
    outcome = fetcher(server, seconds=0.15).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.TIMED_OUT
    (part,) = tmp_path.glob("clip.*.part")
    assert part.stat().st_size > 0


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_server_that_drips_is_cut_off_at_the_time_limit_wherever_it_drips(
    start: bytes, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(start)
                while not done.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/{{source}}"
        began = time.monotonic()
        limits = Limits(seconds=0.3, silence=5)
        outcome = WebFetcher(Source(kind="http", url=url), tmp_path / "budgets", limits=limits).fetch(
            CLIP, tmp_path / "clip"
        )
        done.set()
        thread.join()
    assert outcome.status is Status.TIMED_OUT
    assert time.monotonic() - began < 3


def test_a_server_that_wants_rest_is_not_asked_for_the_other_clips(server: Any, tmp_path: Path) -> None:
    asked = fetcher(server)
    for name in "abcdefgh":
        server.answers[f"/{name}.mp4"] = answer(429, Retry_After="3600")
    clips = [WantedClip(name, name, math.nan, math.nan) for name in "abcdefgh"]
    outcomes = [asked.fetch(clip, tmp_path / clip.clip) for clip in clips]
    assert {outcome.status for outcome in outcomes} == {Status.RATE_LIMITED}
    assert len(server.asked) == 3
    assert "again in 60 min" in outcomes[-1].reason
    other_job = fetcher(server).fetch(clips[0], tmp_path / "x")
    assert "again in 60 min" in other_job.reason
    assert len(server.asked) == 3


def test_a_rate_is_kept_by_all_jobs_of_the_machine(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    source = Source(kind="http", url=server.url + "/{source}.mp4", rate=36_000)
    began = time.monotonic()
    for number in range(6):  # three at once, then one each 0.1 s
        outcome = WebFetcher(source, server.budgets).fetch(CLIP, tmp_path / str(number))
        assert outcome.status is Status.PRESENT
    assert time.monotonic() - began > 0.25


@pytest.mark.parametrize(
    ("code", "headers", "minutes"),
    [
        (429, {}, "1[567]"),
        (403, {"cf_mitigated": "challenge"}, "1[567]"),
        (503, {"Retry_After": "3600"}, "60"),
    ],
)
def test_so_it_is_where_the_server_does_not_say_how_long_or_calls_it_an_error(
    server: Any, tmp_path: Path, code: int, headers: dict[str, str], minutes: str
) -> None:
    asked = fetcher(server, attempts=1)
    for name in "abcdefgh":
        server.answers[f"/{name}.mp4"] = answer(code, **headers)
    clips = [WantedClip(name, name, math.nan, math.nan) for name in "abcdefgh"]
    outcomes = [asked.fetch(clip, tmp_path / clip.clip) for clip in clips]
    assert len(server.asked) == 3
    assert re.search(rf"again in {minutes} min", outcomes[-1].reason)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Location": "http://example.org:99999/x"}, Status.REFUSED_URL),
        ({"Location": "http://example.org:abc/"}, Status.REFUSED_URL),
        ({"Content_Length": "9" * 5000}, Status.NETWORK_ERROR),
        ({"Content_Length": "\xb2"}, Status.NETWORK_ERROR),
    ],
)
def test_nonsense_of_a_server_is_an_outcome_of_this_clip(
    server: Any, tmp_path: Path, headers: dict[str, str], status: Status
) -> None:
    server.answers["/a.mp4"] = answer(302 if "Location" in headers else 200, BODY, **headers)
    outcome = fetcher(server, attempts=1, silence=1).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is status


def test_a_server_cannot_write_to_the_terminal(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = lambda request: request.wfile.write(b"HTTP/1.1 404 \x1b[2Jgone\r\n\r\n")
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.UNAVAILABLE
    assert outcome.reason == "HTTP 404  [2Jgone"


@pytest.mark.parametrize("value", ["", "soon", "\xb2", "9" * 5000])
def test_a_wait_that_is_no_number_and_no_date_is_none(value: str) -> None:
    assert retry_after(value) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Retry_After": "5000"}, Status.RATE_LIMITED), ({"cf_mitigated": "challenge"}, Status.BOT_CHECK)],
)
def test_a_refusal_that_will_pass_is_not_taken_for_private(
    server: Any, tmp_path: Path, headers: dict[str, str], status: Status
) -> None:
    server.answers["/a.mp4"] = answer(403, **headers)
    assert fetcher(server, attempts=1).fetch(CLIP, tmp_path / "clip").status is status


def test_every_failure_of_a_download_is_a_status_that_is_final_in_the_same_cases() -> None:
    assert {kind: not kind.later for kind in Failure} == {kind: Status(kind.value).final for kind in Failure}


def test_a_silent_server_and_a_closed_port_are_network_errors(server: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/{{source}}"
        silent = WebFetcher(
            Source(kind="http", url=url), tmp_path / "budgets", limits=Limits(attempts=1, silence=0.1)
        )
        assert silent.fetch(CLIP, tmp_path / "clip").status is Status.NETWORK_ERROR
    closed = WebFetcher(Source(kind="http", url=url), tmp_path / "budgets", limits=Limits(attempts=1))
    outcome = closed.fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.NETWORK_ERROR
    assert "refused" in outcome.reason


def test_redirects_are_followed_but_not_for_ever(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(302, Location="/b.mp4")
    server.answers["/b.mp4"] = answer(200, BODY)
    server.answers["/round.mp4"] = answer(307, Location="/round.mp4")
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").status is Status.PRESENT
    outcome = fetcher(server, "/round.mp4?{source}").fetch(CLIP, tmp_path / "round")
    assert outcome.status is Status.REFUSED_URL


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_protocol_is_refused(server: Any, tmp_path: Path, target: str) -> None:
    server.answers["/a.mp4"] = answer(302, Location=target)
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").status is Status.REFUSED_URL


@pytest.mark.parametrize("host", ["127.0.0.2", "inside.example", "[::ffff:127.0.0.2]"])
def test_a_redirect_to_another_private_address_is_refused_before_anything_is_sent(
    server: Any, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def resolved(name: str, *options: Any, **more: Any) -> Any:  # a public name that leads inside
        return resolve("127.0.0.2" if name == "inside.example" else name, *options, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with socket.create_server(("127.0.0.2", 0)) as listener:  # another address of this machine
        other = listener.getsockname()[1]
        server.answers["/a.mp4"] = answer(302, Location=f"http://{host}:{other}/secret.mp4")
        outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
        assert outcome.status is Status.REFUSED_URL
        assert "private address" in outcome.reason
        assert "allow_private" in outcome.reason
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_redirect_within_a_private_server_or_with_leave_is_followed(
    server: Any, another_server: Callable[[], Any], tmp_path: Path
) -> None:
    with another_server() as inside:
        inside.answers["/b.mp4"] = answer(200, BODY)
        server.answers["/a.mp4"] = answer(302, Location=f"{inside.url}/b.mp4")
        assert fetcher(server).fetch(CLIP, tmp_path / "same host").status is Status.PRESENT
        port = inside.url.rpartition(":")[2]
        server.answers["/a.mp4"] = answer(302, Location=f"http://localhost:{port}/b.mp4")
        allowed = Source(kind="http", url=server.url + "/{source}.mp4", allow_private=True)
        assert WebFetcher(allowed, server.budgets).fetch(CLIP, tmp_path / "allowed").status is Status.PRESENT


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),  # 10.0.0.1 by NAT64
        ("2002:a00:1::1", False),  # 10.0.0.1 by 6to4
    ],
)
def test_private_addresses_are_known_in_every_disguise(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_proxy_of_the_environment_is_used_and_changes_nothing_about_redirects(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    server.answers["http://public.example/a.mp4"] = answer(200, BODY)
    source = Source(kind="http", url="http://public.example/{source}.mp4")
    assert WebFetcher(source, server.budgets).fetch(CLIP, tmp_path / "clip").status is Status.PRESENT
    server.answers["http://public.example/a.mp4"] = answer(302, Location="http://10.0.0.1/a.mp4")
    assert WebFetcher(source, server.budgets).fetch(CLIP, tmp_path / "again").status is Status.REFUSED_URL
    assert server.count("http://10.0.0.1/a.mp4") == 0


def test_a_download_ends_at_once_when_told_to_and_is_continued_later(server: Any, tmp_path: Path) -> None:
    release = threading.Event()

    def stuck(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.send_header("ETag", '"v1"')
        request.end_headers()
        request.wfile.write(BODY[:100_000])
        request.wfile.flush()
        release.wait(10)

    server.answers["/a.mp4"] = stuck
    asked = fetcher(server)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asked.fetch, CLIP, tmp_path / "clip")
        while not server.asked:
            time.sleep(0.01)
        time.sleep(0.1)
        began = time.monotonic()
        asked.stop()
        with pytest.raises(CancelledError):
            running.result(timeout=5)
        assert time.monotonic() - began < 3
    release.set()
    server.file("/a.mp4", BODY)
    assert fetcher(server).fetch(CLIP, tmp_path / "clip").sha256 == hashlib.sha256(BODY).hexdigest()
    assert server.asked[-1] == ("/a.mp4", "bytes=100000-")


def test_a_secret_is_sent_to_its_own_host_only(
    server: Any, another_server: Callable[[], Any], tmp_path: Path
) -> None:
    seen: list[str | None] = []

    def note(reply: Any) -> Any:
        return lambda request: (seen.append(request.headers.get("Authorization")), reply(request))

    with another_server() as elsewhere:
        elsewhere.answers["/b.mp4"] = note(answer(200, BODY))
        server.answers["/a.mp4"] = note(answer(302, Location=f"{elsewhere.url}/b.mp4"))
        source = Source(kind="http", url=server.url + "/{source}.mp4")
        fetched = WebFetcher(source, server.budgets, secrets={"Authorization": "Bearer hush"})
        assert fetched.fetch(CLIP, tmp_path / "clip").status is Status.PRESENT
    assert seen == ["Bearer hush", None]


@pytest.mark.parametrize(
    ("source", "path"),
    [("a b", "/a%20b.mp4"), ("a?x=1#y", "/a%3Fx%3D1%23y.mp4"), ("é\r\nX: y", "/%C3%A9%0D%0AX%3A%20y.mp4")],
)
def test_an_id_cannot_leave_the_path_of_the_url(server: Any, tmp_path: Path, source: str, path: str) -> None:
    server.answers[path] = answer(200, BODY)
    wanted = WantedClip("clip", source, math.nan, math.nan)
    assert fetcher(server).fetch(wanted, tmp_path / "clip").status is Status.PRESENT
    climbing = WantedClip("clip", f"../{source}", math.nan, math.nan)
    assert fetcher(server).fetch(climbing, tmp_path / "clip").status is Status.REFUSED_ID


def test_a_file_where_the_folder_should_be_is_our_error_not_the_networks(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder is needed"):
        fetcher(server).fetch(CLIP, tmp_path / "file" / "clip")
