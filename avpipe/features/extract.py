"""Computes the features of one shard. Each clip is read and decoded once for all extractors.

Threads decode a few clips ahead. Meanwhile the main thread stacks segments into batches, which may
span several clips, and computes. Memory holds a few clips, a few batches and the shard's features. A batch holds whole
segments, so the average over a segment's frames never needs two batches.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avpipe.features.backbones import Extractor, create_extractor
from avpipe.features.device import claim_device, default_locks
from avpipe.features.spec import backbone_of, check_extractors, feature_shape, modality, network_modules
from avpipe.features.store import write_shard
from avpipe.files import read_json
from avpipe.media.logmel import seconds_of
from avpipe.media.presets import Preset
from avpipe.media.segments import Clip, Rule, VideoFrames, decode_audio, frame_indices, read_shard
from avpipe.plan import fingerprint
from avpipe.plan.extractor import ExtractorConfig
from avpipe.progress import Progress

_CLIPS_AHEAD = 2
_RESULTS_UNDER_WAY = 2


class ExtractionError(ValueError):
    """A shard cannot be extracted; the message names the file and the clip."""


Picks = tuple[int, Rule]
"""Frames per second, and the rule that chooses them."""


@dataclass
class Decoded:
    """A decoded clip, in segments.

    Args:
        clip: its name.
        row: its row inside the shard.
        pictures: picks -> (T, fps, H, W, 3) uint8; None without video.
        sound: (T, 16000) float32; None without audio.
        seconds: how long decoding took.
    """

    clip: str
    row: int
    pictures: dict[Picks, npt.NDArray[np.uint8]] | None
    sound: npt.NDArray[np.float32] | None
    seconds: float


@dataclass
class Batch:
    """Segments for one extractor, and the places of their features in the array."""

    extractor: str
    segments: Tensor
    rows: list[int]
    numbers: list[int]
    clips: list[str]


@dataclass
class Timings:
    """Counts and times of the job, for the log and the benchmarks."""

    clips: int = 0
    seconds_setup: float = 0.0
    seconds_decode: float = 0.0
    seconds_compute: float = 0.0
    seconds_wait: float = 0.0
    segments: dict[str, int] = field(default_factory=dict)


def extract_shard(
    segments: Path,
    manifest: Path,
    shard: int,
    extractors: Mapping[str, ExtractorConfig],
    out: Path,
    *,
    device: str = "auto",
    weights_folder: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Compute features of one shard and write one file per extractor.

    Args:
        segments: the shard's tar of canonical clips.
        manifest: manifest.json, which gives the number of rows and the size of a shard.
        shard: its number.
        extractors: name of the array -> what to compute; all read clips of one preset.
        out: the folder features/; arrays are out/{name}.zarr.
        device: "auto", "cpu", "cuda" or "cuda:N".
        weights_folder: folder of published weights; needed for `weights: pretrained`.
        threads: of the CPU; None: one for each core that this process may use.

    Returns:
        Timings: clips, seconds (all, decode summed over threads, compute, wait for decoding), segments and
        segments per second of each extractor, device; the runtime of each extractor and its drift from float32.

    Raises:
        ExtractionError: for a clip that does not belong to the shard, cannot be decoded, or has a feature that
            is not a number or too large for float16.
        ConfigError, WeightsError, DeviceError, OutputError: see their classes.
    """
    started = time.perf_counter()
    check_extractors(extractors)
    preset, *more = {config.preset for config in extractors.values()}
    if more:
        raise ValueError(
            f"extractors of one job read clips of one preset, found {preset.name}, {more[0].name}"
        )
    index = read_json(manifest)
    size, rows = int(index["shard_size"]), int(index["rows"])
    threads = threads or _cores()
    torch.set_num_threads(threads)
    timings = Timings()
    clips = min(size, rows)  # the same for all shards, so that one runtime computes the array
    with claim_device(device, default_locks()) as place:
        # decoding competes with the network if both use the CPU
        workers = 1 if place.type == "cpu" else max(2, threads - 1)
        before = time.perf_counter()
        networks = {n: create_extractor(c, place, weights_folder, clips) for n, c in extractors.items()}
        timings.seconds_setup = time.perf_counter() - before
        found = {n: np.full((size, *feature_shape(c)), np.nan, c.dtype) for n, c in extractors.items()}
        others = f" and {len(extractors) - 1} more" if len(extractors) > 1 else ""
        what = f"extract shard {shard}, {next(iter(extractors))}{others}"
        progress = Progress(what, min(size, rows - shard * size), "clips")
        decoded = _decoded_clips(
            segments, shard, size, _needs(extractors, preset), workers, timings, progress
        )
        batches = _batches(decoded, extractors, pin=place.type == "cuda")
        _compute(batches, networks, found, place, timings)
    for name, network in networks.items():
        identity, about = _attributes(network)
        identity |= {"extractor": name, "dataset": index["dataset"]}
        write_shard(out / f"{name}.zarr", extractors[name], shard, rows, found[name], identity, about)
    return _report(timings, time.perf_counter() - started, str(place), networks)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Needs = tuple[Preset, set[Picks], bool]
