"""The released weights of the alignment network (Owens and Efros, ECCV 2018) for `Multisensory()`.

The authors' checkpoints net.tf-650000, and net.tf-675000 of the variant for class activation maps (`map_stride: 1`), are
TensorFlow's. Where TensorFlow is installed, three lines write the variables to a file that numpy can read:

    import numpy, tensorflow
    reader = tensorflow.train.load_checkpoint("net.tf-650000")
    numpy.savez("net.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})

Then

    model = Multisensory()
    model.load_state_dict(read_weights("net.npz"))

For a network with `gamma`, or with another head, load with `strict=False` what fits.

Our reading: scopes and shapes follow from the released code (src/shift_net.py), names within a scope from tf.contrib.slim.
We had no checkpoint to compare them with.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KINDS: dict[str, dict[str, str | None]] = {
    "norm": {
        "weights": "conv.weight",
        "BatchNorm/beta": "norm.bias",
        "BatchNorm/moving_mean": "norm.moving_mean",
        "BatchNorm/moving_variance": "norm.moving_variance",
    },
    "bias": {"weights": "weight", "biases": "bias"},
    "renorm": {
        "beta": "bias",
        "moving_mean": "moving_mean",
        "moving_variance": "moving_variance",
        "renorm_mean": "renorm_mean",
        "renorm_mean_weight": "renorm_weight",
        "renorm_stddev": "renorm_std",
        "renorm_stddev_weight": None,  # always equals renorm_mean_weight
    },
}
"""A convolution with normalization, one with a bias, a renormalization: variables in a scope -> our names in a module."""

LAYERS: tuple[tuple[str, str, str, tuple[int, ...]], ...] = (
    ("sf/conv1_1", "sound.conv1_1", "norm", (65, 1, 2, 64)),
    ("sf/conv2_1_short", "sound.conv2_1.shortcut", "norm", (1, 1, 64, 128)),
    ("sf/conv2_1_1", "sound.conv2_1.first", "norm", (15, 1, 64, 128)),
    ("sf/conv2_1_2", "sound.conv2_1.second", "bias", (15, 1, 128, 128)),
    ("sf/conv2_1_bn", "sound.conv2_1.norm", "renorm", (128,)),
    ("sf/conv3_1_1", "sound.conv3_1.first", "norm", (15, 1, 128, 128)),
    ("sf/conv3_1_2", "sound.conv3_1.second", "bias", (15, 1, 128, 128)),
    ("sf/conv3_1_bn", "sound.conv3_1.norm", "renorm", (128,)),
    ("sf/conv4_1_short", "sound.conv4_1.shortcut", "norm", (1, 1, 128, 256)),
    ("sf/conv4_1_1", "sound.conv4_1.first", "norm", (15, 1, 128, 256)),
    ("sf/conv4_1_2", "sound.conv4_1.second", "bias", (15, 1, 256, 256)),
    ("sf/conv4_1_bn", "sound.conv4_1.norm", "renorm", (256,)),
    ("sf/conv5_1", "sound.conv5_1", "norm", (3, 1, 256, 128)),
    ("im/conv1", "image.conv1", "norm", (5, 7, 7, 3, 64)),
    ("im/conv2_1_1", "image.conv2_1.first", "norm", (3, 3, 3, 64, 64)),
    ("im/conv2_1_2", "image.conv2_1.second", "bias", (3, 3, 3, 64, 64)),
    ("im/conv2_1_bn", "image.conv2_1.norm", "renorm", (64,)),
    ("im/conv2_2_1", "image.conv2_2.first", "norm", (3, 3, 3, 64, 64)),
    ("im/conv2_2_2", "image.conv2_2.second", "bias", (3, 3, 3, 64, 64)),
    ("im/conv2_2_bn", "image.conv2_2.norm", "renorm", (64,)),
    ("im/merge1", "fused.merge1", "norm", (1, 1, 1, 192, 512)),
    ("im/merge2", "fused.merge2", "bias", (1, 1, 1, 512, 128)),
    ("im/merge_block_bn", "fused.merge_norm", "renorm", (128,)),
    ("im/conv3_1_1", "fused.conv3_1.first", "norm", (3, 3, 3, 128, 128)),
    ("im/conv3_1_2", "fused.conv3_1.second", "bias", (3, 3, 3, 128, 128)),
    ("im/conv3_1_bn", "fused.conv3_1.norm", "renorm", (128,)),
    ("im/conv3_2_1", "fused.conv3_2.first", "norm", (3, 3, 3, 128, 128)),
    ("im/conv3_2_2", "fused.conv3_2.second", "bias", (3, 3, 3, 128, 128)),
    ("im/conv3_2_bn", "fused.conv3_2.norm", "renorm", (128,)),
    ("im/conv4_1_short", "fused.conv4_1.shortcut", "norm", (1, 1, 1, 128, 256)),
    ("im/conv4_1_1", "fused.conv4_1.first", "norm", (3, 3, 3, 128, 256)),
    ("im/conv4_1_2", "fused.conv4_1.second", "bias", (3, 3, 3, 256, 256)),
    ("im/conv4_1_bn", "fused.conv4_1.norm", "renorm", (256,)),
    ("im/conv4_2_1", "fused.conv4_2.first", "norm", (3, 3, 3, 256, 256)),
    ("im/conv4_2_2", "fused.conv4_2.second", "bias", (3, 3, 3, 256, 256)),
    ("im/conv4_2_bn", "fused.conv4_2.norm", "renorm", (256,)),
    ("im/conv5_1_short", "fused.conv5_1.shortcut", "norm", (1, 1, 1, 256, 512)),
    ("im/conv5_1_1", "fused.conv5_1.first", "norm", (3, 3, 3, 256, 512)),
    ("im/conv5_1_2", "fused.conv5_1.second", "bias", (3, 3, 3, 512, 512)),
    ("im/conv5_1_bn", "fused.conv5_1.norm", "renorm", (512,)),
    ("im/conv5_2_1", "fused.conv5_2.first", "norm", (3, 3, 3, 512, 512)),
    ("im/conv5_2_2", "fused.conv5_2.second", "bias", (3, 3, 3, 512, 512)),
    ("im/conv5_2_bn", "fused.conv5_2.norm", "renorm", (512,)),
    ("joint/logits", "head", "bias", (1, 1, 1, 512, 1)),
)
"""Scope, our module, kind, and the kernel's shape in TensorFlow's order (sizes, input, output) or the channels."""

TRAINING_ONLY = ("/Momentum", "/Adam", "/Adam_1")
"""Ends of the names of an optimizer's variables, which are left out, like global_step."""


