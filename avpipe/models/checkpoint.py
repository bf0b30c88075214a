"""A run's weights and the model they belong to. Apart from the table of models, which is read where there is no torch."""

import re
from pathlib import Path

import torch
from torch import nn

from avpipe.models import create_model
from avpipe.models.standardization import standardize_inputs

_MEAN = re.compile(r"input_\w+_mean")


def load_model(checkpoint: Path) -> nn.Module:
    """The trained model of a run, in evaluation mode; raises as `avpipe.models.load_model` says."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict) or not saved.get("weights"):
        raise ValueError(f"{checkpoint} holds no weights; metrics.json beside it says whether the run failed")
    model = create_model(saved["model"], **saved["options"])
    weights = saved["weights"]
    roles = [name.removeprefix("input_").removesuffix("_mean") for name in weights if _MEAN.fullmatch(name)]
    standardize_inputs(model, {r: (weights[f"input_{r}_mean"], weights[f"input_{r}_sd"]) for r in roles})
    model.load_state_dict(weights)
    return model.eval()
