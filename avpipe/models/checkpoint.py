"""A run's weights and the model they belong to. Apart from the table of models, which is read where there is no torch."""

from pathlib import Path

import torch
from torch import nn

from avpipe.models import create_model


def load_model(checkpoint: Path) -> nn.Module:
    """The trained model of a run, in evaluation mode; raises as `avpipe.models.load_model` says."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict) or not saved.get("weights"):
        raise ValueError(f"{checkpoint} holds no weights; metrics.json beside it says whether the run failed")
    model = create_model(saved["model"], **saved["options"])
    model.load_state_dict(saved["weights"])
    return model.eval()
