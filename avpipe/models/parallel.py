"""For training in several processes: what must see the whole batch, not only the part of it that a process has.

Every function here does nothing where there is one process. Gradients flow through all of them to every process.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function


def processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Sum(Function):
    """The sum over processes; so is its gradient, because each process's loss depends on every process's summand."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return cast(Tensor, _Sum.apply(gradients[0]))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The elementwise sum of all processes' tensors, which have one shape; differentiable."""
    return cast(Tensor, _Sum.apply(tensor)) if processes() > 1 else tensor


def gather(part: Tensor) -> Tensor:
    """The whole batch from each process's part of it, (B_own, ...) -> (B, ...), in the order of the processes.

    A loss that compares clips with each other (a contrastive loss, a correlation) gathers its inputs first.
    """
    if processes() == 1:
        return part
    rank, count = distributed.get_rank(), processes()
    sizes = torch.zeros(count, dtype=torch.int64, device=part.device)
    sizes[rank] = len(part)
    distributed.all_reduce(sizes)
    ends = sizes.cumsum(0).tolist()
    before, after = ends[rank] - len(part), ends[-1] - ends[rank]
    padding: Sequence[int] = [0, 0] * (part.ndim - 1) + [before, after]
    return sum_over_processes(nn.functional.pad(part, padding))


def mean_over_clips(value: Tensor, clips: int) -> Tensor:
    """The mean of a scalar that is each process's mean over its own `clips` clips."""
    if processes() == 1:
        return value
    total = torch.tensor(float(clips), device=value.device)
    distributed.all_reduce(total)
    return sum_over_processes(value * clips) / total


def standardize_whole_batch(input: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize each channel by the mean and variance over all processes' clips; differentiable.

    Args:
        input: this process's part, (B_own, C, ...).
        eps: added to the variance.

    Returns:
        (input - mean) / sqrt(variance + eps); the mean (C,), the population's variance (C,), and the scalar number of
        values a channel.
    """
    dims = [0, *range(2, input.ndim)]
    shape = (1, -1, *(1 for _ in dims[1:]))
    count = sum_over_processes(input.new_tensor(float(input[:, 0].numel())))
    mean = sum_over_processes(input.sum(dims)) / count  # (C,)
    centred = input - mean.view(shape)
    variance = sum_over_processes(centred.square().sum(dims)) / count
    return centred * (variance + eps).rsqrt().view(shape), mean, variance, count


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization by the statistics of the whole batch. torch's SyncBatchNorm does the same, on GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions: the class that this one stands for had checked it."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training or processes() == 1:
            return super().forward(input)
        normalized, mean, variance, count = standardize_whole_batch(input, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, weight)
                self.running_var.lerp_(variance * count / (count - 1), weight)
        shape = (1, -1, *(1 for _ in input.shape[2:]))
        return normalized * self.weight.view(shape) + self.bias.view(shape) if self.affine else normalized


def use_whole_batches(model: nn.Module) -> None:
    """Make every batch normalization inside `model` a `WholeBatchNorm` with the same state."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                whole = WholeBatchNorm.__new__(WholeBatchNorm)
                whole.__dict__ = child.__dict__
                setattr(module, name, whole)
