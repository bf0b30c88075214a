"""A shard of canonical clips, made in a second: small pictures, real H.264 and FLAC, the tar's real layout."""

import copy
import importlib.util
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import nn

from avpipe.features import backbones, vggish, visual

SECONDS, FPS, RATE = 10, 16, 16_000


def encoded_video(seed: int, size: int = 64) -> bytes:
    """An mp4 of 10 s at 16 fps whose colours change every second."""
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"g": "16", "bf": "0", "crf": "10", "preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(SECONDS):
            blocks = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(size // 4, 0).repeat(size // 4, 1)
            for number in range(FPS):
                image = np.roll(blocks, number, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encoded_audio(seed: int) -> tuple[bytes, npt.NDArray[np.float32]]:
    """A flac of 10 s, and its samples."""
    rng = np.random.default_rng(seed)
    wave = (0.1 * rng.normal(size=SECONDS * RATE)).clip(-1, 0.999)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="FLAC", subtype="PCM_16")
    samples, _ = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")
    return buffer.getvalue(), samples


class Study:
    """R of a study of a few clips, all segments there: clip c{row}, rows 0 .. 5, in two shards of 4.

    Row 1 is missing, row 2 has no sound, row 4 no picture.
    """

    rows, shard_size = 6, 4
    missing, silent, dark = 1, 2, 4

    def __init__(self, root: Path) -> None:
        self.place(root)
        self.names = [f"c{row}" for row in range(self.rows)]
        root.mkdir(parents=True, exist_ok=True)
        (root / "rows.csv").write_text("clip\n" + "".join(f"{name}\n" for name in self.names))
        self.manifest.write_text(
            json.dumps(
                {
                    "dataset": "tiny",
                    "rows": self.rows,
                    "shard_size": self.shard_size,
                    "shards": {"0": "a", "1": "b"},
                }
            )
        )
        self.samples = {}
        for shard in range(2):
            self._write(shard)

    def place(self, root: Path) -> None:
        self.root, self.manifest, self.features = root, root / "manifest.json", root / "features"

    def copy(self, root: Path) -> "Study":
        """The same study in another folder."""
        study = copy.copy(self)
        study.place(shutil.copytree(self.root, root))
        return study

    def tar(self, shard: int) -> Path:
        return self.root / "segments" / "canonical" / f"{shard}.tar"

    def _write(self, shard: int) -> None:
        self.tar(shard).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.tar(shard), "w") as archive:
            for row in range(shard * self.shard_size, min(self.rows, (shard + 1) * self.shard_size)):
                if row == self.missing:
                    continue
                parts = {"json": json.dumps({"row": row}).encode()}
                if row != self.dark:
                    parts["mp4"] = encoded_video(row)
                if row != self.silent:
                    parts["flac"], self.samples[row] = encoded_audio(row)
                for extension in ("mp4", "flac", "json"):
                    if extension in parts:
                        member = tarfile.TarInfo(f"c{row}.{extension}")
                        member.size = len(parts[extension])
                        archive.addfile(member, io.BytesIO(parts[extension]))


@pytest.fixture(scope="session")
def shared_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, read only."""
    return Study(tmp_path_factory.mktemp("study") / "R")


@pytest.fixture
def study(shared_study: Study, tmp_path: Path) -> Study:
    """The study with a features folder of its own."""
    return shared_study.copy(tmp_path / "R")


@pytest.fixture(scope="session")
def probe() -> ModuleType:
    """probe.py beside this file."""
    spec = importlib.util.spec_from_file_location("features_probe", Path(__file__).with_name("probe.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests are alike on every machine, and do not crowd it."""
    torch.set_num_threads(1)


_DRAWN: dict[tuple[object, ...], dict[str, torch.Tensor]] = {}


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are drawn once a test run (that they are always the same is tested in test_backbones.py)."""

    def draw(network: nn.Module, seed: int, calibrate: Callable[[nn.Module], object]) -> None:
        key = (seed, *network.state_dict())
        if key not in _DRAWN:
            backbones.draw_weights(network, seed, calibrate)
            _DRAWN[key] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(_DRAWN[key])

    monkeypatch.setattr(visual, "draw_weights", draw)
    monkeypatch.setattr(vggish, "draw_weights", draw)
