"""A shard of canonical clips, made in a second: small pictures, real H.264 and FLAC, the tar's real layout."""

import copy
import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import nn

from avpipe.features import backbones, vggish, visual
from tests.builders import encode_video, tar_of

SECONDS, FPS, RATE = 10, 16, 16_000


def encoded_video(seed: int, size: int = 64) -> bytes:
    """An mp4 of 10 s at 16 fps whose colours change every second."""
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(SECONDS)]
    large = [each.repeat(size // 4, 0).repeat(size // 4, 1) for each in blocks]
    pictures = (np.roll(each, number, axis=1) for each in large for number in range(FPS))
    return encode_video(pictures, FPS, {"crf": "10"})


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
        members = {}
        for row in range(shard * self.shard_size, min(self.rows, (shard + 1) * self.shard_size)):
            if row == self.missing:
                continue
            if row != self.dark:
                members[f"c{row}.mp4"] = encoded_video(row)
            if row != self.silent:
                members[f"c{row}.flac"], self.samples[row] = encoded_audio(row)
            members[f"c{row}.json"] = json.dumps({"row": row}).encode()
        self.tar(shard).write_bytes(tar_of(members))


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
