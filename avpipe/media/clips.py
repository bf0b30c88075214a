"""clips.parquet: one row a clip that the annotations name, present or not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avpipe.files import whole_file
from avpipe.media.normalise import SCHEMA as OUTCOMES

FROM_MANIFEST = ("clip", "dataset", "split", "source", "start", "end", "shard", "row")


def gather_clips(manifest: Path, tables: Path, out: Path) -> None:
    """Join the manifest with the outcomes of its shards, sorted by row.

    Args:
        manifest: parquet of the manifest stage.
        tables: folder of the tables of `normalise_shard`, {shard}.parquet; those of other shards, left from another
            shard size, are not looked at.
        out: parquet to write, columns `FROM_MANIFEST` and those of the outcomes.

    Raises:
        ValueError: if a clip has no outcome or several; it names clips and says which stage to run.
    """
    clips = pq.read_table(manifest, columns=list(FROM_MANIFEST)).sort_by("row")
    shards = sorted(clips["shard"].unique().to_pylist())
    outcomes = pa.concat_tables(
        pq.read_table(tables / f"{shard}.parquet", schema=OUTCOMES) for shard in shards
    )
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
