"""A shard's clips are asked of the sources in order, each once, and each ends as a row."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from avpipe.datasets.base import source_name
from avpipe.download.fetch import Places, fetch_shard, refetch_clips
from avpipe.download.journal import Journal
from avpipe.files import OutputError
from avpipe.plan.source import ArchiveSource, HttpSource, LocalSource, Source, YouTubeSource
from tests.builders import zip_of

COLUMNS = ["clip", "status", "reason", "path", "bytes", "sha256", "attempts", "seconds", "found_in", "offset"]
BUSY = 429


class Study:
    """A folder with a manifest of a few clips, and a server with a file or a refusal for each."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder, self.server = folder, server
        self.files, self.table = folder / "files", folder / "0.parquet"
        self.places = Places(self.files, folder / "budgets")

    def clips(self, *clips: str, shard: int = 0) -> None:
        """Write the manifest: these clips in one shard, against the order of their rows, and one clip in another."""
        rows = [
            {"clip": clip, "source": clip, "start": math.nan, "end": math.nan, "shard": shard, "row": row}
            for row, clip in enumerate(clips)
        ]
        other = {"clip": "elsewhere", "source": "elsewhere", "shard": shard + 1, "row": 99}
        pd.DataFrame([other, *reversed(rows)]).to_parquet(self.folder / "manifest.parquet")

    def site(self, name: str = "site") -> Source:
        return HttpSource(url=f"{self.server.url}/{name}/{{source}}.mp4", timeout=5.0)

    def local(self, name: str, **files: str) -> Source:
        (self.folder / name).mkdir()
        for clip, content in files.items():
            (self.folder / name / f"{clip}.mp4").write_text(content)
        return LocalSource(path=str(self.folder / name))

    def serve(self, clip: str, content: str | int, name: str = "site") -> None:
        """A file's content, or the code of a refusal."""

        def answer(request: Any) -> None:
            if isinstance(content, int):
                request.reply(content, Retry_After="9999")
            else:
                request.reply(200, content.encode())

        self.server.answers[f"/{name}/{clip}.mp4"] = answer

    def run(self, *sources: Source, shard: int = 0) -> pd.DataFrame:
        manifest, table = self.folder / "manifest.parquet", self.folder / f"{shard}.parquet"
        fetch_shard(manifest, shard, sources or [self.site()], table, self.places)
        return pd.read_parquet(table)

    def again(
        self, clips: Sequence[str], *sources: Source, final: bool = False, shard: int = 0
    ) -> Counter[str]:
        manifest, table = self.folder / "manifest.parquet", self.folder / f"{shard}.parquet"
        return refetch_clips(
            manifest, shard, sources or [self.site()], table, self.places, clips, final=final
        )

    @property
    def asked(self) -> list[str]:
        """What the server was asked for since this was looked at, for example "site/a"."""
        asked = [path.strip("/").removesuffix(".mp4") for path, _ in self.server.asked]
        self.server.asked.clear()
        return asked


@pytest.fixture
def study(tmp_path: Path, server: Any) -> Study:
    return Study(tmp_path, server)


def contents(table: pd.DataFrame) -> list[str]:
    return [Path(path).read_text() for path in table.path]


def test_each_clip_of_the_shard_is_one_row_in_the_manifests_order(study: Study) -> None:
    study.clips("c", "b", "a")
    table = study.run(study.local("videos", b="b"))
    assert list(table.columns) == COLUMNS
    assert list(table["clip"]) == ["c", "b", "a"]
    assert list(table.status) == ["missing", "present", "missing"]


def test_the_first_source_that_has_a_clip_wins(study: Study) -> None:
    study.clips("a", "b", "c")
    study.serve("c", "site")
    first, second = study.local("first", a="first"), study.local("second", a="second", b="second")
    table = study.run(first, second, study.site())
    assert contents(table) == ["first", "second", "site"]
    assert list(table.found_in) == ["local", "local", "http 127.0.0.1"]
    assert study.asked == ["site/c"]


OWN = ["take_1", "my take.2", "küche 100%"]


def write_own(study: Study) -> None:
    """A manifest of clips with names of their own, as the readers of annotations make it."""
    names = [source_name(identifier)[0] for identifier in OWN]
    study.clips(*names)
    manifest = study.folder / "manifest.parquet"
    rows = pd.read_parquet(manifest).sort_values("row")
    rows.assign(source=[*OWN, "elsewhere"]).to_parquet(manifest)


