"""An experiment: everything that decides a run's numbers except the data, the code and the seed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from avpipe.models import MODELS
from avpipe.plan.recipe import Recipe
from avpipe.plan.registry import check_options, options_of, target
from avpipe.plan.section import Section

Setting = Literal["supervised", "weakly-supervised", "self-supervised"]
Role = Literal["audio", "visual", "motion"]


def check_model(model: str, options: dict[str, Any]) -> None:
    """Raise `UnknownNameError` where the model, or an option of it, does not exist. The model is not imported."""
    check_options(target(MODELS, model, "model"), options, f"model {model!r}")


def model_options(model: str) -> dict[str, dict[str, Any]]:
    """The options of a model, as `registry.options_of` describes them. The model is not imported."""
    return options_of(target(MODELS, model, "model"))


def attends_to_cells(model: str, options: Mapping[str, Any], features: Mapping[Role, str]) -> str | None:
    """The option by which the model, with these options and features, attends to the cells of a map; None if it does not.

    Such a model has the options `visual_cells` and `attention` or `visual_attention`; the audio guides the attention.
    """
    known = model_options(model)
    if "visual_cells" in known and {"audio", "visual"} <= features.keys():
        for name in ("attention", "visual_attention"):
            if known.get(name, {}).get("type") == "bool" and options.get(name, known[name]["default"]):
                return name
    return None


class Experiment(Section):
    """The recipe behind a table's row in one setting. Two tables that ask for the same share its runs."""

    task: str = Field(description="what trains and evaluates it: localization, parsing, ...")
    model: str = Field(description="a name of avpipe.models.list_models()")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    features: dict[Role, str] = Field(description="role in the model's batch -> extractor")
    setting: Setting
    recipe: Recipe
    pretraining: "Experiment | None" = Field(
        default=None,
        description="experiment whose checkpoint of the same seed initializes this one; null: random weights",
    )
    pretrained_on: str | None = Field(
        default=None,
        description="name of the dataset that has the pretraining's results; null: the same dataset",
    )

    @model_serializer(mode="wrap")
    def _without_absent_pretraining(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave both keys out if there is no pretraining, so that other experiments keep the id they had before these keys existed."""
        written: dict[str, Any] = serialize(self)
        for key in ("pretraining", "pretrained_on"):
            if getattr(self, key) is None:
                written.pop(key, None)
        return written

    @property
    def chain(self) -> tuple["Experiment", ...]:
        """This experiment, its pretraining, the pretraining's own pretraining and so on, within the same dataset."""
        here = self.pretraining if self.pretrained_on is None else None
        return (self, *(here.chain if here else ()))

    @property
    def id(self) -> str:
        """For example `avin-supervised-3f2a91c4`: readable, and different whenever anything above is."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.model}-{self.setting}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def to_json(self) -> str:
        """One line that `from_json` reads back; what the workflow passes to `avpipe train`."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """The experiment that `to_json` wrote. Raises pydantic's ValidationError on unknown or wrong keys."""
        return cls.model_validate_json(text)
