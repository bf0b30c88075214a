"""Chooses the device of a job. Four locks a GPU keep the jobs of one machine from using more than the whole of it."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import Timeout

from avpipe.files import locked

_WAIT_SECONDS = 1.0
_PARTS = 4
"""Of a GPU, each with a lock."""


class DeviceError(ValueError):
    """The requested device does not exist."""


def default_locks() -> Path:
    """The folder of lock files for this user on this machine."""
    return Path(tempfile.gettempdir()) / f"avpipe-devices-{os.getuid()}"


@contextlib.contextmanager
def claim_device(wanted: str, locks: Path, percent: int = 100) -> Iterator[torch.device]:
    """Hold a device, or a part of a GPU, while a job uses it.

    Jobs wait for a free GPU rather than fall back to the CPU: one array must not mix the rounding of two kinds of
    device, and a GPU is worth the wait. CUDA_VISIBLE_DEVICES, which a cluster sets, decides which GPUs
    exist at all.

    Args:
        wanted: "auto" (a CUDA device if there is one, else "cpu"), "cpu", "cuda" (any of them) or "cuda:N".
        locks: folder of lock files, `default_locks()`.
        percent: of a GPU, rounded up to quarters.

    Raises:
        DeviceError: if there is no such device.
    """
    candidates = _candidates(wanted)
    if not candidates:
        yield torch.device("cpu")
        return
    while True:
        for index in candidates:
            with contextlib.ExitStack() as held:
                if _hold_parts(held, locks, index, -(-percent * _PARTS // 100)):
                    torch.cuda.set_device(index)
                    yield torch.device("cuda", index)
                    return
        time.sleep(_WAIT_SECONDS)


def _hold_parts(held: contextlib.ExitStack, locks: Path, index: int, wanted: int) -> bool:
    """Take `wanted` locks of a GPU that nobody holds; false if there are fewer."""
    for part in range(_PARTS):
        if wanted:
            with contextlib.suppress(Timeout):
                held.enter_context(locked(locks / f"{_identity(index)}-{part}.lock", timeout=0))
                wanted -= 1
    return not wanted


def _candidates(wanted: str) -> list[int]:
    """The numbers of the CUDA devices to choose from; empty for the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and count == 0):
        return []
    if wanted in ("auto", "cuda") and count:
        return list(range(count))
    number = wanted.removeprefix("cuda:")
    if wanted.startswith("cuda:") and number.isdecimal() and int(number) < count:
        return [int(number)]
    if wanted == "cuda" or wanted.startswith("cuda:"):
        raise DeviceError(
            f"device {wanted!r}: PyTorch sees {count} CUDA devices; set `device: auto` or `device: cpu`"
        )
    raise DeviceError(f"device {wanted!r}: expected auto, cpu, cuda or cuda:N")


def _identity(index: int) -> str:
    """The UUID of the GPU, because its number depends on CUDA_VISIBLE_DEVICES."""
    return f"cuda-{torch.cuda.get_device_properties(index).uuid}"
