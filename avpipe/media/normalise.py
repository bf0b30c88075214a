"""Normalise the clips of one shard: a tar of canonical clips, and a table with each clip's outcome."""

import contextlib
import io
import json
import math
import re
import tarfile
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.clips import CLIP_NAME, Status
from avpipe.files import (
    add_member,
    output_errors,
    sha256_of,
    sha256_of_version,
    whole_file,
)
from avpipe.lock import sole_writer
from avpipe.media.convert import Converted, convert_clip
from avpipe.media.ffmpeg import FFmpegGroup, FFmpegKilledError, ffmpeg_version
from avpipe.media.presets import Preset
from avpipe.media.segments import TAR_SHA256
from avpipe.progress import Progress

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("clip", "status", "reason"), pa.string()),
        **dict.fromkeys(("duration", "video_seconds", "audio_seconds"), pa.float64()),
        **dict.fromkeys(("source_video_seconds", "source_audio_seconds", "fps"), pa.float64()),
        **dict.fromkeys(("width", "height", "sample_rate", "channels", "bytes"), pa.int64()),
        "sha256": pa.string(),
    }
)
AHEAD = 3  # finished clips a worker that may wait for their turn in the tar


@dataclass(frozen=True)
class _Row:
    """A clip of the manifest with the outcome of fetching it; `start` and `end` are times in the source."""

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


def normalise_shard(
    downloads: Path,
    manifest: Path,
    shard: int,
    preset: Preset,
    tar: Path,
    table: Path,
    timeout: float,
    workers: int,
) -> Counter[str]:
    """Turn the fetched files of a shard into canonical clips.

    Waits while another process writes this shard. The same inputs and the same ffmpeg give the same bytes with any number
    of workers, also after kill -9. Clips that are missing or cannot be decoded are only in the table.

    Args:
        downloads: parquet of the fetch stage for this shard.
        manifest: parquet of the manifest stage.
        shard: its number.
        preset: the canonical format.
        tar: to write: {clip}.mp4, {clip}.flac and {clip}.json, in the manifest's order; no mp4 or flac for a missing
            modality.
        table: to write: parquet with the columns of `SCHEMA`, one row a clip; its metadata has the tar's SHA-256.
        timeout: seconds after which ffmpeg is stopped for one clip.
        workers: ffmpeg processes at a time, each with one thread.

    Returns:
        Status -> number of clips.

    Raises:
        FFmpegKilledError: if a signal ended ffmpeg twice on one clip; it names both.
        OutputError: on a full disk or an unwritable folder.
        ValueError: if `downloads` lacks a clip of the shard.
    """
    rows = _rows(downloads, manifest, shard)
    progress = Progress(f"normalise shard {shard}", len(rows), "clips")
    entries = []
    with output_errors(tar), _scratch(tar, table) as folder:
        # The group is closed first, so after an error no ffmpeg is running while the pool is waited for.
        # One thread more than ffmpegs, to probe or check a clip while they run.
        with (
            whole_file(tar) as temporary,
            tarfile.open(temporary, "w") as archive,
            ThreadPoolExecutor(workers + 1) as pool,
            FFmpegGroup(workers) as group,
        ):
            convert = partial(_normalise, preset=preset, folder=folder, group=group, timeout=timeout)
            work = [partial(convert, row) for row in rows]
            for row, made in zip(rows, _in_order(pool, work, AHEAD * workers), strict=True):
                _add(archive, row, made, preset.name)
                entries.append(_entry(row, made))
                progress.advance()
        schema = SCHEMA.with_metadata({TAR_SHA256: sha256_of(tar)})
        with whole_file(table) as temporary:
            pq.write_table(pa.Table.from_pylist(entries, schema=schema), temporary)
    return Counter(entry["status"] for entry in entries)


def _rows(downloads: Path, manifest: Path, shard: int) -> list[_Row]:
    """The shard's clips in the manifest's order, with their downloads."""
    columns = ["clip", "row", "dataset", "split", "source", "start", "end"]
    table = pq.read_table(manifest, columns=columns, filters=[("shard", "=", shard)])
    wanted = table.sort_by("row").to_pylist()
    fetched = {row["clip"]: row for row in pq.read_table(downloads).to_pylist()}
    absent = [row["clip"] for row in wanted if row["clip"] not in fetched]
    if absent:
        raise ValueError(
            f"{downloads} lacks {len(absent)} clips of shard {shard} of {manifest}: {absent[:3]}; fetch it again"
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
    """A folder below $TMPDIR, which on a cluster is the node's own disk, for clips until they are in the tar; removed at the end.

    Unfinished outputs of a killed run are removed first.
    """
    with sole_writer(tar.with_name(f".{tar.name}.lock"), f"normalise {tar}"):
        for path in (tar, table):
            for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
                unfinished.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="avpipe-normalise-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)


def _in_order(
    pool: ThreadPoolExecutor, work: Iterable[Callable[[], Converted]], ahead: int
) -> Iterator[Converted]:
    """Results in the order of `work`, with at most `ahead` tasks started in advance."""
    waiting: deque[Future[Converted]] = deque()
    for task in work:
        waiting.append(pool.submit(task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _normalise(row: _Row, preset: Preset, folder: Path, group: FFmpegGroup, timeout: float) -> Converted:
    """Convert one clip. Files in `folder` are named by the row's number, not by a name from outside."""
    if not re.fullmatch(CLIP_NAME, row.clip):
        return Converted(Status.REFUSED_ID, f"the name {row.clip!r} is unsafe as a file name")
    if row.status is not Status.PRESENT or row.path is None:
        return Converted(row.status, row.reason)
    try:
        found = row.path.stat()
        digest = sha256_of_version(row.path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        return Converted(Status.MISSING, f"the fetched file cannot be read: {error.strerror}; fetch it again")
    start, end = (
        row.start - row.offset,
        row.end - row.offset,
    )  # times in the file, which may be an excerpt of the source
    try:
        with output_errors(folder):
            made = convert_clip(row.path, start, end, preset, folder / str(row.row), group, timeout)
    except FFmpegKilledError as error:
        raise FFmpegKilledError(
            f"clip {row.clip} ({row.path}): {error}. Run the same command again, with fewer cores or more memory if memory "
            "ran out; if this file alone ends ffmpeg, take it away"
        ) from error
    return replace(made, bytes=found.st_size, sha256=digest)


def _add(archive: tarfile.TarFile, row: _Row, made: Converted, preset: str) -> None:
    """Append a clip's files to the tar and delete them."""
    for extension, path in (("mp4", made.video), ("flac", made.audio)):
        if path is not None:
            with path.open("rb") as file:
                add_member(archive, f"{row.clip}.{extension}", file, path.stat().st_size)
            path.unlink()
    if made.status.in_shard:
        text = json.dumps(_meta(row, made, preset), sort_keys=True, allow_nan=False).encode()
        add_member(archive, f"{row.clip}.json", io.BytesIO(text), len(text))


def _meta(row: _Row, made: Converted, preset: str) -> dict[str, Any]:
    """The content of {clip}.json."""
    interval = {"start": row.start, "end": row.end}
    return {
        **{name: getattr(row, name) for name in ("clip", "row", "dataset", "split", "source")},
        **{side: None if math.isnan(value) else value for side, value in interval.items()},
        **{name: value for name, value in _entry(row, made).items() if name not in ("clip", "reason")},
        "preset": preset,
        "ffmpeg": ffmpeg_version(),
    }


def _entry(row: _Row, made: Converted) -> dict[str, Any]:
    """A clip's row of the table."""
    return {"clip": row.clip, **{name: getattr(made, name) for name in SCHEMA.names[1:]}}
