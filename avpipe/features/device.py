"""Chooses the device of a job. A lock per GPU keeps two jobs of one machine from using the same GPU."""

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


class DeviceError(ValueError):
    """The requested device does not exist."""


def default_locks() -> Path:
    """The folder of lock files, one per GPU, for this user on this machine."""
    return Path(tempfile.gettempdir()) / f"avpipe-devices-{os.getuid()}"


@contextlib.contextmanager
def claim_device(wanted: str, locks: Path) -> Iterator[torch.device]:
    """Hold a device while a job uses it.

    Jobs wait for a free GPU rather than fall back to the CPU: one array must not mix the rounding of two kinds of
    device, and a GPU is worth the wait. CUDA_VISIBLE_DEVICES, which a cluster sets, decides which GPUs
    exist at all.

    Args:
        wanted: "auto" (a CUDA device if there is one, else "cpu"), "cpu", "cuda" (any of them) or "cuda:N".
        locks: folder of lock files, `default_locks()`.

    Raises:
        DeviceError: if there is no such device.
    """
    candidates = _candidates(wanted)
    if not candidates:
        yield torch.device("cpu")
        return
    while True:
        for index in candidates:
            try:
                lock = locked(locks / f"{_identity(index)}.lock", timeout=0)
            except Timeout:
                continue
            with lock:
                torch.cuda.set_device(index)
                yield torch.device("cuda", index)
                return
        time.sleep(_WAIT_SECONDS)


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
