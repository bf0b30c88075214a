"""Clips out of an archive: fetched once by all jobs, resumed, checked, and each clip taken out whole or not at all."""

import hashlib
import io
import logging
import math
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avpipe.download import FETCHERS, Status
from avpipe.download.archive import FOLDER, ArchiveFetcher
from avpipe.download.base import WantedClip
from avpipe.plan.registry import load
from avpipe.plan.source import Source
from avpipe.transfer import Limits

NAMES = [f"clip{number}" for number in range(8)]
VIDEOS = {name: random.Random(name).randbytes(50_000) for name in NAMES}


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return out.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


ARCHIVE = zip_of({f"AVE_Dataset/AVE/{name}.mp4": video for name, video in VIDEOS.items()})
TAR = tar_of({f"AVE/{name}.mp4": video for name, video in VIDEOS.items()})
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


def clip(name: str) -> WantedClip:
    return WantedClip(name, name, math.nan, math.nan)


def fetch(source: Source, files: Path, name: str, **limits: Any) -> Any:
    files.mkdir(exist_ok=True)
    fetcher = ArchiveFetcher(source, limits=Limits(**limits) if limits else None)
    return fetcher.fetch(clip(name), files / name)


def below(files: Path) -> list[str]:
    return sorted(str(p.relative_to(files / FOLDER).name) for p in (files / FOLDER).rglob("*") if p.is_file())


def test_every_clip_comes_out_of_one_download(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    for name in NAMES:  # a new fetcher each time, as a job a shard is
        outcome = fetch(source, tmp_path / "files", name)
        assert outcome.status is Status.PRESENT
        assert outcome.path == str(tmp_path / "files" / f"{name}.mp4")
        assert Path(outcome.path).read_bytes() == VIDEOS[name]
        assert outcome.sha256 == hashlib.sha256(VIDEOS[name]).hexdigest()
        assert outcome.found_in == "archive 127.0.0.1"
    assert server.count("/ave.zip") == 1


def test_jobs_that_start_at_once_share_the_download(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda name: fetch(source, tmp_path / "files", name), NAMES))
    assert {outcome.status for outcome in outcomes} == {Status.PRESENT}
    assert server.count("/ave.zip") == 1


def test_a_download_that_broke_goes_on_in_the_next_job(server: Any, tmp_path: Path) -> None:
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    server.file("/ave.zip", ARCHIVE, version="", cut=150_000)  # no version: the SHA-256 stands for it
    assert fetch(source, tmp_path / "files", "clip0", attempts=1).status is Status.NETWORK_ERROR
    assert fetch(source, tmp_path / "files", "clip0", attempts=1).status is Status.NETWORK_ERROR
    assert fetch(source, tmp_path / "files", "clip0", attempts=1).status is Status.PRESENT
    assert [asked for _, asked in server.asked] == [None, "bytes=150000-", "bytes=300000-"]


def test_an_archive_that_changed_under_a_partial_download_is_not_mixed(server: Any, tmp_path: Path) -> None:
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    server.file("/ave.zip", ARCHIVE[::-1], version="", cut=150_000)
    fetch(source, tmp_path / "files", "clip0", attempts=1)
    server.file("/ave.zip", ARCHIVE, version="")
    assert fetch(source, tmp_path / "files", "clip0").status is Status.PRESENT
    assert [asked for _, asked in server.asked] == [None, "bytes=150000-", None], "noticed, and begun anew"


def test_a_wrong_archive_is_refused_and_says_what_came(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256="0" * 64)
    fetcher = ArchiveFetcher(source)
    (tmp_path / "files").mkdir()
    for name in NAMES:
        outcome = fetcher.fetch(clip(name), tmp_path / "files" / name)
        assert outcome.status is Status.MISSING
        assert not outcome.status.final
        assert f"SHA-256 {SHA256} came, expected {'0' * 64}" in outcome.reason
    assert server.count("/ave.zip") == 1, "one job downloads it once, right or wrong"
    assert below(tmp_path / "files") == ["lock"]