"""The clips' format, the frames that the extractors read, and whether one of them reads audio."""


def _needs(extractors: Mapping[str, ExtractorConfig], preset: Preset) -> Needs:
    picks = {(config.fps, config.frames) for config in extractors.values() if modality(config) == "video"}
    return preset, picks, any(modality(config) == "audio" for config in extractors.values())


def _decoded_clips(
    tar: Path,
    shard: int,
    size: int,
    needs: Needs,
    workers: int,
    timings: Timings,
    progress: Progress,
) -> Iterator[Decoded]:
    """The shard's clips in their order, decoded by `workers` threads. `_CLIPS_AHEAD` decoded clips may wait.

    When the next clip is asked for, the features of the one before are computed, and `progress` gets to its row.
    """

    def given(decoded: Decoded) -> Iterator[Decoded]:
        timings.clips += 1
        timings.seconds_decode += decoded.seconds
        yield decoded
        progress.advance(decoded.row + 1 - progress.done)

    with ThreadPoolExecutor(workers, "decode") as pool:
        ahead: deque[Future[Decoded]] = deque()
        for clip in read_shard(tar):
            row = clip.row - shard * size
            if not 0 <= row < size:
                raise ExtractionError(
                    f"{tar}: clip {clip.clip} has row {clip.row}, which is not in shard {shard} of {size} clips; "
                    "normalise the shard again"
                )
            ahead.append(pool.submit(_decode, tar, clip, row, needs))
            if len(ahead) >= workers + _CLIPS_AHEAD:
                yield from given(ahead.popleft().result())
        while ahead:
            yield from given(ahead.popleft().result())


def _decode(tar: Path, clip: Clip, row: int, needs: Needs) -> Decoded:
    started = time.perf_counter()
    preset, picks, sound_needed = needs
    pictures, sound = None, None
    try:
        if clip.video is not None and picks:
            pictures = _pictures(clip.video, preset, picks)
        if clip.audio is not None and sound_needed:
            sound = seconds_of(decode_audio(clip.audio, preset), preset.sample_rate)
    except ValueError as error:
        raise ExtractionError(f"{tar}: clip {clip.clip}: {error}; normalise the shard again") from error
    return Decoded(clip.clip, row, pictures, sound, time.perf_counter() - started)


def _pictures(video: bytes, preset: Preset, picks: set[Picks]) -> dict[Picks, npt.NDArray[np.uint8]]:
    """Picks -> frames (T, fps, H, W, 3). Every frame that is needed is decoded once."""
    indices = {(fps, rule): frame_indices(fps, preset, rule) for fps, rule in picks}
    every = np.unique(np.concatenate(list(indices.values())))
    frames = VideoFrames(video, preset).at(every)
    return {
        pick: frames[np.searchsorted(every, wanted)].reshape(preset.segments, pick[0], *frames.shape[1:])
        for pick, wanted in indices.items()
    }


def _batches(
    clips: Iterator[Decoded], extractors: Mapping[str, ExtractorConfig], pin: bool
) -> Iterator[Batch]:
    """Batches of whole segments for each extractor, across clips, in the order of the clips."""
    gathered: dict[str, list[tuple[Decoded, int, npt.NDArray[Any]]]] = {name: [] for name in extractors}
    for decoded in clips:
        for name, config in extractors.items():
            pictures = (decoded.pictures or {}).get((config.fps, config.frames))
            raw = decoded.sound if modality(config) == "audio" else pictures
            if raw is None:
                continue
            waiting = gathered[name]
            if waiting and waiting[0][2].shape != raw[0].shape:  # pictures that keep their proportions
                yield _batch(name, waiting, pin)
                waiting.clear()
            waiting += [(decoded, number, segment) for number, segment in enumerate(raw)]
            full = _segments_a_batch(config)
            while len(waiting) >= full:
                yield _batch(name, waiting[:full], pin)
                del waiting[:full]
    for name, waiting in gathered.items():
        if waiting:
            yield _batch(name, waiting, pin)


