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

from avpipe.download import Status
from avpipe.download.base import WantedClip
from avpipe.download.web import WebFetcher
from avpipe.files import OutputError
from avpipe.plan.source import HttpSource
from avpipe.web import (
    Arrived,
    DownloadFailed,
    Limits,
    Remote,
    download,
    is_public,
    retry_after,
)
from tests.download.conftest import CERTIFICATE

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
CLIP = WantedClip("clip", "a", math.nan, math.nan)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts are noted, not waited."""
    waited: list[float] = []
    monkeypatch.setattr("avpipe.web._pause", lambda seconds, _: waited.append(seconds))
    return waited


@pytest.fixture
def get(server: Any, tmp_path: Path) -> Callable[..., Arrived]:
    """Downloads /a.mp4 of the server to `a.mp4`."""

    def get(url: str = "", limits: Limits = Limits(), **remote: Any) -> Arrived:
        return download(Remote(url or f"{server.url}/a.mp4", **remote), tmp_path / "a.mp4", limits)

    return get


def failure(get: Callable[..., Arrived], *arguments: Any, **options: Any) -> DownloadFailed:
    """How a download fails; nothing may have the file's name."""
    with pytest.raises(DownloadFailed) as caught:
        get(*arguments, **options)
    return caught.value


def attempts(number: int) -> Limits:
    return Limits(attempts=number)


def answer(code: int, body: bytes = b"", **headers: str) -> Any:
    return lambda request: request.reply(code, body, **headers)


def in_turn(*answers: Any) -> Any:
    """One answer a request; the last for all that follow."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)


def broken_off_then(server: Any, *answers: Any) -> None:
    """The first answer breaks after 100,000 bytes, the next are `answers`, or a good server's."""
    server.file("/a.mp4", BODY, cut=100_000)
    broken = server.answers["/a.mp4"]
    server.file("/a.mp4", BODY)
    server.answers["/a.mp4"] = in_turn(broken, *(answers or [server.answers["/a.mp4"]]))


def test_a_file_arrives_whole_with_its_digest_and_nothing_else(get: Any, server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    arrived = get()
    assert (tmp_path / "a.mp4").read_bytes() == BODY
    assert (arrived.size, arrived.sha256, arrived.suffix) == (len(BODY), SHA256, ".mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


PAGE = {"Content_Type": "text/html; charset=utf-8"}
ANSWERS = [
    (answer(404), Status.UNAVAILABLE),
    (answer(401), Status.PRIVATE),
    (answer(403), Status.PRIVATE),
    (answer(403, Retry_After="5000"), Status.RATE_LIMITED),
    (answer(403, cf_mitigated="challenge"), Status.BOT_CHECK),
    (answer(451), Status.REGION_BLOCKED),
    (answer(429), Status.RATE_LIMITED),
    (answer(503), Status.NETWORK_ERROR),
    (answer(200, b""), Status.CORRUPT),
    (answer(200, BODY, Content_Length=""), Status.NETWORK_ERROR),  # its end could not be told from a break
    (answer(200, BODY, Content_Length="9" * 5000), Status.NETWORK_ERROR),
    (answer(200, b"<title>Sign in</title>", **PAGE), Status.WEB_PAGE),
    (answer(200, b"\n <!DOCTYPE html><title>Sign in</title>"), Status.WEB_PAGE),
    (answer(200, b"Our systems have detected unusual traffic", **PAGE), Status.BOT_CHECK),
    (answer(403, b"Solve the CAPTCHA", **PAGE), Status.BOT_CHECK),
    (answer(403, b"Verify you are human", **PAGE), Status.BOT_CHECK),
    (answer(403, b"Rate limit exceeded", **PAGE), Status.RATE_LIMITED),
    (answer(302, Location="/a.mp4"), Status.REFUSED_URL),
    (answer(302, Location="file:///etc/passwd"), Status.REFUSED_URL),
    (answer(302, Location="http://127.0.0.1:abc/"), Status.REFUSED_URL),
    (lambda request: request.wfile.write(b"HTTP/1.1 404 \x1b[2Jgone\r\n\r\n"), Status.UNAVAILABLE),
]


@pytest.mark.parametrize(("reply", "status"), ANSWERS)
def test_what_an_answer_means(get: Any, server: Any, tmp_path: Path, reply: Any, status: Status) -> None:
    server.answers["/a.mp4"] = reply
    failed = failure(get, limits=attempts(1))
    assert failed.status is status
    assert failed.reason.isprintable(), "a server cannot write to the terminal"
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (403, 1), (429, 3), (503, 3)])
def test_final_answers_are_taken_once_and_others_tried_again_with_growing_waits(
    get: Any, server: Any, waits: list[float], code: int, tries: int
) -> None:
    server.answers["/a.mp4"] = answer(code)
    failed = failure(get, limits=attempts(3))
    assert f"HTTP {code}" in failed.reason
    assert failed.attempts == server.count("/a.mp4") == tries
    assert [2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits)] == [True] * (tries - 1)


