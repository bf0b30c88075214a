"""An experiment's usable clips, and batches of their features.

Features are held on the device if they fit, else in main memory, else they are read from the zarr arrays batch by
batch, one batch ahead. A run's numbers do not depend on which: the same clips make the same batches. Stored float16
stays float16 until a batch is made; batches are float32.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from avpipe.clips import manifest_file
from avpipe.features.store import Features, open_features
from avpipe.models.base import AVBatch
from avpipe.plan.experiment import Role

SPLITS = ("train", "val", "test")
TABLES = ("clips.parquet", "events.parquet", "categories.csv", "manifest.parquet")
SplitSet = Literal["usual", "match"]
"""Which splits a task uses: the usual ones, or those made for cross-modality localization."""
EXCLUDED = "excluded"
"""Status of clips left out by the study's frozen list; they may have features."""
FILL = 0.5
"""Share of free memory for features; the rest is for the model and its batches."""
SLAB = 256
"""Clips a step, in passes over all features."""


class Reader(Protocol):
    """Batches of features, by position among the usable clips."""

    where: str

    def batches(self, order: Sequence[Tensor]) -> Iterator[AVBatch]:
        """One batch for each tensor of positions; on the device, float32."""

    def finite(self) -> np.ndarray:
        """(N,) bool: all numbers of the clip are finite, in every feature."""

    def keep(self, chosen: np.ndarray) -> "Reader":
        """A reader of the chosen clips only; `chosen` is (N,) bool."""


