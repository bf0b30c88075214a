"""Fetches the clips of one shard from a dataset's sources and writes the table of outcomes."""

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.clips import CLIP_NAME, Status
from avpipe.download import FETCHERS
from avpipe.download.base import Fetcher, WantedClip, short_digest
from avpipe.download.journal import Journal, Note, read_note
from avpipe.download.outcome import Outcome
from avpipe.files import output_errors, whole_file
from avpipe.plan import registry
from avpipe.plan.source import Source
from avpipe.progress import Progress

SCHEMA = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
        ("found_in", pa.string()),
        ("offset", pa.float64()),
    ]
)


@runtime_checkable
class Stoppable(Protocol):
    """A fetcher whose downloads can be ended early."""

    def stop(self) -> None:
        """End the downloads of other threads."""


@dataclass(frozen=True)
class Places:
    """The folders that downloading uses.

    Args:
        files: folder for downloaded files, {clip}.{extension} with a note {clip}.json each, and the journals.
        budgets: folder of the budgets that all jobs of this machine share (`avpipe.download.budget`).
    """

    files: Path
    budgets: Path


def fetch_shard(
    manifest: Path,
    shard: int,
    sources: Sequence[Source],
    out: Path,
    places: Places,
    workers: int = 8,
    report: Callable[[str], None] | None = None,
) -> Counter[str]:
    """Fetch every clip of a shard and write a table with one row per clip, present or not.

    Sources are asked in order until one has the clip. A downloaded file has a note beside it, and a refusal is a line in
    the journal, so a later run asks neither for the file nor after a final refusal, also after kill -9. It asks again
    after refusals that are not final. If a site says stop, the remaining clips are not asked for and get its status.

    Args:
        manifest: parquet of the manifest stage.
        shard: which shard of it.
        sources: where to look, in this order.
        out: parquet to write: columns of `SCHEMA`, rows in the manifest's order.
        places: where files and budgets are.
        workers: clips fetched at once.
        report: is called with a line about each missing clip while others are still being fetched.

    Returns:
        How many clips ended with each status.

    Raises:
        OutputError: on a full disk or an unwritable folder.
        ValueError: without sources, or if another process fetches this shard.
    """
    fetchers = _fetchers(sources, places)
    journal = Journal(places.files, shard)
    rows = []
    with journal.ours():
        wanted = list(wanted_clips(manifest, shard))
        _tidy(places.files, wanted, out)
        progress = Progress(f"fetch shard {shard}", len(wanted), "clips")
        for row in _rows(wanted, fetchers, places.files, journal, workers):
            rows.append(row)
            progress.advance()
            if report and row["status"] != Status.PRESENT:
                report(f"{row['clip']} ({len(rows)} of {len(wanted)}): {row['status']}: {row['reason']}")
        _write(rows, out)
    return Counter(row["status"] for row in rows)


def refetch_clips(
    manifest: Path,
    shard: int,
    sources: Sequence[Source],
    out: Path,
    places: Places,
    clips: Collection[str],
    workers: int = 8,
    *,
    final: bool = False,
) -> Counter[str]:
    """Ask again for some clips of a shard, and rewrite the shard's table if one came or has another status.

    Args:
        manifest, shard, sources, places, workers: see `fetch_shard`.
        out: the shard's table.
        clips: their names; clips of other shards are ignored.
        final: ask also after a final refusal, and download again files that are there.

    Returns:
        How many of these clips ended with each status.

    Raises:
        OutputError: on a full disk or an unwritable folder.
        ValueError: without sources, or if another process fetches this shard.
    """
    fetchers = _fetchers(sources, places)
    journal = Journal(places.files, shard)
    with journal.ours():
        before = {row["clip"]: row for row in pq.read_table(out).to_pylist()}
        wanted = [
            clip for clip in wanted_clips(manifest, shard) if clip.clip in clips and clip.clip in before
        ]
        rows = {row["clip"]: row for row in _rows(wanted, fetchers, places.files, journal, workers, final)}
        changed = [row for clip, row in rows.items() if row["status"] != before[clip]["status"]]
        if changed or any(row["status"] == Status.PRESENT for row in rows.values()):
            _write([rows.get(clip, row) for clip, row in before.items()], out)
    return Counter(row["status"] for row in rows.values())