def test_the_server_says_how_long_to_wait(get: Any, server: Any, waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.answers["/a.mp4"] = in_turn(
        answer(429, Retry_After="7"), answer(503, Retry_After=date), answer(200, BODY)
    )
    assert get().sha256 == SHA256
    assert 7 <= waits[0] <= 8, "scattered, so that jobs do not come back all at once"
    assert waits[1] == pytest.approx(20.5, abs=2.5)


def test_a_server_that_asks_for_too_much_patience_is_left(get: Any, server: Any, waits: list[float]) -> None:
    server.answers["/a.mp4"] = answer(429, Retry_After="3600")
    failed = failure(get, limits=Limits(patience=60))
    assert (failed.status, failed.wait, failed.attempts, waits) == (Status.RATE_LIMITED, 3600, 1, [])


@pytest.mark.parametrize("value", ["", "soon", "\xb2", "9" * 5000])
def test_a_wait_that_is_no_number_and_no_date_is_none(value: str) -> None:
    assert retry_after(value) is None


def test_a_connection_that_breaks_is_continued_where_it_broke(get: Any, server: Any) -> None:
    broken_off_then(server)
    assert get().sha256 == SHA256
    assert server.asked == [("/a.mp4", None), ("/a.mp4", "bytes=100000-")]


def test_a_partial_file_of_another_version_or_another_url_is_thrown_away(get: Any, server: Any) -> None:
    new = BODY[::-1]
    broken_off_then(server, answer(200, new, ETag='"v2"'))
    assert get().sha256 == hashlib.sha256(new).hexdigest()
    server.file("/a.mp4", BODY, cut=100_000)
    failure(get, limits=attempts(1))
    server.file("/b.mp4", new)
    assert get(f"{server.url}/b.mp4").sha256 == hashlib.sha256(new).hexdigest()
    assert server.asked[-1] == ("/b.mp4", None)


@pytest.mark.parametrize("version", ["", 'W/"v1"'])
def test_without_a_strong_version_only_a_known_sha256_lets_a_partial_file_be_continued(
    get: Any, server: Any, version: str
) -> None:
    for known, asked in ((None, None), (SHA256, "bytes=100000-")):
        server.file("/a.mp4", BODY, version=version, cut=100_000)
        failure(get, sha256=known, limits=attempts(1))
        server.file("/a.mp4", BODY, version="" if known else version)
        server.asked.clear()
        assert get(sha256=known).sha256 == SHA256
        assert server.asked[0] == ("/a.mp4", asked)


def test_a_file_that_changed_during_the_download_starts_over_if_its_sha256_is_known(
    get: Any, server: Any
) -> None:
    server.file("/a.mp4", BODY[::-1], version="", cut=100_000)
    failure(get, sha256=SHA256, limits=attempts(1))
    server.file("/a.mp4", BODY, version="")
    assert get(sha256=SHA256).sha256 == SHA256
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", None]


def test_a_wrong_sha256_leaves_nothing(get: Any, server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    assert get(sha256=SHA256[:8]).sha256 == SHA256
    (tmp_path / "a.mp4").unlink()
    failed = failure(get, sha256="0" * 64)
    assert failed.status is Status.CORRUPT
    assert SHA256 in failed.reason
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [answer(416), answer(206, b"x", Content_Range="bytes 5-5/6")])
def test_a_server_that_cannot_continue_starts_anew(get: Any, server: Any, wrong: Any) -> None:
    broken_off_then(server, wrong, answer(200, BODY))
    assert get().sha256 == SHA256
    assert server.asked[-1] == ("/a.mp4", None)


def test_a_page_in_the_middle_of_a_file_leaves_what_has_come(get: Any, server: Any) -> None:
    broken_off_then(server, answer(200, b"<p>Sign in</p>", Content_Type="text/html"))
    assert failure(get).status is Status.WEB_PAGE
    server.file("/a.mp4", BODY)
    assert get().sha256 == SHA256
    assert server.asked[-1] == ("/a.mp4", "bytes=100000-")


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_announced_or_not(
    get: Any, server: Any, tmp_path: Path, announced: bool
) -> None:
    server.file("/a.mp4", BODY, chunked=not announced)
    assert failure(get, limits=Limits(largest=200_000)).status is Status.TOO_LARGE
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_pieces_without_a_length_is_whole_only_with_its_end(get: Any, server: Any) -> None:
    server.file("/a.mp4", BODY, chunked=True, cut=200_000)
    assert failure(get, limits=attempts(1)).status is Status.NETWORK_ERROR
    server.file("/a.mp4", BODY, chunked=True)
    assert get().sha256 == SHA256


def test_a_server_that_sends_a_body_byte_by_byte_is_cut_off_at_the_time_limit(get: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
                while not done.wait(0.05):
                    connection.sendall(b"x")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(drip)
            began = time.monotonic()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"
            assert failure(get, url, Limits(seconds=0.3, silence=5)).status is Status.TIMED_OUT
            done.set()
    assert time.monotonic() - began < 3


def test_a_silent_server_and_a_closed_port_are_network_errors(get: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert failure(get, url, Limits(attempts=1, silence=0.1)).status is Status.NETWORK_ERROR
    failed = failure(get, url, attempts(1))
    assert failed.status is Status.NETWORK_ERROR
    assert "refused" in failed.reason


@pytest.mark.parametrize("tls", [False, True])
def test_a_download_ends_when_told_to_and_is_continued_later(
    another_server: Any, tmp_path: Path, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    release, stopped = threading.Event(), threading.Event()

    def stuck(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.send_header("ETag", '"v1"')
        request.end_headers()
        request.wfile.write(BODY[:100_000])
        request.wfile.flush()
        release.wait(10)

    with another_server(tls) as server, ThreadPoolExecutor(1) as pool:
        server.answers["/a.mp4"] = stuck
        remote = Remote(f"{server.url}/a.mp4")
        running = pool.submit(download, remote, tmp_path / "a.mp4", Limits(silence=0.5), stopped)
        part = tmp_path / ".a.mp4.part"
        while not part.exists() or part.stat().st_size < 90_000:
            time.sleep(0.01)
        stopped.set()
        with pytest.raises(CancelledError):
            running.result(timeout=5)
        size = part.stat().st_size
        release.set()
        server.file("/a.mp4", BODY)
        assert download(remote, tmp_path / "a.mp4", Limits()).sha256 == SHA256
        assert server.asked[-1] == ("/a.mp4", f"bytes={size}-")


def test_redirects_are_followed_but_not_for_ever(get: Any, server: Any) -> None:
    server.answers["/a.mp4"] = answer(302, Location="/b.mp4")
    server.answers["/b.mp4"] = answer(200, BODY)
    server.answers["/round"] = answer(307, Location="/round")
    assert get().sha256 == SHA256
    assert "redirects" in failure(get, f"{server.url}/round").reason
    assert server.count("/round") == 6


def test_the_body_of_a_redirect_is_not_read(get: Any, server: Any) -> None:
    done = threading.Event()

    def endless(request: Any) -> None:
        request.reply(302, Location="/b.mp4", Content_Length=str(10**12))
        done.wait(10)

    server.answers |= {"/a.mp4": endless, "/b.mp4": answer(200, BODY)}
    began = time.monotonic()
    assert get(limits=Limits(silence=5)).sha256 == SHA256
    done.set()
    assert time.monotonic() - began < 3


def test_a_redirect_from_https_to_http_is_refused(
    get: Any, server: Any, another_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    server.answers["/a.mp4"] = answer(200, BODY)
    with another_server(tls=True) as secure:
        secure.answers["/a.mp4"] = answer(200, BODY)
        secure.answers["/away"] = answer(302, Location=f"{server.url}/a.mp4")
        assert get(f"{secure.url}/a.mp4").sha256 == SHA256
        failed = failure(get, f"{secure.url}/away")
    assert failed.status is Status.REFUSED_URL
    assert "https" in failed.reason
    assert server.asked == []


@pytest.mark.parametrize("host", ["127.0.0.2", "inside.example", "[::ffff:127.0.0.2]", "0x7f000002"])
def test_a_redirect_to_another_private_address_is_refused_before_anything_is_sent(
    get: Any, server: Any, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a public name that leads inside."""
    resolve = socket.getaddrinfo

    def resolved(name: str, *options: Any, **more: Any) -> Any:
        return resolve("127.0.0.2" if "example" in name else name, *options, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with socket.create_server(("127.0.0.2", 0)) as listener:  # another address of this machine
        server.answers["/a.mp4"] = answer(302, Location=f"http://{host}:{listener.getsockname()[1]}/b")
        failed = failure(get)
        assert failed.status is Status.REFUSED_URL
        assert "private address" in failed.reason
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_redirect_within_a_private_host_or_with_leave_is_followed(
    get: Any, server: Any, another_server: Any
) -> None:
    with another_server() as inside:
        inside.answers["/b.mp4"] = answer(200, BODY)
        server.answers["/a.mp4"] = answer(302, Location=f"{inside.url}/b.mp4")
        assert get().sha256 == SHA256
        with socket.create_server(("127.0.0.2", 0)) as listener:
            port = listener.getsockname()[1]
        server.answers["/a.mp4"] = answer(302, Location=f"http://127.0.0.2:{port}/b.mp4")
        failed = failure(get, limits=attempts(1), allow_private=True)
        assert failed.status is Status.NETWORK_ERROR, "it was tried, but nobody listens there"


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
    ],
)
def test_private_addresses_are_known(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_proxy_of_the_environment_is_used_and_changes_nothing_about_redirects(
    get: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    url = "http://public.example/a.mp4"
    server.answers[url] = answer(200, BODY)
    assert get(url).sha256 == SHA256
    server.answers[url] = answer(302, Location="http://10.0.0.1/a.mp4")
    assert failure(get, url).status is Status.REFUSED_URL
    assert server.count("http://10.0.0.1/a.mp4") == 0


def test_a_secret_is_sent_to_its_own_origin_only_and_no_password_of_netrc_to_anybody(
    get: Any, server: Any, another_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent: list[str | None] = []

    def note(reply: Any) -> Any:
        return lambda request: (sent.append(request.headers.get("Authorization")), reply(request))

    with another_server() as elsewhere:
        elsewhere.answers["/b.mp4"] = note(answer(200, BODY))
        server.answers["/a.mp4"] = note(answer(302, Location=f"{elsewhere.url}/b.mp4"))
        assert get(secrets={"Authorization": "Bearer hush"}).sha256 == SHA256
        assert sent == ["Bearer hush", None]
        # some parsers take what is behind the @ for the host, others what is before the backslash
        own = server.url.removeprefix("http://")
        elsewhere.answers["/%5C@" + own + "/b.mp4"] = note(answer(200, BODY))
        server.answers["/a.mp4"] = note(answer(302, Location=f"{elsewhere.url}\\@{own}/b.mp4"))
        with contextlib.suppress(DownloadFailed):
            get(secrets={"Authorization": "Bearer hush"})
    assert sent[2:] in (["Bearer hush"], ["Bearer hush", None])


# Clips, one URL each


def fetcher(server: Any, path: str = "/{source}.mp4", **limits: Any) -> WebFetcher:
    fetcher = WebFetcher(HttpSource(url=server.url + path), server.budgets)
    fetcher.limits = Limits(**limits)
    return fetcher


def test_a_clip_is_written_under_its_name_and_nothing_else_is_left(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    (tmp_path / ".clip.partial").mkdir()  # of a job that was killed
    outcome = fetcher(server).fetch(CLIP, tmp_path / "clip")
    assert outcome.status is Status.PRESENT
    facts = outcome.path, outcome.bytes, outcome.sha256, outcome.attempts, outcome.found_in
    assert facts == (str(tmp_path / "clip.mp4"), len(BODY), SHA256, 1, "http 127.0.0.1")
    assert (tmp_path / "clip.mp4").read_bytes() == BODY
    server.file("/a.mp4", BODY, cut=100_000)
    outcome = fetcher(server, attempts=1).fetch(CLIP, tmp_path / "other")
    assert (outcome.status, outcome.path) == (Status.NETWORK_ERROR, None)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_extension_is_that_of_the_url(server: Any, tmp_path: Path) -> None:
    server.answers |= {path: answer(200, BODY) for path in ("/a.WEBM", "/get")}
    for path, name in (("/{source}.WEBM", "clip.webm"), ("/get?id={source}", "clip.media")):
        assert fetcher(server, path).fetch(CLIP, tmp_path / "clip").path == str(tmp_path / name)


@pytest.mark.parametrize(
    ("code", "headers", "minutes"),
    [
        (429, {"Retry_After": "3600"}, "60"),
        (429, {}, "1[567]"),
        (403, {"cf_mitigated": "challenge"}, "1[567]"),
        (503, {"Retry_After": "3600"}, "60"),
    ],
)
def test_a_server_that_wants_rest_is_not_asked_for_the_other_clips_by_any_job(
    server: Any, tmp_path: Path, code: int, headers: dict[str, str], minutes: str
) -> None:
    asked = fetcher(server, attempts=1)
    for name in "abcdefgh":
        server.answers[f"/{name}.mp4"] = answer(code, **headers)
    clips = [WantedClip(name, name, math.nan, math.nan) for name in "abcdefgh"]
    outcomes = [asked.fetch(clip, tmp_path / clip.clip) for clip in clips]
    outcomes.append(fetcher(server).fetch(clips[0], tmp_path / "x"))
    assert len(server.asked) == 3
    assert not any(outcome.status.final for outcome in outcomes)
    assert all(re.search(rf"again in {minutes} min", outcome.reason) for outcome in outcomes[3:])


def test_a_rate_is_kept_by_all_jobs_of_the_machine(server: Any, tmp_path: Path) -> None:
    server.answers["/a.mp4"] = answer(200, BODY)
    source = HttpSource(url=server.url + "/{source}.mp4", rate=36_000)
    began = time.monotonic()
    for number in range(6):  # three at once, then one each 0.1 s
        outcome = WebFetcher(source, server.budgets).fetch(CLIP, tmp_path / str(number))
        assert outcome.status is Status.PRESENT
    assert time.monotonic() - began > 0.25


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
