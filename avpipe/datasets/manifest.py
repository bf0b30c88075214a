"""The manifest: one row a clip that the annotations name, cut into shards that stay where they are.

A clip gets a row number once and keeps it forever: the ledger `rows.csv` lists the clips in the order of their rows, new
ones are appended in the order of the annotations, and those that are gone leave holes. So adding clips leaves all full
shards untouched, row i of every feature array stays the same clip, and shard = row // shard_size.

Planning reads `manifest.json` alone. Its digest of a shard changes exactly when a job on that shard would see something
else: the shard's rows, or size or time of change of the local files behind them.

Importing this module loads no pandas: the Snakefile asks for `inventory` at every start.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avpipe import files
from avpipe.clips import check_pattern, relative_path

if TYPE_CHECKING:
    import pandas as pd

    from avpipe.datasets.base import Annotations

LEDGER = "rows.csv"
ROW_GROUP = 65536
"""Rows that a reader of one shard must decode, at most."""

LocalSource = tuple[Path, str]
"""A folder and the pattern of the file below it, with {source} and {clip}; or an archive and that of its member."""


class LedgerError(ValueError):
    """rows.csv is not what avpipe wrote; going on would renumber clips under features that exist."""


def write_manifest(
    annotations: "Annotations", dataset: str, out: Path, shard_size: int, local_sources: Sequence[LocalSource]
) -> dict[str, Any]:
    """Write manifest.parquet, events.parquet, categories.csv, issues.csv, the ledger and manifest.json.

    The same annotations and the same ledger give the same bytes.

    Args:
        annotations: what a reader returned.
        dataset: the dataset's name, a column of the manifest.
        out: the folder to write to; a `rows.csv` in it is continued.
        shard_size: clips a shard.
        local_sources: where the clips' files may lie, tried in order; their size and time of change go into the
            shards' digests.

    Returns:
        The content of manifest.json: dataset, clips, rows (of the ledger, holes counted), shard_size, splits (split ->
        clips), shards (number -> digest, without shards that have no clip), labels (digest of events and categories),
        categories (their number), issues (code -> number).

    Raises:
        LedgerError: if `rows.csv` is damaged.
        ValueError: for a shard size below 1 or a pattern that `local_file` does not take.
        OutputError: if the folder cannot be written.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be 1 or more, not {shard_size}")
    for _, pattern in local_sources:
        check_pattern(pattern)
    known = read_ledger(out / LEDGER)
    rows, ledger = assign_rows(known, annotations.clips["clip"].tolist())
    manifest = _manifest_table(annotations.clips, dataset, rows, shard_size)
    index = {
        "dataset": dataset,
        "clips": len(manifest),
        "rows": len(ledger),
        "shard_size": shard_size,
        "splits": dict(Counter(manifest["split"].tolist())),
        "shards": shard_digests(manifest, local_sources),
        "labels": labels_digest(annotations),
        "categories": len(annotations.categories),
        "issues": dict(Counter(annotations.issues["code"].tolist())),
    }
    if ledger != known:
        files.write_text(out / LEDGER, "\n".join(["clip", *ledger, ""]))
    _write_parquet(out / "manifest.parquet", manifest)
    _write_parquet(out / "events.parquet", annotations.events)
    _write_csv(out / "categories.csv", ["index", "category"], list(enumerate(annotations.categories)))
    _write_csv(out / "issues.csv", [*annotations.issues.columns], annotations.issues.to_numpy().tolist())
    files.write_json(out / "manifest.json", index)
    return index


def read_ledger(path: Path) -> list[str]:
    """The clips of `rows.csv` in the order of their rows; none where the file does not exist.

    Raises:
        LedgerError: if it does not end with a whole line, has another header, a clip twice or an impossible name.
    """
    if not path.exists():
        return []
    header, *clips = path.read_text(encoding="utf-8", errors="replace").split("\n")
    advice = (
        "restore it from a copy; or, to start anew, delete it together with the manifest, the segments and the "
        "features beside it, because their rows would get other numbers"
    )
    if header != "clip" or not clips or clips.pop() != "":
        raise LedgerError(f"{path} is cut off or not written by avpipe: {advice}")
    impossible = next(
        (number for number, clip in enumerate(clips, start=2) if not _LEDGER_LINE.fullmatch(clip)), None
    )
    if impossible:
        raise LedgerError(f"{path}, line {impossible}: {clips[impossible - 2]!r} is no clip's name: {advice}")
    if len(set(clips)) != len(clips):
        twice = Counter(clips).most_common(1)[0][0]
        raise LedgerError(f"{path}: {twice!r} has two rows: {advice}")
    return clips


_LEDGER_LINE = re.compile(r"[A-Za-z0-9_~-]+")


def assign_rows(ledger: Sequence[str], clips: Sequence[str]) -> tuple[list[int], list[str]]:
    """The rows of `clips`, and the ledger with the new ones appended in their order. `clips` are distinct."""
    row_of = {clip: row for row, clip in enumerate(ledger)}
    longer = list(ledger)
    for clip in clips:
        if clip not in row_of:
            row_of[clip] = len(longer)
            longer.append(clip)
    return [row_of[clip] for clip in clips], longer


