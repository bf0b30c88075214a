"""Shared by all extractors: weights (published or random), their identity, and the runtime that computes the network."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avpipe.features.runtime import prepare
from avpipe.features.spec import backbone_of, check_extractors, extractor_class, network_modules
from avpipe.features.weights import WeightsError, fetch, load_state
from avpipe.files import sha256_of
from avpipe.plan import fingerprint, registry
from avpipe.plan.extractor import ExtractorConfig

Convolution = (nn.Conv2d, nn.Conv3d)
BatchNorm = (nn.BatchNorm2d, nn.BatchNorm3d)
_RESIDUAL_SCALE = 0.1


@dataclass(frozen=True)
class WeightsIdentity:
    """Which weights made a feature.

    Args:
        source: "pretrained" or "random, seed N".
        state_sha256: of the network's tensors, as `state_sha256` counts.
        files: name -> SHA-256 of the published files that were read.
    """

    source: str
    state_sha256: str
    files: dict[str, str]


class Extractor(ABC):
    """A network with its preprocessing and pooling. `extractor(segments)` gives one feature per segment.

    Args:
        config: what to compute; checked.
        device: where.
        weights_folder: folder of published weights; needed for `weights: pretrained`.
        clips: number of clips in the job, by which runtime.py chooses the runtime.
    """

    preprocessing: str
    """A description for the array's attributes."""

    def __init__(
        self, config: ExtractorConfig, device: torch.device, weights_folder: Path | None, clips: int = 0
    ) -> None:
        check_extractors({config.backbone: config})
        self.config = config
        self.device = device
        network, self.identity, example = self._load(weights_folder)
        # VGGish's variants have the same weights and differ in their layers; a person's own networks may differ in code alone.
        code = fingerprint.fingerprint(*network_modules(config.backbone)[1:])
        sha256 = hashlib.sha256(f"{self.identity.state_sha256}{network}{code}".encode()).hexdigest()
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]
        inputs = (
            clips * config.preset.segments * (config.fps if backbone_of(config.backbone).kind == "2d" else 1)
        )
        self.network = prepare(network, sha256, example, device, dtype, inputs)

    @abstractmethod
    def _load(self, weights_folder: Path | None) -> tuple[nn.Module, WeightsIdentity, Tensor]:
        """The network in float32 on the CPU, the identity of its weights, and two synthetic inputs of the real shape."""

    @abstractmethod
    def __call__(self, segments: Tensor) -> Tensor:
        """Raw segments on the device, (N, ...) -> features (N, ...), float32 on the device."""


def create_extractor(
    config: ExtractorConfig, device: torch.device, weights_folder: Path | None, clips: int = 0
) -> Extractor:
    """The extractor that `config` describes, prepared for a job of `clips` clips.

    Raises:
        ConfigError: for options that do not fit the backbone.
        PublishedFileError: if published weights are asked for and cannot be downloaded.
    """
    check_extractors({config.backbone: config})
    network = registry.load({}, extractor_class(config.backbone), "extractor")
    extractor: Extractor = network(config, device, weights_folder, clips)
    return extractor


def published_file(name: str, weights_folder: Path | None) -> tuple[Path, dict[str, str]]:
    """The file of published weights, and its name with its SHA-256.

    Raises:
        WeightsError: without a folder.
        PublishedFileError: if the file cannot be downloaded.
    """
    if weights_folder is None:
        raise WeightsError(f"{name}: published weights need a folder to be kept in (--weights FOLDER)")
    path = fetch(name, weights_folder)
    return path, {path.name: sha256_of(path)}


def weights_path(config: ExtractorConfig, weights_folder: Path | None) -> tuple[Path, dict[str, str]]:
    """The file of an extractor's weights, the person's own or published, and its name with its SHA-256."""
    if config.weights_file is None:
        return published_file(config.backbone, weights_folder)
    path = Path(config.weights_file)
    return path, {path.name: sha256_of(path)}


