"""Torchvision's image and video networks as extractors of pooled vectors or spatial maps.

2D networks take single frames: ResNets end with layer4 (7x7x2048 or 7x7x512 at 224 pixels), VGGs with block5's pooling
(7x7x512, AVE's visual features). 3D networks take all frames of a segment together.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from avpipe.features import synthetic
from avpipe.features.backbones import (
    Extractor,
    WeightsIdentity,
    draw_weights,
    fill,
    state_sha256,
    weights_path,
)
from avpipe.features.own import own_network
from avpipe.features.spec import backbone_of, frame_axis

NORMALISATION = {
    "2d": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "3d": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
}
"""Mean and standard deviation of R, G, B in 0 .. 1: torchvision's for ImageNet and for Kinetics-400."""

# Pictures, frames and size of the calibration of random weights: enough for the statistics of every channel, and one
# to three seconds in double precision on one core.
_CALIBRATION = {"2d": (16, 1, 64), "3d": (4, 8, 48)}


class VisualExtractor(Extractor):
    """(N, fps, H, W, 3) uint8 frames of N segments -> (N, [fps,] [H, W,] D)."""

    def _load(self, weights_folder: Path | None) -> tuple[nn.Module, WeightsIdentity, Tensor]:
        config = self.config
        self.kind = backbone_of(config.backbone).kind
        mean, deviation = NORMALISATION[self.kind]
        self.mean = torch.tensor(mean, device=self.device) * 255
        self.deviation = torch.tensor(deviation, device=self.device) * 255
        self.preprocessing = (
            f"{config.fps} frames a second, "
            + (
                "squashed to"
                if config.resize == "squash"
                else "short side scaled to 8/7 of, centre cropped to"
            )
            + f" {config.image_size}x{config.image_size} (bilinear, antialiased, rounded to 8 bit), "
            + f"mean {mean}, standard deviation {deviation}"
        )
        frames = config.fps if self.kind == "3d" else 1
        pictures = synthetic.pictures(2, frames, config.image_size).to(self.device)
        example = self._inputs(pictures.flatten(0, 1), frames).cpu()
        if ":" in config.backbone:
            return *own_network(config, example), example
        files: dict[str, str] = {}
        if config.weights == "pretrained":
            path, files = weights_path(config, weights_folder)
            trunk, source = pretrained_trunk(config.backbone, path), "pretrained"
        else:
            trunk, source = random_trunk(config.backbone, config.seed), f"random, seed {config.seed}"
        trunk = trunk.requires_grad_(False)
        return trunk, WeightsIdentity(source, state_sha256(trunk), files), example

    def __call__(self, segments: Tensor) -> Tensor:
        count, frames = segments.shape[:2]
        inputs = self._inputs(
            resized(segments.flatten(0, 1), self.config.image_size, self.config.resize), frames
        )
        maps = self.network(
            inputs
        )  # 2d (N * F, D, h, w); 3d (N, D, f, h, w); or vectors of a person's own network
        vector = self.config.pooling == "vector"
        # (N * F, [h, w,] D)
        features = maps.unsqueeze(2).flatten(2).mean(2) if vector else maps.permute(0, 2, 3, 1)
        if self.kind == "3d":
            return features
        features = features.unflatten(0, (count, frames))
        return features if frame_axis(self.config) else features.mean(1)

    def _inputs(self, pictures: Tensor, frames: int) -> Tensor:
        """(N * F, H, W, 3) uint8 -> normalised float32, (N * F, 3, H, W) or (N, 3, F, H, W)."""
        return _channels_first((pictures - self.mean) / self.deviation, frames, self.kind)


def _channels_first(pictures: Tensor, frames: int, kind: str) -> Tensor:
    """(N * F, H, W, 3) -> (N * F, 3, H, W) or, for 3D networks, (N, 3, F, H, W); channels stay last in memory."""
    if kind == "3d":
        return pictures.unflatten(0, (-1, frames)).permute(0, 4, 1, 2, 3)
    return pictures.permute(0, 3, 1, 2)


def resized(pictures: Tensor, size: int, how: str) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, size, size, 3) uint8, bilinear and antialiased, as PIL does.

    "squash" ignores the picture's proportions; "crop" scales the short side to 8/7 of `size` (256 for 224) and takes
    the centre, as torchvision's ImageNet preprocessing.
    """
    from torchvision.transforms.v2 import functional

    height, width = pictures.shape[1:3]
    if how == "squash":
        target = (size, size)
    else:
        short = round(size * 8 / 7)
        scale = short / min(height, width)
        target = (max(short, round(height * scale)), max(short, round(width * scale)))
    if target != (height, width):
        images = functional.resize(pictures.permute(0, 3, 1, 2), list(target), antialias=True)
        pictures = images.permute(0, 2, 3, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return pictures[:, top : top + size, left : left + size]


def pretrained_trunk(backbone: str, path: Path) -> nn.Sequential:
    """The network before pooling and classification, with torchvision's weights from the file `path`."""
    network = _architecture(backbone)
    fill(network, path, f"torchvision's {backbone}")
    return _trunk(network).eval()


def random_trunk(backbone: str, seed: int) -> nn.Sequential:
    """The network before pooling and classification, float32 with weights as `draw_weights` gives them."""
    kind = backbone_of(backbone).kind
    count, frames, size = _CALIBRATION[kind]
    mean, deviation = (255 * torch.tensor(values, dtype=torch.float64) for values in NORMALISATION[kind])

    def calibrate(network: nn.Module) -> None:
        pictures = synthetic.pictures(count, frames, size).flatten(0, 1)
        network(_channels_first((pictures - mean) / deviation, frames, kind))

    trunk = _trunk(_architecture(backbone)).to_empty(device="cpu")
    draw_weights(trunk, seed, calibrate)
    return trunk.eval()


def _architecture(backbone: str) -> nn.Module:
    """Torchvision's network without weights (on the meta device)."""
    import torchvision

    models = torchvision.models.video if backbone_of(backbone).kind == "3d" else torchvision.models
    with torch.device("meta"):
        network: nn.Module = getattr(models, backbone)(weights=None)
    return network


def _trunk(network: nn.Module) -> nn.Sequential:
    """The part of a torchvision network before pooling and classification."""
    children = dict(network.named_children())
    if "features" in children:
        return nn.Sequential(*children["features"].children())
    stem = ("stem",) if "stem" in children else ("conv1", "bn1", "relu", "maxpool")
    return nn.Sequential(*[children[name] for name in (*stem, "layer1", "layer2", "layer3", "layer4")])
