"""Features in the formats of others' code: AVE's h5 files, one npy file a clip, WebDataset shards.

Numbers are written as stored, or converted to the requested type; a number too large for that type is an error.
"""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from avpipe.clips import manifest_file, noisy_clip
from avpipe.features.store import Features, open_features
from avpipe.files import add_member, output_errors, whole_file, write_text

KEY = "avadataset"
SLAB = 64  # clips in memory at a time


class ExportError(ValueError):
    """Features cannot be written in the requested form; the message says why."""


@dataclass(frozen=True)
class Form:
    """How a clip's numbers are written.

    Args:
        dtype: None keeps the stored type.
        shape: None keeps the stored shape; (80, 2048) makes LLP's files from (10, 8, 2048).
    """

    dtype: str | None = None
    shape: tuple[int, ...] | None = None

    def of(self, features: Features) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of a clip of this array. Raises `ExportError` if the sizes of the shapes differ."""
        stored = tuple(features.array.shape[1:])
        if self.shape is not None and np.prod(self.shape) != np.prod(stored):
            raise ExportError(f"{features.path}: a clip has shape {stored}, which cannot become {self.shape}")
        return self.shape or stored, np.dtype(self.dtype or features.array.dtype)

    def write(self, values: npt.NDArray[Any], features: Features) -> npt.NDArray[Any]:
        """(N, T, ...) to (N, *shape) in the type. Raises `ExportError` if a number is too large for it."""
        shape, dtype = self.of(features)
        with np.errstate(over="ignore"):
            written = values.astype(dtype).reshape(len(values), *shape)
        if np.isinf(written).any() and not np.isinf(values).any():
            raise ExportError(f"{features.path} has numbers too large for {dtype}; use float32")
        return written


def export_npy(features: Mapping[str, str], results: Path, out: Path, form: Form = Form()) -> Counter[str]:
    """Write `out`/{name}/{clip}.npy for every clip that has the feature, like LLP's files.

    Args:
        features: array of the study -> name in the output.
        results: R, the study's folder.
        out: folder to write to.
        form: type and shape.

    Returns:
        Array -> clips written.

    Raises:
        FileNotFoundError: there is no manifest.
        FeaturesError: an array is missing, incomplete or damaged.
        ExportError: for a shape or type that does not fit.
        OutputError: if a file cannot be written.
    """
    counts: Counter[str] = Counter()
    for array, name in features.items():
        opened = _open(results, array)
        for clips, values in _slabs(opened, manifest_clips(results), form):
            for clip, value in zip(clips["clip"], values, strict=True):
                with whole_file(out / name / f"{clip}.npy") as temporary:
                    temporary.write_bytes(_npy(value))
            counts[array] += len(clips)
    return counts


def export_webdataset(
    features: Mapping[str, str], results: Path, out: Path, form: Form = Form()
) -> Counter[str]:
    """Write `out`/{name}-{shard}.tar with {clip}.npy and {clip}.json (split, source, row, events) for each clip.

    The same array and annotations give the same bytes. Arguments, returns and errors as `export_npy`.
    """
    events = pd.read_parquet(manifest_file(results, "events.parquet"))
    columns = ["modality", "category", "onset", "offset"]
    of_clip = {clip: own[columns].to_dict("records") for clip, own in events.groupby("clip", sort=False)}
    counts: Counter[str] = Counter()
    for array, name in features.items():
        opened = _open(results, array)
        for shard, own in manifest_clips(results).groupby("shard"):
            path = out / f"{name}-{shard:06d}.tar"
            with whole_file(path) as temporary, tarfile.open(temporary, "w") as archive:
                for clips, values in _slabs(opened, own, form):
                    for row, value in zip(clips.to_dict("records"), values, strict=True):
                        about = {key: row[key] for key in ("clip", "dataset", "split", "source", "row")}
                        about["feature"] = array
                        about["events"] = [_without_nan(event) for event in of_clip.get(row["clip"], [])]
                        content = {"npy": _npy(value), "json": json.dumps(about, sort_keys=True).encode()}
                        for suffix, data in content.items():
                            add_member(archive, f"{row['clip']}.{suffix}", io.BytesIO(data), len(data))
                    counts[array] += len(clips)
    return counts


def export_ave(
    features: Mapping[str, str],
    results: Path,
    out: Path,
    form: Form = Form(),
    labels: npt.NDArray[np.bool_] | None = None,
) -> Counter[str]:
    """Write the files that AVE's code reads: {name}.h5, labels.h5, mil_labels.h5, {split}_order.h5, {split}_order_match.h5.

    Rows are the manifest's clips in its order; `clips.csv` names them. Clips of the noisy set go into {name}_noisy.h5
    and labels_noisy.h5. A clip without the feature is a row of NaN and is not in the order files, so code that follows
    these never reads it.

    Arguments, returns and errors as `export_npy` (the released files are float64), and:

    Args:
        labels: (N, T, C), the audio-visual categories of each segment of the manifest's clips
            (`avpipe.datasets.labels.manifest_labels`); None writes no label files.
    """
    clips = manifest_clips(results)
    noisy = clips["clip"].isin({noisy_clip(row) for row in range(len(clips))}).to_numpy()
    usable = np.ones(len(clips), bool)
    counts: Counter[str] = Counter()
    for array, name in features.items():
        opened = _open(results, array)
        valid = _valid(opened, clips)
        usable &= valid
        counts[array] = int(valid.sum())
        _write_rows(out / f"{name}.h5", opened, clips[~noisy], form)
        if noisy.any():
            _write_rows(out / f"{name}_noisy.h5", opened, clips[noisy], form)
    main = clips[~noisy].reset_index(drop=True)
    _write_orders(main, usable[~noisy], "split", "split_order", out, "order")
    if "match_split" in main:
        _write_orders(main, usable[~noisy], "match_split", "match_order", out, "order_match")
    write_text(out / "clips.csv", "\n".join(["clip", *main["clip"], ""]))
    if labels is not None:
        _write_h5(out / "labels.h5", KEY, _with_background(labels[~noisy]))
        _write_h5(out / "mil_labels.h5", KEY, _with_background(np.any(labels[~noisy], axis=1)))
        if noisy.any():
            _write_h5(out / "labels_noisy.h5", KEY, _with_background(np.any(labels[noisy], axis=1)))
    return counts


def _write_orders(
    clips: pd.DataFrame, usable: npt.NDArray[np.bool_], split: str, order: str, out: Path, name: str
) -> None:
    """For each split a file with the rows of its usable clips, in the order of the split."""
    for part in ("train", "val", "test"):
        chosen = clips[(clips[split] == part) & usable].sort_values(order)
        _write_h5(out / f"{part}_{name}.h5", "order", chosen.index.to_numpy(np.int64))


def _with_background(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(..., C) as one-hot (..., C + 1), with background as the last column."""
    return np.concatenate([labels, ~labels.any(-1, keepdims=True)], axis=-1).astype(np.float32)


