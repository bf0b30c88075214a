"""An experiment's clips and features: which clips can be used, and batches of their features.

Features are held in memory, on the device where they fit; else in the computer's memory; else they are read from
the zarr arrays batch by batch, one batch ahead. The numbers of a run do not depend on which: the same clips make
the same batches. Stored float16 stays float16 until a batch is made, which is float32.
"""

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avpipe.experiment import Role
from avpipe.features.store import Features, open_features
from avpipe.models.base import AVBatch

SPLITS = ("train", "val", "test")
FILL = 0.5
"""The share of free memory that features may take; the rest is for the model and its batches."""


class Reader(Protocol):
    """Batches of features by position among the usable clips."""

    where: str

    def batches(self, order: Sequence[Tensor]) -> Iterator[AVBatch]:
        """One batch for each tensor of positions, on the device, float32."""


@dataclass(frozen=True)
class Split:
    """The usable clips of a split.

    Args:
        clips: their rows of clips.parquet, in the annotations' order.
        named: clips that the annotations name, usable or not.
        start: position of the first among the usable clips of all splits, which lie one after another.
    """

    clips: pd.DataFrame
    named: int
    start: int

    def __len__(self) -> int:
        return len(self.clips)


@dataclass(frozen=True)
class Data:
    """What an experiment is trained and evaluated on.

    Args:
        categories: names, in the order of the class indices; background, not listed, is the last class.
        events: events.parquet.
        splits: "train", "val" and "test"; any may be empty.
        features: role ("audio", "visual", ...) -> open array.
        digest: changes when the clips, the annotations or a feature's files do.
    """

    categories: tuple[str, ...]
    events: pd.DataFrame
    splits: dict[str, Split]
    features: Mapping[Role, Features]
    digest: str

    @property
    def segments(self) -> int:
        """T."""
        return int(next(iter(self.features.values())).array.shape[1])

    def sizes(self) -> dict[str, int]:
        """What a model's arguments of these names are when the experiment does not set them.

        `num_classes`, and for each role `{role}_dim` and `{role}_cells` (H * W; 1 where features are vectors).
        """
        sizes = {"num_classes": len(self.categories)}
        for role, feature in self.features.items():
            shape = feature.array.shape[2:]  # (D), (H, W, D); with a frame axis (F, D), (F, H, W, D)
            sizes[f"{role}_dim"] = int(shape[-1])
            sizes[f"{role}_cells"] = int(shape[-3] * shape[-2]) if len(shape) >= 3 else 1
        return sizes

    def counts(self) -> dict[str, int]:
        """Usable clips a split, and clips that the annotations name, for example `test` and `test_named`."""
        usable = {name: len(split) for name, split in self.splits.items()}
        return usable | {f"{name}_named": split.named for name, split in self.splits.items()}

    def rows(self) -> np.ndarray:
        """(N,) rows of the usable clips in the feature arrays, in the order of positions."""
        return np.concatenate([split.clips["row"].to_numpy(np.int64) for split in self.splits.values()])


def load_data(features: Mapping[Role, str], results: Path) -> Data:
    """Read the tables of a dataset and open the features.

    A clip is usable if every feature that the experiment needs is valid for it.

    Args:
        features: role -> extractor.
        results: R, the dataset's folder.

    Raises:
        FileNotFoundError: a table or an array is missing; names it.
        ValueError: no feature is asked for, or features of different segments.
    """
    if not features:
        raise ValueError(
            "the experiment names no features: give `features`, for example {audio: vggish, visual: resnet152}"
        )
    for name in ("clips.parquet", "events.parquet", "categories.csv"):
        if not (results / name).is_file():
            raise FileNotFoundError(
                f"{results / name} is missing: make it first (avpipe manifest, fetch, normalise, clips)"
            )
    arrays = {}
    for role, extractor in sorted(features.items()):
        folder = results / "features" / f"{extractor}.zarr"
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is missing: extract {extractor} first (avpipe features extract)"
            )
        arrays[role] = open_features(folder)
    lengths = {role: int(feature.array.shape[1]) for role, feature in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the features have different numbers of segments: {lengths}; extract them from the same clips"
        )
    clips = pd.read_parquet(results / "clips.parquet")
    usable = np.logical_and.reduce([_valid(feature, clips["row"].to_numpy()) for feature in arrays.values()])
    splits, start = {}, 0
    for name in SPLITS:
        named = (clips["split"] == name).to_numpy()
        splits[name] = Split(clips[named & usable].reset_index(drop=True), int(named.sum()), start)
        start += len(splits[name])
    with (results / "categories.csv").open(encoding="utf-8", newline="") as file:
        categories = tuple(row["category"] for row in csv.DictReader(file))
    return Data(
        categories, pd.read_parquet(results / "events.parquet"), splits, arrays, _digest(results, features)
    )