def variables() -> dict[str, tuple[tuple[int, ...], str | None]]:
    """The network's variables in a checkpoint: name -> its shape, and our name of it in the model's `state_dict`."""
    found = {}
    for scope, module, kind, shape in LAYERS:
        for name, ours in KINDS[kind].items():
            own = shape if name == "weights" else () if name.endswith("_weight") else shape[-1:]
            found[f"{scope}/{name}"] = (own, ours and f"{module}.{ours}")
    return found


def convert(checkpoint: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Weights for `Multisensory()` from the variables of a released checkpoint.

    Args:
        checkpoint: name -> array, as TensorFlow has them; those of an optimizer are ignored.

    Returns:
        Our name -> tensor. A kernel (T, H, W, input, output) becomes (output, input, T, H, W), one over time
        (T, 1, input, output) becomes (output, input, T).

    Raises:
        ValueError: if variables are missing, unknown, or of another shape.
    """
    known = variables()
    given = {name for name in checkpoint if not name.endswith(TRAINING_ONLY) and name != "global_step"}
    problems = [f"no {name}" for name in sorted(known.keys() - given)]
    problems += [f"{name} is unknown" for name in sorted(given - known.keys())]
    problems += [
        f"{name} has the shape {checkpoint[name].shape}, not {shape}"
        for name, (shape, _) in known.items()
        if name in given and checkpoint[name].shape != shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"this is no checkpoint of the alignment network with one logit and without gamma: {'; '.join(problems[:5])}{more}"
        )
    weights = {}
    for name, (shape, ours) in known.items():
        if ours is None:
            continue
        array = checkpoint[name]
        if name.endswith("/weights"):
            array = np.moveaxis(array, (-1, -2), (0, 1))  # (..., input, output) -> (output, input, ...)
            array = array[..., 0] if len(shape) == 4 else array
        weights[ours] = torch.from_numpy(np.array(array, order="C"))
    return weights


def read_weights(file: Path | str) -> dict[str, Tensor]:
    """`convert` of the variables in an .npz file. Raises as it does, and FileNotFoundError."""
    with np.load(file) as checkpoint:
        return convert(dict(checkpoint))
