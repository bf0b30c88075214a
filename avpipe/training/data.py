"""An experiment's usable clips, and datasets of their features and labels.

Features are held on the device if they fit, else in main memory, else they are read from the zarr arrays batch by
batch, one batch ahead. A run's numbers do not depend on which: the same clips make the same batches. Stored float16
stays float16 until a batch is made; batches are float32.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from avpipe.clips import manifest_file
from avpipe.datasets.labels import read_categories
from avpipe.features.store import Features, open_features
from avpipe.models.base import FeatureBatch
from avpipe.plan.experiment import Role
from avpipe.plan.resources import free_memory

SPLITS = ("train", "val", "test")
TABLES = ("clips.parquet", "events.parquet", "categories.csv", "manifest.parquet")
SplitSet = Literal["usual", "match"]
"""Which splits a task uses: the usual ones, or those made for cross-modality localization."""
EXCLUDED = "excluded"
"""Status of clips left out by the study's frozen list; they may have features."""
FILL = 0.5
"""Share of free memory for features; the rest is for the model and its batches."""
EVALUATION_BATCH = 128
SLAB = 256
"""Clips a step, in passes over all features."""


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
        store: reads features by position.
    """

    categories: tuple[str, ...]
    events: pd.DataFrame
    splits: dict[str, Split]
    features: Mapping[Role, Features]
    digest: str
    store: "FeatureStore"

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

    def keep(self, chosen: np.ndarray) -> "Data":
        """The same with the chosen usable clips only; `chosen` is (N,) bool, by position."""
        splits, start = {}, 0
        for name, split in self.splits.items():
            own = chosen[split.start : split.start + len(split)]
            splits[name] = Split(split.clips[own].reset_index(drop=True), split.named, start)
            start += len(splits[name])
        return replace(self, splits=splits, store=self.store.keep(chosen))


def open_data(
    features: Mapping[Role, str],
    results: Path,
    device: torch.device,
    resident_bytes: int | None = None,
    split_set: SplitSet = "usual",
    weak: bool = False,
) -> Data:
    """The usable clips of a dataset, and their features in memory if they fit.

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
    data = replace(data, store=data.store.load(device, resident_bytes))
    finite = data.store.finite()
    return data if finite.all() else data.keep(finite)


def read_tables(
    features: Mapping[Role, str], results: Path, split_set: SplitSet = "usual", weak: bool = False
) -> Data:
    """`open_data` without reading features: a clip counts as usable if the arrays have a valid row for it."""
    if not features:
        raise ValueError(
            "the experiment names no features: give `features`, for example {audio: vggish, visual: resnet152}"
        )
    arrays = {
        role: open_features(results / "features" / f"{features[role]}.zarr") for role in sorted(features)
    }
    lengths = {role: int(feature.array.shape[1]) for role, feature in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the features have different numbers of segments: {lengths}; extract them from the same clips"
        )

    def usable(clips: pd.DataFrame) -> np.ndarray:
        rows = clips["row"].to_numpy()
        valid: np.ndarray = np.logical_and.reduce([_valid(feature, rows) for feature in arrays.values()])
        return valid

    files = [file for feature in arrays.values() for file in feature.path.rglob("*") if file.is_file()]
    return data_of(results, arrays, usable, files, split_set, weak)


def data_of(
    results: Path,
    arrays: Mapping[Role, Features],
    usable_of: Callable[[pd.DataFrame], np.ndarray],
    files: Iterable[Path],
    split_set: SplitSet = "usual",
    weak: bool = False,
) -> Data:
    """A dataset's usable clips in the order of the splits' files.

    Args:
        results: R, the dataset's folder.
        arrays: role -> open array; none for clips that are read themselves.
        usable_of: rows of clips.parquet -> (N,) bool.
        files: what the clips are read from; the digest changes with them.
        split_set, weak: as for `open_data`.

    Raises:
        FileNotFoundError: a table is missing; names it.
    """
    for name in TABLES:
        if not (results / name).is_file():
            raise FileNotFoundError(
                f"{results / name} is missing: make it first (avpipe manifest, fetch, normalise, clips)"
            )
    clips, where = _in_file_order(results, split_set)
    usable = usable_of(clips) & (clips["status"] != EXCLUDED).to_numpy()
    splits, start = {}, 0
    for name in SPLITS:
        named = np.isin(where, ["train", "weak"] if weak and name == "train" else [name])
        splits[name] = Split(clips[named & usable].reset_index(drop=True), int(named.sum()), start)
        start += len(splits[name])
    categories = read_categories(results)
    events = pd.read_parquet(manifest_file(results, "events.parquet"))
    rows = np.concatenate([split.clips["row"].to_numpy(np.int64) for split in splits.values()])
    store = FeatureStore(arrays, rows, torch.device("cpu"))
    return Data(categories, events, splits, arrays, _digest(results, files), store)