def fill(network: nn.Module, path: Path, name: str) -> None:
    """Give a network the weights in a file. Raises `WeightsError` if the file does not fit."""
    try:
        network.load_state_dict(load_state(path), assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit {name}: {error}") from error


def state_sha256(network: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of a network's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.numpy().data if value.dim() else value.numpy().tobytes())
    return digest.hexdigest()


def draw_weights(network: nn.Module, seed: int, calibrate: Callable[[nn.Module], Any]) -> None:
    """Give `network` seeded random weights whose features still distinguish inputs.

    Plain random initialisation makes deep networks useless as extractors: measured on eight rendered looks, a
    random ResNet-152 distinguishes 28 % even with calibrated batch-norms (with step 2 below: 100 %), and the embeddings
    of a random VGGish have a standard deviation of 2e-4. So:

    1. Kernels are drawn from Kaiming's uniform distribution (He et al. 2015, variance 2 / fan-in), biases zero.
       Uniform, because these numbers are the same bits on every CPU.
    2. In a residual block the scale of the last batch-norm is 0.1, so that the block's input dominates
       (in the spirit of Goyal et al. 2017 and of Fixup) and differences survive 50 blocks.
    3. `calibrate` runs the network once on seeded synthetic inputs, the same for every shard, dataset and
       machine. In this run each batch-norm takes over the statistics of its input, and each convolution or linear
       layer that no batch-norm follows is scaled and shifted to mean 0, standard deviation 1 in each channel.

    The run is in double precision and its statistics are rounded to 12 bits, far coarser than the differences between
    CPUs and numbers of threads: the same seed gives the same `state_sha256` everywhere.

    Args:
        network: on the CPU; its tensors may be uninitialised (`to_empty`).
        seed: of the kernels.
        calibrate: runs its argument, a float64 network, on the synthetic inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (*Convolution, nn.Linear)):
            fan_in = module.weight[0].numel()
            bound = (6.0 / fan_in) ** 0.5
            uniform = torch.rand(module.weight.shape, generator=generator)
            module.weight.data = uniform.mul_(2).sub_(1).mul_(bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            module.reset_parameters()
    for block in network.modules():
        if hasattr(block, "downsample"):
            branch = [m for name, m in block.named_modules() if not name.startswith("downsample")]
            nn.init.constant_([m for m in branch if isinstance(m, BatchNorm)][-1].weight, _RESIDUAL_SCALE)
    network.eval()
    hooks = []
    for module in network.modules():
        if isinstance(module, (*Convolution, *BatchNorm, nn.Linear)):
            hooks += [module.register_forward_pre_hook(_widen), module.register_forward_hook(_calibrated)]
    with torch.no_grad():
        calibrate(network)
    for hook in hooks:
        hook.remove()


def _widen(module: Any, inputs: tuple[Tensor, ...]) -> None:
    """Before a layer's run: double precision, one layer at a time to spare memory."""
    module.double()


def _calibrated(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """After a layer's run: calibrate it, give its output anew, and return it to single precision."""
    if isinstance(module, BatchNorm):
        output = _take_statistics(module, inputs[0])
    elif module.bias is not None:  # without a bias, a batch-norm follows
        output = _standardise(module, output)
    module.float()
    return output


def _statistics(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (axis 1), rounded to 12 bits; a constant channel has deviation 1."""
    axes = [axis for axis in range(output.dim()) if axis != 1]
    deviation, mean = torch.std_mean(output, axes, correction=0)
    deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    return _rounded(mean), _rounded(deviation)


def _rounded(values: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 4096).round() / 4096, exponent)


def _shaped(channels: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...)."""
    return channels.reshape(1, -1, *[1] * (like.dim() - 2))


def _take_statistics(module: Any, inputs: Tensor) -> Tensor:
    """Batch-norm: the statistics of this input become the module's; gives the output with them."""
    mean, deviation = _statistics(inputs)
    module.running_mean.copy_(mean)
    module.running_var.copy_(deviation.square())
    normal = (inputs - _shaped(mean, inputs)) / _shaped(deviation, inputs)
    return normal * _shaped(module.weight, inputs) + _shaped(module.bias, inputs)


def _standardise(module: Any, output: Tensor) -> Tensor:
    """Convolution or linear layer: scale and shift it so that this output has mean 0 and deviation 1 a channel."""
    mean, deviation = _statistics(output)
    module.weight.div_(deviation.reshape(-1, *[1] * (module.weight.dim() - 1)))
    module.bias.copy_(-mean / deviation)
    return (output - _shaped(mean, output)) / _shaped(deviation, output)