def _segments_a_batch(config: ExtractorConfig) -> int:
    """Segments in a batch, at least one. `batch_size` counts frames for a 2D network, else segments."""
    pictures = config.fps if backbone_of(config.backbone).kind == "2d" else 1
    return max(1, config.batch_size // pictures)


def _batch(name: str, items: list[tuple[Decoded, int, npt.NDArray[Any]]], pin: bool) -> Batch:
    stacked = torch.from_numpy(np.stack([segment for _, _, segment in items]))
    return Batch(
        name,
        stacked.pin_memory() if pin else stacked,
        [decoded.row for decoded, _, _ in items],
        [number for _, number, _ in items],
        [decoded.clip for decoded, _, _ in items],
    )


def _compute(
    batches: Iterator[Batch],
    networks: Mapping[str, Extractor],
    results: Mapping[str, npt.NDArray[Any]],
    place: torch.device,
    timings: Timings,
) -> None:
    """Run every batch and put its features where they belong."""
    transfer = Transfer(place)
    under_way: deque[tuple[Batch, Tensor, Any]] = deque()
    last = time.perf_counter()
    # no TF32: float32 is exact on a GPU too; deterministic: the same input gives the same bytes
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        for batch in batches:
            got = time.perf_counter()
            timings.seconds_wait += got - last
            features = networks[batch.extractor](transfer.to_device(batch.segments))
            under_way.append((batch, *transfer.to_host(features)))
            while len(under_way) > (_RESULTS_UNDER_WAY if transfer.asynchronous else 0):
                _keep(*under_way.popleft(), results, timings)
            last = time.perf_counter()
            timings.seconds_compute += last - got
        while under_way:
            _keep(*under_way.popleft(), results, timings)
        timings.seconds_compute += time.perf_counter() - last


class Transfer:
    """Copies between host and device, on a GPU at the same time as the computation."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
        self.asynchronous = place.type == "cuda"
        self.stream = torch.cuda.Stream(place) if self.asynchronous else None

    def to_device(self, segments: Tensor) -> Tensor:
        """Pinned segments, on the device once the computing stream gets to them."""
        if self.stream is None:
            return segments
        with torch.cuda.stream(self.stream):
            copied = segments.to(self.place, non_blocking=True)
        computing = torch.cuda.current_stream(self.place)
        computing.wait_stream(self.stream)
        copied.record_stream(computing)
        return copied

    def to_host(self, features: Tensor) -> tuple[Tensor, Any]:
        """Features on the host, complete once the event that is given with them has happened."""
        if not self.asynchronous:
            return features, None
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event


def _keep(
    batch: Batch, features: Tensor, event: Any, results: Mapping[str, npt.NDArray[Any]], timings: Timings
) -> None:
    """Put the features of a batch into the shard's array. Raises `ExtractionError` for values that cannot be stored."""
    if event is not None:
        event.synchronize()
    result = results[batch.extractor]
    values = features.numpy()
    with np.errstate(over="ignore"):
        stored = values.astype(result.dtype, copy=False)
    good = np.isfinite(stored).reshape(len(stored), -1).all(1)
    if not good.all():
        worst = int(np.argmin(good))
        where = f"{batch.extractor}, clip {batch.clips[worst]}, segment {batch.numbers[worst]}"
        if np.isfinite(values[worst]).all():
            largest = np.abs(values[worst]).max()
            raise ExtractionError(f"{where}: {largest:.3g} is too large for float16; set `dtype: float32`")
        raise ExtractionError(
            f"{where}: the network gave a value that is not a number; set `precision: float32`"
        )
    result[batch.rows, batch.numbers] = stored
    timings.segments[batch.extractor] = timings.segments.get(batch.extractor, 0) + len(stored)


def _attributes(extractor: Extractor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes that must be equal in all shards of an array, and attributes that may differ."""
    config = extractor.config.model_dump(mode="json", exclude={"batch_size"})
    identity = {
        "config": config,
        "fps": config["fps"] if modality(extractor.config) == "video" else None,
        "weights": extractor.identity.source,
        "sha256": extractor.identity.state_sha256,
        "weights_files": extractor.identity.files,
        "preprocessing": extractor.preprocessing,
    }
    environment = fingerprint.environment()
    environment.pop("cores")  # has no influence on the features
    # One entry of the array's `environments` for each runtime that made shards of it.
    environment |= {
        "runtime": extractor.network.runtime,
        "drift_from_float32": extractor.network.drift,
        "device": extractor.device.type,
    }
    code = fingerprint.fingerprint(__name__, *network_modules(extractor.config.backbone))
    return identity, {"environment": environment, "code": code}


def _report(
    timings: Timings, seconds: float, device: str, networks: Mapping[str, Extractor]
) -> dict[str, Any]:
    running = max(timings.seconds_compute + timings.seconds_wait, 1e-9)
    return {
        "clips": timings.clips,
        "device": device,
        "runtimes": {name: extractor.network.runtime for name, extractor in networks.items()},
        "drift_from_float32": {name: extractor.network.drift for name, extractor in networks.items()},
        "seconds": round(seconds, 3),
        "seconds_setup": round(timings.seconds_setup, 3),
        "seconds_decode": round(timings.seconds_decode, 3),
        "seconds_compute": round(timings.seconds_compute, 3),
        "seconds_wait": round(timings.seconds_wait, 3),
        "segments": timings.segments,
        "segments_per_second": {name: round(n / running, 2) for name, n in timings.segments.items()},
        "clips_per_second": round(timings.clips / running, 3),
    }
