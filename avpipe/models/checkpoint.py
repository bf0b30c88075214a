"""Load a run's model. Not in `avpipe.models` itself, whose table of models is also read without torch."""

import re
from pathlib import Path

import torch
from torch import nn

from avpipe.models import create_model
from avpipe.models.standardization import standardize_inputs

_MEAN = re.compile(r"input_\w+_mean")


def load_model(checkpoint: Path) -> nn.Module:
    """See `avpipe.models.load_model`."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict) or not saved.get("weights"):
        raise ValueError(f"{checkpoint} holds no weights; see `status` in the metrics.json beside it")
    model = create_model(saved["model"], **saved["options"])
    weights = saved["weights"]
    roles = [name.removeprefix("input_").removesuffix("_mean") for name in weights if _MEAN.fullmatch(name)]
    standardize_inputs(model, {r: (weights[f"input_{r}_mean"], weights[f"input_{r}_sd"]) for r in roles})
    model.load_state_dict(weights)
    return model.eval()
