"""kill -9 at any moment of a shard's downloads loses nothing that came and takes no half file for a whole one."""

import hashlib
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avpipe.download.fetch import Places, fetch_shard
from avpipe.plan.source import HttpSource, Source, YouTubeSource, parse_source

CLIPS = 40
KILLS = 10
WORKERS = 4


def body_of(clip: str) -> bytes:
    return random.Random(clip).randbytes(40_000)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"clip": f"c{row}", "source": f"c{row}", "start": 0.0, "end": 10.0, "shard": 0, "row": row}
        for row in range(CLIPS)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


def one_clip(folder: Path) -> Path:
    """A manifest of one clip, which is a whole file."""
    row = {"clip": "c0", "source": "c0.mp4", "start": float("nan"), "end": float("nan"), "shard": 0, "row": 0}
    pd.DataFrame([row]).to_parquet(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def start(manifest: Path, sources: list[Source]) -> Any:
    """A process that fetches the shard."""
    folder = manifest.parent
    places = Places(folder / "files", folder / "cache" / "budget")
    arguments = manifest, 0, sources, folder / "0.parquet", places, WORKERS
    process = multiprocessing.get_context("fork").Process(target=fetch_shard, args=arguments)
    process.start()
    return process


def check(table: pd.DataFrame, folder: Path) -> None:
    """Every clip of the table is there once, whole, and nothing else is."""
    assert list(table.status.unique()) == ["present"]
    assert table["clip"].is_unique
    for row in table.itertuples():
        content = Path(row.path).read_bytes()
        assert content == body_of(row.clip)
        assert (row.bytes, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    left = {path.name for path in (folder / "files").iterdir() if path.name not in ("journal", "archives")}
    assert left == {f"{clip}.{suffix}" for clip in table["clip"] for suffix in ("mp4", "json")}


def test_killed_ten_times_and_finished_every_clip_is_there_once(
    manifest: Path, tmp_path: Path, server: Any
) -> None:
    whole: Counter[str] = Counter()

    def answer(request: Any, clip: str, body: bytes) -> None:
        request.send_response(200)
        for name, value in (("Content-Length", len(body)), ("Content-Type", "video/mp4")):
            request.send_header(name, str(value))
        request.end_headers()
        for place in range(0, len(body), 10_000):
            request.wfile.write(body[place : place + 10_000])
            time.sleep(0.01)
        whole[clip] += 1

    for number in range(CLIPS):
        clip = f"c{number}"
        server.answers[f"/{clip}.mp4"] = lambda request, clip=clip: answer(request, clip, body_of(clip))
    web = [HttpSource(url=server.url + "/{source}.mp4")]
    table = tmp_path / "0.parquet"
    rng = random.Random(0)
    killed = 0
    while killed < KILLS:
        process = start(manifest, web)
        process.join(timeout=rng.uniform(0.05, 0.25))
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
        assert process.exitcode in (0, -9)
        if table.exists():  # also if the kill came after its last step
            check(pd.read_parquet(table), tmp_path)
            table.unlink()
    process = start(manifest, web)
    process.join()
    assert process.exitcode == 0
    check(pd.read_parquet(table), tmp_path)
    again = sum(whole.values()) - CLIPS
    assert again <= KILLS * WORKERS, "only what was under way may come again"
    before = len(server.asked)
    process = start(manifest, web)
    process.join()
    assert len(server.asked) == before, "nothing is asked for any more"


@pytest.mark.parametrize("kind", ["http", "youtube"])
@pytest.mark.parametrize(("name", "again"), [("c0.mp4", True), ("c0.json", True), ("0.parquet", False)])
def test_a_file_counts_from_the_moment_that_the_note_beside_it_is_there(
    tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, again: bool
) -> None:
    """Killed before the file has its name, before its note has, and before the table has."""
    manifest = one_clip(tmp_path)
    server.file("/c0.mp4", body_of("c0"))
    rate = {"rate": 1e6} if kind == "youtube" else {}
    sources = [parse_source({"kind": kind, "url": server.url + "/{source}", **rate})]
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if Path(target).name == name:
            os._exit(9)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        process = start(manifest, sources)
        process.join()
        assert process.exitcode == 9
    asked = len(server.asked)
    assert asked > 0
    process = start(manifest, sources)
    process.join()
    assert process.exitcode == 0
    check(pd.read_parquet(tmp_path / "0.parquet"), tmp_path)
    assert (len(server.asked) > asked) == again


def yt_dlps() -> list[int]:
    """Processes of yt-dlp that this test may have left."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"avpipe.download.ytdlp" in line.read_bytes():
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def test_a_killed_job_takes_yt_dlp_with_it_and_the_next_one_starts_the_clip_over(
    tmp_path: Path, server: Any
) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("lists processes through /proc")
    manifest = one_clip(tmp_path)
    body = body_of("c0")
    started: list[float] = []

    def slow(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "video/mp4")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:20_000])
        started.append(time.monotonic())
        time.sleep(3)

    before = set(yt_dlps())
    server.answers["/c0.mp4"] = slow
    sources = [YouTubeSource(url=server.url + "/{source}", rate=1e6)]
    process = start(manifest, sources)
    deadline = time.monotonic() + 30
    while len(started) < 2 and time.monotonic() < deadline:  # the page, then the file itself
        time.sleep(0.05)
    process.kill()
    process.join()
    while set(yt_dlps()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(yt_dlps()) <= before
    server.file("/c0.mp4", body)
    process = start(manifest, sources)
    process.join()
    check(pd.read_parquet(tmp_path / "0.parquet"), tmp_path)
