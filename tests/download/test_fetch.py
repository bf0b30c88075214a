"""A shard's clips are asked of the sources in order, each once, and each ends as a row."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from avpipe.config.source import Source
from avpipe.download.fetch import Places, fetch_shard, refetch_clips
from avpipe.download.journal import Journal
from avpipe.files import OutputError

COLUMNS = ["clip", "status", "reason", "path", "bytes", "sha256", "attempts", "seconds", "found_in", "offset"]


def manifest_of(folder: Path, clips: Sequence[str], shard: int = 0) -> Path:
    """A manifest with `clips` in one shard, row numbers against the order of the file, and one clip in another."""
    rows = [
        {"clip": clip, "source": clip, "start": math.nan, "end": math.nan, "shard": shard, "row": row}
        for row, clip in enumerate(clips)
    ]
    other = {
        "clip": "elsewhere",
        "source": "elsewhere",
        "start": 0.0,
        "end": 1.0,
        "shard": shard + 1,
        "row": 99,
    }
    pd.DataFrame([other, *reversed(rows)]).to_parquet(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def local(folder: Path) -> Source:
    folder.mkdir(exist_ok=True)
    return Source(kind="local", path=str(folder))


def places(folder: Path) -> Places:
    return Places(folder / "files", folder / "budgets")


def run(folder: Path, manifest: Path, *sources: Source) -> pd.DataFrame:
    fetch_shard(manifest, 0, sources, folder / "0.parquet", places(folder))
    return pd.read_parquet(folder / "0.parquet")


def test_each_clip_of_the_shard_is_one_row_in_the_manifests_order(tmp_path: Path) -> None:
    source = local(tmp_path / "videos")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"b")
    manifest = manifest_of(tmp_path, ["c", "b", "a"])
    counts = fetch_shard(manifest, 0, [source], tmp_path / "out.parquet", places(tmp_path))
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == COLUMNS
    assert list(table["clip"]) == ["c", "b", "a"]
    assert list(table.status) == ["missing", "present", "missing"]
    assert counts == {"missing": 2, "present": 1}


def test_the_first_source_that_has_a_clip_wins(tmp_path: Path, server: Any) -> None:
    first, second = local(tmp_path / "first"), local(tmp_path / "second")
    (tmp_path / "first" / "a.mp4").write_bytes(b"first")
    (tmp_path / "second" / "a.mp4").write_bytes(b"second")
    (tmp_path / "second" / "b.mp4").write_bytes(b"second")
    server.answers["/c.mp4"] = lambda request: request.reply(200, b"web")
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    table = run(tmp_path, manifest_of(tmp_path, ["a", "b", "c"]), first, second, web)
    assert [Path(path).read_bytes() for path in table.path] == [b"first", b"second", b"web"]
    assert list(table.found_in) == ["local", "local", "http 127.0.0.1"]
    assert [path for path, _ in server.asked] == ["/c.mp4"]


def test_where_all_fail_every_reason_is_told_and_hope_decides_the_status(tmp_path: Path, server: Any) -> None:
    for name, code in (("gone", 404), ("busy", 429)):
        server.answers[f"/{name}/a.mp4"] = lambda request, code=code: request.reply(code, Retry_After="9999")
    sources = [
        Source(kind="http", url=server.url + "/busy/{source}.mp4"),
        Source(kind="http", url=server.url + "/gone/{source}.mp4"),
        local(tmp_path / "videos"),
    ]
    row = run(tmp_path, manifest_of(tmp_path, ["a"]), *sources).iloc[0]
    assert row.status == "rate_limited"
    for part in ("429", "404", "a.mp4 is not there"):
        assert part in row.reason
    assert row.attempts == 3


def test_an_unsafe_clip_name_touches_no_source_and_no_path(tmp_path: Path, server: Any) -> None:
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    table = run(tmp_path, manifest_of(tmp_path, ["../../evil", "a/b", "good"]), web)
    assert list(table.status) == ["refused_id", "refused_id", "unavailable"]
    assert [path for path, _ in server.asked] == ["/good.mp4"]


def test_an_id_that_the_annotations_refused_is_not_asked_for(tmp_path: Path, server: Any) -> None:
    web = Source(kind="http", url=server.url + "/{clip}.mp4")
    manifest = manifest_of(tmp_path, ["refused~0"])
    table = pd.read_parquet(manifest)
    table.assign(source="").to_parquet(manifest)
    assert list(run(tmp_path, manifest, web).status) == ["refused_id"]
    assert server.asked == []


def test_a_second_run_asks_again_only_for_what_may_have_changed(tmp_path: Path, server: Any) -> None:
    server.answers["/have.mp4"] = lambda request: request.reply(200, b"clip")
    server.answers["/busy.mp4"] = lambda request: request.reply(429, Retry_After="9999")
    manifest = manifest_of(tmp_path, ["have", "gone", "busy"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    first = run(tmp_path, manifest, web)
    (tmp_path / "0.parquet").unlink()  # as Snakemake does before a job
    second = run(tmp_path, manifest, web)
    counted = ["seconds", "attempts"]
    pd.testing.assert_frame_equal(first.drop(columns=counted), second.drop(columns=counted))
    assert list(first.attempts) == [1, 1, 1]
    assert list(second.attempts) == [1, 1, 2], "attempts of all runs together"
    assert {path: server.count(path) for path in ("/have.mp4", "/gone.mp4", "/busy.mp4")} == {
        "/have.mp4": 1,
        "/gone.mp4": 1,
        "/busy.mp4": 2,
    }


def test_a_downloaded_file_that_changed_or_vanished_is_fetched_again(tmp_path: Path, server: Any) -> None:
    for clip in "ab":
        server.answers[f"/{clip}.mp4"] = lambda request: request.reply(200, b"clip")
    manifest = manifest_of(tmp_path, ["a", "b"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    first = run(tmp_path, manifest, web)
    Path(first.path[0]).write_bytes(b"bent")
    Path(first.path[1]).unlink()
    assert list(run(tmp_path, manifest, web).status) == ["present", "present"]
    assert [Path(path).read_bytes() for path in first.path] == [b"clip", b"clip"]


def test_a_file_without_its_note_is_fetched_again_and_a_damaged_note_counts_as_none(
    tmp_path: Path, server: Any
) -> None:
    for clip in "ab":
        server.answers[f"/{clip}.mp4"] = lambda request: request.reply(200, b"clip")
    manifest = manifest_of(tmp_path, ["a", "b"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    run(tmp_path, manifest, web)
    (tmp_path / "files" / "a.json").unlink()
    (tmp_path / "files" / "b.json").write_text("[]")
    assert list(run(tmp_path, manifest, web).status) == ["present", "present"]
    assert server.count("/a.mp4") == server.count("/b.mp4") == 2
    run(tmp_path, manifest, web)
    assert len(server.asked) == 4


def test_a_file_that_comes_anew_with_another_suffix_replaces_the_old_one(tmp_path: Path, server: Any) -> None:
    server.answers["/a.mp4"] = lambda request: request.reply(200, b"old")
    server.answers["/a.webm"] = lambda request: request.reply(200, b"new", Content_Type="video/webm")
    manifest = manifest_of(tmp_path, ["a"])
    run(tmp_path, manifest, Source(kind="http", url=server.url + "/{source}.mp4"))
    run(tmp_path, manifest, Source(kind="http", url=server.url + "/{source}.webm"))
    files = [path.name for path in (tmp_path / "files").iterdir() if path.is_file()]
    assert sorted(files) == ["a.json", "a.webm"]


def test_another_url_is_asked_although_the_old_one_was_final(tmp_path: Path, server: Any) -> None:
    manifest = manifest_of(tmp_path, ["a"])
    run(tmp_path, manifest, Source(kind="http", url=server.url + "/old/{source}.mp4"))
    server.answers["/new/a.mp4"] = lambda request: request.reply(200, b"clip")
    table = run(tmp_path, manifest, Source(kind="http", url=server.url + "/new/{source}.mp4"))
    assert list(table.status) == ["present"]


def test_a_journal_line_cut_off_by_a_kill_is_ignored(tmp_path: Path, server: Any) -> None:
    manifest = manifest_of(tmp_path, ["gone"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    run(tmp_path, manifest, web)
    journal = tmp_path / "files" / "journal" / "0.jsonl"
    journal.write_text(journal.read_text()[:-5])
    assert list(run(tmp_path, manifest, web).status) == ["unavailable"]
    assert server.count("/gone.mp4") == 2
    run(tmp_path, manifest, web)
    assert server.count("/gone.mp4") == 2, "the line after the torn one counts"


def test_asking_again_takes_only_what_was_chosen_and_keeps_the_rest_of_the_table(
    tmp_path: Path, server: Any
) -> None:
    for clip in ("have", "busy"):
        server.answers[f"/{clip}.mp4"] = lambda request: request.reply(200, b"clip")
    server.answers["/late.mp4"] = lambda request: request.reply(429, Retry_After="9999")
    manifest = manifest_of(tmp_path, ["have", "late", "gone", "busy"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    first = run(tmp_path, manifest, web)
    server.answers["/late.mp4"] = lambda request: request.reply(200, b"at last")
    table = tmp_path / "0.parquet"
    counts = refetch_clips(manifest, 0, [web], table, places(tmp_path), ["late", "elsewhere", "no such clip"])
    second = pd.read_parquet(table)
    assert counts == {"present": 1}
    assert list(second["clip"]) == ["have", "late", "gone", "busy"]
    assert list(second.status) == ["present", "present", "unavailable", "present"]
    assert second.attempts[1] == 2
    others = [0, 2, 3]
    pd.testing.assert_frame_equal(first.iloc[others], second.iloc[others])
    assert server.count("/have.mp4") == server.count("/gone.mp4") == 1


def test_a_table_in_which_nothing_changed_keeps_its_bytes_and_its_time(tmp_path: Path, server: Any) -> None:
    server.answers["/late.mp4"] = lambda request: request.reply(429, Retry_After="9999")
    manifest = manifest_of(tmp_path, ["late"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    run(tmp_path, manifest, web)
    table = tmp_path / "0.parquet"
    before = table.stat().st_mtime_ns, table.read_bytes()
    assert refetch_clips(manifest, 0, [web], table, places(tmp_path), ["late"]) == {"rate_limited": 1}
    assert (table.stat().st_mtime_ns, table.read_bytes()) == before
    assert server.count("/late.mp4") == 2


def test_a_final_answer_is_asked_for_again_only_if_that_is_said(tmp_path: Path, server: Any) -> None:
    manifest = manifest_of(tmp_path, ["gone"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    run(tmp_path, manifest, web)
    server.answers["/gone.mp4"] = lambda request: request.reply(200, b"restored")
    table = tmp_path / "0.parquet"
    refetch_clips(manifest, 0, [web], table, places(tmp_path), ["gone"])
    assert list(pd.read_parquet(table).status) == ["unavailable"]
    refetch_clips(manifest, 0, [web], table, places(tmp_path), ["gone"], final=True)
    assert list(pd.read_parquet(table).status) == ["present"]


def test_two_processes_do_not_download_the_same_shard(tmp_path: Path, server: Any) -> None:
    manifest = manifest_of(tmp_path, ["a"])
    web = Source(kind="http", url=server.url + "/{source}.mp4")
    (tmp_path / "files").mkdir()
    with Journal(tmp_path / "files", 0).ours(), pytest.raises(ValueError, match="another process"):
        run(tmp_path, manifest, web)
    assert server.asked == []
    run(tmp_path, manifest, web)


def test_results_keep_no_secret_of_a_url(tmp_path: Path, server: Any) -> None:
    run(
        tmp_path,
        manifest_of(tmp_path, ["a"]),
        Source(kind="http", url=server.url + "/{source}.mp4?token=hush"),
    )
    written = [path for path in (tmp_path / "files").rglob("*") if path.is_file()] + [tmp_path / "0.parquet"]
    assert all(b"hush" not in path.read_bytes() for path in written)


def test_no_sources_and_no_room_say_what_to_do(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, ["a"])
    with pytest.raises(ValueError, match="no sources"):
        fetch_shard(manifest, 0, [], tmp_path / "out.parquet", places(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="folder is needed"):
        fetch_shard(
            manifest, 0, [local(tmp_path)], tmp_path / "out.parquet", Places(tmp_path / "file", tmp_path)
        )


def served(server: Any, folder: str) -> Source:
    return Source(kind="http", url=f"{server.url}/{folder}/{{source}}.mp4", timeout=5.0)


def test_a_clip_that_a_later_source_brought_is_not_asked_of_the_earlier_one_again(
    tmp_path: Path, server: Any
) -> None:
    server.answers["/first/a.mp4"] = lambda request: request.reply(429, Retry_After="9999")
    server.answers["/second/a.mp4"] = lambda request: request.reply(200, b"whole")
    manifest, sources = manifest_of(tmp_path, ["a"]), (served(server, "first"), served(server, "second"))
    before = run(tmp_path, manifest, *sources)
    assert before.found_in[0].startswith("http")
    server.asked.clear()
    server.answers["/first/a.mp4"] = lambda request: request.reply(200, b"too late")
    after = run(tmp_path, manifest, *sources)
    assert server.asked == []
    assert after.sha256[0] == before.sha256[0]


def test_asking_anew_in_vain_loses_nothing(tmp_path: Path, server: Any) -> None:
    server.answers["/web/a.mp4"] = lambda request: request.reply(200, b"whole")
    manifest, source = manifest_of(tmp_path, ["a"]), served(server, "web")
    before = run(tmp_path, manifest, source)
    server.answers["/web/a.mp4"] = lambda request: request.reply(429, Retry_After="9999")
    refetch_clips(manifest, 0, [source], tmp_path / "0.parquet", places(tmp_path), ["a"], final=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "0.parquet"), before)
    assert list(run(tmp_path, manifest, source).path) == list(before.path)


def test_shards_of_another_size_find_what_came(tmp_path: Path, server: Any) -> None:
    for name in "ab":
        server.answers[f"/web/{name}.mp4"] = lambda request: request.reply(200, b"whole")
    source = served(server, "web")
    run(tmp_path, manifest_of(tmp_path, ["a", "b"]), source)
    asked = len(server.asked)
    manifest = manifest_of(tmp_path, ["b"], shard=5)
    fetch_shard(manifest, 5, [source], tmp_path / "5.parquet", places(tmp_path))
    assert list(pd.read_parquet(tmp_path / "5.parquet").status) == ["present"]
    assert len(server.asked) == asked


def test_asking_one_source_anew_in_vain_goes_on_to_the_next(tmp_path: Path, server: Any) -> None:
    server.answers["/first/a.mp4"] = lambda request: request.reply(200, b"corrupt")
    server.answers["/second/a.mp4"] = lambda request: request.reply(200, b"good")
    manifest, sources = manifest_of(tmp_path, ["a"]), (served(server, "first"), served(server, "second"))
    run(tmp_path, manifest, *sources)
    server.answers["/first/a.mp4"] = lambda request: request.reply(404)
    refetch_clips(manifest, 0, sources, tmp_path / "0.parquet", places(tmp_path), ["a"], final=True)
    assert Path(pd.read_parquet(tmp_path / "0.parquet").path[0]).read_bytes() == b"good"


def test_a_source_that_is_new_is_asked_in_its_turn(tmp_path: Path, server: Any) -> None:
    server.answers["/old/a.mp4"] = lambda request: request.reply(200, b"old")
    server.answers["/new/a.mp4"] = lambda request: request.reply(200, b"new")
    manifest = manifest_of(tmp_path, ["a"])
    run(tmp_path, manifest, served(server, "old"))
    table = run(tmp_path, manifest, served(server, "new"), served(server, "old"))
    assert Path(table.path[0]).read_bytes() == b"new"


def test_shards_of_another_size_lose_nothing_by_a_retry_in_vain(tmp_path: Path, server: Any) -> None:
    server.answers["/web/b.mp4"] = lambda request: request.reply(200, b"whole")
    source = served(server, "web")
    run(tmp_path, manifest_of(tmp_path, ["b"]), source)
    manifest, table = manifest_of(tmp_path, ["b"], shard=5), tmp_path / "5.parquet"
    fetch_shard(manifest, 5, [source], table, places(tmp_path))
    server.answers["/web/b.mp4"] = lambda request: request.reply(404)
    refetch_clips(manifest, 5, [source], table, places(tmp_path), ["b"], final=True)
    for _ in range(2):
        assert list(pd.read_parquet(table).status) == ["present"]
        fetch_shard(manifest, 5, [source], table, places(tmp_path))
