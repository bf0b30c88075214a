"""OpenVINO computes what PyTorch does where the work is worth it, from a converted network that is kept."""

import ctypes
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avpipe.features import runtime
from avpipe.features.backbones import create_extractor
from avpipe.features.runtime import prepare
from avpipe.features.spec import PUBLISHED

CPU = torch.device("cpu")
TORCH, OPENVINO = "torch", "openvino"
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="not installed")


class Block(nn.Module):
    """A residual block of 2D or 3D convolutions with a batch norm."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        convolution, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dimensions - 4]
        self.first, self.second = convolution(3, 8, 3, padding=1), convolution(8, 8, 3, padding=1)
        self.norm = norm(8)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = torch.relu(self.first(inputs))
        return torch.relu(self.norm(self.second(inputs)) + inputs)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, and networks so small that any work is worth converting."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(runtime, "user_cache_path", lambda name: folder / name)
    monkeypatch.setattr(runtime, "WORTH_CONVERTING", 1)
    return folder


def prepared(dimensions: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0, count: int = 1) -> Any:
    """A drawn network, some inputs for it, and what is made of it."""
    torch.manual_seed(seed)
    network = Block(dimensions).eval().requires_grad_(False)
    inputs = torch.randn(5, 3, *[4, 9, 9][-dimensions + 2 :])
    key = hashlib.sha256(str(seed).encode()).hexdigest()
    return network, inputs, prepare(network, key, inputs[:2], CPU, dtype, count)


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("network.xml"))


@pytest.mark.parametrize("dimensions", [4, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", [TORCH, pytest.param(OPENVINO, marks=needs_openvino)])
def test_outputs_are_the_networks(
    name: str, dtype: torch.dtype, tolerance: float, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == TORCH:
        monkeypatch.setattr(runtime, "WORTH_CONVERTING", 1e30)
    network, inputs, fast = prepared(dimensions, dtype)
    assert fast.runtime.startswith(f"{name} 2")
    for some in (inputs, inputs[:1], inputs[2:]):  # batches of any size
        expected = network(some)
        assert (fast(some) - expected).abs().max() <= tolerance * expected.abs().max()
    assert fast(inputs).dtype == next(network.parameters()).dtype == torch.float32
    if dtype == torch.float32:  # bfloat16 is computed in float32 where the CPU does not have it
        assert fast.drift["largest_difference"] < 1e-5, "float32 must not be computed in bfloat16"
    assert fast.drift["cosine"] > 0.999


@needs_openvino
def test_a_job_with_little_to_compute_stays_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply_adds = 9 * 9 * (27 * 8 + 72 * 8)  # of one picture: two 3x3 convolutions, 3 -> 8 -> 8 channels
    monkeypatch.setattr(runtime, "WORTH_CONVERTING", 10 * multiply_adds)
    assert prepared(count=9)[2].runtime.startswith(TORCH)
    assert prepared(count=10)[2].runtime.startswith(OPENVINO)


def test_without_openvino_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    network, inputs, fast = prepared()
    assert fast.runtime.startswith(TORCH)
    torch.testing.assert_close(fast(inputs), network(inputs))


@pytest.mark.parametrize("trouble", ["fails", "differs"])
def test_where_openvino_is_wrong_pytorch_computes(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on_openvino(network: nn.Module, *arguments: object) -> Any:
        if trouble == "fails":
            raise RuntimeError("no such operation")
        return torch.randn_like, "openvino 1"

    monkeypatch.setattr(runtime, "_on_openvino", on_openvino)
    _, _, fast = prepared()
    assert fast.runtime.startswith(TORCH)
    assert "PyTorch" in caplog.text


@needs_openvino
class TestWithOpenVINO:
    """The kept network, and the import."""

    @pytest.fixture(autouse=True)
    def converted(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """A number a conversion."""
        openvino = runtime._openvino()
        real, done = openvino.convert_model, []

        def convert(*arguments: Any, **options: Any) -> Any:
            done.append(len(done))
            return real(*arguments, **options)

        monkeypatch.setattr(openvino, "convert_model", convert)
        return done

    def test_a_converted_network_is_kept_for_any_precision(self, cache: Path, converted: list[int]) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            assert prepared(dtype=dtype)[2].runtime.startswith(OPENVINO)
        assert len(converted) == len(kept(cache)) == 1

    def test_other_weights_and_shapes_are_converted_anew(self, cache: Path, converted: list[int]) -> None:
        for dimensions, seed in ((4, 0), (4, 1), (5, 0)):
            network, inputs, fast = prepared(dimensions, seed=seed)
            torch.testing.assert_close(fast(inputs), network(inputs), rtol=1e-4, atol=1e-4)
        assert len(converted) == len(kept(cache)) == 3

    def test_the_stack_of_signal_handlers_stays_the_threads_own(self, cache: Path) -> None:
        def stack() -> list[int | None]:
            found = (ctypes.c_void_p * 3)()
            ctypes.CDLL(None).sigaltstack(None, found)
            return list(found)

        before = stack()
        for dimensions in (4, 5):
            _, inputs, fast = prepared(dimensions)
            fast(inputs)
            assert stack() == before

    def test_where_nothing_can_be_kept_the_runtime_is_the_same(
        self, cache: Path, converted: list[int]
    ) -> None:
        _, inputs, kept_one = prepared()
        cache.rename(cache.with_name("elsewhere"))
        cache.write_text("a file in place of the folder")
        _, _, fast = prepared()
        assert fast.runtime == kept_one.runtime
        assert torch.equal(fast(inputs), kept_one(inputs))
        assert len(converted) == 2

    def test_what_a_killed_conversion_left_is_not_taken(
        self, cache: Path, converted: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        openvino = runtime._openvino()

        def killed(model: Any, path: Path, **options: Any) -> None:
            path.parent.mkdir()
            path.write_text("half")
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(openvino, "save_model", killed)
            with pytest.raises(KeyboardInterrupt):
                prepared()
        network, inputs, fast = prepared()
        assert fast.runtime.startswith(OPENVINO)
        torch.testing.assert_close(fast(inputs), network(inputs), rtol=1e-4, atol=1e-4)
        assert len(converted) == 2
        assert not list(cache.rglob("*.part"))

    def test_openvinos_import_reports_to_nobody(self) -> None:
        code = (
            "import sys; from avpipe.features import runtime; runtime._openvino(); import openvino.tools.ovc\n"
            "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"


@needs_openvino
@pytest.mark.full_size
@pytest.mark.parametrize("backbone", PUBLISHED)
def test_networks_of_the_published_features_run_on_openvino(backbone: str) -> None:
    config = PUBLISHED[backbone].model_copy(update={"weights": "random"})
    network = create_extractor(config, CPU, None, clips=1).network
    assert network.runtime.startswith(OPENVINO)
    assert network.drift["cosine"] > 0.99999
