"""Extraction: ResNet-152 beside a plain loop, peak memory beside the number of shards, and a GPU if there is one.

The plain loop is what the usual extractors do: one clip at a time, PyAV frame by frame, PIL resize, crop, ToTensor and
Normalize for each picture, torchvision's network in float32 on batches of 16, one .npy a clip. avpipe's side is
`extract_shard` from the tar to the zarr file, without loading the network. Both have the same random weights, both use all
cores, and they take turns, each in a process of its own, as they really run: what the C library's memory allocator learns
from avpipe's side would make a plain loop after it in the same process a quarter faster. Options: `--rounds N --clips N`.

What bounds the ratio is printed with it: the share of the processor's matrix peak, measured in the same run, at which
each side multiplies. A plain loop that is at 85 % of the float32 peak cannot be beaten by more than 1.2x in float32.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from avpipe.features.backbones import create_extractor
from avpipe.features.extract import extract_shard
from avpipe.features.store import open_features
from avpipe.features.visual import NORMALISATION, random_trunk
from avpipe.plan.extractor import ExtractorConfig

FPS = 8  # LLP's frame rate: 80 pictures a clip, whole batches of 16
BACKBONE = "resnet152"
RESNET152_FLOP = 2 * 11.514e9  # a picture of 224 x 224, torchvision's count of multiply-adds
SHARD_SIZE = 8


def encoded(seed: int) -> bytes:
    """A canonical clip: 10 s, 16 fps, 256x256, closed groups of a second; moving textures and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"g": "16", "bf": "0", "crf": "18", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=16, options=options)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        picture = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.BICUBIC)).astype(int)
        for number in range(160):
            noisy = np.roll(picture, 2 * number, 1) + rng.integers(-8, 9, picture.shape)
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_study(root: Path, shards: int, clips: int, videos: list[bytes]) -> None:
    """manifest.json, rows.csv and one tar a shard; `videos` are used in turn."""
    (root / "segments").mkdir(parents=True)
    rows = (shards - 1) * SHARD_SIZE + clips
    (root / "rows.csv").write_text("clip\n" + "".join(f"c{row}\n" for row in range(rows)))
    index = {
        "dataset": "benchmark",
        "rows": rows,
        "shard_size": SHARD_SIZE,
        "shards": dict.fromkeys(map(str, range(shards)), ""),
    }
    (root / "manifest.json").write_text(json.dumps(index))
    wave = io.BytesIO()
    soundfile.write(wave, np.random.default_rng(0).normal(0, 0.1, 160_000), 16_000, format="FLAC")
    for shard in range(shards):
        with tarfile.open(root / "segments" / f"{shard}.tar", "w") as archive:
            for number in range(clips):
                row = shard * SHARD_SIZE + number
                parts = {
                    "mp4": videos[row % len(videos)],
                    "flac": wave.getvalue(),
                    "json": json.dumps({"row": row}).encode(),
                }
                for extension, content in parts.items():
                    member = tarfile.TarInfo(f"c{row}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def plain_loop(videos: list[Path], network: nn.Module, out: Path) -> None:
    """The usual extractor; writes one .npy a clip, (10 * FPS, 2048)."""
    mean, deviation = NORMALISATION["2d"]
    recipe = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, deviation),
        ]
    )
    for video in videos:
        pictures, found = [], []
        with av.open(str(video)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index % (16 // FPS) == 16 // FPS // 2:  # the pictures that avpipe takes
                    pictures.append(recipe(frame.to_image()))
                if len(pictures) == 16:
                    with torch.no_grad():
                        found.append(network(torch.stack(pictures)).numpy())
                    pictures = []
        np.save(out / f"{video.stem}.npy", np.concatenate(found))


def ours(
    root: Path, name: str, device: str, threads: int | None = None, **options: object
) -> tuple[float, dict]:
    """Seconds without setting up the network, and what extract_shard says."""
    chosen = {
        "backbone": BACKBONE,
        "weights": "random",
        "fps": FPS,
        "average": False,
        "resize": "crop",
        **options,
    }
    config = ExtractorConfig.model_validate(chosen)
    timings = extract_shard(
        root / "segments" / "0.tar",
        root / "manifest.json",
        0,
        {name: config},
        root / "features",
        device=device,
        threads=threads,
    )
    return timings["seconds"] - timings["seconds_setup"], timings


def cosine(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Mean and least cosine of rows."""
    values = (found * expected).sum(1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1))
    return float(values.mean()), float(values.min())


def processor(clips: int, rounds: int) -> None:
    """ResNet-152 beside the plain loop."""
    videos = [encoded(seed) for seed in range(clips)]
    sides: dict[str, list[float]] = {"plain": [], "float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_study(root, 1, clips, videos)
        for number, content in enumerate(videos):
            (root / f"{number}.mp4").write_bytes(content)
        for _ in range(rounds):
            for side, taken in sides.items():
                taken.append(in_a_process(side, root, clips))
            print({side: [round(s, 2) for s in taken] for side, taken in sides.items()}, file=sys.stderr)
        expected = np.concatenate([np.load(root / f"{number}.npy") for number in range(clips)])
        found = {
            p: open_features(root / "features" / f"{p}.zarr").array[:clips].reshape(len(expected), -1)
            for p in ("float32", "bfloat16")
        }
    images = clips * 10 * FPS
    rate = {side: images / statistics.median(taken) for side, taken in sides.items()}
    cpu = torch.device("cpu")
    peak = {name: matrix_peak(cpu, getattr(torch, name), 2_048) for name in ("float32", "bfloat16")}
    share = {
        side: 100 * rate[side] * RESNET152_FLOP / peak["float32" if side == "plain" else side]
        for side in rate
    }
    for precision, aim in (("float32", ">= 1.5x"), ("bfloat16", ">= 3x")):
        ratio = statistics.median(p / o for p, o in zip(sides["plain"], sides[precision], strict=True))
        mean, least = cosine(found[precision], expected)
        print(
            f"| extraction, {BACKBONE} {precision} on the processor, pictures/s: avpipe {rate[precision]:.2f} "
            f"({share[precision]:.0f} % of its {precision} matrix peak), plain loop {rate['plain']:.2f} ({share['plain']:.0f} % "
            f"of the float32 peak); cosine to the loop's features {mean:.6f}, least {least:.6f} | {ratio:.2f}x | {aim} |",
            flush=True,
        )


def in_a_process(side: str, root: Path, clips: int) -> float:
    """Seconds of one side, without loading the network."""
    command = [sys.executable, __file__, "--side", side, "--root", str(root), "--clips", str(clips)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def one_side(side: str, root: Path, clips: int) -> float:
    """What `in_a_process` runs."""
    if side != "plain":
        return ours(root, side, "cpu", precision=side)[0]
    network = nn.Sequential(random_trunk(BACKBONE, 0), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    started = time.perf_counter()
    plain_loop([root / f"{number}.mp4" for number in range(clips)], network, root)
    return time.perf_counter() - started


MEMORY = """
import resource, sys
from pathlib import Path
from avpipe.plan.extractor import ExtractorConfig
from avpipe.features.extract import extract_shard

root, status = Path(sys.argv[1]), Path("/proc/self/status")
extractors = {
    "look": ExtractorConfig(backbone="resnet18", weights="random", image_size=64, fps=4),
    "sound": ExtractorConfig(backbone="vggish", weights="random"),
}
for shard in range(int(sys.argv[2])):
    extract_shard(root / f"segments/{shard}.tar", root / "manifest.json", shard, extractors, root / "features", device="cpu")
    if status.exists():  # there, unlike in getrusage, the parent's peak does not count
        print(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1))
"""


def memory(shards: tuple[int, ...] = (1, 4, 8, 12)) -> None:
    """Peak memory of one process that extracts shards one after another (the workflow starts a process a shard)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "R"
        write_study(root, shards[-1], 4, [encoded(0)])
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(root), str(shards[-1])],
            capture_output=True,
            text=True,
            check=True,
        )
    peaks = [int(line) / 1024 for line in done.stdout.split()]
    listed = ", ".join(f"{count}: {peaks[count - 1]:.0f}" for count in shards)
    print(
        f"| extraction, peak MiB of one process after so many shards (resnet18 and vggish): {listed} "
        f"| {peaks[shards[-1] - 1] / peaks[shards[-2] - 1]:.2f}x from {shards[-2]} to {shards[-1]} | does not grow |",
        flush=True,
    )


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a large matrix product; the best of several."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def gpu() -> None:
    """Pictures/s of the network alone as a fraction of the matrix peak; clips/s from the tar; what limits it."""
    if not torch.cuda.is_available():
        print("| extraction on a GPU | no GPU here | |")
        return
    device = torch.device("cuda", 0)
    config = ExtractorConfig(backbone=BACKBONE, weights="random", precision="bfloat16", fps=1)
    extractor = create_extractor(config, device, None)
    peak = matrix_peak(device, torch.bfloat16, 8_192)
    pictures = torch.randint(0, 256, (256, 1, 256, 256, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        for _ in range(5):
            extractor(pictures)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(20):
            extractor(pictures)
        torch.cuda.synchronize()
        rate = 20 * 256 / (time.perf_counter() - started)
    print(
        f"| extraction, {BACKBONE} bfloat16 on {torch.cuda.get_device_name()}: {rate:.0f} pictures/s with resizing; "
        f"matrix peak {peak / 1e12:.0f} TFLOP/s; drift cosine {extractor.drift['cosine']} "
        f"| {100 * rate * RESNET152_FLOP / peak:.0f} % of the peak | |"
    )
    with tempfile.TemporaryDirectory() as folder:
        global SHARD_SIZE
        SHARD_SIZE = 64
        write_study(Path(folder), 1, 64, [encoded(seed) for seed in range(2)])
        _, told = ours(Path(folder), "gpu", "cuda", precision="bfloat16", average=True, batch_size=256)
    limit = "decoding" if told["seconds_wait"] > told["seconds_compute"] else "the network"
    print(
        f"| extraction, {BACKBONE} bfloat16, {FPS} fps, from tar to zarr: {told['clips_per_second']:.1f} clips/s, "
        f"waiting for decoding {told['seconds_wait']:.1f} s, computing {told['seconds_compute']:.1f} s "
        f"| limited by {limit} ({os.cpu_count()} cores) | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=6, choices=range(1, SHARD_SIZE + 1))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(one_side(chosen.side, chosen.root, chosen.clips))
        return
    processor(chosen.clips, chosen.rounds)
    memory()
    gpu()


if __name__ == "__main__":
    main()
