"""Self-supervised training of AV-BT's encoders from clips ("Self-Supervised Video Representation and Temporally Adaptive
Attention for Audio-Visual Event Localization", Applied Sciences 12(24), 12622, 2022, section 3.2).

Only the training split is read, as section 4.1 says; so no checkpoint is chosen, and nothing is scored. What the features
are worth, a classifier on them says (`avpipe.models.avbt_mlp`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from avpipe.features import synthetic
from avpipe.features.backbones import draw_weights, fill, published_file
from avpipe.features.visual import pretrained_trunk, random_trunk
from avpipe.features.weights import default_folder
from avpipe.media.logmel import SAMPLE_RATE, log_mel
from avpipe.media.segments import frame_indices
from avpipe.metrics.metric import Metric
from avpipe.models.avbt import AVBT, SoundAndFrames
from avpipe.training.data import Loader, in_order
from avpipe.training.fit import Fitted, weights_of
from avpipe.training.raw import RawClip, RawClips
from avpipe.training.raw_task import RawTask
from avpipe.training.task import Evaluation

CROP, MILD_CROP = (0.08, 1.0), (0.5, 1.0)
"""Share of a frame's area that a random crop keeps: Barlow Twins' (torchvision's default), and the milder one of table 5."""


class BarlowTwins(RawTask):
    """The task of an experiment; see `avpipe.training.task`. The loss is the model's own (equation 2)."""

    settings: ClassVar[Sequence[str]] = ("self-supervised",)
    recipe_keys: ClassVar[Sequence[str]] = ("augment", "pairs")
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("Loss", "", higher_is_better=False)}
    network: AVBT

    def datasets(self) -> dict[str, RawClips]:
        """The training split alone; no clip of another is opened."""
        return {name: clips for name, clips in super().datasets().items() if name == "train"}

    def read(self, clip: RawClip) -> SoundAndFrames:
        """A random frame of each segment."""
        return _batch(clip, clip.random_frames())

    @staticmethod
    def segments(clip: RawClip) -> SoundAndFrames:
        """The middle frame of each segment."""
        return _batch(clip, clip.frames.at(frame_indices(1, clip.preset)))

    def model(self) -> nn.Module:
        """The network with the weights that its option `weights` names, in both CNNs."""
        model = super().model()
        assert isinstance(model, AVBT)
        _load_weights(model, self.options().get("backbone", "resnet50"))
        self.network = model  # `fit` may wrap it for another precision
        return model

    def loss(self, model: nn.Module, batch: SoundAndFrames, progress: float) -> dict[str, Tensor]:
        """Equation 2's terms on augmented frames."""
        recipe = self.experiment.recipe
        size = int(self.options().get("image_size", 224))
        augmented = augment(batch.frames, recipe.augment, size)
        sounds = batch.spectrograms if recipe.pairs == "same_clip" else batch.spectrograms.roll(1, 0)
        losses: dict[str, Tensor] = model(replace(batch, frames=augmented, spectrograms=sounds)).losses
        return losses

    def evaluate(self, model: nn.Module, loader: Loader) -> Evaluation:
        """Not called: there is no split to evaluate on."""
        raise NotImplementedError

    def train(self, seed: int, **how: Any) -> Fitted:
        """Train, then compute the statistics of batch normalisation anew on the training clips as features see them."""
        fitted = super().train(seed, **how)
        if fitted.reason is None:
            device = next(fitted.model.parameters()).device
            clips = RawClips(
                [self.data.raw[c] for c in self.data.splits["train"].clips["clip"]], self.segments, seed
            )
            update_bn(in_order(clips, device, self.experiment.recipe.batch_size), fitted.model)
            fitted.model.eval()
            fitted.weights = weights_of(self.network)
        return fitted


def augment(frames: Tensor, names: Sequence[str], size: int) -> Tensor:
    """Randomly changed frames, on the device that they are on; each clip draws once, for all of its frames.

    Args:
        frames: (B, T, 3, H, W) uint8.
        names: of `Recipe.augment`.
        size: width and height of a crop in pixels.

    Returns:
        (B, T, 3, size, size) uint8 with a crop, else (B, T, 3, H, W).
    """
    from torchvision.transforms import v2

    def crop(scale: tuple[float, float]) -> Callable[[Tensor], Tensor]:
        return v2.RandomResizedCrop(size, scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)

    kernel = max(size // 10, 1) | 1  # odd; 23 pixels at 224
    known: dict[str, Callable[[], Any]] = {
        "crop": lambda: crop(CROP),
        "mild_crop": lambda: crop(MILD_CROP),
        "flip": lambda: v2.RandomHorizontalFlip(0.5),
        "jitter": lambda: v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
        "grayscale": lambda: v2.RandomGrayscale(0.2),
        "blur": lambda: v2.GaussianBlur(kernel, (0.1, 2.0)),
        "solarize": lambda: v2.RandomSolarize(128, 0.2),
    }
    steps = [known[name]() for name in known if name in names]
    if not steps:
        return frames
    change = v2.Compose(steps)
    return torch.stack([change(clip) for clip in frames])


def _batch(clip: RawClip, frames: Any) -> SoundAndFrames:
    return SoundAndFrames(torch.from_numpy(frames).permute(0, 3, 1, 2), clip.log_mel, clip.clip)


def _load_weights(model: AVBT, backbone: str) -> None:
    """Fill both CNNs, with published weights or with random ones that tell inputs apart (drawn from torch's generator).

    Raises:
        WeightsError: a file does not fit.
        PublishedFileError: it cannot be downloaded.
    """
    if model.weights == "pretrained":
        path, _ = published_file(backbone, default_folder())
        model.visual_cnn = pretrained_trunk(backbone, path)
        path, _ = published_file("vggish", default_folder())
        fill(model.audio_cnn, path, "VGGish (`audio_channels: 64`)")
    else:
        seed = int(torch.randint(1 << 31, ()))
        model.visual_cnn = random_trunk(backbone, seed)
        sounds = log_mel(synthetic.sounds(16), SAMPLE_RATE)[:, 0]  # (N, 96, 64) float64
        draw_weights(model.audio_cnn, seed, lambda network: network(sounds))
