"""Fetch the clips of one shard from a dataset's sources, in order, and write what became of each."""

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

from avpipe import lazy
from avpipe.clips import CLIP_NAME, Status
from avpipe.config.source import Source
from avpipe.download import FETCHERS
from avpipe.download.base import Fetcher, WantedClip, part_of, ranges_of
from avpipe.download.journal import Journal
from avpipe.download.outcome import Outcome
from avpipe.files import output_errors, whole_file
from avpipe.transfer import forget

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
DECIDING = ("status", "path", "bytes", "sha256", "offset")
"""Columns on which the next stage depends."""


@runtime_checkable
class Stoppable(Protocol):
    """A fetcher that may be long about a clip."""

    def stop(self) -> None:
        """End what is under way in other threads."""


@dataclass(frozen=True)
class Places:
    """Where downloading keeps its things.

    Args:
        files: folder for downloaded files, {clip}.{extension}, and the journals.
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
    tell: Callable[[str], None] | None = None,
) -> Counter[str]:
    """Fetch every clip of a shard; one row a clip, present or not.

    A source is asked only if those before it did not have the clip, and not again if a later one has brought it
    since. Answers of sources that cost something to ask are kept in a journal beside the files: a file that was downloaded, or a final refusal, is not asked for
    again, also after kill -9. What may pass is asked again whenever this runs. Where a site says stop, the clips
    that are left get their outcome at once, without being asked for.

    Args:
        manifest: parquet of the manifest stage.
        shard: which shard of it.
        sources: where to look, in this order.
        out: parquet to write: columns of `SCHEMA`, rows in the manifest's order.
        places: where files and budgets are.
        workers: clips fetched at once.
        tell: is told of each clip that did not come, while others are still under way.

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
        journal.adopt(_tidy(places.files, wanted, out, fetchers))
        for row in _rows(wanted, fetchers, places.files, journal, workers):
            rows.append(row)
            if tell and row["status"] != Status.PRESENT:
                tell(f"{row['clip']} ({len(rows)} of {len(wanted)}): {row['status']}: {row['reason']}")
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
    look_again: Collection[str] = (),
) -> Counter[str]:
    """Ask again for some clips of a shard that was fetched, and rewrite its table if what became of one changed.

    Args:
        manifest, shard, sources, places, workers: see `fetch_shard`.
        out: the shard's table.
        clips: which; those of other shards are not looked at.
        final: ask also where the answer was final, and download anew what is there.
        look_again: clips that the next stage did not find: if they are there, the table is rewritten for it.

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
        journal.adopt({clip.clip for clip in wanted})
        rows = {row["clip"]: row for row in _rows(wanted, fetchers, places.files, journal, workers, final)}
        found = {clip for clip in look_again if clip in rows and rows[clip]["status"] == Status.PRESENT}
        if found or any(_differs(row, before[clip]) for clip, row in rows.items()):
            _write([rows.get(clip, row) for clip, row in before.items()], out)
    return Counter(row["status"] for row in rows.values())


def _differs(row: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the next stage has to look again: at another outcome, or at a file that came anew."""
    came = row["status"] == Status.PRESENT and row["attempts"] != before["attempts"]
    return came or any(row.get(name) != before[name] for name in DECIDING)


def wanted_clips(manifest: Path, shard: int) -> Iterator[WantedClip]:
    """The clips of a shard, in the manifest's order of rows."""
    columns = ["clip", "source", "start", "end", "row"]
    table = pq.read_table(manifest, columns=columns, filters=[("shard", "=", shard)]).sort_by("row")
    for row in table.to_pylist():
        start, end = (math.nan if row[side] is None else row[side] for side in ("start", "end"))
        yield WantedClip(row["clip"], row["source"], start, end)


