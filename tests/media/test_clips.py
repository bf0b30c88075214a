"""clips.parquet has one row a clip of the annotations, present or not."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpipe.media.clips import freeze_clips, gather_clips
from avpipe.media.normalise import SCHEMA

COLUMNS = [  # design.md, section 4
    *("clip", "dataset", "split", "source", "start", "end", "shard", "row", "status", "reason"),
    *("duration", "video_seconds", "audio_seconds", "source_video_seconds", "source_audio_seconds"),
    *("fps", "width", "height", "sample_rate", "channels", "bytes", "sha256"),
]


def manifest_of(folder: Path, clips: list[str], shard_size: int) -> Path:
    rows = range(len(clips))
    frame = pd.DataFrame(
        {"clip": clips, "dataset": "d", "split": "train", "source": clips, "start": 0.5, "end": 10.5}
    )
    frame = frame.assign(shard=[row // shard_size for row in rows], row=rows, split_order=rows)
    frame.to_parquet(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def outcomes(path: Path, clips: list[str]) -> None:
    rows = [{"clip": clip, "status": "present", "reason": f"of {clip}", "width": 640} for clip in clips]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def test_rows_follow_the_manifest(tmp_path):
    manifest = manifest_of(tmp_path, ["d", "c", "b", "a"], 2)
    outcomes(tmp_path / "tables" / "1.parquet", ["a", "b"])
    outcomes(tmp_path / "tables" / "0.parquet", ["d", "c"])
    gather_clips(manifest, tmp_path / "tables", tmp_path / "clips.parquet")
    clips = pd.read_parquet(tmp_path / "clips.parquet")
    assert list(clips.columns) == COLUMNS
    assert clips["clip"].tolist() == ["d", "c", "b", "a"]
    assert clips["reason"].tolist() == ["of d", "of c", "of b", "of a"]
    assert clips["shard"].tolist() == [0, 0, 1, 1]
    assert clips["fps"].isna().all()
    assert clips["start"].tolist() == [0.5] * 4


def test_tables_left_from_another_shard_size_do_not_count(tmp_path):
    manifest = manifest_of(tmp_path, ["a", "b"], 2)
    outcomes(tmp_path / "tables" / "0.parquet", ["a", "b"])
    outcomes(tmp_path / "tables" / "1.parquet", ["b"])
    gather_clips(manifest, tmp_path / "tables", tmp_path / "clips.parquet")
    assert len(pd.read_parquet(tmp_path / "clips.parquet")) == 2


def test_a_clip_without_an_outcome_is_named(tmp_path):
    manifest = manifest_of(tmp_path, ["a", "b"], 2)
    outcomes(tmp_path / "tables" / "0.parquet", ["a"])
    with pytest.raises(ValueError, match=r"1 of 2 clips.*\['b'\]"):
        gather_clips(manifest, tmp_path / "tables", tmp_path / "clips.parquet")
    assert not (tmp_path / "clips.parquet").exists()


def test_a_clip_with_two_outcomes_is_an_error(tmp_path):
    manifest = manifest_of(tmp_path, ["a"], 2)
    outcomes(tmp_path / "tables" / "0.parquet", ["a", "a"])
    with pytest.raises(ValueError, match="two outcome tables"):
        gather_clips(manifest, tmp_path / "tables", tmp_path / "clips.parquet")


def gathered(folder: Path, statuses: dict[str, str], **options: Any) -> pd.DataFrame:
    """clips.parquet of clips with these statuses, all of the training split."""
    manifest = manifest_of(folder, list(statuses), 100)
    rows = [{"clip": clip, "status": status, "reason": f"why {clip}"} for clip, status in statuses.items()]
    (folder / "tables").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "tables" / "0.parquet")
    gather_clips(manifest, folder / "tables", folder / "clips.parquet", **options)
    return pd.read_parquet(folder / "clips.parquet")


STATUSES = {"a": "present", "b": "private", "c": "no_audio", "d": "present"}


def test_a_split_with_too_few_usable_clips_stops_the_study(tmp_path):
    gathered(tmp_path, STATUSES, minimum={"train": 0.75})
    with pytest.raises(ValueError, match=r"train: 3 of 4 .*75\.0%.*80\.0%"):
        gathered(tmp_path, STATUSES, minimum={"train": 0.8})
    with pytest.raises(ValueError, match="no split 'val'"):
        gathered(tmp_path, STATUSES, minimum={"val": 0.5})


def test_only_clips_of_the_frozen_list_are_used(tmp_path):
    gathered(tmp_path, STATUSES)
    frozen = tmp_path / "usable.txt"
    assert freeze_clips(tmp_path / "clips.parquet", frozen) == (3, 4)
    assert frozen.read_text().splitlines()[1:] == ["a", "c", "d"]
    frozen.write_text("# chosen\n\nd\na\n")
    clips = gathered(tmp_path, STATUSES | {"e": "no_video"}, usable=frozen)
    assert list(clips.columns) == COLUMNS
    assert clips.status.tolist() == ["present", "private", "excluded", "present", "excluded"]
    assert clips.reason[2] == "no_audio, but not in usable.txt"
    assert clips.reason[1] == "why b"


def test_a_frozen_clip_that_is_missing_is_named_with_its_reason(tmp_path):
    frozen = tmp_path / "usable.txt"
    frozen.write_text("a\nb\nx\n")
    with pytest.raises(ValueError, match="2 of the 3 clips") as raised:
        gathered(tmp_path, STATUSES, usable=frozen)
    assert "b (private: why b)" in str(raised.value)
    assert "x (not in the annotations)" in str(raised.value)


def test_freezing_before_the_study_ran_is_refused(tmp_path):
    with pytest.raises(ValueError, match="snakemake"):
        freeze_clips(tmp_path / "clips.parquet", tmp_path / "usable.txt")


def test_imported_features_need_no_files(tmp_path):
    manifest = manifest_of(tmp_path, ["a", "b"], 2)
    (tmp_path / "usable.txt").write_text("a\n")
    gather_clips(manifest, None, tmp_path / "c.parquet", {"train": 1.0}, tmp_path / "usable.txt")
    assert pd.read_parquet(tmp_path / "c.parquet").status.tolist() == ["not_fetched", "excluded"]