def _valid(feature: Features, rows: np.ndarray) -> np.ndarray:
    """(N,) bool: the clip's row exists in the array and is valid."""
    inside = (rows >= 0) & (rows < len(feature.valid))
    return inside & np.asarray(feature.valid)[np.where(inside, rows, 0)]


def _digest(results: Path, features: Mapping[Role, str]) -> str:
    """A hash of the tables' bytes and of name, size and time of every file of the arrays."""
    digest = hashlib.sha256()
    for name in ("clips.parquet", "events.parquet", "categories.csv"):
        digest.update((results / name).read_bytes())
    for extractor in sorted(set(features.values())):
        for path in sorted((results / "features" / f"{extractor}.zarr").rglob("*")):
            if path.is_file():
                digest.update(
                    f"{path.relative_to(results)} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode()
                )
    return digest.hexdigest()


def open_reader(data: Data, device: torch.device, resident_bytes: int | None = None) -> Reader:
    """Hold the usable clips' features where they fit.

    Args:
        data: what to read.
        device: where batches go.
        resident_bytes: memory that features may take, on the device as in the computer; None: half of what is free.
    """
    rows, arrays = data.rows(), {role: feature.array for role, feature in data.features.items()}
    need = sum(len(rows) * int(np.prod(array.shape[1:])) * array.dtype.itemsize for array in arrays.values())
    places = [device, torch.device("cpu")] if device.type != "cpu" else [device]
    for place in places:
        if need <= (FILL * _free(place) if resident_bytes is None else resident_bytes):
            return Resident({role: _load(array, rows, place) for role, array in arrays.items()}, device)
    return Lazy(arrays, rows, device)


class Resident:
    """Features in memory, of the device or of the computer."""

    def __init__(self, tensors: Mapping[Role, Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.where = f"in memory ({next(iter(tensors.values())).device.type})"

    def batches(self, order: Sequence[Tensor]) -> Iterator[AVBatch]:
        """See `Reader`."""
        for positions in order:
            picked = {role: t.index_select(0, positions.to(t.device)) for role, t in self.tensors.items()}
            yield AVBatch(**{role: t.to(self.device, torch.float32) for role, t in picked.items()})


class Lazy:
    """Features in their zarr arrays; a thread reads one batch ahead."""

    def __init__(self, arrays: Mapping[Role, Any], rows: np.ndarray, device: torch.device) -> None:
        self.arrays, self.rows, self.device = arrays, rows, device
        self.where = "on disk (larger than the memory that is free)"

    def batches(self, order: Sequence[Tensor]) -> Iterator[AVBatch]:
        """See `Reader`."""
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for positions in order:
                waiting, ahead = ahead, reader.submit(self._read, positions.cpu().numpy())
                if waiting is not None:
                    yield self._batch(waiting.result())
            if ahead is not None:
                yield self._batch(ahead.result())

    def _read(self, positions: np.ndarray) -> dict[Role, np.ndarray]:
        rows, inverse = np.unique(self.rows[positions], return_inverse=True)  # zarr reads sorted rows best
        return {role: np.asarray(array.oindex[rows])[inverse] for role, array in self.arrays.items()}

    def _batch(self, read: dict[Role, np.ndarray]) -> AVBatch:
        return AVBatch(**{r: torch.from_numpy(a).to(self.device, torch.float32) for r, a in read.items()})


def _load(array: Any, rows: np.ndarray, place: torch.device) -> Tensor:
    """The rows of a zarr array as one tensor of the stored type, read a zarr shard at a time."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    tensor = torch.empty((len(rows), *array.shape[1:]), dtype=dtype, device=place)
    shard = (array.shards or array.chunks)[0]
    for first in range(0, array.shape[0], shard):
        (positions,) = np.nonzero((rows >= first) & (rows < first + shard))
        if len(positions):
            block = np.asarray(array[first : first + shard])[rows[positions] - first]
            tensor[torch.from_numpy(positions).to(place)] = torch.from_numpy(block).to(place)
    return tensor


def _free(place: torch.device) -> int:
    """Free bytes of a device's memory or, within the limit of a container or a batch job, of the computer's."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # what the page cache would give back counts as free
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)
