"""clips.parquet: one row a clip that the annotations name, present or not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.download.outcome import Status
from avpipe.files import whole_file
from avpipe.media.normalise import SCHEMA as OUTCOMES

FROM_MANIFEST = ("clip", "dataset", "split", "source", "start", "end", "shard", "row")


def gather_clips(manifest: Path, tables: Path | None, out: Path) -> None:
    """Join the manifest with the outcomes of its shards, sorted by row.

    Args:
        manifest: parquet of the manifest stage.
        tables: folder of the tables of `normalise_shard`, {shard}.parquet; those of other shards, left from another
            shard size, are not looked at. None where nothing is fetched because the study imports all its features: every
            clip is `Status.NOT_FETCHED` then.
        out: parquet to write, columns `FROM_MANIFEST` and those of the outcomes.

    Raises:
        ValueError: if a clip has no outcome or several; it names clips and says which stage to run.
    """
    clips = pq.read_table(manifest, columns=list(FROM_MANIFEST)).sort_by("row")
    outcomes = _not_fetched(clips["clip"]) if tables is None else _outcomes(clips["shard"], tables)
    place = {clip: index for index, clip in enumerate(outcomes["clip"].to_pylist())}
    names = clips["clip"].to_pylist()
    absent = [clip for clip in names if clip not in place]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(names)} clips of {manifest} have no outcome, for example {absent[:3]}: "
            "normalise their shards"
        )
    if len(place) != len(outcomes):
        raise ValueError(
            f"{len(outcomes) - len(place)} clips stand in two of the outcome tables: normalise their shards anew"
        )
    joined = outcomes.take([place[clip] for clip in names])
    for name in OUTCOMES.names[1:]:
        clips = clips.append_column(name, joined[name])
    with whole_file(out) as temporary:
        pq.write_table(clips.replace_schema_metadata(None), temporary)


def _outcomes(shards: pa.ChunkedArray, tables: Path) -> pa.Table:
    """The outcomes of these shards."""
    return pa.concat_tables(
        pq.read_table(tables / f"{shard}.parquet", schema=OUTCOMES)
        for shard in sorted(shards.unique().to_pylist())
    )


def _not_fetched(clips: pa.ChunkedArray) -> pa.Table:
    """Outcomes of clips that nobody asked for."""
    rows = [
        {"clip": clip, "status": Status.NOT_FETCHED.value, "reason": Status.NOT_FETCHED.meaning}
        for clip in clips.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)
