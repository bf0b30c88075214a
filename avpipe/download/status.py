"""Counts a study's clips by status, and asks again for clips that are missing for now."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from avpipe.clips import Status
from avpipe.download.fetch import Places, refetch_clips
from avpipe.plan.source import Source

DECODED = frozenset(
    (
        Status.NO_AUDIO,
        Status.NO_VIDEO,
        Status.TOO_SHORT,
        Status.CORRUPT,
        Status.TIMED_OUT,
        Status.MISSING,
        Status.EXCLUDED,
    )
)
"""Statuses that only show when a downloaded file is decoded."""


@dataclass(frozen=True)
class ClipStatus:
    """The status of a clip.

    Args:
        clip, split, shard: as in the manifest.
        fetched: the status after downloading; None = its shard was not fetched yet.
        status: the status after decoding if that is known, else `fetched`.
        reason: in words.
    """

    clip: str
    split: str
    shard: int
    fetched: Status | None
    status: Status | None
    reason: str


def clip_statuses(results: Path) -> list[ClipStatus]:
    """Every clip that the annotations name, in the manifest's order.

    Raises:
        ValueError: if the study has no manifest yet.
    """
    manifest = results / "manifest.parquet"
    if not manifest.is_file():
        raise ValueError(f"no {manifest}: run the study first, or name its folder with --results")
    clips = pq.read_table(manifest, columns=["clip", "split", "shard", "row"]).sort_by("row").to_pylist()
    fetched: dict[str, dict[str, Any]] = {}
    for shard in sorted({clip["shard"] for clip in clips}):
        fetched |= _rows(results / "downloads" / f"{shard}.parquet")
    decoded = _rows(results / "clips.parquet")
    return [_standing(clip, fetched.get(clip["clip"]), decoded.get(clip["clip"])) for clip in clips]


def count(statuses: Sequence[ClipStatus]) -> dict[str, dict[str, int]]:
    """Counts by split and status; "not_yet_asked": the shard was not fetched yet, "named": all clips of the split."""
    counts: dict[str, Counter[str]] = {}
    for clip in statuses:
        split = counts.setdefault(clip.split, Counter())
        split["named"] += 1
        split[clip.status.value if clip.status else "not_yet_asked"] += 1
    return {split: dict(sorted(counts[split].items())) for split in sorted(counts)}


def status_table(statuses: Sequence[ClipStatus]) -> Table:
    """The counts as a table for the terminal: a row per status, a column per split, and the most frequent reason."""
    counts = count(statuses)
    table = Table("status", *counts, "all", "asked again", "for example", title=None)
    for status in (*Status, None):
        name = status.value if status else "not_yet_asked"
        numbers = [split.get(name, 0) for split in counts.values()]
        if not any(numbers):
            continue
        again = _again(status, [clip for clip in statuses if clip.status is status])
        reasons = Counter(clip.reason for clip in statuses if clip.status is status and clip.reason)
        example = reasons.most_common(1)[0][0] if reasons and status is not Status.PRESENT else ""
        table.add_row(
            name, *(str(number or "") for number in numbers), str(sum(numbers)), again, escape(example)
        )
    return table


def _again(status: Status | None, clips: Sequence[ClipStatus]) -> str:
    """How clips with this status are asked for again."""
    if status in (None, Status.PRESENT):
        return ""
    if status is Status.TIMED_OUT and all(clip.fetched is Status.PRESENT for clip in clips):
        return "snakemake --forcerun normalise"
    return "only if named" if status.final else "by retry"


def left_for_later(statuses: Sequence[ClipStatus] | Counter[str]) -> str | None:
    """How many clips another attempt may find, and what to do; None if there are none."""
    counts = (
        statuses
        if isinstance(statuses, Counter)
        else Counter(clip.fetched.value for clip in statuses if clip.fetched)
    )
    later = {name: number for name, number in sorted(counts.items()) if not Status(name).final}
    if not later:
        return None
    kinds = ", ".join(f"{number} {name}" for name, number in later.items())
    advice = ["`avpipe download retry` asks again for them, then run snakemake again"]
    if Status.NO_TOOL in later:
        advice.insert(0, "`avpipe doctor` says which program is missing")
    if Status.WEB_PAGE in later:
        advice.insert(0, "look at the address in a browser")
    if Status.BOT_CHECK in later:
        advice.insert(0, "wait some hours, or give the source `cookies` or another `proxy`")
    elif Status.RATE_LIMITED in later:
        advice.insert(0, "wait an hour")
    number = sum(later.values())
    left = "1 clip is" if number == 1 else f"{number} clips are"
    return f"{left} left for later ({kinds}): {'; '.join(advice)}"


def retry(
    results: Path,
    sources: Sequence[Source],
    budgets: Path,
    reasons: Collection[Status] = (),
    shards: Collection[int] = (),
) -> Counter[str]:
    """Ask again for missing clips, and rewrite the tables of shards in which an outcome changed.

    Args:
        results: the study's folder.
        sources: where to look, in this order.
        budgets: see `Places`.
        reasons: ask only for clips with these statuses. Empty: all statuses that are not final.
        shards: only these; empty: all.

    Returns:
        How many of the clips that were asked for ended with each status.
    """
    chosen: dict[int, set[str]] = {}
    for clip in clip_statuses(results):
        later = (clip.fetched is not None and not clip.fetched.final) or clip.status is Status.MISSING
        asked = clip.status in reasons if reasons else later
        if clip.fetched is Status.PRESENT and clip.status is Status.TIMED_OUT:
            continue  # its file is there, but decoding took too long: fetching it again would change nothing
        if asked and clip.fetched is not None and (not shards or clip.shard in shards):
            chosen.setdefault(clip.shard, set()).add(clip.clip)
    places = Places(results / "downloads" / "files", budgets)
    counts: Counter[str] = Counter()
    for shard, clips in sorted(chosen.items()):
        table = results / "downloads" / f"{shard}.parquet"
        manifest = results / "manifest.parquet"
        final = any(reason.final for reason in reasons)
        counts += refetch_clips(manifest, shard, sources, table, places, clips, final=final)
    return counts


def _rows(table: Path) -> dict[str, dict[str, Any]]:
    if not table.is_file():
        return {}
    rows = pq.read_table(table, columns=["clip", "status", "reason"]).to_pylist()
    return {row["clip"]: row for row in rows}


def _standing(
    clip: dict[str, Any], fetched: dict[str, Any] | None, decoded: dict[str, Any] | None
) -> ClipStatus:
    place = clip["clip"], clip["split"], clip["shard"]
    if fetched is None:
        return ClipStatus(*place, None, None, "")
    status = Status(fetched["status"])
    if status is Status.PRESENT and decoded and decoded["status"] in DECODED:
        return ClipStatus(*place, status, Status(decoded["status"]), decoded["reason"])
    return ClipStatus(*place, status, status, fetched["reason"])
