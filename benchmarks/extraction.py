"""Measures extraction: whole jobs of ResNet-152 and a plain loop, networks by runtime, peak memory, and a GPU if present.

The plain loop is what the usual extractors do: one clip at a time, PyAV frame by frame, PIL resize, crop, ToTensor and
Normalize for each picture, torchvision's network in float32 on batches of 16, one .npy a clip. avpipe's side is
`extract_shard` from the tar to the zarr file. All sides have the same random weights and use all cores. They take turns,
each in a process of its own. Setting up the network is left out; for avpipe it is printed. With `--video-features DIR`,
a checkout of video_features (github.com/v-iashin/video_features) whose requirements are installed takes part too.
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
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import soundfile
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from avpipe.features import runtime
from avpipe.features.backbones import create_extractor, state_sha256
from avpipe.features.extract import extract_shard
from avpipe.features.store import open_features
from avpipe.features.visual import NORMALISATION, random_trunk
from avpipe.plan.extractor import ExtractorConfig

FPS = 8  # LLP's frame rate: 80 pictures a clip, whole batches of 16
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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


def whole_jobs(clips: int, rounds: int, checkout: Path | None) -> None:
    """ResNet-152 on clips of 10 s beside the plain loop, with PyTorch and with the runtime that avpipe chooses."""
    videos = [encoded(seed) for seed in range(clips)]
    sides = ["plain", "float32 torch", "float32", "bfloat16 torch", "bfloat16"]
    if checkout:
        sides.append("video_features")
    else:
        print("video_features: skipped; name a checkout with --video-features DIR", file=sys.stderr)
    found: dict[str, list[dict]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_study(root, 1, clips, videos)
        for number, content in enumerate(videos):
            (root / f"{number}.mp4").write_bytes(content)
        for _ in range(rounds):
            for side in sides:
                found[side].append(in_a_process(side, root, clips, checkout))
            print(
                {side: [round(f["seconds"], 2) for f in reports] for side, reports in found.items()},
                file=sys.stderr,
            )
        expected = np.concatenate([np.load(root / f"{number}.npy") for number in range(clips)])
        features = {
            p: open_features(root / "features" / f"{p}.zarr").array[:clips].reshape(len(expected), -1)
            for p in ("float32", "bfloat16")
        }
    seconds = {side: [f["seconds"] for f in reports] for side, reports in found.items()}
    aims = {"float32": ">= 1.5x", "bfloat16": ">= 3x"}
    for precision, aim in aims.items():
        mean, least = cosine(features[precision], expected)
        reports = found[precision]
        first, later = reports[0]["setup"], statistics.median(f["setup"] for f in reports[1:] or reports)
        for other in ["plain", f"{precision} torch", *sides[5:]]:
            print(
                f"| {BACKBONE} {precision}, {clips} clips of 10 s at {FPS} frames a second: {reports[0]['runtime']} "
                f"{statistics.median(seconds[precision]):.1f} s (set-up {first:.1f} s, later {later:.1f} s), {other} "
                f"{statistics.median(seconds[other]):.1f} s; cosine to the plain loop {mean:.6f}, least {least:.6f} "
                f"| {ratio(seconds[other], seconds[precision]):.2f}x | {aim if other == 'plain' else ''} |",
                flush=True,
            )


def ratio(theirs: list[float], ours: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def in_a_process(side: str, root: Path, clips: int, checkout: Path | None) -> dict:
    """What `one_side` gives, from a process of its own; converted networks are kept in `root`."""
    command = [sys.executable, __file__, "--side", side, "--root", str(root), "--clips", str(clips)]
    command += ["--video-features", str(checkout)] if checkout else []
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def one_side(side: str, root: Path, clips: int, checkout: Path | None) -> dict:
    """Seconds without setting up the network, and of the set-up."""
    videos = [root / f"{number}.mp4" for number in range(clips)]
    if side not in ("plain", "video_features"):
        precision, _, torch_alone = side.partition(" ")
        runtime.WORTH_CONVERTING = float("inf") if torch_alone else 0
        seconds, reports = ours(root, precision, "cpu", precision=precision)
        return {
            "seconds": seconds,
            "setup": reports["seconds_setup"],
            "runtime": reports["runtimes"][precision],
        }
    network = nn.Sequential(random_trunk(BACKBONE, 0), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    run: Callable[[], None] = lambda: plain_loop(videos, network, root)  # noqa: E731
    if side == "video_features":
        run = video_features(checkout or Path(), videos, network, root)
    started = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - started, "setup": 0.0, "runtime": side}


def video_features(checkout: Path, videos: list[Path], network: nn.Module, root: Path) -> Callable[[], None]:
    """Its own extraction of ResNet features, with our network in the place of the one that it would download."""
    sys.path.insert(0, str(checkout))
    from models.resnet.extract_resnet import ExtractResNet

    class Extractor(ExtractResNet):
        def load_model(self) -> dict[str, nn.Module]:
            return {"model": network, "class_head": nn.Identity()}

    (root / "tmp").mkdir(exist_ok=True)
    options = {
        "feature_type": "resnet", "model_name": BACKBONE, "batch_size": 16, "device": "cpu", "extraction_fps": FPS,
        "extraction_total": None, "show_pred": False, "on_extraction": "save_numpy", "keep_tmp_files": False,
        "tmp_path": str(root / "tmp"), "output_path": str(root / "theirs"),
    }  # fmt: skip
    extractor = Extractor(SimpleNamespace(**options))

    def run() -> None:
        for video in videos:
            np.save(root / f"{video.stem}.theirs.npy", extractor.extract(str(video))["resnet"])

    return run


NETWORKS = {"resnet152": (3, 224, 224), "vgg16": (3, 224, 224), "r2plus1d_18": (3, 8, 112, 112)}


def networks(rounds: int, batch: int = 16) -> None:
    """Milliseconds of networks alone, an input of a batch: PyTorch, PyTorch channels last, OpenVINO."""
    cpu = torch.device("cpu")
    for name, shape in NETWORKS.items():
        trunk, inputs = random_trunk(name, 0).requires_grad_(False), torch.randn(batch, *shape)
        for precision in (torch.float32, torch.bfloat16):
            sides = {"channels last": runtime._on_torch(trunk, inputs.dim(), cpu, precision)}
            if precision == torch.float32:
                sides["plain"] = trunk
            try:
                sides["OpenVINO"], _ = runtime._on_openvino(trunk, state_sha256(trunk), inputs, precision)
            except ImportError:
                print("| networks by runtime | OpenVINO is not installed | |")
                return
            taken: dict[str, list[float]] = {side: [] for side in sides}
            with torch.inference_mode():
                for _ in range(rounds + 1):
                    for side, run in sides.items():
                        started = time.perf_counter()
                        run(inputs)
                        taken[side].append(1000 * (time.perf_counter() - started) / batch)
            medians = {side: statistics.median(times[1:]) for side, times in taken.items()}
            listed = ", ".join(f"{side} {median:.0f}" for side, median in medians.items())
            gain = ratio(taken["channels last"][1:], taken["OpenVINO"][1:])
            kind = str(precision).removeprefix("torch.")
            print(f"| {name} {kind}, ms an input of {shape}: {listed} | {gain:.2f}x | |", flush=True)


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
        f"matrix peak {peak / 1e12:.0f} TFLOP/s; drift cosine {extractor.network.drift['cosine']} "
        f"| {100 * rate * RESNET152_FLOP / peak:.0f} % of the peak | |"
    )
    with tempfile.TemporaryDirectory() as folder:
        global SHARD_SIZE
        SHARD_SIZE = 64
        write_study(Path(folder), 1, 64, [encoded(seed) for seed in range(2)])
        _, reports = ours(Path(folder), "gpu", "cuda", precision="bfloat16", average=True, batch_size=256)
    limit = "decoding" if reports["seconds_wait"] > reports["seconds_compute"] else "the network"
    print(
        f"| extraction, {BACKBONE} bfloat16, {FPS} fps, from tar to zarr: {reports['clips_per_second']:.1f} clips/s, "
        f"waiting for decoding {reports['seconds_wait']:.1f} s, computing {reports['seconds_compute']:.1f} s "
        f"| limited by {limit} ({os.cpu_count()} cores) | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=4, choices=range(1, SHARD_SIZE + 1))
    parser.add_argument("--video-features", type=Path, metavar="DIR")
    parser.add_argument("--only", choices=("jobs", "networks", "memory", "gpu"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(THREADS)
    if chosen.side:
        print(json.dumps(one_side(chosen.side, chosen.root, chosen.clips, chosen.video_features)))
        return
    parts: dict[str, Callable[[], None]] = {
        "jobs": lambda: whole_jobs(chosen.clips, chosen.rounds, chosen.video_features),
        "networks": lambda: networks(chosen.rounds),
        "memory": memory,
        "gpu": gpu,
    }
    for name, part in parts.items():
        if chosen.only in (None, name):
            part()


if __name__ == "__main__":
    main()
