"""Measures normalising a shard, avpipe and bare ffmpeg in turn, with the same number of processes, one thread each.

Bare ffmpeg is the command that a person would write: it does not probe, hash, count, verify, or write a tar or a table. The two sides take turns; the ratio is that of their medians.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from avpipe.media.ffmpeg import ffmpeg_binary
from avpipe.media.normalise import normalise_shard
from avpipe.media.presets import CANONICAL

CLIPS, ROUNDS = 16, 7
GRAPH = (
    "[0:v]fps=16,scale=256:256:flags=bicubic+accurate_rnd+bitexact:out_color_matrix=bt601:out_range=tv,"
    "setsar=1,format=yuv420p,tpad=stop_mode=clone:stop=-1,trim=end_frame=160[v];"
    "[0:a]aresample=16000:async=1,aformat=sample_fmts=s16:channel_layouts=mono,"
    "apad=whole_len=160000,atrim=end_sample=160000[a]"
)


def render(path: Path, number: int) -> None:
    """A clip as YouTube gives it: 640x360, 29.97 fps, H.264 and AAC, a little longer than 10 s."""
    noise = f"testsrc2=size=640x360:rate=30000/1001:duration=10.2,noise=alls=8:all_seed={number}:allf=t"
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", noise]
    command += ["-f", "lavfi", "-i", f"sine=frequency={200 + number}:sample_rate=44100:duration=10.2"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "26", "-c:a", "aac", "-ac", "2", str(path)]
    subprocess.run(command, check=True)


def bare(sources: list[Path], folder: Path, workers: int) -> float:
    """Seconds that ffmpeg takes, `workers` at once."""

    def convert(source: Path) -> None:
        command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(source)]
        command += [
            "-filter_complex_threads",
            "1",
            "-filter_complex",
            GRAPH,
            "-map",
            "[v]",
            "-c:v",
            "libx264",
        ]
        command += [
            "-preset",
            "veryfast",
            "-crf",
            "18",
            "-g",
            "16",
            "-keyint_min",
            "16",
            "-sc_threshold",
            "0",
        ]
        command += ["-bf", "0", "-threads", "1", str(folder / f"{source.stem}.mp4"), "-map", "[a]"]
        command += ["-c:a", "flac", "-threads", "1", str(folder / f"{source.stem}.flac")]
        subprocess.run(command, check=True)

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(convert, sources))
    return time.perf_counter() - started


def ours(manifest: Path, downloads: Path, folder: Path, workers: int) -> float:
    """Seconds that `normalise_shard` takes."""
    started = time.perf_counter()
    counts = normalise_shard(
        downloads, manifest, 0, CANONICAL, folder / "0.tar", folder / "0.parquet", 120, workers
    )
    took = time.perf_counter() - started
    if counts != {"present": CLIPS}:
        raise SystemExit(f"the clips did not all come through: {counts}")
    return took


def main() -> None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [folder / f"clip{number}.mp4" for number in range(CLIPS)]
        for number, source in enumerate(sources):
            render(source, number)
        clips = pd.DataFrame(
            {"clip": [source.stem for source in sources], "dataset": "benchmark", "split": "none"}
        )
        clips = clips.assign(source=clips["clip"], start=math.nan, end=math.nan, shard=0, row=range(CLIPS))
        clips.to_parquet(folder / "manifest.parquet")
        found = clips[["clip"]].assign(status="present", reason="", path=[str(source) for source in sources])
        found.to_parquet(folder / "downloads.parquet")
        out = folder / "out"
        out.mkdir()
        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(ROUNDS + 1):
            taken = {
                "bare": bare(sources, out, workers),
                "ours": ours(folder / "manifest.parquet", folder / "downloads.parquet", out, workers),
            }
            print(f"round {number}: {taken}", file=sys.stderr)
            if number:  # the first warms the caches
                for side, value in taken.items():
                    seconds[side].append(value)
    rate = {side: CLIPS / statistics.median(values) for side, values in seconds.items()}
    print(
        f"| normalise, clips/s, {workers} at once: avpipe {rate['ours']:.2f}, bare ffmpeg {rate['bare']:.2f} "
        f"| {rate['ours'] / rate['bare']:.2f}x | >= 0.9x |"
    )


if __name__ == "__main__":
    main()
