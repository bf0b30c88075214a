"""The manifest: one row a clip that the annotations name, in shards of fixed row ranges.

A clip keeps its row number for ever: `rows.csv` lists the clips in row order, new clips are appended in the order of the
annotations, and removed clips leave a gap. So new clips change no full shard, row i of every feature array stays the same
clip, and shard = row // shard_size.

Planning reads only `manifest.json`. A shard's digest in it changes if and only if a job on that shard would read something
else: other rows, or local files of another size or modification time.

Importing this module loads no pandas, because the Snakefile calls `inventory` at every start.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from avpipe import files
from avpipe.clips import ROWS_FILE, check_pattern, read_rows, relative_path

if TYPE_CHECKING:
    import pandas as pd

    from avpipe.datasets.base import Annotations

CHECKED = (ROWS_FILE, "events.parquet", "categories.csv")
RESULTS = "results"
ROW_GROUP = 65536  # most rows that a reader of one shard must decode

LocalSource = tuple[Path, str]
"""A folder and the pattern of a clip's file in it, with {source} and {clip}; or an archive and the pattern of its member."""


def write_manifest(
    annotations: "Annotations", dataset: str, out: Path, shard_size: int, local_sources: Sequence[LocalSource]
) -> dict[str, Any]:
    """Write manifest.parquet, events.parquet, categories.csv, issues.csv, rows.csv and manifest.json.

    The same annotations and the same `rows.csv` give the same bytes.

    Args:
        annotations: what a reader returned.
        dataset: the dataset's name, a column of the manifest.
        out: folder to write to; a `rows.csv` in it is continued.
        shard_size: clips a shard.
        local_sources: where the clips' files may be, in order; their size and modification time go into the shards'
            digests.

    Returns:
        The content of manifest.json: dataset, clips, rows (with gaps), shard_size, splits (split -> clips), shards
        (number -> digest; only shards with clips), labels (digest of events and categories), categories (their number),
        issues (code -> number), sha256 (of rows.csv, events.parquet and categories.csv, see `avpipe.clips.manifest_file`).

    Raises:
        RowsError: if `rows.csv` is damaged.
        ValueError: for a shard size below 1 or a pattern that `local_file` refuses.
        OutputError: if the folder cannot be written.
    """
    import pandas as pd

    if shard_size < 1:
        raise ValueError(f"shard_size must be 1 or more, not {shard_size}")
    for _, pattern in local_sources:
        check_pattern(pattern)
    known = read_rows(out / ROWS_FILE)
    rows, names = assign_rows(known, annotations.clips["clip"].tolist())
    manifest = _manifest_table(annotations.clips, dataset, rows, shard_size)
    index = {
        "dataset": dataset,
        "clips": len(manifest),
        "rows": len(names),
        "shard_size": shard_size,
        "splits": dict(Counter(manifest["split"].tolist())),
        "shards": shard_digests(manifest, local_sources),
        "labels": labels_digest(annotations),
        "categories": len(annotations.categories),
        "issues": dict(Counter(annotations.issues["code"].tolist())),
    }
    if names != known:
        files.write_text(out / ROWS_FILE, "\n".join(["clip", *names, ""]))
    _write_parquet(out / "manifest.parquet", manifest)
    _write_parquet(out / "events.parquet", annotations.events)
    categories = pd.DataFrame(list(enumerate(annotations.categories)), columns=["index", "category"])
    for name, frame in (("categories", categories), ("issues", annotations.issues)):
        files.write_text(out / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    index["sha256"] = {name: files.sha256_of(out / name) for name in CHECKED}
    files.write_json(out / "manifest.json", index)
    return index


def assign_rows(known: Sequence[str], clips: Sequence[str]) -> tuple[list[int], list[str]]:
    """The rows of `clips` (distinct), and the row list `known` with the new clips appended in their order."""
    row_of = {clip: row for row, clip in enumerate(known)}
    longer = list(known)
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

    row = np.asarray(rows, dtype=np.int64)
    order = clips["split_order"] if "split_order" in clips else clips.groupby("split", sort=False).cumcount()
    table = clips[["clip", "split", "source", "start", "end"]].assign(shard=row // shard_size, row=row)
    table.insert(1, "dataset", dataset)
    table["split_order"] = order.astype(np.int64)
    match = clips[[name for name in ("match_split", "match_order") if name in clips]]
    return table.join(match).sort_values("row", ignore_index=True)


def shard_digests(manifest: "pd.DataFrame", local_sources: Sequence[LocalSource]) -> dict[str, str]:
    """Shard -> 16 hex digits of its rows and local files.

    Left out are the split orders and match_split, which no job on a shard reads, and the path of a source and the name of
    the dataset, so that a copied project keeps its results.

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
    """16 hex digits of the events and categories: runs are trained again if and only if these change."""
    digest = hashlib.sha256(repr(annotations.categories).encode("utf-8"))
    for row in annotations.events.itertuples(index=False, name=None):
        digest.update(repr(row).encode("utf-8"))
    return digest.hexdigest()[:16]


_State = tuple[str, int, int]  # a file's path below its source, size and modification time (ns)


def _file_state(path: Path) -> _State:
    """The state of an archive, used for every clip in it."""
    found = path.stat()
    return "", found.st_size, found.st_mtime_ns


def _local_state(sources: Sequence[tuple[str, str, _State | None]], clip: str, source: str) -> _State | None:
    """The state of a clip's first local file, or of the first archive that may contain it."""
    for root, pattern, archive in sources:
        relative = relative_path(pattern, clip, source)
        if relative is None:
            continue
        if archive is not None:
            return archive
        try:
            found = os.stat(f"{root}/{relative}")  # noqa: PTH116 (called a million times; a Path costs more than the call)
        except OSError:  # missing or unreadable: the fetching job reports it
            continue
        if stat.S_ISREG(found.st_mode):
            return relative, found.st_size, found.st_mtime_ns
    return None


class Listing(NamedTuple):
    """The files below a folder.

    Args:
        files: path below the folder, with `/` -> state of the file, links followed; None for a broken link.
        links: which of them are symbolic links.
        closed: path of a subfolder that cannot be listed -> why.
        skipped: paths of subfolders that are left out on purpose.
    """

    files: dict[str, os.stat_result | None]
    links: set[str]
    closed: dict[str, str]
    skipped: list[str]


def list_files(root: Path) -> Listing:
    """All files below a folder, also through links to files and folders: whoever put a link there meant it.

    Each real folder is listed once, under its own path if that is below `root`; so links that form a circle do no harm.
    Hidden folders (`.venv`) are left out, and so is `results` of the current folder, in which the rendered clips of the demo lie.

    Raises:
        OSError: if `root` itself cannot be listed.
    """
    found = Listing({}, set(), {}, [])
    known: set[tuple[int, int]] = set()
    results = Path(RESULTS).resolve()
    folders, linked = [""], list[str]()
    while folders or linked:
        inside = folders.pop() if folders else linked.pop(0)
        try:
            state = os.stat(f"{root}/{inside}")  # noqa: PTH116 (a Path costs more than the call)
            if (state.st_dev, state.st_ino) in known:
                continue
            known.add((state.st_dev, state.st_ino))
            with os.scandir(f"{root}/{inside}") as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not inside:
                raise
            found.closed[inside.rstrip("/")] = error.strerror or str(error)
            continue
        for entry in ordered:
            relative, is_link = f"{inside}{entry.name}", entry.is_symlink()
            try:
                status = entry.stat()
            except OSError:
                found.files[relative] = None
            else:
                if stat.S_ISDIR(status.st_mode):
                    if entry.name.startswith(".") or (
                        entry.name == results.name and Path(entry.path).resolve() == results
                    ):
                        found.skipped.append(relative)
                        continue
                    (linked if is_link else folders).append(f"{relative}/")
                    continue
                if not stat.S_ISREG(status.st_mode):
                    continue
                found.files[relative] = status
            if is_link:
                found.links.add(relative)
        linked.sort()
    return found


def inventory(roots: Sequence[Path]) -> str:
    """A digest of all files below some folders: relative path, size and modification time (ns).

    Links are followed as by `list_files`. A missing folder counts as "absent".

    Raises:
        OSError: if one of the folders cannot be listed.
    """
    return "+".join(_inventory(Path(root)) for root in roots)


def _inventory(root: Path) -> str:
    if not root.exists():
        return "absent"
    if root.is_dir():
        found = list_files(root)
        lines = [
            f"{path}\0{state and (state.st_size, state.st_mtime_ns)}\n" for path, state in found.files.items()
        ]
        lines += [f"{path}/\0{why}\n" for path, why in found.closed.items()]
    else:
        state = root.stat()
        lines = [f"\0{(state.st_size, state.st_mtime_ns)}\n"]
    return hashlib.sha256(b"".join(os.fsencode(line) for line in sorted(lines))).hexdigest()[:16]


def link_folder(folder: Path, results: Path) -> None:
    """Make the link `results`/source to a folder of videos, so that a moved folder makes no result stale.

    Args:
        folder: absolute path of the folder.
        results: the study's folder.

    Raises:
        ValueError: if the results are of another folder. A folder in another place is the same one if it has all files
            of the manifest, with their paths below it, sizes and modification times.
        OutputError: if the link cannot be made.
    """
    link = results / "source"
    before = link.readlink() if link.is_symlink() else None
    if before == folder:
        return
    if before and (results / ROWS_FILE).exists() and not _has_files_of(results, folder):
        raise ValueError(
            f"{results} has the results of another folder, {before}, and {folder} does not have all of its files. Give "
            f"this folder's results a name of their own: --config folder={folder} dataset='{{name: NAME}}'. If it is the "
            f"same folder, moved and changed, remove the link {link} and run again; files that are gone lose their results"
        )
    with files.output_errors(link):
        results.mkdir(parents=True, exist_ok=True)
        if before:
            link.unlink()
        link.symlink_to(folder)


def _has_files_of(results: Path, folder: Path) -> bool:
    """Whether `folder` has the files of the manifest in `results`, unchanged."""
    import pandas as pd

    index, manifest = results / "manifest.json", results / "manifest.parquet"
    if not index.is_file() or not manifest.is_file():
        return False
    digests: dict[str, str] = files.read_json(index)["shards"]
    return shard_digests(pd.read_parquet(manifest), [(folder, "{source}")]) == digests


def _write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table without pandas' metadata, so that the bytes depend on the content only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(own.to_numpy()) if own.dtype.kind in "if" else pa.array(own, type=pa.string())
        for name, own in frame.items()
    }
    with files.whole_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd", row_group_size=ROW_GROUP)