@pytest.mark.parametrize("kind", ["local", "http", "archive"])
def test_clips_need_no_names_of_youtube(study: Study, kind: str) -> None:
    write_own(study)
    if kind == "local":
        source = study.local("videos", **{name: name for name in OWN})
    elif kind == "http":
        source = study.site()
        for name in OWN:
            study.serve(quote(name), name)
    else:
        (study.folder / "a.zip").write_bytes(zip_of({f"all/{name}.mp4": name.encode() for name in OWN}))
        source = ArchiveSource(path=str(study.folder / "a.zip"))
    assert contents(study.run(YouTubeSource(), source)) == OWN


def test_a_clip_that_only_youtube_could_have_is_missing_with_that_reason(study: Study) -> None:
    write_own(study)
    table = study.run(study.local("videos", take_1="here"), YouTubeSource())
    assert list(table.status) == ["present", "missing", "missing"]
    assert table.reason[1] == (
        "local: my take.2.mp4 is not there; "
        "youtube: 'my take.2' is no id of YouTube (11 letters, digits, _ and -), which was not asked"
    )


def test_where_all_fail_every_reason_is_told_and_hope_decides_the_status(study: Study) -> None:
    study.clips("a")
    study.serve("a", BUSY, "busy")
    row = study.run(study.site("busy"), study.site("gone"), study.local("videos")).iloc[0]
    assert row.status == "rate_limited"
    for part in ("429", "404", "a.mp4 is not there"):
        assert part in row.reason
    assert row.attempts == 3


def test_an_unsafe_clip_name_touches_no_source_and_no_path(study: Study) -> None:
    study.clips("../../evil", "a/b", "good")
    assert list(study.run().status) == ["refused_id", "refused_id", "unavailable"]
    assert study.asked == ["site/good"]


def test_an_id_that_the_annotations_refused_is_not_asked_for(study: Study) -> None:
    study.clips("refused~0")
    manifest = study.folder / "manifest.parquet"
    pd.read_parquet(manifest).assign(source="").to_parquet(manifest)
    assert list(study.run(HttpSource(url=study.server.url + "/{clip}.mp4")).status) == ["refused_id"]
    assert study.asked == []


def test_a_second_run_asks_again_only_for_what_may_have_changed(study: Study) -> None:
    study.clips("have", "gone", "busy")
    study.serve("have", "clip")
    study.serve("busy", BUSY)
    first = study.run()
    assert sorted(study.asked) == ["site/busy", "site/gone", "site/have"]
    study.table.unlink()  # as Snakemake does before a job
    second = study.run()
    assert study.asked == ["site/busy"]
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_a_file_without_a_note_that_fits_it_is_fetched_again(study: Study) -> None:
    clips = ["bent", "gone", "no_note", "bad_note"]
    study.clips(*clips)
    for clip in clips:
        study.serve(clip, "clip")
    study.run()
    (study.files / "bent.mp4").write_text("bent")
    (study.files / "gone.mp4").unlink()
    (study.files / "no_note.json").unlink()
    (study.files / "bad_note.json").write_text("[]")
    assert len(study.asked) == 4
    assert contents(study.run()) == ["clip"] * 4
    assert len(study.asked) == 4
    study.run()
    assert study.asked == []


def test_a_file_that_comes_anew_with_another_suffix_replaces_the_old_one(study: Study) -> None:
    study.clips("a")
    study.serve("a", "old")
    study.run()
    study.server.answers["/a.webm"] = lambda request: request.reply(200, b"new", Content_Type="video/webm")
    study.run(HttpSource(url=study.server.url + "/{source}.webm"))
    assert sorted(path.name for path in study.files.iterdir() if path.is_file()) == ["a.json", "a.webm"]


def test_another_url_is_asked_although_the_old_one_was_final(study: Study) -> None:
    study.clips("a")
    study.run(study.site("old"))
    study.serve("a", "clip", "new")
    assert list(study.run(study.site("new")).status) == ["present"]


def test_a_journal_line_cut_off_by_a_kill_is_ignored(study: Study) -> None:
    study.clips("gone")
    study.run()
    journal = study.files / "journal" / "0.jsonl"
    journal.write_text(journal.read_text()[:-5])
    assert list(study.run().status) == ["unavailable"]
    assert len(study.asked) == 2
    study.run()
    assert study.asked == [], "the line after the torn one counts"


