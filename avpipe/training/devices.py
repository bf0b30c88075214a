"""Devices, precision and processes of a training: Lightning Fabric, or the little of it that one process on a CPU needs.

Importing Fabric takes two seconds of processor time, more than many trainings here. So one process on a CPU does without.
"""

import contextlib
import ctypes
import os
from typing import Any

import torch
from torch import Tensor, nn


class OneProcess:
    """One process on a CPU. The names are Fabric's.

    Args:
        precision: of a recipe.
    """

    device, world_size, global_rank = torch.device("cpu"), 1, 0

    def __init__(self, precision: str = "float32") -> None:
        self.precision = precision

    def setup_module(self, model: nn.Module) -> nn.Module:
        """The model, computing in the recipe's precision; its answers are float32."""
        return model if self.precision == "float32" else _InBfloat16(model)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        loss.backward()

    def no_backward_sync(self, model: nn.Module, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """There is nothing to leave out."""
        return contextlib.nullcontext()

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        return value


class _InBfloat16(nn.Module):
    """A model under autocast; its answers are float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model(*inputs)
        return output.float() if isinstance(output, Tensor) else output.in_float32()


def keep_freed_memory() -> None:
    """Have this process keep up to 1 GiB of memory that it frees. By glibc's own rules it is given back after each step of a
    training on a CPU and asked for again page by page, which is a tenth of a step's time. Elsewhere this does nothing."""
    trim_threshold, mmap_threshold = -1, -3  # numbers from malloc.h
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)  # the largest that glibc itself would choose


def started_processes() -> int:
    """How many processes torchrun started for this training; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device(wanted: str) -> str:
    """The GPU of this process among those that torchrun started; else `wanted`."""
    if started_processes() == 1 or wanted == "cpu" or not torch.cuda.is_available():
        return wanted
    return f"cuda:{os.environ['LOCAL_RANK']}"


def open_fabric(device: torch.device, precision: str) -> Any:
    """Fabric on a GPU or in several processes, else `OneProcess`."""
    processes = started_processes()
    if processes == 1 and device.type == "cpu":
        return OneProcess(precision)
    from lightning_fabric import Fabric

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if processes == 1 else here,
        num_nodes=processes // here,
        strategy="auto" if processes == 1 else "ddp",
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
    )
    fabric.launch()
    return fabric