def test_without_a_checksum_the_log_says_which_to_write_down_and_nothing_is_fetched_again(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.file("/ave.zip", ARCHIVE)
    url = f"{server.url}/ave.zip"
    with caplog.at_level(logging.WARNING):
        fetch(Source(kind="archive", url=url), tmp_path / "files", "clip0")
    assert f"add `sha256: {SHA256}` to the source" in caplog.text
    right = Source(kind="archive", url=url, sha256=SHA256)
    wrong = Source(kind="archive", url=url, sha256="0" * 64)
    assert fetch(right, tmp_path / "files", "clip1").status is Status.PRESENT
    outcome = fetch(wrong, tmp_path / "files", "clip1")
    assert outcome.status is Status.MISSING
    assert "to download it anew" in outcome.reason
    assert server.count("/ave.zip") == 1


def test_a_downloaded_archive_that_lost_its_end_is_fetched_again(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    fetch(source, tmp_path / "files", "clip0")
    (kept,) = (tmp_path / "files" / FOLDER).glob("*/archive")
    kept.write_bytes(ARCHIVE[:1000])
    assert fetch(source, tmp_path / "files", "clip1").status is Status.PRESENT
    assert server.count("/ave.zip") == 2


@pytest.mark.parametrize("kind", ["archive", "local"])
def test_an_archive_on_this_machine_is_read_where_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ave.zip"
    path.write_bytes(ARCHIVE)
    fetcher = load(FETCHERS, kind, "source")(Source(kind=kind, path=str(path)))
    (tmp_path / "files").mkdir()
    outcome = fetcher.fetch(clip("clip3"), tmp_path / "files" / "clip3")
    assert Path(outcome.path).read_bytes() == VIDEOS["clip3"]
    assert below(tmp_path / "files") == ["lock"]
    before = fetcher.key(clip("clip3"))
    path.write_bytes(ARCHIVE + b"")
    assert fetcher.key(clip("clip3")) != before, "a new archive is asked anew"


def test_a_local_archive_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ave.zip"
    path.write_bytes(ARCHIVE)
    source = Source(kind="archive", path=str(path), sha256=SHA256)
    assert fetch(source, tmp_path / "files", "clip0").status is Status.PRESENT
    monkeypatch.setattr("avpipe.download.archive.sha256_of", lambda _: "not the archive's")
    assert fetch(source, tmp_path / "files", "clip1").status is Status.PRESENT
    wrong = fetch(Source(kind="archive", path=str(path), sha256="0" * 64), tmp_path / "files", "clip1")
    assert (wrong.status, SHA256 in wrong.reason) == (Status.MISSING, True)


@pytest.mark.parametrize(
    ("pattern", "name", "status", "said"),
    [
        ("{source}.mp4", "nobody", Status.MISSING, "nobody.mp4 is not in the archive"),
        ("{source}.mp4", "../../etc/passwd", Status.REFUSED_ID, "leads out"),
        ("{source}.mp4", "/etc/passwd", Status.REFUSED_ID, "leads out"),
        ("AVE/{source}.mp4", "clip1", Status.PRESENT, ""),
        ("VGG/{source}.mp4", "clip1", Status.MISSING, "is not in the archive"),
    ],
)
def test_a_clip_that_is_not_there_says_so(
    pattern: str, name: str, status: Status, said: str, tmp_path: Path
) -> None:
    (tmp_path / "ave.zip").write_bytes(ARCHIVE)
    source = Source(kind="archive", path=str(tmp_path / "ave.zip"), pattern=pattern)
    wanted = WantedClip("clip", name, math.nan, math.nan)
    (tmp_path / "files").mkdir()
    outcome = ArchiveFetcher(source).fetch(wanted, tmp_path / "files" / "clip")
    assert outcome.status is status
    assert said in outcome.reason


def test_members_called_alike_ask_for_a_longer_pattern(tmp_path: Path) -> None:
    (tmp_path / "two.zip").write_bytes(zip_of({"x/a.mp4": b"1", "y/a.mp4": b"2"}))
    outcome = fetch(Source(kind="archive", path=str(tmp_path / "two.zip")), tmp_path / "files", "a")
    assert outcome.status is Status.MISSING
    assert "2 members are called a.mp4 (x/a.mp4, y/a.mp4): name their folder in `pattern`" in outcome.reason


def test_a_missing_or_foreign_file_says_what_to_do(tmp_path: Path) -> None:
    nowhere = fetch(Source(kind="archive", path=str(tmp_path / "no.zip")), tmp_path / "files", "a")
    assert "no.zip is not there" in nowhere.reason
    (tmp_path / "page.zip").write_text("<html>quota</html>")
    page = fetch(Source(kind="archive", path=str(tmp_path / "page.zip")), tmp_path / "files", "a")
    assert "is no tar file, or damaged" in page.reason
    assert {nowhere.status, page.status} == {Status.MISSING}


@pytest.mark.parametrize(
    ("code", "status"),
    [(200, Status.WEB_PAGE), (403, Status.MISSING), (404, Status.MISSING), (500, Status.NETWORK_ERROR)],
)
def test_an_archive_that_does_not_come_is_nothing_final_of_its_clips(
    server: Any, tmp_path: Path, code: int, status: Status
) -> None:
    server.answers["/ave.zip"] = lambda request: request.reply(
        code, b"<!doctype html>", Content_Type="text/html"
    )
    source = Source(kind="archive", url=f"{server.url}/ave.zip")
    outcome = ArchiveFetcher(source, limits=Limits(attempts=1)).fetch(clip("clip0"), tmp_path / "clip0")
    assert outcome.status is status
    assert not outcome.status.final
    assert str(code) in outcome.reason or "web page" in outcome.reason


def test_an_extension_nobody_knows_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"a.sh": b"#!/bin/sh"}))
    source = Source(kind="archive", path=str(tmp_path / "x.zip"), pattern="{source}.sh")
    assert fetch(source, tmp_path / "files", "a").path == str(tmp_path / "files" / "a.media")