def manifest_clips(results: Path) -> pd.DataFrame:
    """manifest.parquet. Raises FileNotFoundError where there is none."""
    path = results / "manifest.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make the manifest first (avpipe datasets manifest)")
    return pd.read_parquet(path)


def _open(results: Path, array: str) -> Features:
    return open_features(results / "features" / f"{array}.zarr")


def _valid(features: Features, clips: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(len(clips),): which of the clips have the feature."""
    rows = clips["row"].to_numpy()
    inside = rows < len(features.valid)
    return inside & features.valid[np.where(inside, rows, 0)]


def _slabs(
    features: Features, clips: pd.DataFrame, form: Form
) -> Iterator[tuple[pd.DataFrame, npt.NDArray[Any]]]:
    """The clips that have the feature, with it, some at a time."""
    form.of(features)
    found = clips[_valid(features, clips)]
    for first in range(0, len(found), SLAB):
        slab = found.iloc[first : first + SLAB]
        yield slab, form.write(features.load(slab["row"].to_numpy(np.int64)), features)


def _write_rows(path: Path, features: Features, clips: pd.DataFrame, form: Form) -> None:
    """An h5 file with one row a clip; NaN for clips without the feature."""
    shape, dtype = form.of(features)
    places = pd.Series(np.arange(len(clips)), index=clips["clip"])
    with whole_file(path) as temporary, output_errors(path), h5py.File(temporary, "w") as file:
        array = file.create_dataset(KEY, (len(clips), *shape), dtype, fillvalue=np.nan)
        for slab, values in _slabs(features, clips, form):
            array[places[slab["clip"]].to_numpy()] = values


def _write_h5(path: Path, key: str, values: npt.NDArray[Any]) -> None:
    with whole_file(path) as temporary, output_errors(path), h5py.File(temporary, "w") as file:
        file[key] = values


def _npy(value: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _without_nan(event: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The event without its NaN fields, which JSON cannot hold."""
    return {key: value for key, value in event.items() if value == value}


FORMATS: dict[str, Callable[[Mapping[str, str], Path, Path, Form], Counter[str]]] = {
    "ave": export_ave,
    "npy": export_npy,
    "webdataset": export_webdataset,
}
"""What `avpipe export --format` takes."""
