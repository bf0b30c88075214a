"""What became of the clips is counted and explained, and what may still come is asked for again, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from avpipe.cli import app
from avpipe.download import Status
from avpipe.download.fetch import Places, fetch_shard
from avpipe.download.status import clip_statuses, count, left_for_later
from avpipe.plan.source import HttpSource

CLIPS = {  # clip: split, shard, answer of the site
    "have": ("train", 0, 200),
    "busy": ("train", 0, 503),
    "gone": ("train", 0, 404),
    "limit": ("test", 1, 429),
    "mine": ("test", 1, 401),
    "good": ("test", 1, 200),
    "waits": ("val", 2, 200),
}


@pytest.fixture
def results(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of which two of three shards were fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "results" / "ave"
    folder.mkdir(parents=True)
    rows = [
        {"clip": clip, "split": split, "source": clip, "start": 0.0, "end": 10.0, "shard": shard, "row": row}
        for row, (clip, (split, shard, _)) in enumerate(CLIPS.items())
    ]
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    for clip, (_, _, code) in CLIPS.items():
        server.answers[f"/{clip}.mp4"] = lambda request, code=code: request.reply(
            code, b"clip", Retry_After="9999"
        )
    for shard in (0, 1):
        fetch_shard(
            folder / "manifest.parquet",
            shard,
            [HttpSource(url=server.url + "/{source}.mp4")],
            folder / "downloads" / f"{shard}.parquet",
            Places(folder / "downloads" / "files", tmp_path / "budget"),
            workers=1,
        )
    server.asked.clear()
    return folder


@pytest.fixture
def avpipe(results: Path, server: Any) -> Callable[..., Result]:
    """Runs `avpipe download COMMAND --results R ...` with the server as the source."""

    def run(command: str, *arguments: str) -> Result:
        source = json.dumps({"kind": "http", "url": server.url + "/{source}.mp4"})
        named = ["--source", source] if command == "retry" else []
        return CliRunner().invoke(app, ["download", command, "--results", str(results), *named, *arguments])

    return run


def test_counts_are_a_split_and_a_status(avpipe: Callable[..., Result]) -> None:
    assert json.loads(avpipe("status", "--json").output) == {
        "train": {"named": 3, "network_error": 1, "present": 1, "unavailable": 1},
        "test": {"named": 3, "present": 1, "private": 1, "rate_limited": 1},
        "val": {"named": 1, "not_yet_asked": 1},
    }


def test_the_table_explains_each_status_and_says_what_to_do(avpipe: Callable[..., Result]) -> None:
    output = avpipe("status").output
    for words in ("HTTP 404", "HTTP 503", "HTTP 429", "only if named", "by retry", "not_yet_asked"):
        assert words in output
    assert "2 clips are left for later (1 network_error, 1 rate_limited): wait an hour" in output


def test_what_only_decoding_showed_counts_and_an_old_table_of_clips_does_not(results: Path) -> None:
    rows = [
        {"clip": "have", "status": "too_short", "reason": "3 s of the file are left"},
        {"clip": "good", "status": "rate_limited", "reason": "of a run before"},
        {"clip": "gone", "status": "corrupt", "reason": "of a run before"},
    ]
    pd.DataFrame(rows).to_parquet(results / "clips.parquet")
    found = {clip.clip: clip for clip in clip_statuses(results)}
    assert found["have"].status is Status.TOO_SHORT
    assert found["have"].fetched is Status.PRESENT
    assert found["good"].status is Status.PRESENT
    assert found["gone"].status is Status.UNAVAILABLE
    assert count(list(found.values()))["train"]["too_short"] == 1


def test_retry_asks_only_for_what_may_come_and_writes_only_tables_that_changed(
    avpipe: Callable[..., Result], results: Path, server: Any
) -> None:
    server.answers["/busy.mp4"] = lambda request: request.reply(200, b"clip")
    before = (results / "downloads" / "1.parquet").stat().st_mtime_ns
    result = avpipe("retry")
    assert result.exit_code == 0, result.output
    assert "asked again: 1 present, 1 rate_limited" in result.output
    assert {path for path, _ in server.asked} == {"/busy.mp4", "/limit.mp4"}
    assert list(pd.read_parquet(results / "downloads" / "0.parquet").status) == [
        "present",
        "present",
        "unavailable",
    ]
    assert (results / "downloads" / "1.parquet").stat().st_mtime_ns == before


def test_retry_by_reason_and_by_shard(avpipe: Callable[..., Result], server: Any) -> None:
    avpipe("retry", "--reason", "rate_limited", "--reason", "bot_check")
    assert {path for path, _ in server.asked} == {"/limit.mp4"}
    server.asked.clear()
    avpipe("retry", "--shard", "1")
    assert {path for path, _ in server.asked} == {"/limit.mp4"}
    server.asked.clear()
    server.answers["/gone.mp4"] = lambda request: request.reply(200, b"restored")
    assert "1 present" in avpipe("retry", "--reason", "unavailable").output
    assert {path for path, _ in server.asked} == {"/gone.mp4"}


def test_a_file_that_cannot_be_decoded_is_downloaded_anew_when_asked(
    avpipe: Callable[..., Result], results: Path, server: Any
) -> None:
    rows = [{"clip": "have", "status": "corrupt", "reason": "moov atom not found"}]
    pd.DataFrame(rows).to_parquet(results / "clips.parquet")
    server.answers["/have.mp4"] = lambda request: request.reply(200, b"a better one")
    avpipe("retry", "--reason", "corrupt")
    row = pd.read_parquet(results / "downloads" / "0.parquet").iloc[0]
    assert Path(row.path).read_bytes() == b"a better one"
    assert row.bytes == len(b"a better one")


def test_a_file_that_vanished_is_fetched_anew_and_its_shard_normalised_again(
    avpipe: Callable[..., Result], results: Path, server: Any
) -> None:
    table = results / "downloads" / "0.parquet"
    Path(pd.read_parquet(table).set_index("clip").path["have"]).unlink()
    rows = [{"clip": "have", "status": "missing", "reason": "the fetched file cannot be read"}]
    pd.DataFrame(rows).to_parquet(results / "clips.parquet")
    written = table.stat().st_mtime_ns
    avpipe("retry", "--reason", "missing")
    assert {path for path, _ in server.asked} == {"/have.mp4"}
    assert table.stat().st_mtime_ns > written, "the next stage has to look again"


def test_a_file_that_came_back_is_looked_at_again(
    avpipe: Callable[..., Result], results: Path, server: Any
) -> None:
    rows = [{"clip": "have", "status": "missing", "reason": "the drive was not there"}]
    pd.DataFrame(rows).to_parquet(results / "clips.parquet")
    table = results / "downloads" / "0.parquet"
    written = table.stat().st_mtime_ns
    avpipe("retry", "--reason", "missing")
    assert server.asked == []
    assert table.stat().st_mtime_ns > written


def test_a_file_that_took_too_long_to_decode_is_not_fetched_for_that(
    avpipe: Callable[..., Result], results: Path, server: Any
) -> None:
    rows = [{"clip": "have", "status": "timed_out", "reason": "ffmpeg took more than 120 s"}]
    pd.DataFrame(rows).to_parquet(results / "clips.parquet")
    avpipe("retry", "--reason", "timed_out")
    assert server.asked == []
    assert "--forcerun" in avpipe("status").output


def test_a_wrong_reason_or_folder_is_told(avpipe: Callable[..., Result], tmp_path: Path) -> None:
    result = avpipe("retry", "--reason", "ratelimited")
    assert result.exit_code == 1
    assert "did you mean 'rate_limited'" in result.output
    result = CliRunner().invoke(app, ["download", "status", "--results", str(tmp_path)])
    assert result.exit_code == 1
    assert "manifest.parquet" in result.output


def test_sources_are_those_of_the_study_and_the_study_is_that_of_the_folder(
    results: Path, server: Any, tmp_path: Path
) -> None:
    study = {"dataset": {"name": "ave", "kind": "ave", "sources": []}}
    study["dataset"]["sources"] = [{"kind": "http", "url": server.url + "/{source}.mp4"}]  # type: ignore[assignment]
    arguments = ["download", "retry", "--results", str(results), "--study", json.dumps(study)]
    result = CliRunner().invoke(app, arguments)
    assert "asked again: 1 network_error, 1 rate_limited" in result.output
    study["dataset"]["name"] = "llp"  # type: ignore[index]
    arguments[-1] = json.dumps(study)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "is the study of llp" in result.output


def test_nothing_left_says_nothing(results: Path) -> None:
    assert left_for_later([clip for clip in clip_statuses(results) if clip.clip in ("have", "gone")]) is None
