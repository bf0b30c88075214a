"""Read a run's checkpoint, or its model. Not in `avpipe.models` itself, whose table of models is also read without torch."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avpipe.models import create_model
from avpipe.models.standardization import standardize_inputs

_MEAN = re.compile(r"input_\w+_mean")


UNREADABLE = (
    zipfile.BadZipFile,
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError,
)  # fmt: skip
"""What `load_whole` raises for a file that is cut, empty, damaged or foreign."""


def load_whole(path: Path) -> Any:
    """What torch.save wrote to `path`, after a look at the file's checksums, which torch does not compare."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in {path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint.pt: model, options, weights (empty if the run failed).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no whole checkpoint of avpipe.
    """
    try:
        saved: dict[str, Any] = load_whole(path)
        missing = {"model", "options", "weights"} - saved.keys()
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of avpipe: train its run again") from error
    if missing:
        raise ValueError(f"{path} is no checkpoint of avpipe: it has no {', '.join(sorted(missing))}")
    return saved


def load_model(checkpoint: Path) -> nn.Module:
    """See `avpipe.models.load_model`."""
    saved = read_checkpoint(checkpoint)
    weights = saved["weights"]
    if not weights:
        raise ValueError(f"{checkpoint} holds no weights; see `status` in the metrics.json beside it")
    try:
        return _with_weights(create_model(saved["model"], **saved["options"]), weights)
    except UNREADABLE as error:
        raise ValueError(f"{checkpoint} does not fit this version of avpipe: {error}") from error


def _with_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    roles = [name.removeprefix("input_").removesuffix("_mean") for name in weights if _MEAN.fullmatch(name)]
    standardize_inputs(model, {r: (weights[f"input_{r}_mean"], weights[f"input_{r}_sd"]) for r in roles})
    model.load_state_dict(weights)
    return model.eval()
