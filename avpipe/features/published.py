"""Published features into a zarr array: AVE's h5 files (one row a clip) and folders of npy files (one file a clip).

The array has the same files as one that extraction writes; a clip that the published files lack is a row of NaN.
Numbers are converted to the array's type: one that would become infinite is an error, rounded ones are counted.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from avpipe.clips import ROWS_FILE, local_file, manifest_file, noisy_clip, read_rows
from avpipe.features.store import write_shard
from avpipe.files import open_h5, read_json, sha256_of
from avpipe.plan import fingerprint
from avpipe.plan.extractor import ImportedConfig
from avpipe.progress import Progress

Values = npt.NDArray[Any]
ReadClip = Callable[[str, str], Values | None]
"""(clip, source) -> one clip's features in the file's shape and type; None if the published files lack the clip."""


class PublishedFeaturesError(ValueError):
    """Published features cannot be read; the message names the file and what was expected."""


def import_features(
    name: str, config: ImportedConfig, results: Path, row_names: Sequence[str] = ()
) -> Counter[str]:
    """Import one feature for every clip of a study.

    Args:
        name: of the array, features/{name}.zarr.
        config: what to read.
        results: R, the study's folder, with the manifest.
        row_names: the clip of each row of the h5 file, as `config.rows` says (`avpipe.datasets.ave.read_row_names`).

    Returns:
        Counts of clips: "imported", "not in the files"; and of numbers: "rounded".

    Raises:
        FileNotFoundError: there is no manifest.
        PublishedFeaturesError, H5Error: a file is missing or damaged, has another shape or number of rows, holds a
            number too large for the type, or the files have no clip of the study. No array is written then.
    """
    published = inspect_published(config)
    counts: Counter[str] = Counter()
    for shard in _manifest_index(results)["shards"]:
        counts += import_shard(name, config, published, results, int(shard), row_names)
    return counts


def import_shard(
    name: str,
    config: ImportedConfig,
    published: Mapping[str, Any],
    results: Path,
    shard: int,
    row_names: Sequence[str] = (),
) -> Counter[str]:
    """Import one shard; see `import_features`. `published` is the result of `inspect_published`."""
    index = _manifest_index(results)
    if config.format == "h5" and Path(config.path).stat().st_size != published["bytes"]:
        raise PublishedFeaturesError(f"{config.path} changed since it was inspected; run the import again")
    values = np.full((index["shard_size"], *config.shape), np.nan, config.dtype)
    counts: Counter[str] = Counter()
    with _open_published(
        config, row_names if config.rows else read_rows(manifest_file(results, ROWS_FILE))
    ) as read:
        clips = list(_clips(results, shard))
        progress = Progress(f"import {name} shard {shard}", len(clips), "clips")
        for clip, source, row in clips:
            found = read(clip, source)
            progress.advance()
            if found is None:
                counts["not in the files"] += 1
                continue
            values[row - shard * index["shard_size"]], rounded = _stored(found, clip, config)
            counts.update({"imported": 1, "rounded": rounded})
        if np.isnan(values).all():
            _check_some_clip(read, config, results, index)
    identity = {
        "extractor": name,
        "dataset": index["dataset"],
        "config": config.model_dump(mode="json", include={"format", "shape", "dtype"}),
        "weights": "imported",
        "sha256": published["sha256"],
        "imported": published,
        "preprocessing": config.origin or f"not known: imported from {published['file']}",
    }
    environment = {key: value for key, value in fingerprint.environment().items() if key != "cores"}
    path = results / "features" / f"{name}.zarr"
    about = {"environment": environment, "code": fingerprint.fingerprint(__name__, "avpipe.datasets.ave")}
    write_shard(path, config, shard, index["rows"], values, identity, about)
    return +counts


def _check_some_clip(read: ReadClip, config: ImportedConfig, results: Path, index: Mapping[str, Any]) -> None:
    """Raise unless the published files have numbers for at least one clip of the study."""
    for shard in index["shards"]:
        for clip, source, _ in _clips(results, int(shard)):
            found = read(clip, source)
            if found is not None and not np.isnan(found).all():
                return
    if config.format == "npy":
        tried = local_file(Path(config.path), config.pattern, clip, source)
        where = f"tried, for example, {tried}: set `pattern` to how its files are named"
    else:
        where = "set `rows` to the file that names the clip of each of its rows"
    raise PublishedFeaturesError(
        f"{config.path} has no feature of any of the {index['clips']} clips of {results}; {where}"
    )


def _manifest_index(results: Path) -> dict[str, Any]:
    path = results / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: make the manifest first (avpipe datasets manifest), it gives the clips their rows"
        )
    index: dict[str, Any] = read_json(path)
    return index


def _clips(results: Path, shard: int) -> Iterator[tuple[str, str, int]]:
    """Clip, source and row of the clips of a shard."""
    table = pq.read_table(
        results / "manifest.parquet", columns=["clip", "source", "row"], filters=[("shard", "=", shard)]
    )
    return zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def _stored(found: Values, clip: str, config: ImportedConfig) -> tuple[Values, int]:
    """A clip's features in the array's shape and type, and how many numbers this type rounds."""
    with np.errstate(over="ignore"):
        stored = found.astype(config.dtype)
    if (np.isinf(stored) & ~np.isinf(found)).any():
        raise PublishedFeaturesError(
            f"{config.path}, clip {clip}: {np.nanmax(np.abs(found)):.3g} is too large for {config.dtype}; "
            "set `dtype: float32`"
        )
    rounded = int(np.count_nonzero((stored.astype(found.dtype) != found) & ~np.isnan(found)))
    return stored.reshape(config.shape), rounded


@contextmanager
def _open_published(config: ImportedConfig, row_names: Sequence[str]) -> Iterator[ReadClip]:
    """Open the h5 file, whose rows are these clips, or the folder of npy files."""
    path = Path(config.path)
    if config.format == "npy":
        _check_folder(path)
        yield partial(_read_npy, config)
        return
    with ExitStack() as stack:
        array = stack.enter_context(open_h5(path, config.key))
        if len(row_names) != len(array):
            raise PublishedFeaturesError(
                f"{path} has {len(array)} rows, but {config.rows or ROWS_FILE} names {len(row_names)} clips: set `rows` "
                "to the file that names the clip of each row (for AVE's files, the Annotations.txt they were made from)"
            )
        places = {name: (array, row) for row, name in enumerate(row_names)}
        _check_shape(array.shape[1:], config, str(path))
        if config.noisy:
            noisy = stack.enter_context(open_h5(Path(config.noisy), config.key))
            _check_shape(noisy.shape[1:], config, config.noisy)
            places |= {noisy_clip(row): (noisy, row) for row in range(len(noisy))}
        yield partial(_read_h5_row, places)


def _read_h5_row(places: Mapping[str, tuple[h5py.Dataset, int]], clip: str, source: str) -> Values | None:
    if clip not in places:
        return None
    array, row = places[clip]
    try:
        return np.asarray(array[row])
    except OSError as error:
        raise PublishedFeaturesError(
            f"{array.file.filename}, row {row} cannot be read: {error}; get the file again"
        ) from error


def _read_npy(config: ImportedConfig, clip: str, source: str) -> Values | None:
    """One clip's file. Pickled objects are refused: loading them would run code."""
    path = local_file(Path(config.path), config.pattern, clip, source)
    if path is None or not path.is_file():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise PublishedFeaturesError(
            f"{path} is no whole npy file of numbers: {error}; get it again, or remove it to continue without it"
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise PublishedFeaturesError(f"{path} is not one npy array of numbers")
    _check_shape(found.shape, config, str(path))
    return np.array(found)


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise PublishedFeaturesError(f"{path} is not a folder; expected the folder of npy files")


def _check_shape(shape: tuple[int, ...], config: ImportedConfig, where: str) -> None:
    """Raise unless a clip has the shape of `config`, or the same with T and frames in one axis."""
    expected = config.shape
    merged = (expected[0] * expected[1], *expected[2:])
    if shape not in (expected, merged):
        also = f" or {merged}" if len(expected) > 2 else ""
        raise PublishedFeaturesError(
            f"{where}: a clip has shape {shape}, expected {expected}{also}; see `shape`"
        )


def inspect_published(config: ImportedConfig) -> dict[str, Any]:
    """What identifies published features: name, bytes and SHA-256 of the file, or of all files of the folder.

    Raises:
        PublishedFeaturesError, H5Error: a file is missing or damaged.
    """
    path = Path(config.path)
    if config.format == "h5":
        found = _inspect_h5(path, config.key)
        return found | ({"noisy": _inspect_h5(Path(config.noisy), config.key)} if config.noisy else {})
    _check_folder(path)
    digest, size, count = hashlib.sha256(), 0, 0
    files = sorted(path.rglob("*.npy"))
    progress = Progress(f"hash {path}", len(files), "files")
    for file in files:
        progress.advance()
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
            size, count = size + file.stat().st_size, count + 1
    if not count:
        raise PublishedFeaturesError(f"{path} has no npy file")
    return {"format": "npy", "file": path.name, "files": count, "bytes": size, "sha256": digest.hexdigest()}


def _inspect_h5(path: Path, key: str) -> dict[str, Any]:
    with open_h5(path, key) as array:
        shape, dtype = list(array.shape), str(array.dtype)
    return {
        "format": "h5",
        "file": path.name,
        "key": key,
        "shape": shape,
        "dtype": dtype,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
