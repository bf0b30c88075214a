"""yt-dlp itself, run against a server on the loopback address, brings the seconds that are needed or says why not."""

import errno
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from avpipe.download import Status, ranges, ytdlp
from avpipe.download.budget import Budget
from avpipe.download.fetch import Places, fetch_shard
from avpipe.download.youtube import PATIENCE, YouTubeFetcher
from avpipe.files import OutputError
from avpipe.plan.source import Source
from tests.download.excerpts import (
    ON_ITS_WAY,
    RATE,
    Dripping,
    differing,
    in_pieces,
    in_two_files,
    leading_away,
    same_clip,
    source,
    spans,
    wanted,
)


def test_an_excerpt_gives_the_same_canonical_clip_as_the_whole_video(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    start, end = 13.3, 23.3
    outcome = fetcher().fetch(wanted("a", start, end), tmp_path / "clip")
    assert (outcome.status, outcome.attempts, outcome.found_in) == (Status.PRESENT, 1, "yt-dlp 127.0.0.1")
    assert outcome.path == str(tmp_path / "clip.mp4")
    assert 8 - 0.2 <= outcome.offset <= 12, "it begins at the key frame before 12.3 s"
    assert outcome.bytes is not None
    assert outcome.bytes < 0.8 * video.stat().st_size
    same_clip(tmp_path, outcome, video, start, end)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pictures_and_sound_in_two_files_stay_together(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)
    start, end = 13.3, 23.3
    outcome = fetcher().fetch(wanted("a", start, end), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.path == str(tmp_path / "clip.mp4")
    same_clip(tmp_path, outcome, video, start, end)


def test_without_an_interval_the_whole_video_comes_with_the_users_cookies(
    fetcher: Callable[..., YouTubeFetcher], server: Any, tmp_path: Path
) -> None:
    server.file("/watch/a", bytes(range(256)) * 400)
    sent: list[str | None] = []
    answer = server.answers["/watch/a"]

    def with_cookies(request: Any) -> None:
        sent.append(request.headers.get("Cookie"))
        answer(request)

    server.answers["/watch/a"] = with_cookies
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\tsecret\n"
    )
    before = cookies.read_bytes()
    outcome = fetcher(cookies=str(cookies)).fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.PRESENT
    assert outcome.offset == 0
    assert Path(str(outcome.part)).read_bytes() == bytes(range(256)) * 400
    assert set(sent) == {"session=secret"}
    assert cookies.read_bytes() == before


def test_a_page_that_is_gone_is_unavailable_in_yt_dlps_own_words(
    fetcher: Callable[..., YouTubeFetcher], tmp_path: Path
) -> None:
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.UNAVAILABLE
    assert "HTTP Error 404: Not Found" in outcome.reason
    assert list(tmp_path.glob("clip*")) == []


def test_a_limit_stops_everybody_as_long_as_the_site_asks(
    server: Any, tmp_path: Path, fetcher: Callable[..., YouTubeFetcher]
) -> None:
    server.answers["/watch/a"] = lambda request: request.reply(429, Retry_After="4000")
    ours = fetcher()
    outcome = ours.fetch(wanted("a", 1, 2), tmp_path / "clip")
    assert outcome.status is Status.RATE_LIMITED
    assert "429" in outcome.reason
    pause = fetcher().budget.pause()
    assert pause is not None
    assert 3900 < pause.seconds <= 4000
    asked = len(server.asked)
    outcome = fetcher().fetch(wanted("b", 1, 2), tmp_path / "clip")
    assert (outcome.status, outcome.attempts) == (Status.RATE_LIMITED, 0)
    assert "not asked" in outcome.reason
    assert "again in 67 min" in outcome.reason
    assert len(server.asked) == asked


@pytest.mark.parametrize("first", ["bytes=0-", "bytes=5"])
def test_a_limit_that_an_excerpt_meets_stops_everybody_too(
    server: Any, video: Path, tmp_path: Path, fetcher: Callable[..., YouTubeFetcher], first: str
) -> None:
    server.file(
        "/watch/a", video.read_bytes(), cut=500_000
    )  # so that the rest is asked for from byte 500,000 on
    page = server.answers["/watch/a"]

    def limited(request: Any) -> None:
        if (request.headers.get("Range") or "").startswith(first):
            request.reply(429, Retry_After="4000")
        else:
            page(request)

    server.answers["/watch/a"] = limited
    outcome = fetcher().fetch(wanted("a", 13, 23), tmp_path / "clip")
    assert outcome.status is Status.RATE_LIMITED
    pause = fetcher().budget.pause()
    assert pause is not None
    assert 3900 < pause.seconds <= 4000


def test_an_excerpt_comes_where_the_environment_lets_loopback_addresses_past_proxies(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    server.file("/watch/a", video.read_bytes())
    outcome = fetcher(allow_private=True).fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason


def test_a_clip_from_the_beginning_without_an_end_is_the_whole_video(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    outcome = fetcher().fetch(wanted("a", 0.5), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.bytes == video.stat().st_size


def test_a_site_whose_servers_differ_gives_the_excerpt_all_the_same(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    body = video.read_bytes()

    server.answers["/watch/a"] = lambda request: differing(server, request, body)
    outcome = fetcher().fetch(wanted("a", 13.3, 23.3), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


def test_what_came_for_other_seconds_is_removed_when_the_shard_is_fetched(
    server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    row = {"clip": "clip", "source": "a", "start": 13.0, "end": 23.0, "shard": 0, "row": 0}
    pd.DataFrame([row]).to_parquet(tmp_path / "manifest.parquet")
    places = Places(tmp_path / "files", tmp_path / "cache" / "budget")
    old = tmp_path / "files" / "clip.0123456789abcdef.ranges"
    old.mkdir(parents=True)
    (old / "0").write_bytes(b"x")
    fetch_shard(tmp_path / "manifest.parquet", 0, [source(server)], tmp_path / "0.parquet", places)
    assert sorted(path.name for path in (tmp_path / "files").glob("clip*")) == ["clip.mp4"]


def test_a_connection_that_breaks_never_gives_half_an_excerpt_and_the_rest_comes_later(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    body = video.read_bytes()
    start, end = 13.3, 23.3
    server.file("/watch/a", body, cut=len(body) // 6)
    cut = server.answers["/watch/a"]
    ranged: list[str] = []

    def dying(request: Any) -> None:
        if request.headers.get("Range"):
            ranged.append(request.headers["Range"])
        if len(ranged) > 1:
            request.reply(503)
        else:
            cut(request)

    server.answers["/watch/a"] = dying
    outcome = fetcher().fetch(wanted("a", start, end), tmp_path / "clip")
    assert outcome.status is Status.NETWORK_ERROR
    assert outcome.path is None
    (kept,) = tmp_path.glob("clip*")
    here = spans(kept)
    assert here
    server.asked.clear()
    server.file("/watch/a", body)
    outcome = fetcher().fetch(wanted("a", start, end), tmp_path / "clip")
    assert outcome.status is Status.PRESENT
    same_clip(tmp_path, outcome, video, start, end)
    asked = [asked for _, asked in server.asked if asked]
    assert asked
    for first, last in (map(int, each.removeprefix("bytes=").split("-")) for each in asked):
        assert all(last < begin or first >= begin + size for begin, size in here), "these bytes were here"
    assert not kept.exists()


@pytest.mark.parametrize("version", ['"1"', None])
@pytest.mark.parametrize("interval", [(13.3, 23.3), (math.nan, math.nan)])
def test_kill_9_at_any_byte_of_an_excerpt_or_a_whole_video_and_no_byte_comes_twice(
    fetcher: Callable[..., YouTubeFetcher],
    server: Any,
    video: Path,
    tmp_path: Path,
    version: str | None,
    interval: tuple[float, float],
) -> None:
    site = Dripping(version)
    site.serve(server, "/watch/a", video.read_bytes())
    counts = (160_000, 200_000, 180_000)
    for count in counts:
        assert site.killed(lambda: fetcher().fetch(wanted("a", *interval), tmp_path / "clip"), count)
    outcome = fetcher().fetch(wanted("a", *interval), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome.reason
    if math.isnan(interval[0]):
        assert Path(str(outcome.part)).read_bytes() == video.read_bytes()
    else:
        same_clip(tmp_path, outcome, video, *interval)
    samples = 0 if version else ranges.SAMPLE
    assert site.again() <= len(counts) * (ON_ITS_WAY + samples), "without what was kept it would be 540,000"


def test_a_refusal_in_the_middle_that_was_got_over_does_not_count(
    fetcher: Callable[..., YouTubeFetcher], server: Any, tmp_path: Path
) -> None:
    body = bytes(range(256)) * 5000
    server.file("/watch/a", body, cut=500_000)
    page, refusals = server.answers["/watch/a"], [403]

    def moody(request: Any) -> None:
        later = (request.headers.get("Range") or "bytes=0-").partition("=")[2] != "0-"
        request.reply(refusals.pop()) if later and refusals else page(request)

    server.answers["/watch/a"] = moody
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert refusals == []
    assert outcome.status is Status.PRESENT, outcome
    assert Path(str(outcome.part)).read_bytes() == body


def test_pictures_that_are_too_large_do_not_leave_the_sound_alone(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)
    outcome = fetcher(max_bytes=400_000).fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.TOO_LARGE, outcome


def test_the_users_proxy_sees_all_that_the_site_does_and_nothing_of_ours(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    in_pieces(server, video, tmp_path, 15)
    for path, answer in list(server.answers.items()):  # it is the proxy, too
        server.answers[server.url + path] = answer
    outcome = fetcher(proxy=server.url).fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.PRESENT, outcome
    names = ("a", "0.ts", "1.ts")
    assert {path for path, _ in server.asked} == {f"{server.url}/watch/{name}" for name in names}


def test_a_page_may_not_lead_into_the_private_network(
    fetcher: Callable[..., YouTubeFetcher], server: Any, tmp_path: Path
) -> None:
    port = server.url.rpartition(":")[2]
    elsewhere = f"http://127.0.0.2:{port}/secret"
    server.answers["/watch/a"] = lambda request: request.reply(302, Location=elsewhere)
    outcome = fetcher().fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.REFUSED_URL
    assert "127.0.0.2" in outcome.reason


def test_an_excerpt_may_not_be_redirected_into_the_private_network_either(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    page, asked = server.answers["/watch/a"], []
    away = leading_away(server, asked)
    # Only for the excerpt are bytes of a file asked for.
    server.answers["/watch/a"] = lambda request: (away if request.headers.get("Range") else page)(request)
    outcome = fetcher().fetch(wanted("a", 13, 23), tmp_path / "clip")
    assert asked == []
    assert outcome.status is Status.REFUSED_URL
    assert "127.0.0.2" in outcome.reason


def test_a_file_larger_than_allowed_is_not_downloaded(
    fetcher: Callable[..., YouTubeFetcher], server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    for interval in ((math.nan, math.nan), (5, 15)):
        outcome = fetcher(max_bytes=50_000).fetch(wanted("a", *interval), tmp_path / "clip")
        assert outcome.status is Status.TOO_LARGE
    assert list(tmp_path.glob("clip*")) == []


def slow(request: Any) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "video/mp4")
    request.end_headers()
    for _ in range(600):
        request.wfile.write(b"\0" * 1000)
        time.sleep(0.05)


def children() -> list[str]:
    """Command lines of the yt-dlp processes of this process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if parent == os.getpid() and "ytdlp" in command:
            found.append(command)
    return found


def test_what_takes_too_long_is_ended_with_all_it_started(
    fetcher: Callable[..., YouTubeFetcher], server: Any, tmp_path: Path
) -> None:
    server.answers["/watch/a"] = slow
    outcome = fetcher(timeout=3).fetch(wanted(), tmp_path / "clip")
    assert outcome.status is Status.TIMED_OUT
    assert outcome.seconds < 15
    assert children() == []
    assert list(tmp_path.glob("*clip*")) == []


def test_a_job_that_is_stopped_ends_what_is_under_way(
    fetcher: Callable[..., YouTubeFetcher], server: Any, tmp_path: Path
) -> None:
    server.answers["/watch/a"] = slow
    ours = fetcher()
    threading.Timer(1.5, ours.stop).start()
    with pytest.raises(CancelledError):
        ours.fetch(wanted(), tmp_path / "clip")
    assert children() == []


# What follows needs no yt-dlp: it starts from what yt-dlp's process answers.


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ytdlp.Request]]:
    """Makes yt-dlp's process answer with messages; gives the list of what is asked."""

    def answer(*messages: str, wait: float | None = None) -> list[ytdlp.Request]:
        asked: list[ytdlp.Request] = []

        def ask(request: ytdlp.Request, timeout: float, stopped: threading.Event) -> ytdlp.Answer:
            asked.append(request)
            return ytdlp.Answer(messages=messages, wait=wait)

        monkeypatch.setattr(ytdlp, "ask", ask)
        return asked

    return answer


@pytest.fixture
def youtube(tmp_path: Path) -> YouTubeFetcher:
    return YouTubeFetcher(Source(kind="youtube", rate=RATE), tmp_path / "cache" / "budget")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9_-]{10,12}", fullmatch=True))
@example(name="--exec=a.sh")
@example(name="-exec=touch")
@example(name="../../../et")
@example(name="abcdefghijk\n")
def test_only_an_id_of_youtube_is_asked_for_and_only_as_part_of_a_url(
    youtube: YouTubeFetcher, says: Callable[..., list[ytdlp.Request]], tmp_path: Path, name: str
) -> None:
    asked = says("Video unavailable")
    outcome = youtube.fetch(wanted(name, 1, 2), tmp_path / "clip")
    if len(name) == 11 and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in name):
        (request,) = asked
        assert request.url == f"https://www.youtube.com/watch?v={name}"
        assert request.extractors == ["youtube"]
        assert not any(name in option for option in request.options)
    else:
        assert (outcome.status, asked) == (Status.REFUSED_ID, [])


def test_the_interval_gets_its_margin_and_never_begins_before_the_video(
    says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("Video unavailable")
    fetcher = YouTubeFetcher(Source(kind="youtube", rate=RATE, margin=2), tmp_path / "budget")
    for start, end in ((30, 40), (1, 11), (math.nan, math.nan)):
        fetcher.fetch(wanted("abcdefghijk", start, end), tmp_path / "clip")
    assert [(request.start, request.end) for request in asked] == [(28, 42), (0, 13), (None, None)]
    keys = {fetcher.key(wanted("abcdefghijk", start, 50)) for start in (10, 20)}
    assert len(keys) == 2, "another part of the same video is another question"


@pytest.mark.parametrize(
    ("messages", "status", "closed"),
    [
        (["ERROR: [youtube] abcdefghijk: Private video. Sign in if"], Status.PRIVATE, False),
        (["ERROR: [youtube] abcdefghijk: Sign in to confirm you’re not a bot."], Status.BOT_CHECK, True),
        (
            ["ERROR: ffmpeg exited with code 8", "[https] HTTP error 429 Too Many Requests"],
            Status.RATE_LIMITED,
            True,
        ),
        (["something new"], Status.NETWORK_ERROR, False),
        (["yt-dlp ended with status -9", "MemoryError"], Status.NETWORK_ERROR, False),
    ],
)
def test_messages_decide_the_outcome_and_stops_close_the_budget(
    youtube: YouTubeFetcher,
    says: Callable[..., list[ytdlp.Request]],
    tmp_path: Path,
    messages: Sequence[str],
    status: Status,
    closed: bool,
) -> None:
    says(*messages)
    outcome = youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    assert outcome.status is status
    assert outcome.reason
    assert (youtube.budget.pause() is not None) == closed


def test_a_full_disk_is_our_error_not_the_clips(
    youtube: YouTubeFetcher, says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    says("ERROR: unable to write data: [Errno 28] No space left on device")
    with pytest.raises(OutputError, match="disk is full") as raised:
        youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    assert raised.value.errno == errno.ENOSPC


def test_a_job_stops_early_and_still_ends_with_its_table(
    says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("ERROR: [youtube] x: Sign in to confirm you're not a bot.")
    names = [f"abcdefghij{letter}" for letter in "abcdefgh"]
    rows = [
        {"clip": name, "source": name, "start": 0.0, "end": 10.0, "shard": 0, "row": row}
        for row, name in enumerate(names)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "manifest.parquet")
    places = Places(tmp_path / "files", tmp_path / "cache" / "budget")
    sources = [Source(kind="youtube", rate=RATE)]
    counts = fetch_shard(tmp_path / "manifest.parquet", 0, sources, tmp_path / "0.parquet", places, workers=1)
    assert counts == {"bot_check": 8}
    assert len(asked) == 1
    table = pd.read_parquet(tmp_path / "0.parquet")
    assert list(table.attempts) == [1, *[0] * 7]
    assert Budget(places.budgets, "www.youtube.com", RATE).pause() is not None


def test_what_fails_alike_ten_times_in_a_row_is_not_asked_any_more(
    youtube: YouTubeFetcher, says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("ERROR: [youtube] x: Requested format is not available")
    for _ in range(PATIENCE - 1):
        youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    says("ERROR: [youtube] x: Video unavailable")
    youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    asked = says("ERROR: [youtube] x: Requested format is not available")
    outcomes = [youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip") for _ in range(PATIENCE + 5)]
    assert len(asked) == PATIENCE, "an answer between begins the count anew"
    assert {outcome.status for outcome in outcomes} == {Status.NO_TOOL}
    assert [outcome.attempts for outcome in outcomes] == [1] * PATIENCE + [0] * 5
    assert "not asked, for 10 in a row failed: Requested format" in outcomes[-1].reason


def test_browser_proxy_and_format_are_passed_through_and_no_file_of_options_is_read(
    says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("Video unavailable")
    chosen = {"cookies_from_browser": "firefox:work", "proxy": "socks5://proxy:1080", "format": "18"}
    YouTubeFetcher(Source(kind="youtube", rate=RATE, **chosen), tmp_path / "budget").fetch(  # type: ignore[arg-type]
        wanted("abcdefghijk"), tmp_path / "clip"
    )
    options = asked[0].options
    for option in ("--cookies-from-browser=firefox:work", "--proxy=socks5://proxy:1080", "--format=18"):
        assert option in options
    assert "--ignore-config" in ytdlp.FILES
    assert "--no-plugin-dirs" in ytdlp.FILES


def test_a_missing_file_of_cookies_stops_the_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        YouTubeFetcher(Source(kind="youtube", cookies=str(tmp_path / "cookies.txt")), tmp_path)


def test_a_proxy_has_a_budget_of_its_own_and_its_password_is_in_no_file_name(tmp_path: Path) -> None:
    direct = YouTubeFetcher(Source(kind="youtube"), tmp_path)
    proxied = YouTubeFetcher(Source(kind="youtube", proxy="http://me:hush@proxy:3128"), tmp_path)
    assert direct.budget.path != proxied.budget.path
    assert "hush" not in str(proxied.budget.path)
    assert direct.guarded
    assert not proxied.guarded


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on data is Linux's")
def test_a_javascript_runtime_works_within_the_limits(tmp_path: Path) -> None:
    from avpipe.download.programs import javascript_runtimes

    runtimes = javascript_runtimes(Path(sys.executable))
    if "node" not in runtimes:
        pytest.skip("no node here")
    script = (
        "import resource, subprocess, sys;"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({ytdlp.MEMORY}, {ytdlp.MEMORY}));"
        "sys.exit(subprocess.run([sys.argv[1], '-e', 'console.log(1 + 1)']).returncode)"
    )
    subprocess.run([sys.executable, "-c", script, runtimes["node"]], check=True)