@pytest.mark.parametrize("kind", ["local", "archive", "http"])
def test_a_file_that_is_the_clip_itself_begins_where_the_clip_does(
    kind: str, server: Any, tmp_path: Path
) -> None:
    """LLP's names say seconds of the video, but the authors' script leaves files that begin at 0."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"clip")
    (tmp_path / "videos.zip").write_bytes(zip_of({"a.mp4": b"clip"}))
    server.file("/a.mp4", b"clip")
    places = {
        "local": {"path": str(tmp_path / "videos")},
        "archive": {"path": str(tmp_path / "videos.zip")},
        "http": {"url": server.url + "/{source}.mp4"},
    }
    (tmp_path / "files").mkdir()
    for excerpts, start, offset in ((False, 30.0, 0.0), (True, 30.0, 30.0), (True, math.nan, 0.0)):
        source = Source.model_validate({"kind": kind, **places[kind], "excerpts": excerpts})
        wanted = WantedClip("a", "a", start, start + 10)
        shared = (server.budgets,) if kind == "http" else ()
        outcome = load(FETCHERS, kind, "source")(source, *shared).fetch(wanted, tmp_path / "files" / "a")
        assert (outcome.status, outcome.offset) == (Status.PRESENT, offset)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.text(max_size=30), st.text("./\\~a\0\n%{}", max_size=12)))
def test_no_id_writes_anywhere_but_to_its_clips_file(tmp_path: Path, name: str) -> None:
    path, files = tmp_path / "x.zip", tmp_path / "files"
    path.write_bytes(zip_of({"../../evil.mp4": b"evil", "a.mp4": b"a", "/root.mp4": b"root"}))
    files.mkdir(exist_ok=True)
    wanted = WantedClip("clip", name, math.nan, math.nan)
    outcome = ArchiveFetcher(Source(kind="archive", path=str(path))).fetch(wanted, files / "clip")
    assert (outcome.status is Status.PRESENT) == (str(PurePosixPath(f"{name}.mp4")) == "a.mp4")
    assert {p.name for p in tmp_path.iterdir()} == {"x.zip", "files"}
    assert {p.name for p in files.iterdir()} <= {"clip.mp4", FOLDER}


JOB = """
import math, sys, time
from pathlib import Path, PurePosixPath
from avpipe.plan.source import Source
from avpipe.download import members
from avpipe.download.archive import ArchiveFetcher
from avpipe.download.base import WantedClip

