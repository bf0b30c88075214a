"""Chooses what computes a network: OpenVINO on a CPU if the job is large enough, else PyTorch.

OpenVINO is optional (`avpipe[cpu]`). Converting a network takes some seconds, so a job with little to compute uses
PyTorch. The converted network is kept in the user's cache folder. Each network is compared with plain float32
PyTorch before it is used; the difference is its drift.
"""

import contextlib
import copy
import ctypes
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from torch import Tensor, nn

_LOGGER = logging.getLogger(__name__)

WORTH_CONVERTING = 2e12
"""Multiply-adds of one network in one job, from which OpenVINO is used: some 20 s of PyTorch on two cores, 170 pictures of
224 x 224 through ResNet-152. Below, converting and loading cost about what OpenVINO saves."""
_LEAST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.99}


@dataclass(frozen=True)
class Prepared:
    """A network ready to compute: `prepared(inputs)`, float32 inputs on its device -> float32 outputs there.

    Args:
        run: computes the outputs.
        runtime: name and version of what computes.
        drift: difference to plain float32, see the function `drift`.
    """

    run: Callable[[Tensor], Tensor]
    runtime: str
    drift: dict[str, float]

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.run(inputs)


def prepare(
    network: nn.Module, sha256: str, example: Tensor, device: torch.device, dtype: torch.dtype, count: int
) -> Prepared:
    """The network on `device`, computing in `dtype` with the runtime that suits the work.

    Args:
        network: float32, on the CPU, in evaluation mode. It is left as it is.
        sha256: of the network's weights and layers; names the converted network in the cache.
        example: (N, C, ...) float32 inputs. The drift is measured on them.
        device: where to compute.
        dtype: of the arithmetic, torch.float32 or torch.bfloat16.
        count: how many inputs of the example's shape the job will compute.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        expected = network(example)
    work = counter.get_total_flops() / 2 / len(example) * count
    if device.type == "cpu" and work >= WORTH_CONVERTING:
        try:
            run, name = _on_openvino(network, sha256, example, dtype)
            found = drift(expected, run(example))
        except ImportError:
            _LOGGER.info("OpenVINO is not installed (`avpipe[cpu]`); PyTorch computes")
        except Exception as error:  # a missing conversion must not stop an extraction
            _LOGGER.warning("OpenVINO cannot compute this network (%s); PyTorch does", error)
        else:
            if found["cosine"] >= _LEAST_COSINE[dtype]:
                return Prepared(run, name, found)
            _LOGGER.warning("OpenVINO's outputs differ (cosine %.6f); PyTorch computes", found["cosine"])
    run = _on_torch(network, example.dim(), device, dtype)
    with torch.inference_mode():
        return Prepared(run, f"torch {torch.__version__}", drift(expected, run(example.to(device)).cpu()))


def drift(expected: Tensor, found: Tensor) -> dict[str, float]:
    """The worst item's cosine, and the largest difference as a fraction of the largest value; items along axis 0."""
    expected, found = expected.flatten(1), found.flatten(1)
    cosine = torch.cosine_similarity(expected.double(), found.double()).min().item()
    difference = ((expected - found).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
    return {"cosine": round(cosine, 7), "largest_difference": float(f"{difference:.2g}")}


def _on_torch(
    network: nn.Module, dimensions: int, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Plain PyTorch for inputs with this number of dimensions, channels last; compiled on a GPU."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(dimensions, torch.contiguous_format)
    moved: Any = copy.deepcopy(network).to(device, dtype).to(memory_format=layout)
    if device.type == "cuda":
        moved = torch.compile(moved)

    def run(inputs: Tensor) -> Tensor:
        outputs: Tensor = moved(inputs.to(dtype, memory_format=layout))
        return outputs.float()

    return run


def _on_openvino(
    network: nn.Module, sha256: str, example: Tensor, dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], str]:
    """The network on OpenVINO with as many threads as PyTorch has, and the runtime's name."""
    openvino = _openvino()
    version = openvino.__version__.partition("-")[0]
    shape = [-1, *example.shape[1:]]
    folder = user_cache_path("avpipe") / f"openvino-{version}" / f"{sha256}-{'x'.join(map(str, shape[1:]))}"
    model = _converted(openvino, network, example[:1], shape, folder)
    options = {
        # The default is bfloat16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_HYPER_THREADING": True,  # else OpenVINO takes fewer threads than it is given
        "ENABLE_CPU_PINNING": False,  # else jobs side by side are bound to the same cores
    }
    with _same_signal_stack():
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(inputs: Tensor) -> Tensor:
        with _same_signal_stack():
            outputs = request.infer([inputs.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0])

    return run, f"openvino {version}"


@contextlib.contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Give the thread its stack for signal handlers back. OpenVINO sets one of its own, whose memory may be
    gone later; the next signal with a handler, such as Ctrl-C or the end of a child process, would then crash."""
    stack, libc = (ctypes.c_void_p * 3)(), ctypes.CDLL(None)  # a stack_t: address, flags, size
    libc.sigaltstack(None, stack)
    try:
        yield
    finally:
        libc.sigaltstack(stack, None)


def _openvino() -> Any:
    """The module `openvino`, imported without its telemetry, which would report every import to its developers."""
    blocked = "openvino_telemetry" not in sys.modules
    if blocked:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if blocked:
            del sys.modules["openvino_telemetry"]
    return openvino


def _converted(openvino: Any, network: nn.Module, example: Tensor, shape: list[int], folder: Path) -> Any:
    """The converted network from `folder`, which is written if it is not there: whole, or not at all.

    Where it cannot be written, the network is converted in each job: another runtime would round differently.
    """

    def convert() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of torch.jit
            traced = torch.jit.trace(network, example, check_trace=False)
        return openvino.convert_model(traced, input=[shape])

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                part = folder.with_name(f"{folder.name}.part")
                shutil.rmtree(part, ignore_errors=True)  # of a job that was killed here
                openvino.save_model(convert(), part / "network.xml", compress_to_fp16=False)
                part.rename(folder)
    except OSError as error:
        _LOGGER.warning(
            "cannot keep the converted network (%s); set XDG_CACHE_HOME to a writable folder", error
        )
        return convert()
    return openvino.Core().read_model(folder / "network.xml")