def wanted_clips(manifest: Path, shard: int) -> Iterator[WantedClip]:
    """The clips of a shard, in the manifest's order of rows."""
    columns = ["clip", "source", "start", "end", "row"]
    table = pq.read_table(manifest, columns=columns, filters=[("shard", "=", shard)]).sort_by("row")
    for row in table.to_pylist():
        start, end = (math.nan if row[side] is None else row[side] for side in ("start", "end"))
        yield WantedClip(row["clip"], row["source"], start, end)


def _fetchers(sources: Sequence[Source], places: Places) -> list[Fetcher]:
    """Make the fetchers of the sources, and the folder for their files."""
    if not sources:
        raise ValueError("the dataset has no sources: add `sources` to the configuration")
    with output_errors(places.files):
        places.files.mkdir(parents=True, exist_ok=True)
    fetchers: list[Fetcher] = []
    for source in sources:
        kind = registry.load(FETCHERS, source.kind, "source")
        shared = source.kind in ("http", "huggingface", "youtube")  # these ask a site for each clip
        fetchers.append(kind(source, places.budgets) if shared else kind(source))
    return fetchers


def _tidy(files: Path, wanted: Sequence[WantedClip], out: Path) -> None:
    """Remove unfinished files of a killed run: `.{clip}.*` of these clips, and the table's."""
    clips = {clip.clip for clip in wanted}
    with output_errors(files), os.scandir(files) as entries:
        for entry in entries:
            begin, _, rest = entry.name.partition(".")
            if not begin and rest.partition(".")[0] in clips:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)
    for path in out.parent.glob(f".{out.name}.*.tmp"):
        path.unlink(missing_ok=True)


def _rows(
    wanted: Sequence[WantedClip],
    fetchers: Sequence[Fetcher],
    files: Path,
    journal: Journal,
    workers: int,
    anew: bool = False,
) -> Iterator[dict[str, Any]]:
    """A row of the table for each clip, in their order."""
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(lambda clip: _fetch(clip, fetchers, files, journal, anew), wanted)
        try:
            for clip, outcome in zip(wanted, outcomes, strict=True):
                yield {"clip": clip.clip, **asdict(outcome), "status": outcome.status.value}
        except BaseException:  # a full disk, Ctrl-C: finished files stay
            for fetcher in fetchers:
                if isinstance(fetcher, Stoppable):
                    fetcher.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    with whole_file(out) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)


def _fetch(
    clip: WantedClip, fetchers: Sequence[Fetcher], files: Path, journal: Journal, anew: bool
) -> Outcome:
    """Ask the sources in order until one has the clip."""
    if not re.fullmatch(CLIP_NAME, clip.clip):
        return Outcome(Status.REFUSED_ID, f"the name {clip.clip!r} is unsafe as a file name")
    if not clip.source:
        return Outcome(Status.REFUSED_ID, "the annotations give an id that is unsafe; issues.csv shows it")
    keys = [short_digest(key) if (key := fetcher.key(clip)) is not None else "" for fetcher in fetchers]
    note = read_note(files, clip)
    here = note.outcome if note and note.key in keys and note.holds() else None
    if here and not anew:
        return here
    failed: list[tuple[str, Outcome]] = []
    for fetcher, key in zip(fetchers, keys, strict=True):
        refusal = journal.refusals.get((clip.clip, key))
        if refusal and refusal.status.final and not anew:
            failed.append((fetcher.name, refusal))
            continue
        outcome = fetcher.fetch(clip, files / clip.clip)
        if outcome.status is not Status.PRESENT:
            failed.append((fetcher.name, outcome))
            if key:
                journal.add(clip, key, outcome)
            continue
        if key:
            Note(key, outcome).write(files, clip)
            if note and note.outcome.path != outcome.path:
                Path(str(note.outcome.path)).unlink(missing_ok=True)
        return outcome
    return here or _summary(failed)  # an old file stays if no new one was found


def _summary(outcomes: list[tuple[str, Outcome]]) -> Outcome:
    """One outcome for a clip that no source has: a status that is not final if there is one, with all reasons."""
    asked = [outcome for _, outcome in outcomes]
    later = [
        outcome for outcome in asked if not outcome.status.final and outcome.status is not Status.MISSING
    ]
    refused = [outcome for outcome in asked if outcome.status is not Status.MISSING]
    reason = "; ".join(f"{name}: {outcome.reason or outcome.status}" for name, outcome in outcomes)
    best = (later or refused or asked)[-1]
    attempts, seconds = sum(each.attempts for each in asked), sum(each.seconds for each in asked)
    return best if len(asked) == 1 else replace(best, reason=reason, attempts=attempts, seconds=seconds)