members.CHUNK = 20_000
read = members.{kind}Archive.read

def slowly(*arguments):
    for chunk in read(*arguments):
        time.sleep({pause})
        yield chunk

members.{kind}Archive.read = slowly
fetcher = ArchiveFetcher(Source.model_validate_json(sys.argv[1]))
print("ready", flush=True)
for name in sys.argv[3:]:
    outcome = fetcher.fetch(WantedClip(name, name, math.nan, math.nan), Path(sys.argv[2]) / name)
    print(name, outcome.status, flush=True)
"""


def job(source: Source, files: Path, pause: float = 0.0, kind: str = "Zip") -> subprocess.Popen[str]:
    """A process that fetches all clips; `pause` seconds for each 20,000 bytes that it takes out of the archive."""
    files.mkdir(exist_ok=True)
    code = JOB.format(pause=pause, kind=kind)
    command = [sys.executable, "-c", code, source.model_dump_json(exclude_defaults=True), str(files), *NAMES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert running.stdout is not None
    running.stdout.close()


@pytest.mark.parametrize("kind", ["Zip", "Tar"])
def test_kill_9_in_the_middle_of_taking_a_clip_out_leaves_no_half_clip(kind: str, tmp_path: Path) -> None:
    path, files = tmp_path / "ave", tmp_path / "files"
    path.write_bytes(ARCHIVE if kind == "Zip" else TAR)
    source = Source(kind="archive", path=str(path))
    running = job(source, files, pause=0.1, kind=kind)
    half = files / ".clip1.unpacking.tmp"
    while not (half.exists() and half.stat().st_size):  # some of its 50,000 bytes are there
        time.sleep(0.002)
    killed(running)
    assert {p.name for p in files.glob("*.mp4")} == {"clip0.mp4"}
    out, _ = job(source, files, kind=kind).communicate(timeout=60)
    assert out.splitlines()[1:] == [f"{name} present" for name in NAMES]
    assert {p.stem: p.read_bytes() for p in files.glob("*.*")} == VIDEOS


def test_kill_9_at_any_moment_costs_no_byte_twice_and_leaves_nothing_half(
    server: Any, tmp_path: Path
) -> None:
    """The server sends slowly, so that kills fall into the download; those after it fall into the extraction."""
    files, kept = tmp_path / "files", [0]
    server.file("/ave.zip", ARCHIVE)
    whole = server.answers["/ave.zip"]

    def slowly(request: Any) -> None:
        write = request.wfile.write

        def pieces(body: bytes) -> None:
            for start in range(0, len(body), 20_000):
                write(body[start : start + 20_000])
                request.wfile.flush()
                time.sleep(0.02)

        request.wfile.write = pieces
        whole(request)

    server.answers["/ave.zip"] = slowly
    source = Source(kind="archive", url=f"{server.url}/ave.zip", sha256=SHA256)
    moments = random.Random(0)
    for _ in range(4):
        running = job(source, files)
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.05, 0.25))
        killed(running)
        kept.extend(part.stat().st_size for part in files.glob(f"{FOLDER}/*/archive.part"))
        for path in files.glob("*.mp4"):
            assert path.read_bytes() == VIDEOS[path.stem], "what has its name is whole"
    last = job(source, files)
    out, _ = last.communicate(timeout=60)
    assert out.splitlines()[1:] == [f"{name} present" for name in NAMES]
    assert {path.name: path.read_bytes() for path in files.glob("*.*")} == {
        f"{name}.mp4": video for name, video in VIDEOS.items()
    }
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for _, asked in server.asked]
    assert set(starts) <= set(kept), "each job went on at the byte where the file stood"
    assert starts == sorted(starts)
    assert len(starts) > 1, "some kills fell into the download"