def test_asking_again_takes_only_what_was_chosen_and_keeps_the_rest_of_the_table(study: Study) -> None:
    study.clips("have", "late", "gone", "busy")
    study.serve("have", "clip")
    study.serve("busy", "clip")
    study.serve("late", BUSY)
    first, _ = study.run(), study.asked
    study.serve("late", "at last")
    assert study.again(["late", "elsewhere", "no such clip"]) == {"present": 1}
    second = pd.read_parquet(study.table)
    assert list(second["clip"]) == ["have", "late", "gone", "busy"]
    assert list(second.status) == ["present", "present", "unavailable", "present"]
    pd.testing.assert_frame_equal(first.iloc[[0, 2, 3]], second.iloc[[0, 2, 3]])
    assert study.asked == ["site/late"]


def test_a_table_in_which_nothing_changed_keeps_its_bytes_and_its_time(study: Study) -> None:
    study.clips("late")
    study.serve("late", BUSY)
    study.run()
    before = study.table.stat().st_mtime_ns, study.table.read_bytes()
    assert study.again(["late"]) == {"rate_limited": 1}
    assert (study.table.stat().st_mtime_ns, study.table.read_bytes()) == before
    assert len(study.asked) == 2


def test_a_final_answer_is_asked_for_again_only_if_that_is_said(study: Study) -> None:
    study.clips("gone")
    study.run()
    study.serve("gone", "restored")
    assert study.again(["gone"]) == {"unavailable": 1}
    assert study.again(["gone"], final=True) == {"present": 1}


def test_two_processes_do_not_download_the_same_shard(study: Study) -> None:
    study.clips("a")
    with Journal(study.files, 0).ours(), pytest.raises(ValueError, match="another process"):
        study.run()
    assert study.asked == []
    study.run()


def test_results_keep_no_secret_of_a_url(study: Study) -> None:
    study.clips("a", "b")
    study.serve("a", "clip")
    study.run(HttpSource(url=study.server.url + "/site/{source}.mp4?token=hush"))
    written = [path for path in study.folder.rglob("*") if path.is_file()]
    assert {"a.json", "0.jsonl", "0.parquet"} <= {path.name for path in written}
    assert all(b"hush" not in path.read_bytes() for path in written)


def test_no_sources_and_no_room_say_what_to_do(study: Study) -> None:
    study.clips("a")
    manifest, table = study.folder / "manifest.parquet", study.table
    with pytest.raises(ValueError, match="no sources"):
        fetch_shard(manifest, 0, [], table, study.places)
    study.files.write_text("")
    with pytest.raises(OutputError, match="folder is needed"):
        study.run()


def test_a_clip_that_a_later_source_brought_is_not_asked_of_the_earlier_one_again(study: Study) -> None:
    study.clips("a")
    study.serve("a", BUSY, "first")
    study.serve("a", "whole", "second")
    sources = study.site("first"), study.site("second")
    study.run(*sources)
    assert study.asked == ["first/a", "second/a"]
    study.serve("a", "too late", "first")
    assert contents(study.run(*sources)) == ["whole"]
    assert study.asked == []


def test_asking_anew_in_vain_loses_nothing(study: Study) -> None:
    study.clips("a")
    study.serve("a", "whole")
    before = study.run()
    study.serve("a", 404)
    study.again(["a"], final=True)
    pd.testing.assert_frame_equal(pd.read_parquet(study.table), before)
    assert contents(study.run()) == ["whole"]


def test_asking_one_source_anew_in_vain_continues_with_the_next(study: Study) -> None:
    study.clips("a")
    study.serve("a", "corrupt", "first")
    study.serve("a", "good", "second")
    sources = study.site("first"), study.site("second")
    study.run(*sources)
    study.serve("a", 404, "first")
    study.again(["a"], *sources, final=True)
    assert contents(pd.read_parquet(study.table)) == ["good"]


def test_shards_of_another_size_find_the_files_and_lose_nothing_by_a_retry_in_vain(study: Study) -> None:
    study.clips("a", "b")
    study.serve("a", "whole")
    study.serve("b", "whole")
    study.run()
    assert len(study.asked) == 2
    study.clips("b", shard=5)
    assert list(study.run(shard=5).status) == ["present"]
    assert study.asked == []
    study.serve("b", 404)
    assert study.again(["b"], final=True, shard=5) == {"present": 1}
    assert list(study.run(shard=5).status) == ["present"]
