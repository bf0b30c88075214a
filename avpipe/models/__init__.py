"""Models: one file a paper. This table is all that importing `avpipe.models` loads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avpipe.models.base import ModelCard
from avpipe.plan import registry
from avpipe.plan.registry import LazyTable

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MODELS",
    "ModelCard",
    "create_model",
    "list_models",
    "load_model",
    "model_card",
]

MODELS: LazyTable = {
    "avel": "avpipe.models.avel:AVEL",
    "avin": "avpipe.models.avin:AVIN",
    "avrb": "avpipe.models.avrb:AVRB",
    "avt": "avpipe.models.avt:AVT",
    "psp": "avpipe.models.psp:PSP",
    "cman": "avpipe.models.cman:CMAN",
    "cmran": "avpipe.models.cmran:CMRAN",
    "jcan": "avpipe.models.jcan:JCAN",
    "mpn": "avpipe.models.mpn:MPN",
    "tacma": "avpipe.models.tacma:TACMA",
    "avbt": "avpipe.models.avbt:AVBT",
    "avbt_mlp": "avpipe.models.avbt_mlp:AVBTMLP",
    "multisensory": "avpipe.models.multisensory:Multisensory",
    "multisensory_separation": "avpipe.models.multisensory_separation:MultisensorySeparation",
    "avsdn": "avpipe.models.avsdn:AVSDN",
    "dam": "avpipe.models.dam:DAM",
    "avdln": "avpipe.models.avdln:AVDLN",
    "dam_matching": "avpipe.models.dam_matching:DAMMatching",
    "dcca": "avpipe.models.dcca:DCCA",
    "han": "avpipe.models.han:HAN",
    "ma": "avpipe.models.ma:MA",
    "crossmodal_parser": "avpipe.models.crossmodal_parser:CrossModalParser",
    "avg": "avpipe.models.avg:AVG",
    "avg_parser": "avpipe.models.avg_parser:AVGParser",
}


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(MODELS)


def create_model(name: str, **options: Any) -> "nn.Module":
    """Build the model `name`: its `forward` takes and returns its task's types (`avpipe.models.base`).

    Args:
        name: one of `list_models()`.
        options: keyword arguments of the model's class. Sizes of the data (`num_classes`, `audio_dim`, `visual_dim`)
            default to the paper's.

    Raises:
        UnknownNameError: for an unknown model or option, or a value that the option does not take.
    """
    registry.check_options(registry.target(MODELS, name, "model"), options, f"model {name!r}")
    return registry.load(MODELS, name, "model")(**options)


def load_model(checkpoint: Path) -> "nn.Module":
    """The trained model of a run, in evaluation mode: `load_model("results/ave/runs/.../seed0/checkpoint.pt")`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no checkpoint of avpipe, or holds no weights because the run failed.
    """
    function = {"load_model": "avpipe.models.checkpoint:load_model"}
    return registry.load(function, "load_model", "function")(checkpoint)


def model_card(name: str) -> ModelCard:
    """The `CARD` in the model's file."""
    module = registry.target(MODELS, name, "model").split(":")[0]
    return registry.load({name: f"{module}:CARD"}, name, "model")
