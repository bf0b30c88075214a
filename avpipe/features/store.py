"""One feature of one dataset as a zarr v3 array (rows, T, ...), with the manifest's rows.

A chunk is a clip. A zarr shard is a shard of the workflow and one file, `c/{shard}/0/0...`, which that shard's job writes
as a whole. Rows of clips without the feature are NaN: they take no space, and the index at the end of each file tells which
they are. The first job to finish writes `zarr.json`. Every clip's chunk has a checksum (Zstandard's), every index a CRC-32C,
and `zarr.json` its own SHA-256, so that a damaged file is an error and never a wrong number.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c  # as zarr does
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import zstd
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from avpipe.clips import ROWS_FILE, manifest_file, read_rows
from avpipe.features.spec import chunk_path, dimension_names, feature_shape
from avpipe.files import read_json, whole_file, write_text
from avpipe.lock import sole_writer
from avpipe.plan.extractor import ArrayConfig

_ABSENT = 2**64 - 1
_CHECKSUM = 4  # bytes of the CRC-32C after an index


class FeaturesError(ValueError):
    """An array of features is missing, incomplete or damaged; the message says what to do."""


@dataclass(frozen=True)
class Features:
    """Features of a dataset's clips.

    Args:
        path: the array's folder.
        array: zarr array (rows, T, ...); rows without the feature are NaN.
        clips: the clip of each row.
        valid: (rows,) bool, which rows have the feature.
    """

    path: Path
    array: zarr.Array[Any]
    clips: tuple[str, ...]
    valid: npt.NDArray[np.bool_]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.array.shape[1:]))
        return f"<{self.path.name}: {self.valid.sum()} of {len(self.clips)} clips, {shape} {self.array.dtype} each>"

    def load(self, rows: Sequence[int] | npt.NDArray[np.int64], threads: int = 4) -> npt.NDArray[Any]:
        """Many rows at once, in the given order: (len(rows), T, ...) in the stored dtype.

        Reads each clip's bytes directly, by the shard's index, which is faster than zarr's indexing.

        Raises:
            IndexError: for a row that the array does not have.
            FeaturesError: for a damaged file.
        """
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self.valid)):
            raise IndexError(
                f"{self.path}: rows are 0 .. {len(self.valid) - 1}; asked for {wanted.min()} .. {wanted.max()}"
            )
        out = np.empty((len(wanted), *self.array.shape[1:]), self.array.dtype)
        size = _shard_size(self.array)
        shards = wanted // size

        def read(shard: int) -> None:
            positions = np.flatnonzero(shards == shard)
            _read_rows(self._file(shard), wanted[positions] % size, size, out, positions)

        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(read, int(shard)) for shard in np.unique(shards)]:
                done.result()
        return out

    def _file(self, shard: int) -> Path:
        return self.path / "/".join(["c", str(shard), *["0"] * (self.array.ndim - 1)])


def open_features(path: str | Path) -> Features:
    """Open results/{dataset}/features/{extractor}.zarr.

    Raises:
        FeaturesError: if it is missing, not written by avpipe, damaged, or lacks a shard that has clips.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise FeaturesError(f"{path}: no array of features; run the extraction of {path.stem} first")
    try:
        _read_metadata(path)
        array = zarr.open_array(path, mode="r")
        row_list, manifest = path / str(array.attrs["rows"]), path / str(array.attrs["manifest"])
    except FeaturesError:
        raise
    except (KeyError, ValueError) as error:
        raise FeaturesError(f"{path} is no array of avpipe: {error}") from error
    size, rows = _shard_size(array), array.shape[0]
    clips = read_rows(manifest_file(row_list.parent, row_list.name))
    if len(clips) < rows:
        raise FeaturesError(
            f"{path} has {rows} rows, but {row_list} names only {len(clips)} clips; restore that file"
        )
    features = Features(path, array, tuple(clips[:rows]), np.zeros(rows, bool))
    missing = []
    needed = {int(shard) for shard in read_json(manifest)["shards"]} if manifest.is_file() else None
    for shard in range(-(-rows // size)):
        file = features._file(shard)
        if file.is_file():
            present = _index(file, size)[:, 0] != _ABSENT
            features.valid[shard * size : (shard + 1) * size] = present[: rows - shard * size]
        elif needed is None or shard in needed:
            missing.append(shard)
    if missing:
        named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise FeaturesError(
            f"{path}: {len(missing)} of {-(-rows // size)} shards are not extracted yet ({named}); "
            f"run the extraction of {path.stem} again, finished shards are kept"
        )
    return features


def write_shard(
    path: Path,
    config: ArrayConfig,
    shard: int,
    rows: int,
    values: npt.NDArray[Any],
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write the file of one shard, and `zarr.json` if it is missing or has too few rows.

    If the existing array has another `identity`, its files are deleted.

    Args:
        path: the array's folder, features/{extractor}.zarr.
        config: of the extractor or of the imported feature.
        shard: its number.
        rows: rows of the whole array.
        values: (shard_size, T, ...) in the dtype to store; NaN where there is no feature.
        identity: attributes that must be equal in all shards.
        about: further attributes, with "environment", of the job; those of the newest shard are kept.

    Raises:
        OutputError: if a file cannot be written.
    """
    content = _encoded(config, values)
    with sole_writer(path.parent / f".{path.name}.lock", f"write shard {shard} of {path}"):
        _write_metadata(path, config, rows, values, {**identity, "shard_size": len(values)}, about)
        with whole_file(path / chunk_path(config, shard)) as temporary:
            temporary.write_bytes(content)


def _create(
    store: MemoryStore,
    config: ArrayConfig,
    rows: int,
    values: npt.NDArray[Any],
    **more: Any,
) -> Any:
    shape = feature_shape(config)
    return zarr.create_array(
        store=store,
        shape=(rows, *shape),
        shards=(len(values), *shape),
        chunks=(1, *shape),
        dtype=values.dtype,
        fill_value=np.nan,
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=dimension_names(config),
        **more,
    )


def _content(store: MemoryStore, key: str) -> bytes | None:
    buffer = sync(store.get(key, default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()


def _encoded(config: ArrayConfig, values: npt.NDArray[Any]) -> bytes:
    """The bytes of a shard's file: zarr writes it as the only shard of an array in memory."""
    store = MemoryStore()
    _create(store, config, len(values), values)[:] = values
    content = _content(store, chunk_path(config, 0))
    if content is None:  # all NaN: zarr writes no file, but the workflow needs one
        index = b"\xff" * (16 * len(values))
        content = index + np.uint32(google_crc32c.value(index)).tobytes()
    return content


def _write_metadata(
    path: Path,
    config: ArrayConfig,
    rows: int,
    values: npt.NDArray[Any],
    identity: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write the `zarr.json` that the new shard needs; called under the array's lock."""
    file = path / "zarr.json"
    old = _read_metadata(path) if file.is_file() else None
    further = {name: value for name, value in about.items() if name != "environment"}
    if old is not None:
        store = MemoryStore()
        _create(store, config, old["shape"][0], values, attributes={**old["attributes"], **identity})
        same = json.loads(_content(store, "zarr.json") or b"") == old
        told = {**old["attributes"], **further} == old["attributes"]
        told = told and about["environment"] in old["attributes"]["environments"]
        if same and told and rows <= old["shape"][0]:
            return
        if not same:
            for stale in sorted((path / "c").rglob("*")):
                if stale.is_file():
                    stale.unlink()
            old = None
    environments = old["attributes"]["environments"] if old else []
    if about["environment"] not in environments:
        environments = [*environments, about["environment"]]
    attributes = {
        "rows": f"../../{ROWS_FILE}",
        "manifest": "../../manifest.json",
        **(old["attributes"] if old else {}),
        **further,
        **identity,
        "environments": environments,
    }
    store = MemoryStore()
    _create(store, config, max(rows, old["shape"][0] if old else 0), values, attributes=attributes)
    metadata = json.loads(_content(store, "zarr.json") or b"")
    metadata["attributes"]["metadata_sha256"] = _metadata_checksum(metadata)
    write_text(file, json.dumps(metadata, indent=2) + "\n")


def _metadata_checksum(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of the content of `zarr.json`, without the checksum itself."""
    attributes = {name: value for name, value in metadata["attributes"].items() if name != "metadata_sha256"}
    content = json.dumps({**metadata, "attributes": attributes}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _read_metadata(path: Path) -> dict[str, Any]:
    """The content of an array's `zarr.json`, which may have been written by others, without a checksum.

    Raises:
        FeaturesError: if it is damaged.
        KeyError: if it is not the metadata of an array with attributes.
    """
    file = path / "zarr.json"
    try:
        metadata: dict[str, Any] = read_json(file)
        whole = metadata["attributes"].get("metadata_sha256", now := _metadata_checksum(metadata)) == now
    except ValueError:  # not UTF-8, or not JSON
        whole = False
    if not whole:
        raise FeaturesError(
            f"{file} is damaged: delete it, and the file of one shard below {path / 'c'}; run the extraction again, "
            "it writes both anew"
        )
    return metadata


def _shard_size(array: zarr.Array[Any]) -> int:
    return int((array.shards or array.chunks)[0])


def _index(file: Path, size: int) -> npt.NDArray[np.uint64]:
    """(shard_size, 2): offset and length of each clip's chunk in a shard's file; all ones for a missing chunk."""
    with file.open("rb") as opened:
        total = opened.seek(0, 2)
        tail = 16 * size + _CHECKSUM
        if total >= tail:
            opened.seek(total - tail)
            content, checksum = opened.read(16 * size), opened.read(_CHECKSUM)
            if google_crc32c.value(content) == int.from_bytes(checksum, "little"):
                return np.frombuffer(content, "<u8").reshape(size, 2)
    raise FeaturesError(f"{file} is damaged: delete it and run the extraction again")


def _read_rows(
    file: Path,
    rows: npt.NDArray[np.int64],
    size: int,
    out: npt.NDArray[Any],
    positions: npt.NDArray[np.int64],
) -> None:
    """out[positions] = these rows, counted inside the shard, of a shard's file; NaN for missing rows."""
    if not file.is_file():
        out[positions] = np.nan
        return
    index = _index(file, size)
    with file.open("rb") as opened:
        for row, position in sorted(zip(rows.tolist(), positions.tolist(), strict=True)):
            offset, length = map(int, index[row])
            if offset == _ABSENT:
                out[position] = np.nan
                continue
            opened.seek(offset)
            try:
                zstd.decompress(opened.read(length), out[position])
            except (RuntimeError, ValueError) as error:
                raise FeaturesError(
                    f"{file} is damaged: delete it and run the extraction again ({error})"
                ) from error
