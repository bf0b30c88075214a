"""Normalise the clips of one shard: a tar of canonical clips, and a table of what became of each."""

import contextlib
import fcntl
import io
import json
import math
import os
import re
import shutil
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.clips import CLIP_NAME, Status
from avpipe.files import OutputError, output_errors, sha256_of, whole_file
from avpipe.lazy import UnknownNameError, suggest
from avpipe.media.convert import Converted, convert_clip
from avpipe.media.ffmpeg import FFmpegGroup
from avpipe.media.presets import PRESETS, Preset
from avpipe.programs import ffmpeg_version

SCHEMA = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duration", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("sample_rate", pa.int64()),
        ("channels", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)
AHEAD = 3
"""Clips a worker that may be finished and wait for their turn in the tar."""


@dataclass(frozen=True)
class _Row:
    """A clip of the manifest with what fetching it came to; `start` and `end` are times of the source."""

    clip: str
    row: int
    dataset: str
    split: str
    source: str
    start: float
    end: float
    status: Status
    reason: str
    path: Path | None
    offset: float


@dataclass(frozen=True)
class _Done:
    """A clip that is finished: what became of it, and of which file."""

    converted: Converted
    bytes: int | None = None
    sha256: str | None = None


def normalise_shard(
    downloads: Path,
    manifest: Path,
    shard: int,
    preset: str,
    tar: Path,
    table: Path,
    timeout: float,
    workers: int,
) -> Counter[str]:
    """Turn the fetched files of a shard into canonical clips.

    The same inputs and the same ffmpeg give the same bytes, whatever the number of workers, and also after
    kill -9 in the middle. Clips that are not there, or cannot be decoded, are rows of the table only.

    Args:
        downloads: parquet of the fetch stage for this shard.
        manifest: parquet of the manifest stage.
        shard: its number.
        preset: a name of `PRESETS`.
        tar: to write: {clip}.mp4, {clip}.flac, {clip}.json a clip, in the manifest's order; no flac without
            sound, no mp4 without pictures.
        table: to write: parquet with the columns of `SCHEMA`, one row a clip.
        timeout: seconds after which ffmpeg is stopped for one clip.
        workers: ffmpeg processes at once, each with one thread.

    Returns:
        How many clips ended with each status.

    Raises:
        OutputError: on a full disk, an unwritable folder, or if another process writes this shard.
        UnknownNameError: for a preset that does not exist.
        ValueError: if `downloads` lacks a clip of the shard.
    """
    if preset not in PRESETS:
        raise UnknownNameError(f"unknown preset {preset!r}; {suggest(preset, list(PRESETS))}")
    rows = _rows(downloads, manifest, shard)
    entries = []
    with output_errors(tar), _scratch(tar, table) as folder:
        # The group is left first: whatever went wrong, no ffmpeg runs when the pool is waited for.
        with (
            whole_file(tar) as temporary,
            tarfile.open(temporary, "w") as archive,
            ThreadPoolExecutor(
                workers + 1
            ) as pool,  # one clip is probed or checked while the others' ffmpeg run
            FFmpegGroup(workers) as group,
        ):
            work = [
                partial(_normalise, row, PRESETS[preset], folder / str(row.row), group, timeout)
                for row in rows
            ]
            for row, done in zip(rows, _in_order(pool, work, AHEAD * workers), strict=True):
                _add(archive, row, done, preset)
                entries.append(_entry(row, done))
        with whole_file(table) as temporary:
            pq.write_table(pa.Table.from_pylist(entries, schema=SCHEMA), temporary)
    return Counter(entry["status"] for entry in entries)


def _rows(downloads: Path, manifest: Path, shard: int) -> list[_Row]:
    """The shard's clips in the manifest's order, with their downloads."""
    columns = ["clip", "row", "dataset", "split", "source", "start", "end"]
    wanted = (
        pq.read_table(manifest, columns=columns, filters=[("shard", "=", shard)]).sort_by("row").to_pylist()
    )
    fetched = {row["clip"]: row for row in pq.read_table(downloads).to_pylist()}
    absent = [row["clip"] for row in wanted if row["clip"] not in fetched]
    if absent:
        raise ValueError(
            f"{downloads} lacks {len(absent)} clips of shard {shard} of {manifest}: {absent[:3]}; fetch it anew"
        )
    rows = []
    for row in wanted:
        found = fetched[row["clip"]]
        for side in ("start", "end"):
            row[side] = math.nan if row[side] is None else row[side]
        path = Path(found["path"]) if found["path"] else None
        status, offset = Status(found["status"]), found.get("offset") or 0.0
        rows.append(_Row(**row, status=status, reason=found["reason"], path=path, offset=offset))
    return rows