def _manifest_table(
    clips: "pd.DataFrame", dataset: str, rows: Sequence[int], shard_size: int
) -> "pd.DataFrame":
    """The manifest's columns, sorted by row."""
    import numpy as np

    order = clips["split_order"] if "split_order" in clips else clips.groupby("split", sort=False).cumcount()
    match = {name: clips[name] for name in ("match_split", "match_order") if name in clips}
    table = clips[["clip"]].assign(
        dataset=dataset,
        split=clips["split"],
        source=clips["source"],
        start=clips["start"],
        end=clips["end"],
        shard=np.asarray(rows, dtype=np.int64) // shard_size,
        row=np.asarray(rows, dtype=np.int64),
        split_order=order.astype(np.int64),
        **match,
    )
    return table.sort_values("row", ignore_index=True)


def shard_digests(manifest: "pd.DataFrame", local_sources: Sequence[LocalSource]) -> dict[str, str]:
    """Shard -> 16 hex digits of its rows (without the orders and match_split, which no job on a shard sees) and local files.

    Neither the absolute place of a source nor the dataset's name counts: a copied project keeps its results.

    Args:
        manifest: sorted by row.
        local_sources: as in `write_manifest`.
    """
    strings = [manifest[name].array for name in ("clip", "split", "source")]
    columns = [*strings, *(manifest[name].to_numpy() for name in ("start", "end", "row"))]
    present = [
        (os.fspath(root), pattern, None if root.is_dir() else _file_state(root))
        for root, pattern in local_sources
        if root.exists()
    ]
    shards = manifest["shard"].to_numpy()
    digests = {}
    first = 0
    while first < len(shards):
        after = int(shards.searchsorted(shards[first], side="right"))
        digest = hashlib.sha256()
        for row in zip(*(column[first:after].tolist() for column in columns), strict=True):
            digest.update(repr((row, _local_state(present, row[0], row[2]))).encode("utf-8", "surrogatepass"))
        digests[str(shards[first])] = digest.hexdigest()[:16]
        first = after
    return digests


def labels_digest(annotations: "Annotations") -> str:
    """16 hex digits of the events and categories: runs need training again when these change, and only then."""
    digest = hashlib.sha256(repr(annotations.categories).encode("utf-8"))
    for row in annotations.events.itertuples(index=False, name=None):
        digest.update(repr(row).encode("utf-8"))
    return digest.hexdigest()[:16]


_State = tuple[str, int, int]
"""Path below its source, size and time of change (ns) of a file."""


def _file_state(path: Path) -> _State:
    """The state of an archive, which is that of each clip in it."""
    found = path.stat()
    return "", found.st_size, found.st_mtime_ns


def _local_state(sources: Sequence[tuple[str, str, _State | None]], clip: str, source: str) -> _State | None:
    """The state of the first local file of a clip, or of the first archive that may hold it."""
    for root, pattern, archive in sources:
        relative = relative_path(pattern, clip, source)
        if relative is None:
            continue
        if archive is not None:
            return archive
        try:
            found = os.stat(f"{root}/{relative}")  # noqa: PTH116 (a million times; a Path costs more than the call)
        except OSError:  # not there, or not readable: no file for this source, as the fetching job will say
            continue
        if stat.S_ISREG(found.st_mode):
            return relative, found.st_size, found.st_mtime_ns
    return None


def inventory(roots: Sequence[Path]) -> str:
    """A digest of everything below some folders: relative path, size and time of change (ns) of each file.

    Links to folders are not entered. A folder that is missing counts as "absent".

    Raises:
        OSError: if a folder in it cannot be listed.
    """
    return "+".join(_inventory(Path(root)) for root in roots)


def _inventory(root: Path) -> str:
    if not root.exists():
        return "absent"
    digest = hashlib.sha256()
    for relative, size, modified in _below(root):
        digest.update(os.fsencode(f"{relative}\0{size}\0{modified}\n"))
    return digest.hexdigest()[:16]


def _below(root: Path) -> Iterator[tuple[str, int, int]]:
    """Relative path, size and time of change of `root`, if it is a file, or of all files below it, in a fixed order."""
    if not root.is_dir():
        found = root.stat()
        yield "", found.st_size, found.st_mtime_ns
        return
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{folder}{entry.name}/")
                continue
            try:
                found = entry.stat()
            except OSError:  # a link to nowhere
                found = entry.stat(follow_symlinks=False)
            yield f"{folder}{entry.name}", found.st_size, found.st_mtime_ns


def _write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table without anything of pandas in it, so that the bytes depend on the content alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name in frame.columns:
        is_number = frame[name].dtype.kind in "if"
        columns[name] = (
            pa.array(frame[name].to_numpy()) if is_number else pa.array(frame[name], type=pa.string())
        )
    with files.whole_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd", row_group_size=ROW_GROUP)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
