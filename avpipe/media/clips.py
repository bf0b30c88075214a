"""clips.parquet: one row for each clip that the annotations name, with what became of it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.clips import Status
from avpipe.files import whole_file, write_text
from avpipe.media.normalise import SCHEMA as OUTCOMES

FROM_MANIFEST = ("clip", "dataset", "split", "source", "start", "end", "shard", "row")


def gather_clips(
    manifest: Path,
    tables: Path | None,
    out: Path,
    minimum: Mapping[str, float] | None = None,
    usable: Path | None = None,
) -> None:
    """Join the manifest with the outcomes of its shards, sorted by row.

    Args:
        manifest: parquet of the manifest stage.
        tables: folder of `normalise_shard`'s tables, {shard}.parquet; tables of other shards are ignored, as a former shard
            size leaves them. None if all features are imported and nothing is fetched: every clip is then
            `Status.NOT_FETCHED`.
        out: parquet to write, with the columns `FROM_MANIFEST` and those of the outcomes.
        minimum: split -> smallest share of its clips that must be usable.
        usable: list of `freeze_clips`; usable clips that are not in it become `Status.EXCLUDED`.

    Raises:
        ValueError: if a clip has no outcome or several, a split has too few usable clips, or a clip of the frozen list is
            not usable; it names clips and says what to do.
    """
    clips = pq.read_table(manifest, columns=list(FROM_MANIFEST)).sort_by("row")
    outcomes = _outcomes(clips, tables)
    place = {clip: index for index, clip in enumerate(outcomes["clip"].to_pylist())}
    names = clips["clip"].to_pylist()
    absent = [clip for clip in names if clip not in place]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(names)} clips of {manifest} have no outcome, for example {absent[:3]}: "
            "normalise their shards"
        )
    if len(place) != len(outcomes):
        raise ValueError(f"{len(outcomes) - len(place)} clips are in two outcome tables: normalise again")
    joined = outcomes.take([place[clip] for clip in names])
    _check_shares(clips["split"].to_pylist(), joined["status"].to_pylist(), minimum or {})
    if usable is not None:
        joined = _restricted(joined, usable)
    for name in OUTCOMES.names[1:]:
        clips = clips.append_column(name, joined[name])
    with whole_file(out) as temporary:
        pq.write_table(clips.replace_schema_metadata(None), temporary)


def freeze_clips(clips: Path, out: Path) -> tuple[int, int]:
    """Write the names of the usable clips, one a line, so that another study can use the same clips.

    Args:
        clips: clips.parquet.
        out: text file to write.

    Returns:
        The number of clips in the list, and of clips that the annotations name.

    Raises:
        ValueError: if there is no clips.parquet.
    """
    if not clips.is_file():
        raise ValueError(f"no {clips}: run the study up to it first (snakemake {clips})")
    rows = pq.read_table(clips, columns=["clip", "status"]).to_pylist()
    names = [row["clip"] for row in rows if Status(row["status"]).usable]
    heading = f"# {len(names)} usable clips of the {len(rows)} that the annotations name\n"
    write_text(out, heading + "".join(f"{name}\n" for name in names))
    return len(names), len(rows)


def _check_shares(splits: list[str], statuses: list[str], minimum: Mapping[str, float]) -> None:
    """Raise ValueError if a split has too few usable clips."""
    named = Counter(splits)
    found = Counter(split for split, status in zip(splits, statuses, strict=True) if Status(status).usable)
    absent = sorted(set(minimum) - set(named))
    if absent:
        raise ValueError(f"dataset.minimum: the dataset has no split {absent[0]!r}, only {sorted(named)}")
    short = [
        f"{split}: {found[split]} of {named[split]} clips are usable ({found[split] / named[split]:.1%}), "
        f"dataset.minimum asks for {share:.1%}"
        for split, share in minimum.items()
        if found[split] < share * named[split]
    ]
    if short:
        raise ValueError(
            f"{'; '.join(short)}. `avpipe download status` says why clips are missing, `avpipe download retry` tries "
            "those again that can still succeed; or lower dataset.minimum"
        )


def _restricted(outcomes: pa.Table, usable: Path) -> pa.Table:
    """The outcomes, with the usable clips that are not in the frozen list as EXCLUDED."""
    lines = [line.strip() for line in usable.read_text(encoding="utf-8").splitlines()]
    frozen = {line for line in lines if line and not line.startswith("#")}
    rows = outcomes.to_pylist()
    there = {row["clip"] for row in rows if Status(row["status"]).usable}
    absent = sorted(frozen - there)
    if absent:
        why = {row["clip"]: f"{row['status']}: {row['reason']}" for row in rows}
        some = "; ".join(f"{clip} ({why.get(clip, 'not in the annotations')})" for clip in absent[:5])
        raise ValueError(
            f"{len(absent)} of the {len(frozen)} clips of the frozen list {usable} are not usable here: {some}. "
            "Get them, or write a new list (avpipe datasets freeze)"
        )
    for row in rows:
        if row["clip"] in there - frozen:
            row.update(status=Status.EXCLUDED.value, reason=f"{row['status']}, but not in {usable.name}")
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def _outcomes(clips: pa.Table, tables: Path | None) -> pa.Table:
    """The outcomes of the clips' shards, or of a study that fetches no clip."""
    if tables is not None:
        shards = sorted(clips["shard"].unique().to_pylist())
        return pa.concat_tables(
            pq.read_table(tables / f"{shard}.parquet", schema=OUTCOMES) for shard in shards
        )
    status = {"status": Status.NOT_FETCHED.value, "reason": Status.NOT_FETCHED.meaning}
    return pa.Table.from_pylist([{"clip": clip, **status} for clip in clips["clip"].to_pylist()], OUTCOMES)
