"""yt-dlp itself, run against a server on the loopback address, brings the seconds that are needed or says why not."""

import errno
import math
import os
import re
import shutil
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

from avpipe.clips import Status
from avpipe.download import Outcome, ytdlp
from avpipe.download.budget import FIRST_PAUSE, Budget
from avpipe.download.fetch import Places, fetch_shard
from avpipe.download.youtube import PATIENCE, YouTubeFetcher
from avpipe.files import OutputError, sha256_of
from avpipe.plan.source import YouTubeSource
from tests.download.excerpts import (
    RATE,
    ffmpeg,
    gone,
    in_pieces,
    in_two_files,
    leading_away,
    same_clip,
    wanted,
)

Fetch = Callable[..., Outcome]


def test_an_excerpt_gives_the_same_canonical_clip_as_the_whole_video(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    outcome = fetch(13.3, 23.3)
    assert (outcome.status, outcome.attempts, outcome.found_in) == (Status.PRESENT, 1, "yt-dlp 127.0.0.1")
    assert outcome.path == str(tmp_path / "clip.mp4")
    assert (outcome.bytes, outcome.sha256) == (
        Path(outcome.path).stat().st_size,
        sha256_of(Path(outcome.path)),
    )
    assert 8 - 0.2 <= outcome.offset <= 12, "it begins at the key frame before 12.3 s"
    assert outcome.bytes is not None
    assert outcome.bytes < 0.8 * video.stat().st_size
    same_clip(tmp_path, outcome, video, 13.3, 23.3)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_video_and_audio_in_two_files_stay_together(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome.reason
    assert outcome.offset > 0
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


def test_an_excerpt_at_the_end_of_a_video_has_the_seconds_that_there_are(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    outcome = fetch(18.0, 28.0, margin=5)
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 18.0, 28.0)


def test_where_the_audio_of_an_excerpt_ends_early_the_whole_video_comes_in_its_place(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)
    ffmpeg("-i", tmp_path / "only-audio.m4a", "-t", 20, "-c", "copy", tmp_path / "short.m4a")
    server.file("/watch/audio.m4a", (tmp_path / "short.m4a").read_bytes())
    outcome = fetch(13.3, 23.3)
    assert (outcome.status, outcome.offset) == (Status.PRESENT, 0), outcome


def test_where_the_server_cannot_start_in_the_middle_the_clip_is_exact_too(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    body = video.read_bytes()
    server.answers["/watch/a"] = lambda request: request.reply(200, body)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome.reason
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


def test_without_an_interval_the_whole_video_comes_with_the_users_cookies(
    fetch: Fetch, server: Any, tmp_path: Path
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
    outcome = fetch(cookies=str(cookies))
    assert (outcome.status, outcome.offset) == (Status.PRESENT, 0)
    assert Path(str(outcome.path)).read_bytes() == bytes(range(256)) * 400
    assert set(sent) == {"session=secret"}
    assert cookies.read_bytes() == before


def test_a_page_that_is_gone_is_unavailable_in_yt_dlps_own_words(fetch: Fetch, tmp_path: Path) -> None:
    outcome = fetch()
    assert outcome.status is Status.UNAVAILABLE
    assert "HTTP Error 404: Not Found" in outcome.reason
    assert list(tmp_path.glob("clip*")) == []


def test_a_limit_stops_everybody_as_long_as_the_site_asks(
    server: Any, tmp_path: Path, fetcher: Callable[..., YouTubeFetcher]
) -> None:
    server.answers["/watch/a"] = lambda request: request.reply(429, Retry_After="4000")
    outcome = fetcher().fetch(wanted("a", 1, 2), tmp_path / "clip")
    assert outcome.status is Status.RATE_LIMITED
    assert "429" in outcome.reason
    asked = len(server.asked)
    outcome = fetcher().fetch(wanted("b", 1, 2), tmp_path / "clip")
    assert (outcome.status, outcome.attempts) == (Status.RATE_LIMITED, 0)
    assert "not asked" in outcome.reason
    assert "again in 67 min" in outcome.reason
    assert len(server.asked) == asked


@pytest.mark.parametrize(("first", "expected"), [("bytes=0-", 3900), ("bytes=5", FIRST_PAUSE)])
def test_a_limit_that_only_the_excerpt_meets_stops_everybody_too(
    server: Any,
    video: Path,
    fetch: Fetch,
    fetcher: Callable[..., YouTubeFetcher],
    first: str,
    expected: float,
) -> None:
    """The site's wish is known if its first answer has it; of what ffmpeg meets later, only the number is."""
    server.file("/watch/a", video.read_bytes())
    page = server.answers["/watch/a"]

    def limited(request: Any) -> None:
        refused = (request.headers.get("Range") or "").startswith(first)
        request.reply(429, Retry_After="4000") if refused else page(request)

    server.answers["/watch/a"] = limited
    assert fetch(13, 23).status is Status.RATE_LIMITED
    pause = fetcher().budget.pause()
    assert pause is not None
    minutes = int(re.findall(r"again in (\d+) min", pause.reason)[0])
    assert expected - 10 < 60 * minutes <= 4020


def test_a_connection_that_breaks_never_gives_half_an_excerpt(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    body = video.read_bytes()
    server.file("/watch/a", body, cut=len(body) // 6)
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.NETWORK_ERROR, outcome
    assert list(tmp_path.glob("*clip*")) == []
    server.file("/watch/a", body)
    same_clip(tmp_path, fetch(13.3, 23.3), video, 13.3, 23.3)


@pytest.mark.parametrize("lost", ["video.mp4", "audio.m4a"])
def test_of_two_files_each_must_come(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, lost: str
) -> None:
    in_two_files(server, video, tmp_path)
    page, asked = server.answers[f"/watch/{lost}"], []

    def vanishing(request: Any) -> None:
        asked.append(request)
        (page if len(asked) == 1 else gone)(request)

    server.answers[f"/watch/{lost}"] = vanishing
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.UNAVAILABLE, outcome
    assert list(tmp_path.glob("clip*")) == []


def test_a_video_that_is_too_large_does_not_leave_the_audio_alone(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    in_two_files(server, video, tmp_path)
    outcome = fetch(max_bytes=400_000)
    assert outcome.status is Status.TOO_LARGE, outcome


@pytest.mark.parametrize("interval", [(math.nan, math.nan), (5, 15)])
def test_a_file_larger_than_allowed_is_not_downloaded(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path, interval: tuple[float, float]
) -> None:
    server.file("/watch/a", video.read_bytes())
    assert fetch(*interval, max_bytes=50_000).status is Status.TOO_LARGE
    assert list(tmp_path.glob("clip*")) == []


def test_the_users_proxy_sees_all_requests(fetch: Fetch, server: Any, video: Path, tmp_path: Path) -> None:
    in_pieces(server, video, tmp_path, 15)
    for path, answer in list(server.answers.items()):  # it is the proxy, too
        server.answers[server.url + path] = answer
    for interval in ((math.nan, math.nan), (2, 22)):
        server.asked.clear()
        outcome = fetch(*interval, proxy=server.url)
        assert outcome.status is Status.PRESENT, outcome
        names = ("a", "0.ts", "1.ts")
        assert {path for path, _ in server.asked} == {f"{server.url}/watch/{name}" for name in names}


def test_a_page_may_not_lead_into_the_private_network(fetch: Fetch, server: Any) -> None:
    server.answers["/watch/a"] = leading_away(server)
    outcome = fetch()
    assert outcome.status is Status.REFUSED_URL
    assert "127.0.0.2" in outcome.reason


def test_a_file_may_not_be_redirected_into_the_private_network_before_an_excerpt_is_cut(
    fetch: Fetch, server: Any, video: Path
) -> None:
    server.file("/watch/a", video.read_bytes())
    page, away = server.answers["/watch/a"], leading_away(server)
    # Only for the excerpt are bytes of a file asked for.
    server.answers["/watch/a"] = lambda request: (away if request.headers.get("Range") else page)(request)
    outcome = fetch(13, 23)
    assert outcome.status is Status.REFUSED_URL
    assert "127.0.0.2" in outcome.reason


def test_ffmpeg_begins_where_the_redirects_end(
    fetch: Fetch, server: Any, video: Path, tmp_path: Path
) -> None:
    server.file("/elsewhere.mp4", video.read_bytes())
    page = server.answers["/elsewhere.mp4"]
    server.answers["/watch/a"] = lambda request: (
        request.reply(302, Location="/elsewhere.mp4") if request.headers.get("Range") else page(request)
    )
    outcome = fetch(13.3, 23.3)
    assert outcome.status is Status.PRESENT, outcome
    assert server.asked.count(("/watch/a", "bytes=0-0")) == 1
    assert {path for path, asked in server.asked if asked not in (None, "bytes=0-0")} == {"/elsewhere.mp4"}
    same_clip(tmp_path, outcome, video, 13.3, 23.3)


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


def test_what_takes_too_long_is_ended_with_all_it_started(fetch: Fetch, server: Any, tmp_path: Path) -> None:
    server.answers["/watch/a"] = slow
    outcome = fetch(timeout=3)
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
    return YouTubeFetcher(YouTubeSource(rate=RATE), tmp_path / "cache" / "budget")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("abcdefghijk", True),
        ("--exec=a.sh", False),
        ("-exec_touch", True),  # only ever part of a URL
        ("../../../et", False),
        ("abcdefghijk\n", False),
        ("abcdefghijkl", False),
        ("äbcdefghijk", False),
    ],
)
def test_only_an_id_of_youtube_is_asked_for_and_only_as_part_of_a_url(
    youtube: YouTubeFetcher, says: Callable[..., list[ytdlp.Request]], tmp_path: Path, name: str, good: bool
) -> None:
    asked = says("Video unavailable")
    outcome = youtube.fetch(wanted(name, 1, 2), tmp_path / "clip")
    if good:
        (request,) = asked
        assert request.url == f"https://www.youtube.com/watch?v={name}"
        assert request.extractors == ["youtube"]
        assert not any(name in option for option in request.options)
    else:
        assert (outcome.status, asked) == (Status.MISSING, [])
        assert "is no id of YouTube" in outcome.reason


def test_the_interval_gets_its_margin_and_never_begins_before_the_video(
    says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("Video unavailable")
    fetcher = YouTubeFetcher(YouTubeSource(rate=RATE, margin=2), tmp_path / "budget")
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
        (["ERROR: ffmpeg exited with code 8", "[https] HTTP error 429"], Status.RATE_LIMITED, True),
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
    sources = [YouTubeSource(rate=RATE)]
    counts = fetch_shard(tmp_path / "manifest.parquet", 0, sources, tmp_path / "0.parquet", places, workers=1)
    assert counts == {"bot_check": 8}
    assert len(asked) == 1
    assert list(pd.read_parquet(tmp_path / "0.parquet").attempts) == [1, *[0] * 7]
    assert Budget(places.budgets, "www.youtube.com", RATE).pause() is not None


def test_what_fails_alike_ten_times_in_a_row_is_not_asked_any_more(
    youtube: YouTubeFetcher, says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    says("ERROR: [youtube] x: Requested format is not available")
    for _ in range(PATIENCE - 1):
        youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    says("ERROR: [youtube] x: Video unavailable")
    youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip")
    asked = says("ERROR: [youtube] x: Requested format is not available")
    outcomes = [youtube.fetch(wanted("abcdefghijk"), tmp_path / "clip") for _ in range(PATIENCE + 5)]
    assert len(asked) == PATIENCE, "an answer between begins the count anew"
    assert {outcome.status for outcome in outcomes} == {Status.NO_TOOL}
    assert [outcome.attempts for outcome in outcomes] == [1] * PATIENCE + [0] * 5
    assert "10 in a row failed: Requested format" in outcomes[-1].reason


def test_browser_proxy_and_format_are_passed_through_and_no_file_of_options_is_read(
    says: Callable[..., list[ytdlp.Request]], tmp_path: Path
) -> None:
    asked = says("Video unavailable")
    chosen = {"cookies_from_browser": "firefox:work", "proxy": "socks5://proxy:1080", "format": "18"}
    YouTubeFetcher(YouTubeSource(rate=RATE, **chosen), tmp_path / "budget").fetch(  # type: ignore[arg-type]
        wanted("abcdefghijk"), tmp_path / "clip"
    )
    given_options = {"--cookies-from-browser=firefox:work", "--proxy=socks5://proxy:1080", "--format=18"}
    assert given_options <= set(asked[0].options)
    assert {"--ignore-config", "--no-plugin-dirs"} <= set(ytdlp.OPTIONS)


def test_a_missing_file_of_cookies_stops_the_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        YouTubeFetcher(YouTubeSource(cookies=str(tmp_path / "cookies.txt")), tmp_path)


def test_a_proxy_has_a_budget_of_its_own_and_its_password_is_in_no_file_name(tmp_path: Path) -> None:
    direct = YouTubeFetcher(YouTubeSource(), tmp_path)
    proxied = YouTubeFetcher(YouTubeSource(proxy="http://me:hush@proxy:3128"), tmp_path)
    assert direct.budget.path != proxied.budget.path
    assert "hush" not in str(proxied.budget.path)
    assert (direct.guarded, proxied.guarded) == (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on data is Linux's")
def test_a_javascript_runtime_works_within_the_limits() -> None:
    if not (node := shutil.which("node")):
        pytest.skip("no node here")
    script = (
        "import resource, subprocess, sys;"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({ytdlp.MEMORY}, {ytdlp.MEMORY}));"
        "sys.exit(subprocess.run([sys.argv[1], '-e', 'console.log(1 + 1)']).returncode)"
    )
    subprocess.run([sys.executable, "-c", script, node], check=True)
