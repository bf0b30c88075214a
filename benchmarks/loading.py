"""Measures reading frames for training from raw clips: one random frame of 16 in each of a clip's 10 segments.

Three ways take turns on the same clips, each on one core: `RawClips`; decoding the whole clip; and starting ffmpeg for each
frame. Clips are those that normalising makes of `benchmarks/normalise.py`'s sources.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))
from normalise import render

from avpipe.media.ffmpeg import ffmpeg_binary
from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL, Preset
from avpipe.training.raw import RawClip, RawClips, raw_clips

CLIPS, ROUNDS, SEGMENTS = 8, 5, 10


MANY = CANONICAL.model_copy(update={"name": "many", "keyframes": 4})
"""As canonical clips, with a key frame at every fourth frame."""


def make_clips(folder: Path, preset: Preset) -> list[RawClip]:
    """Clips of this preset in a shard."""
    folder.mkdir()
    names = [f"clip{number}" for number in range(CLIPS)]
    for number, name in enumerate(names):
        render(folder / f"{name}.mp4", number)
    rows = pd.DataFrame(
        {"clip": names, "dataset": "bench", "split": "none", "source": names, "start": math.nan}
    )
    rows.assign(end=math.nan, shard=0, row=range(CLIPS)).to_parquet(folder / "manifest.parquet")
    files = pd.DataFrame({"clip": names, "status": "present", "reason": ""})
    files["path"] = [str(folder / f"{name}.mp4") for name in names]
    files.to_parquet(folder / "downloads.parquet")
    tar = folder / "0.tar"
    normalise_shard(
        folder / "downloads.parquet",
        folder / "manifest.parquet",
        0,
        preset,
        tar,
        folder / "0.parquet",
        120,
        2,
    )
    return list(raw_clips([tar], preset).values())


def whole(clip: RawClip) -> np.ndarray:
    """Random frames picked from all frames."""
    every = clip.frames.at(np.arange(CANONICAL.frames))
    return every[np.arange(SEGMENTS) * 16 + np.random.randint(16, size=SEGMENTS)]


def started(clip: RawClip, file: Path) -> None:
    """Random frames from an ffmpeg each."""
    for segment in range(SEGMENTS):
        at = max(0.0, segment + np.random.randint(16) / 16 - 0.001)
        command = [
            ffmpeg_binary(),
            "-v",
            "error",
            "-nostdin",
            "-threads",
            "1",
            "-ss",
            f"{at:.4f}",
            "-i",
            str(file),
        ]
        done = subprocess.run(
            [*command, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True
        )
        if len(done.stdout) != 256 * 256 * 3:
            raise SystemExit(f"ffmpeg gave {len(done.stdout)} bytes: {done.stderr.decode()[-200:]}")


def waiting(clips: list[RawClip], workers: int) -> tuple[float, float]:
    """Seconds a step of AV-BT of full size, on a CPU, waits for its clips, and computes; the first step is left out."""
    from avpipe.models.avbt import AVBT
    from avpipe.training.barlow_twins import BarlowTwins, augment
    from avpipe.training.data import Loader

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - workers))
    dataset = RawClips(clips, lambda clip: BarlowTwins.read(None, clip), 0, workers)  # type: ignore[arg-type]
    batches = [[0, 1], *[[n, n + 1] for n in range(0, CLIPS, 2)]]
    model, waited, computed = AVBT(weights="random"), [], []
    loader = iter(Loader(dataset, batches, torch.device("cpu")))
    for _ in batches:
        begun = time.perf_counter()
        batch = next(loader)
        came = time.perf_counter()
        batch.frames = augment(batch.frames, ("crop", "blur"), 224)
        sum(model(batch).losses.values()).backward()
        waited.append(came - begun)
        computed.append(time.perf_counter() - came)
    return statistics.mean(waited[1:]), statistics.mean(computed[1:])


def seconds(work: Callable[[], object]) -> float:
    """Of processor time, its own and of the processes that it starts."""
    begun = os.times()
    work()
    return sum(after - before for before, after in zip(begun[:4], os.times()[:4], strict=True))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, many = make_clips(folder / "canonical", CANONICAL), make_clips(folder / "many", MANY)
        for clip in clips:
            begin, size = clip.parts["mp4"]
            (folder / f"{clip.clip}.canonical.mp4").write_bytes(clip.tar.read_bytes()[begin : begin + size])

        def again(clips: list[RawClip] = clips) -> list[RawClip]:  # without what a clip has decoded before
            return [RawClip(clip.clip, clip.tar, clip.preset, clip.parts) for clip in clips]

        ways = {
            "ours": lambda: [RawClips(again(), RawClip.random_frames, 0)[index] for index in range(CLIPS)],
            "many": lambda: [
                RawClips(again(many), RawClip.random_frames, 0)[index] for index in range(CLIPS)
            ],
            "whole": lambda: [whole(clip) for clip in again()],
            "ffmpeg": lambda: [started(clip, folder / f"{clip.clip}.canonical.mp4") for clip in again()],
            "sound": lambda: [clip.log_mel for clip in again()],
        }
        times = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, work in ways.items():
                times[way].append(seconds(work))
        waited, computed = waiting(clips, 1)
    took = {way: statistics.median(found) / CLIPS for way, found in times.items()}
    frames = SEGMENTS / took["ours"]
    print(
        f"| reading one random frame of 16 in each of 10 segments, clips/s (frames/s) of one core's time: `RawClips` "
        f"{1 / took['ours']:.1f} ({frames:.0f}), an ffmpeg each {1 / took['ffmpeg']:.2f} | "
        f"{took['ffmpeg'] / took['ours']:.1f}x | >= 10x |"
    )
    size, larger = (sum(clip.parts["mp4"][1] for clip in own) for own in (clips, many))
    print(
        f"| the same, from clips with 4 key frames a second, {larger / size:.2f} times as large ({1 / took['many']:.1f} clips/s) "
        f"| {took['ffmpeg'] / took['many']:.1f}x | >= 10x |"
    )
    print(
        f"| the same, against decoding whole clips ({1 / took['whole']:.1f} clips/s) | {took['whole'] / took['ours']:.2f}x | |"
    )
    print(f"| a clip's log-mel from its FLAC, ms | {1000 * took['sound']:.1f} | |")
    print(
        f"| AV-BT, a step of two clips on a CPU, one process decoding: waiting, computing, s | {waited:.3f}, {computed:.2f} "
        f"| waiting <= 5 % |"
    )


if __name__ == "__main__":
    main()
