"""Clips out of an archive: downloaded once by all jobs, continued, checked, unpacked once and whole or not at all."""

import hashlib
import logging
import math
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avpipe.download import FETCHERS, Status
from avpipe.download.archive import FOLDER, ArchiveFetcher
from avpipe.download.base import WantedClip
from avpipe.files import locked
from avpipe.plan.registry import load
from avpipe.plan.source import ArchiveSource, Source, parse_source
from tests.builders import zip_of
from tests.download.archives import ARCHIVES

NAMES = [f"clip{number}" for number in range(8)]
VIDEOS = {name: random.Random(name).randbytes(50_000) for name in NAMES}
FILES = {f"AVE_Dataset/AVE/{name}.mp4": video for name, video in VIDEOS.items()}
ARCHIVE = zip_of(FILES)
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


def fetch(source: Source, folder: Path, name: str, **limits: Any) -> Any:
    """The outcome of a new job for one clip."""
    (folder / "files").mkdir(exist_ok=True)
    fetcher = ArchiveFetcher(source)
    fetcher.limits = replace(fetcher.limits, **limits)
    return fetcher.fetch(WantedClip(name, name, math.nan, math.nan), folder / "files" / name)


@pytest.fixture
def local(tmp_path: Path) -> Source:
    """The archive on this machine."""
    (tmp_path / "ave.zip").write_bytes(ARCHIVE)
    return ArchiveSource(path=str(tmp_path / "ave.zip"))


def test_a_job_that_waits_for_another_one_ends_when_told_to(local: Source, tmp_path: Path) -> None:
    fetch(local, tmp_path, "clip0")
    (lock,) = (tmp_path / "files" / FOLDER).glob("*/lock")
    fetcher = ArchiveFetcher(local)
    wanted = WantedClip("clip1", "clip1", math.nan, math.nan)
    with locked(lock), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetcher.fetch, wanted, tmp_path / "files" / "clip1")
        fetcher.stop()
        with pytest.raises(CancelledError):
            waiting.result(timeout=5)


def test_every_clip_comes_out_of_one_download(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = ArchiveSource(url=f"{server.url}/ave.zip", sha256=SHA256)
    for name in NAMES:
        outcome = fetch(source, tmp_path, name)
        assert outcome.status is Status.PRESENT
        assert Path(outcome.path).is_relative_to(tmp_path / "files" / FOLDER)
        assert Path(outcome.path).read_bytes() == VIDEOS[name]
        assert outcome.bytes == 50_000
        assert outcome.sha256 == hashlib.sha256(VIDEOS[name]).hexdigest()
        assert outcome.found_in == "archive 127.0.0.1"
    assert server.count("/ave.zip") == 1


def test_jobs_that_start_at_once_share_the_download(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = ArchiveSource(url=f"{server.url}/ave.zip", sha256=SHA256)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda name: fetch(source, tmp_path, name), NAMES))
    assert {outcome.status for outcome in outcomes} == {Status.PRESENT}
    assert server.count("/ave.zip") == 1