def feature_scales(data: Data, split: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Role -> mean and standard deviation of its features over a split's clips, segments and cells.

    Returns:
        Both (D,), float32, in main memory.
    """
    sums: dict[str, list[Any]] = {}
    first = data.splits[split].start
    for positions in torch.arange(first, first + len(data.splits[split])).split(SLAB):
        for role, feature in data.store.read(positions).items():
            values = feature.flatten(0, -2).double()  # (B, T, ..., D) -> (rows, D)
            parts = [torch.tensor(float(len(values))), values.sum(0).cpu(), values.square().sum(0).cpu()]
            sums[role] = [a + b for a, b in zip(sums.get(role, [0.0] * 3), parts, strict=True)]
    scales = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        scales[name] = (mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float())
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


def _digest(results: Path, files: Iterable[Path]) -> str:
    """A hash of the tables' bytes and of name, size and time of each of the files."""
    digest = hashlib.sha256()
    for name in TABLES:
        digest.update((results / name).read_bytes())
    for path in sorted(files):
        found = path.stat()
        digest.update(f"{path.relative_to(results)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class FeatureStore:
    """Features of clips by position: on the device, in main memory, or left on disk.

    Args:
        features: role -> open array.
        rows: (N,), each clip's row in the arrays.
        device: where the features that are read go.
        tensors: role -> (N, T, ...), if they are in memory.
    """

    def __init__(
        self,
        features: Mapping[Role, Features],
        rows: np.ndarray,
        device: torch.device,
        tensors: Mapping[Role, Tensor] | None = None,
    ) -> None:
        self.features, self.rows, self.device, self.tensors = features, rows, device, tensors

    @property
    def where(self) -> str:
        """Where the features are, for the log."""
        if not self.features:
            return "clips decoded in the job"
        if self.tensors is None:
            return "features on disk (larger than the memory for them)"
        return f"features in memory ({next(iter(self.tensors.values())).device.type})"

    def load(self, device: torch.device, resident_bytes: int | None) -> "FeatureStore":
        """The same clips, loaded onto the device if they fit, else into main memory, else left on disk."""
        clip = sum(int(np.prod(f.array.shape[1:])) * f.array.dtype.itemsize for f in self.features.values())
        for place in [device] if device.type == "cpu" else [device, torch.device("cpu")]:
            given = resident_bytes if place.type == "cpu" else None
            if len(self.rows) * clip <= (FILL * _free(place) if given is None else given):
                tensors = {role: _load(feature, self.rows, place) for role, feature in self.features.items()}
                return FeatureStore(self.features, self.rows, device, tensors)
        return FeatureStore(self.features, self.rows, device)

    def read(self, positions: Tensor) -> dict[Role, Tensor]:
        """Role -> (len(positions), T, ...) float32, on the device."""
        if self.tensors is None:
            rows = self.rows[positions.numpy()]
            found = {role: torch.from_numpy(f.load(rows)) for role, f in self.features.items()}
        else:
            found = {role: t.index_select(0, positions.to(t.device)) for role, t in self.tensors.items()}
        return {role: tensor.to(self.device, torch.float32) for role, tensor in found.items()}

    def finite(self) -> np.ndarray:
        """(N,) bool: all numbers of the clip are finite, in every feature. Reads the arrays that are on disk once."""
        finite = torch.ones(len(self.rows), dtype=torch.bool)
        for positions in torch.arange(len(self.rows)).split(SLAB):
            for role, feature in self.features.items():
                if self.tensors is None:
                    block = torch.from_numpy(feature.load(self.rows[positions.numpy()]))
                else:
                    block = self.tensors[role][positions[0] : positions[-1] + 1]
                finite[positions] &= block.isfinite().flatten(1).all(1).cpu()
        return finite.numpy()

    def keep(self, chosen: np.ndarray) -> "FeatureStore":
        """The chosen clips only; `chosen` is (N,) bool."""
        tensors = None
        if self.tensors is not None:
            tensors = {role: t[torch.from_numpy(chosen).to(t.device)] for role, t in self.tensors.items()}
        return FeatureStore(self.features, self.rows[chosen], self.device, tensors)


class FeatureClips(Dataset[FeatureBatch]):
    """The clips of a split with their labels, as a torch Dataset.

    An item is a batch type's object without its first axis. `__getitems__` reads many clips at once; give
    `collate_fn=avpipe.training.data.collate` to torch's DataLoader.

    Args:
        store: of the features.
        split: the clips.
        batch: the task's type.
        labels: field of `batch` -> tensor, first axis the split's clips.
    """

    def __init__(
        self, store: FeatureStore, split: Split, batch: type[FeatureBatch], labels: Mapping[str, Tensor]
    ) -> None:
        self.store, self.start, self.batch = store, split.start, batch
        self.names: list[str] = split.clips["clip"].tolist()
        self.labels = {name: label.to(store.device) for name, label in labels.items()}
        self.read_ahead = store.tensors is None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> FeatureBatch:
        one = self.__getitems__([index])
        values = ((each.name, getattr(one, each.name)) for each in fields(one))
        item: dict[str, Any] = {name: value if value is None else value[0] for name, value in values}
        return self.batch(**item)

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        """The clips at these positions in the split, as one batch on the device."""
        indices = [range(len(self))[index] for index in indices]  # IndexError beyond the end; -1 is the last
        positions = torch.tensor(indices)
        labels = {n: label.index_select(0, positions.to(label.device)) for n, label in self.labels.items()}
        names = [self.names[index] for index in indices]
        return self.batch(**self.store.read(positions + self.start), **labels, clips=names)


def collate(items: Any) -> Any:
    """A batch from a dataset's items: dataclasses of tensors and names, stacked field by field.

    What `__getitems__` returned as a whole batch stays as it is; other items are collated as torch does.
    """
    if not isinstance(items, list):
        return items
    if not is_dataclass(items[0]):
        return default_collate(items)
    stacked: dict[str, Any] = {}
    for each in fields(items[0]):
        values = [getattr(item, each.name) for item in items]
        stacked[each.name] = torch.stack(values) if isinstance(values[0], Tensor) else values
        if values[0] is None:
            stacked[each.name] = None
    kind: Any = type(items[0])
    return kind(**stacked)


class Loader:
    """A dataset's batches in a given order, once. Draws nothing from torch's global generator, as its DataLoader does.

    Args:
        dataset: of items that `collate` takes; `workers` of it, if it has this attribute, decode in processes;
            `read_ahead: true` reads the next batch in a thread while the last one is used.
        batches: positions in the dataset.
        device: where batches go.
    """

    def __init__(self, dataset: Dataset[Any], batches: Sequence[Sequence[int]], device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        workers = getattr(dataset, "workers", 0)
        self.loader = DataLoader(
            dataset,
            batch_sampler=[list(batch) for batch in batches],
            collate_fn=collate,
            num_workers=workers,
            generator=torch.Generator(),
        )
        self.ahead = getattr(dataset, "read_ahead", False) and not workers

    def __iter__(self) -> Iterator[Any]:
        batches = one_ahead(self.loader) if self.ahead else self.loader
        return (on_device(batch, self.device) for batch in batches)


def in_order(dataset: Dataset[Any], device: torch.device, size: int | None = None) -> Loader:
    """All clips of a dataset in its order, for evaluation, `size` together: default, as many as its `together` says."""
    count = len(dataset)  # type: ignore[arg-type]
    together: int = getattr(dataset, "together", EVALUATION_BATCH) if size is None else size
    batches = [list(range(first, min(first + together, count))) for first in range(0, count, together)]
    return Loader(dataset, batches, device)


def one_ahead(batches: Iterable[Any]) -> Iterator[Any]:
    """The same, while a thread makes the next one."""
    iterator, end = iter(batches), object()
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, iterator, end)
        while (batch := waiting.result()) is not end:
            waiting = reader.submit(next, iterator, end)
            yield batch


def on_device(batch: Any, device: torch.device) -> Any:
    """A batch, a dataclass of tensors, with its tensors on the device."""
    tensors = {each.name: getattr(batch, each.name) for each in fields(batch)}
    moved = {n: t.to(device) for n, t in tensors.items() if isinstance(t, Tensor) and t.device != device}
    return replace(batch, **moved) if moved else batch


def _load(feature: Features, rows: np.ndarray, place: torch.device) -> Tensor:
    """Rows of an array as one tensor of the stored type, read in slabs so that no second copy of them is in memory."""
    dtype = torch.from_numpy(np.empty(0, feature.array.dtype)).dtype
    tensor = torch.empty((len(rows), *feature.array.shape[1:]), dtype=dtype, device=place)
    for first in range(0, len(rows), SLAB):
        tensor[first : first + SLAB] = torch.from_numpy(feature.load(rows[first : first + SLAB]))
    return tensor


def _free(place: torch.device) -> int:
    """Free bytes of a device's memory, or of main memory."""
    return int(torch.cuda.mem_get_info(place)[0]) if place.type == "cuda" else free_memory()
