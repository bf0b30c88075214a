"""A person's own networks as extractors: docs/extending.md says what their class has."""

from pathlib import Path

import torch
from torch import Tensor, nn

from avpipe.features import synthetic
from avpipe.features.backbones import Extractor, WeightsIdentity, fill, state_sha256, weights_path
from avpipe.features.spec import backbone_of, map_size
from avpipe.plan import registry
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.section import ConfigError


class WaveformExtractor(Extractor):
    """(N, 16000) waveforms of a second at 16 kHz -> (N, D), by a person's own network."""

    preprocessing = "each second alone, 16 kHz mono in [-1, 1]"

    def _load(self, weights_folder: Path | None) -> tuple[nn.Module, WeightsIdentity, Tensor]:
        example = synthetic.sounds(2).float()
        return *own_network(self.config, example), example

    def __call__(self, segments: Tensor) -> Tensor:
        return self.network(segments)


def own_network(config: ExtractorConfig, example: Tensor) -> tuple[nn.Module, WeightsIdentity]:
    """A person's own network in evaluation mode, with the weights of `weights_file`, or those that its class draws.

    Args:
        config: with `weights: random`, torch's generator has `seed` while the class makes the network.
        example: two inputs of the network.

    Raises:
        WeightsError: the file does not fit the network.
        ConfigError: the outputs have another shape than the class says.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        network: nn.Module = registry.load({}, config.backbone, "backbone")().float()
    source = f"random, seed {config.seed}"
    files: dict[str, str] = {}
    if config.weights == "pretrained":
        path, files = weights_path(config, None)
        fill(network, path, config.backbone)
        source = "pretrained"
    network = network.eval().requires_grad_(False)
    with torch.inference_mode():
        found = tuple(network(example).shape)
    backbone = backbone_of(config.backbone)
    wanted = (len(example), backbone.width, *((map_size(config),) * 2 if config.pooling == "map" else ()))
    if found[: len(wanted)] != wanted:
        raise ConfigError(
            f"{config.backbone} gives {found} for inputs of shape {tuple(example.shape)}; expected {wanted}, as its "
            "`width` and, for maps, `stride` say"
        )
    return network, WeightsIdentity(source, state_sha256(network), files)