def test_a_wrong_archive_is_refused_and_says_what_came(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    fetcher = ArchiveFetcher(ArchiveSource(url=f"{server.url}/ave.zip", sha256="0" * 64))
    for name in NAMES:
        outcome = fetcher.fetch(WantedClip(name, name, math.nan, math.nan), tmp_path / name)
        assert outcome.status is Status.MISSING
        assert f"SHA-256 {SHA256}, expected {'0' * 64}" in outcome.reason
    assert server.count("/ave.zip") == 1, "one job downloads it once, right or wrong"
    assert [path.name for path in (tmp_path / FOLDER).glob("*/*")] == ["lock"]


def test_without_a_checksum_the_log_says_which_to_write_down(
    server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.file("/ave.zip", ARCHIVE)
    url = f"{server.url}/ave.zip"
    with caplog.at_level(logging.WARNING):
        fetch(ArchiveSource(url=url), tmp_path, "clip0")
    assert f"`sha256: {SHA256}`" in caplog.text
    right = ArchiveSource(url=url, sha256=SHA256)
    wrong = ArchiveSource(url=url, sha256="0" * 64)
    assert fetch(right, tmp_path, "clip1").status is Status.PRESENT
    refused = fetch(wrong, tmp_path, "clip1")
    assert refused.status is Status.MISSING
    assert "delete" in refused.reason
    assert server.count("/ave.zip") == 1


def test_a_downloaded_archive_may_be_deleted_once_it_is_unpacked(server: Any, tmp_path: Path) -> None:
    server.file("/ave.zip", ARCHIVE)
    source = ArchiveSource(url=f"{server.url}/ave.zip")
    fetch(source, tmp_path, "clip0")
    (archive,) = (tmp_path / "files" / FOLDER).glob("*/archive")
    archive.unlink()
    assert fetch(source, tmp_path, "clip1").status is Status.PRESENT
    assert server.count("/ave.zip") == 1


@pytest.mark.parametrize("kind", ["archive", "local"])
def test_an_archive_on_this_machine_is_unpacked_with_the_downloads_until_it_changes(
    kind: str, local: Source, tmp_path: Path
) -> None:
    source = parse_source({"kind": kind, "path": local.path})

    def path(name: str) -> Path:
        fetcher = load(FETCHERS, kind, "source")(source)
        wanted = WantedClip(name, name, math.nan, math.nan)
        return Path(fetcher.fetch(wanted, tmp_path / "files" / name).path)

    assert path("clip3").read_bytes() == VIDEOS["clip3"]
    written = path("clip4").stat().st_ctime_ns
    assert path("clip4").stat().st_ctime_ns == written, "unpacked once"
    assert {p.name for p in tmp_path.iterdir()} == {"ave.zip", "files"}
    Path(str(local.path)).write_bytes(zip_of({"clip3.mp4": b"new"}))
    assert path("clip3").read_bytes() == b"new"
    assert len(list((tmp_path / "files").rglob("*.mp4"))) == 1, "nothing of the old archive is left"


@pytest.mark.parametrize(
    ("pattern", "name", "status"),
    [
        ("{source}.mp4", "nobody", Status.MISSING),
        ("{source}.mp4", "../../etc/passwd", Status.REFUSED_ID),
        ("{source}.mp4", "/etc/passwd", Status.REFUSED_ID),
        ("AVE/{source}.mp4", "clip1", Status.PRESENT),
        ("VE/{source}.mp4", "clip1", Status.MISSING),
        ("files/AVE_Dataset/AVE/{source}.mp4", "clip1", Status.MISSING),  # `files` is our folder
    ],
)
def test_the_pattern_is_compared_with_the_last_parts_of_a_path(
    pattern: str, name: str, status: Status, local: Source, tmp_path: Path
) -> None:
    source = ArchiveSource(path=local.path, pattern=pattern)
    wanted = WantedClip("clip", name, math.nan, math.nan)
    assert ArchiveFetcher(source).fetch(wanted, tmp_path / "clip").status is status


def test_files_called_alike_ask_for_a_longer_pattern(tmp_path: Path) -> None:
    (tmp_path / "two.zip").write_bytes(zip_of({"x/a.mp4": b"1", "y/a.mp4": b"2"}))
    outcome = fetch(ArchiveSource(path=str(tmp_path / "two.zip")), tmp_path, "a")
    assert outcome.status is Status.MISSING
    assert "2 files are called a.mp4 (x/a.mp4, y/a.mp4)" in outcome.reason


def test_a_missing_or_foreign_file_says_what_to_do(tmp_path: Path) -> None:
    nowhere = fetch(ArchiveSource(path=str(tmp_path / "no.zip")), tmp_path, "a")
    assert "no.zip is not there" in nowhere.reason
    (tmp_path / "page.zip").write_text("<html>quota</html>")
    page = fetch(ArchiveSource(path=str(tmp_path / "page.zip")), tmp_path, "a")
    assert "get it again" in page.reason
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
    outcome = fetch(ArchiveSource(url=f"{server.url}/ave.zip"), tmp_path, "clip0", attempts=1)
    assert outcome.status is status
    assert not outcome.status.final
    assert str(code) in outcome.reason or "web page" in outcome.reason


def test_a_hostile_archive_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"clip0.mp4": b"fine", "../../evil.mp4": b"evil"}))
    outcome = fetch(ArchiveSource(path=str(tmp_path / "x.zip")), tmp_path, "clip0")
    assert outcome.status is Status.MISSING
    assert "refused" in outcome.reason
    assert not list(tmp_path.rglob("*.mp4"))


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
        source = parse_source({"kind": kind, **places[kind], "excerpts": excerpts})
        wanted = WantedClip("a", "a", start, start + 10)
        shared = (server.budgets,) if kind == "http" else ()
        outcome = load(FETCHERS, kind, "source")(source, *shared).fetch(wanted, tmp_path / "files" / "a")
        assert (outcome.status, outcome.offset) == (Status.PRESENT, offset)