@contextlib.contextmanager
def _scratch(tar: Path, table: Path) -> Iterator[Path]:
    """A folder beside the tar for what is under way, emptied of what a killed run left, and removed in the end."""
    folder = tar.with_name(f".{tar.name}.scratch")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                error.errno, f"another process is writing {tar}: wait for it, or stop it"
            ) from error
        stale = [
            *folder.iterdir(),
            *tar.parent.glob(f".{tar.name}.*.tmp"),
            *table.parent.glob(f".{table.name}.*.tmp"),
        ]
        for path in stale:
            path.unlink(missing_ok=True)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _in_order(pool: ThreadPoolExecutor, work: Iterable[Callable[[], _Done]], ahead: int) -> Iterator[_Done]:
    """Results in the order of `work`, with at most `ahead` clips under way or waiting for their turn."""
    waiting: deque[Future[_Done]] = deque()
    for task in work:
        waiting.append(pool.submit(task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _normalise(row: _Row, preset: Preset, target: Path, group: FFmpegGroup, timeout: float) -> _Done:
    """One clip. `target` is named by the row's number, not by anything from outside."""
    if not re.fullmatch(CLIP_NAME, row.clip):
        return _Done(Converted(Status.REFUSED_ID, f"the name {row.clip!r} is unsafe as a file name"))
    if row.status is not Status.PRESENT or row.path is None:
        return _Done(Converted(row.status, row.reason))
    try:
        size, digest = row.path.stat().st_size, sha256_of(row.path)
    except OSError as error:
        return _Done(
            Converted(Status.MISSING, f"the fetched file cannot be read: {error.strerror}; fetch it anew")
        )
    start, end = row.start - row.offset, row.end - row.offset  # times of the file, which may be an excerpt
    return _Done(convert_clip(row.path, start, end, preset, target, group, timeout), size, digest)


def _add(archive: tarfile.TarFile, row: _Row, done: _Done, preset: str) -> None:
    """Append a clip's members, and remove the files behind them."""
    made = done.converted
    for extension, path in (("mp4", made.video), ("flac", made.audio)):
        if path is not None:
            with path.open("rb") as file:
                _member(archive, f"{row.clip}.{extension}", file, path.stat().st_size)
            path.unlink()
    if made.status.in_shard:
        text = json.dumps(_meta(row, done, preset), sort_keys=True, allow_nan=False).encode()
        _member(archive, f"{row.clip}.json", io.BytesIO(text), len(text))


def _member(archive: tarfile.TarFile, name: str, file: Any, size: int) -> None:
    """Append one file with a header that says nothing of this machine or moment."""
    header = tarfile.TarInfo(name)
    header.size = size
    archive.addfile(header, file)


def _meta(row: _Row, done: _Done, preset: str) -> dict[str, Any]:
    """What {clip}.json says."""
    interval = {"start": row.start, "end": row.end}
    return {
        "clip": row.clip,
        "row": row.row,
        "dataset": row.dataset,
        "split": row.split,
        "source": row.source,
        **{side: None if math.isnan(value) else value for side, value in interval.items()},
        **{name: value for name, value in _entry(row, done).items() if name not in ("clip", "reason")},
        "preset": preset,
        "ffmpeg": ffmpeg_version(),
    }


def _entry(row: _Row, done: _Done) -> dict[str, Any]:
    """A clip's row of the table."""
    made = done.converted
    return {
        "clip": row.clip,
        "status": made.status.value,
        "reason": made.reason,
        "duration": made.duration,
        "fps": made.fps,
        "width": made.width,
        "height": made.height,
        "sample_rate": made.sample_rate,
        "channels": made.channels,
        "bytes": done.bytes,
        "sha256": done.sha256,
    }