def _fetchers(sources: Sequence[Source], places: Places) -> list[Fetcher]:
    """The sources, ready to be asked, and the folder for what they give."""
    if not sources:
        raise ValueError("the dataset has no sources: say in the configuration where its clips can be found")
    with output_errors(places.files):
        places.files.mkdir(parents=True, exist_ok=True)
    fetchers: list[Fetcher] = []
    for source in sources:
        kind = lazy.load(FETCHERS, source.kind, "source")
        shared = source.kind in ("http", "huggingface", "youtube")  # these ask a site for each clip
        fetchers.append(kind(source, places.budgets) if shared else kind(source))
    return fetchers


def _tidy(files: Path, wanted: Sequence[WantedClip], out: Path, fetchers: Sequence[Fetcher]) -> set[str]:
    """Remove what a killed run left of these clips and of the table; what can be continued stays.

    Returns:
        Clips of which there is a file.
    """
    clips = {clip.clip for clip in wanted}
    keys = ((clip, fetcher.key(clip)) for clip in wanted for fetcher in fetchers)
    going_on = {ranges_of(part_of(files / clip.clip, key)).name for clip, key in keys if key is not None}
    there = set()
    with output_errors(files), os.scandir(files) as entries:
        for entry in entries:
            parts = entry.name.split(".")  # .{clip}.{more}.tmp, a file, or .{clip}.partial, a folder
            if parts[0] in clips:
                there.add(parts[0])
                # of other seconds, another format or source
                if parts[-1] == "ranges" and entry.name not in going_on:
                    shutil.rmtree(entry.path, ignore_errors=True)
            if len(parts) < 3 or parts[0] or parts[1] not in clips:
                continue
            if parts[-1] == "tmp":
                Path(entry.path).unlink(missing_ok=True)
            elif parts[-1] == "partial":
                shutil.rmtree(entry.path, ignore_errors=True)
    for path in out.parent.glob(f".{out.name}.*.tmp"):
        path.unlink(missing_ok=True)
    return there


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
        except BaseException:  # a full disk, Ctrl-C: what has come is in the journal
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
    keys = [fetcher.key(clip) for fetcher in fetchers]
    known = [journal.find(clip, key) if key is not None else None for key in keys]
    here = [number for number, outcome in enumerate(known) if outcome and outcome.status is Status.PRESENT]
    outcomes: list[tuple[str, Outcome]] = []
    kept: Outcome | None = None
    for number, (fetcher, key, before) in enumerate(zip(fetchers, keys, known, strict=True)):
        if not anew and here and number < here[0] and key is not None and journal.asked(clip, key):
            continue  # it had nothing when it was asked, and a later source has brought the clip
        outcome = None if anew else before
        if outcome is None:
            outcome = fetcher.fetch(clip, files / clip.clip)
            if before and before.status is Status.PRESENT and outcome.status is not Status.PRESENT:
                kept = kept or before  # what is there stays, unless another source brings it anew
            elif key is not None:
                outcome = journal.add(clip, key, outcome)
        outcomes.append((fetcher.name, outcome))
        if outcome.status is Status.PRESENT:
            for other in keys:
                if other is not None:
                    forget(part_of(files / clip.clip, other))
                    shutil.rmtree(ranges_of(part_of(files / clip.clip, other)), ignore_errors=True)
            return _summary(outcomes)
    return kept or _summary(outcomes)


def _summary(outcomes: list[tuple[str, Outcome]]) -> Outcome:
    """One outcome for the sources that were asked: the file, or what gives most hope, with all reasons."""
    asked = [outcome for _, outcome in outcomes]
    attempts = sum(outcome.attempts for outcome in asked)
    seconds = round(sum(outcome.seconds for outcome in asked), 3)
    if asked[-1].status is Status.PRESENT or len(asked) == 1:
        return replace(asked[-1], attempts=attempts, seconds=seconds)
    later = [
        outcome for outcome in asked if not outcome.status.final and outcome.status is not Status.MISSING
    ]
    refused = [outcome for outcome in asked if outcome.status is not Status.MISSING]
    reason = "; ".join(f"{name}: {outcome.reason or outcome.status}" for name, outcome in outcomes)
    return replace((later or refused or asked)[-1], reason=reason, attempts=attempts, seconds=seconds)