@dataclass(frozen=True)
class Split:
    """The usable clips of a split.

    Args:
        clips: their rows of clips.parquet, in the order of the split's file.
        named: number of clips that the annotations name, usable or not.
        start: position of its first clip among all usable clips; splits follow one another.
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
        categories: names, in the order of the class indices. Background is not listed; its index is the last.
        events: events.parquet.
        splits: "train", "val" and "test"; any may be empty.
        features: role ("audio", "visual", ...) -> open array.
        digest: changes with the clips, the annotations and the features' files.
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
        """Values for a model's size options that the experiment does not set.

        `num_classes`, and for each role `{role}_dim` and `{role}_cells` (H * W; 1 where features are vectors).
        `motion_dim` is 0 without that role.
        """
        sizes = {"num_classes": len(self.categories), "motion_dim": 0}
        for role, feature in self.features.items():
            shape = feature.array.shape[2:]  # (D), (H, W, D); with a frame axis (F, D), (F, H, W, D)
            sizes[f"{role}_dim"] = int(shape[-1])
            sizes[f"{role}_cells"] = int(shape[-3] * shape[-2]) if len(shape) >= 3 else 1
        return sizes

    def counts(self) -> dict[str, int]:
        """Number of usable clips and of clips that the annotations name, for each split: `test`, `test_named` and so on."""
        usable = {name: len(split) for name, split in self.splits.items()}
        return usable | {f"{name}_named": split.named for name, split in self.splits.items()}

    def rows(self) -> np.ndarray:
        """(N,) rows of the usable clips in the feature arrays, by position."""
        return np.concatenate([split.clips["row"].to_numpy(np.int64) for split in self.splits.values()])

    def keep(self, chosen: np.ndarray) -> "Data":
        """The same with the chosen usable clips only; `chosen` is (N,) bool, by position."""
        splits, start = {}, 0
        for name, split in self.splits.items():
            own = chosen[split.start : split.start + len(split)]
            splits[name] = Split(split.clips[own].reset_index(drop=True), split.named, start)
            start += len(splits[name])
        return replace(self, splits=splits)


def open_data(
    features: Mapping[Role, str],
    results: Path,
    device: torch.device,
    resident_bytes: int | None = None,
    split_set: SplitSet = "usual",
    weak: bool = False,
) -> tuple[Data, Reader]:
    """The usable clips of a dataset, and a reader of their features.

    A clip is usable if all features that the experiment needs have it, with finite numbers only.

    Args:
        features: role -> extractor.
        results: R, the dataset's folder.
        device: where batches go.
        resident_bytes: main memory for features; None: half of what is free. Of a GPU's memory always half of what is free.
        split_set: "match" for cross-modality localization's splits; the usual ones if the annotations have no others.
        weak: use the clips of the split weak (AVE's noisy set) for training, too.

    Raises:
        FileNotFoundError: a table is missing; names it.
        FeaturesError: an array is missing, unfinished or damaged.
        ValueError: no feature is named, or their numbers of segments differ.
    """
    data = read_tables(features, results, split_set, weak)
    reader = _open_reader(data, device, resident_bytes)
    finite = reader.finite()
    return (data, reader) if finite.all() else (data.keep(finite), reader.keep(finite))


def read_tables(
    features: Mapping[Role, str], results: Path, split_set: SplitSet = "usual", weak: bool = False
) -> Data:
    """`open_data` without reading features: a clip counts as usable if the arrays have a valid row for it."""
    if not features:
        raise ValueError(
            "the experiment names no features: give `features`, for example {audio: vggish, visual: resnet152}"
        )
    for name in TABLES:
        if not (results / name).is_file():
            raise FileNotFoundError(
                f"{results / name} is missing: make it first (avpipe manifest, fetch, normalise, clips)"
            )
    arrays = {
        role: open_features(results / "features" / f"{features[role]}.zarr") for role in sorted(features)
    }
    lengths = {role: int(feature.array.shape[1]) for role, feature in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the features have different numbers of segments: {lengths}; extract them from the same clips"
        )
    clips, where = _in_file_order(results, split_set)
    usable = np.logical_and.reduce([_valid(feature, clips["row"].to_numpy()) for feature in arrays.values()])
    usable &= (clips["status"] != EXCLUDED).to_numpy()
    splits, start = {}, 0
    for name in SPLITS:
        named = np.isin(where, ["train", "weak"] if weak and name == "train" else [name])
        splits[name] = Split(clips[named & usable].reset_index(drop=True), int(named.sum()), start)
        start += len(splits[name])
    with manifest_file(results, "categories.csv").open(encoding="utf-8", newline="") as file:
        categories = tuple(row["category"] for row in csv.DictReader(file))
    events = pd.read_parquet(manifest_file(results, "events.parquet"))
    return Data(categories, events, splits, arrays, _digest(results, arrays.values()))


def feature_scales(reader: Reader, split: Split) -> dict[str, tuple[Tensor, Tensor]]:
    """Role -> mean and standard deviation of its features over a split's clips, segments and cells.

    Returns:
        Both (D,), float32, in main memory.
    """
    sums: dict[str, list[Tensor]] = {}
    for batch in reader.batches(torch.arange(split.start, split.start + len(split)).split(SLAB)):
        for role in ("audio", "visual", "motion"):
            feature = getattr(batch, role)
            if feature is not None:
                values = feature.flatten(0, -2).double()  # (B, T, ..., D) -> (rows, D)
                parts = [torch.tensor(float(len(values))), values.sum(0).cpu(), values.square().sum(0).cpu()]
                sums[role] = [a + b for a, b in zip(sums.get(role, [0.0] * 3), parts, strict=True)]
    scales = {}
    for role, (count, total, squares) in sums.items():
        mean = total / count
        scales[role] = (mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float())
    return scales


def _in_file_order(results: Path, split_set: SplitSet) -> tuple[pd.DataFrame, np.ndarray]:
    """clips.parquet in the order of the splits' files, and each clip's split, (N,)."""
    manifest = pd.read_parquet(results / "manifest.parquet").set_index("clip")
    match = split_set == "match" and "match_split" in manifest
    split, order = ("match_split", "match_order") if match else ("split", "split_order")
    clips = pd.read_parquet(results / "clips.parquet")
    place = manifest.loc[clips["clip"], [split, order]].reset_index(drop=True)
    # Weak clips come last, so that they follow those of train; the sort is stable.
    sorted_rows = np.lexsort((place[order], place[split] == "weak"))
    return clips.iloc[sorted_rows].reset_index(drop=True), place[split].to_numpy()[sorted_rows]


def _valid(feature: Features, rows: np.ndarray) -> np.ndarray:
    """(N,) bool: the array has a valid row for the clip."""
    inside = (rows >= 0) & (rows < len(feature.valid))
    return inside & np.asarray(feature.valid)[np.where(inside, rows, 0)]


def _digest(results: Path, arrays: Iterable[Features]) -> str:
    """A hash of the tables' bytes and of name, size and time of each of the arrays' files."""
    digest = hashlib.sha256()
    for name in TABLES:
        digest.update((results / name).read_bytes())
    for path in sorted(path for feature in arrays for path in feature.path.rglob("*") if path.is_file()):
        found = path.stat()
        digest.update(f"{path.relative_to(results)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _open_reader(data: Data, device: torch.device, resident_bytes: int | None) -> Reader:
    """Read the usable clips' features onto the device if they fit, else into main memory, else leave them on disk."""
    rows, features = data.rows(), data.features
    clip = sum(int(np.prod(f.array.shape[1:])) * f.array.dtype.itemsize for f in features.values())
    for place in [device] if device.type == "cpu" else [device, torch.device("cpu")]:
        given = resident_bytes if place.type == "cpu" else None
        if len(rows) * clip <= (FILL * _free(place) if given is None else given):
            return Resident({role: _load(feature, rows, place) for role, feature in features.items()}, device)
    return Lazy(features, rows, device)


class Resident:
    """Features in the memory of the device or in main memory."""

    def __init__(self, tensors: Mapping[Role, Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.where = f"features in memory ({next(iter(tensors.values())).device.type})"

    def batches(self, order: Sequence[Tensor]) -> Iterator[AVBatch]:
        """See `Reader`."""
        for positions in order:
            picked = {role: t.index_select(0, positions.to(t.device)) for role, t in self.tensors.items()}
            yield AVBatch(**{role: t.to(self.device, torch.float32) for role, t in picked.items()})

    def finite(self) -> np.ndarray:
        """See `Reader`."""
        tensors = self.tensors.values()
        per_clip = [
            torch.cat([t.isfinite().flatten(1).all(1) for t in tensor.split(SLAB)]) for tensor in tensors
        ]
        return torch.stack(per_clip).all(0).cpu().numpy()  # (features, N) -> (N,)

    def keep(self, chosen: np.ndarray) -> "Resident":
        """See `Reader`."""
        mask = torch.from_numpy(chosen)
        return Resident(
            {role: tensor[mask.to(tensor.device)] for role, tensor in self.tensors.items()}, self.device
        )


class Lazy:
    """Features read from their zarr arrays, one batch ahead, in a thread."""

    def __init__(self, features: Mapping[Role, Features], rows: np.ndarray, device: torch.device) -> None:
        self.features, self.rows, self.device = features, rows, device
        self.where = "features on disk (larger than the memory that is free)"

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

    def finite(self) -> np.ndarray:
        """See `Reader`. Reads the arrays once; training does so in every epoch."""
        finite = np.ones(len(self.rows), bool)
        for first in range(0, len(finite), SLAB):
            for block in self._read(np.arange(first, min(first + SLAB, len(finite)))).values():
                finite[first : first + SLAB] &= np.isfinite(block).reshape(len(block), -1).all(1)
        return finite

    def keep(self, chosen: np.ndarray) -> "Lazy":
        """See `Reader`."""
        return Lazy(self.features, self.rows[chosen], self.device)

    def _read(self, positions: np.ndarray) -> dict[Role, np.ndarray]:
        return {role: feature.load(self.rows[positions]) for role, feature in self.features.items()}

    def _batch(self, read: dict[Role, np.ndarray]) -> AVBatch:
        return AVBatch(**{r: torch.from_numpy(a).to(self.device, torch.float32) for r, a in read.items()})


def _load(feature: Features, rows: np.ndarray, place: torch.device) -> Tensor:
    """Rows of an array as one tensor of the stored type, read in slabs so that no second copy of them is in memory."""
    dtype = torch.from_numpy(np.empty(0, feature.array.dtype)).dtype
    tensor = torch.empty((len(rows), *feature.array.shape[1:]), dtype=dtype, device=place)
    for first in range(0, len(rows), SLAB):
        tensor[first : first + SLAB] = torch.from_numpy(feature.load(rows[first : first + SLAB]))
    return tensor


def _free(place: torch.device) -> int:
    """Free bytes of a device's memory, or of main memory within the limit of a container or batch job."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # counts memory that the page cache can give back
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)