JOB = """
import json, math, shutil, sys, tarfile, time, zipfile
from pathlib import Path
from avpipe.download.archive import ArchiveFetcher
from avpipe.download.base import WantedClip
from avpipe.plan.source import ArchiveSource

def slow(extract):
    def slowly(*arguments, **options):
        time.sleep({pause})
        return extract(*arguments, **options)
    return slowly

zipfile.ZipFile.extract, tarfile.TarFile.extract = slow(zipfile.ZipFile.extract), slow(tarfile.TarFile.extract)
shutil.rmtree = slow(shutil.rmtree)
fetcher = ArchiveFetcher(ArchiveSource.model_validate_json(sys.argv[1]))
print("ready", flush=True)
for name in sys.argv[3:]:
    outcome = fetcher.fetch(WantedClip(name, name, math.nan, math.nan), Path(sys.argv[2]) / name)
    print(name, outcome.status, outcome.path, flush=True)
"""


def job(source: Source, files: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    """A process that fetches all clips; it waits `pause` seconds before each file that it unpacks and folder it removes."""
    files.mkdir(exist_ok=True)
    settings = source.to_json(), str(files)
    command = [sys.executable, "-c", JOB.format(pause=pause), *settings, *NAMES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert running.stdout is not None
    running.stdout.close()


def finish(source: Source, files: Path) -> None:
    """Run a job to its end: every clip is there, once and whole, and nothing else."""
    out, _ = job(source, files).communicate(timeout=60)
    rows = [line.split(maxsplit=2) for line in out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [[name, "present"] for name in NAMES]
    assert {name: Path(path).read_bytes() for name, _, path in rows} == VIDEOS
    assert len(list(files.rglob("*.mp4"))) == len(NAMES)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_kill_9_while_unpacking_leaves_nothing_that_is_taken_for_whole(kind: str, tmp_path: Path) -> None:
    path, files = tmp_path / "ave", tmp_path / "files"
    path.write_bytes(ARCHIVES[kind](FILES))
    running = job(ArchiveSource(path=str(path)), files, pause=0.1)
    while len(list(files.rglob("*.mp4"))) < 3:
        assert running.poll() is None
        time.sleep(0.002)
    kill(running)
    assert 3 <= len(list(files.rglob("*.mp4"))) < len(NAMES), "killed in the middle"
    assert not list(files.rglob("unpacked"))
    finish(ArchiveSource(path=str(path)), files)


def test_kill_9_while_a_changed_archive_replaces_the_old_files_mixes_nothing(tmp_path: Path) -> None:
    path, files = tmp_path / "ave.zip", tmp_path / "files"
    old = {f"{name}.mp4": b"old" for name in NAMES}
    path.write_bytes(zip_of(old))
    fetch(ArchiveSource(path=str(path)), tmp_path, "clip0")
    path.write_bytes(ARCHIVE)
    running = job(ArchiveSource(path=str(path)), files, pause=0.05)
    while not list(files.rglob("old")):
        assert running.poll() is None
        time.sleep(0.001)
    kill(running)
    finish(ArchiveSource(path=str(path)), files)


def test_kill_9_while_downloading_costs_no_byte_twice(server: Any, tmp_path: Path) -> None:
    files, kept = tmp_path / "files", [0]
    server.file("/ave.zip", ARCHIVE, pause=0.02)
    source = ArchiveSource(url=f"{server.url}/ave.zip", sha256=SHA256)
    moments = random.Random(0)
    for _ in range(4):
        running = job(source, files)
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0.05, 0.25))
        kill(running)
        kept.extend(part.stat().st_size for part in files.glob(f"{FOLDER}/*/.archive.part"))
        for archive in files.glob(f"{FOLDER}/*/archive"):
            assert archive.read_bytes() == ARCHIVE, "what has its name is whole"
    finish(source, files)
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for _, asked in server.asked]
    assert set(starts) <= set(kept), "each job continued at the byte where the file stood"
    assert starts == sorted(starts)
    assert len(starts) > 1, "some kills fell into the download"
