"""What models take and return, one small type a task, and the card that describes a model.

A batch has the features of B clips and, in training, their labels. Evaluation gives no labels (`unlabelled`), so no
prediction can depend on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class FeatureBatch:
    """Features of B clips; all that a model for pretraining takes. A modality that the experiment does not use is None.

    Args:
        audio: (B, T, D_a) float.
        visual: float; (B, T, D_v), maps (B, T, H, W, D_v), or several frames a segment (B, T, F, D_v).
        motion: (B, T, D_m) float, features of a 3D network.
        clips: the clips' names, for tables of predictions.
    """

    audio: "Tensor | None" = None
    visual: "Tensor | None" = None
    motion: "Tensor | None" = None
    clips: Sequence[str] = field(default=(), kw_only=True)

    def unlabelled(self) -> Self:
        """The same clips without their labels."""
        return type(self)(self.audio, self.visual, self.motion, clips=self.clips)


@dataclass
class LocalizationBatch(FeatureBatch):
    """Clips for audio-visual event localization.

    Args:
        target: 0 or 1, background last: (B, T, C + 1) of the segments; weakly supervised (B, C + 1) of the clip (shares
            of its segments with `weak_labels: durations`).
    """

    target: "Tensor | None" = None


@dataclass
class ParsingBatch(FeatureBatch):
    """Clips for video parsing. Labels are 0 or 1.

    Args:
        clip_labels: (B, C), the clip's categories, in training.
        audio_labels: (B, C), those that may occur in its audio.
        visual_labels: (B, C), those that may occur in its visual track.
        segment_labels: (B, T, 2, C) bool, of each segment's audio and visual track: the truth, for evaluation.
        progress: share of the training done, 0 <= p < 1, for schedules inside a model; None in evaluation.
    """

    clip_labels: "Tensor | None" = None
    audio_labels: "Tensor | None" = None
    visual_labels: "Tensor | None" = None
    segment_labels: "Tensor | None" = None
    progress: float | None = None


@dataclass
class CrossModalityBatch(FeatureBatch):
    """Clips for cross-modality localization.

    Args:
        event: (B, T), 1 on the event's segments, else 0.
    """

    event: "Tensor | None" = None


@dataclass(kw_only=True)
class ModelOutput:
    """What the answers of all models have in common. C is the number of event categories without background.

    Args:
        losses: the model's own loss terms, name -> scalar. Localization adds them; parsing weighs each by its name
            (`default_loss_weights` of the model, `loss_weights` of the recipe).
        attention: name -> weights, for figures; never used for the loss.
        embeddings: features of the segments inside the model, (B, T, D) with a D of their own, for figures: "audio" and
            "visual", encoded and not yet fused; "audio_fused" and "visual_fused", if fusion gives one of each; "fused", the
            classifier's input.
    """

    losses: "dict[str, Tensor]" = field(default_factory=dict)
    attention: "dict[str, Tensor]" = field(default_factory=dict)
    embeddings: "dict[str, Tensor]" = field(default_factory=dict)

    def in_float32(self) -> Self:
        """The same with bfloat16 tensors as float32; integer tensors are unchanged."""

        def cast(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cast(entry) for name, entry in value.items()}
            return value.float() if value.is_floating_point() else value

        return replace(self, **{each.name: cast(getattr(self, each.name)) for each in fields(self)})


@dataclass(kw_only=True)
class SegmentOutput(ModelOutput):
    """Localization, a class for each segment.

    Args:
        segment_logits: (B, T, C + 1), background last.
    """

    segment_logits: "Tensor"


@dataclass(kw_only=True)
class EventOutput(ModelOutput):
    """Localization in two parts: is there an event, and of which category is the clip's?

    Args:
        event_logits: (B, T).
        category_logits: (B, C), of the whole clip; (B, C + 1), background last, from a model that is weakly supervised
            with clips without an event (CMRAN's released code).
    """

    event_logits: "Tensor"
    category_logits: "Tensor"


@dataclass(kw_only=True)
class ParsingOutput(ModelOutput):
    """Video parsing; categories are independent of each other.

    Args:
        parsing_probabilities: (B, T, 2, C): the category occurs in this segment's audio (index 0), visual (1).
        modality_probabilities: (B, 2, C): it occurs anywhere in the clip's audio, visual.
        clip_probabilities: (B, C): it occurs in the clip, in either modality. HAN's pooling can give up to 2.
    """

    parsing_probabilities: "Tensor"
    modality_probabilities: "Tensor"
    clip_probabilities: "Tensor"


@dataclass(kw_only=True)
class SimilarityOutput(ModelOutput):
    """Cross-modality localization by segments.

    Args:
        similarity: (B, T, T), of audio segment i with visual segment j; larger is more similar.
    """

    similarity: "Tensor"


@dataclass(kw_only=True)
class QueryOutput(ModelOutput):
    """Cross-modality localization by whole queries: all I = T (T + 1) / 2 intervals, in the order of `layers.intervals`.

    So no model is told the event's interval.

    Args:
        audio_to_visual: (B, I, T), how well each visual segment matches audio query i.
        visual_to_audio: (B, I, T), how well each audio segment matches visual query i.
    """

    audio_to_visual: "Tensor"
    visual_to_audio: "Tensor"


@dataclass(kw_only=True)
class GroundingOutput(ModelOutput):
    """Pretraining by grounding.

    Args:
        grounding: (B, 2, 2, T, T), cosines; entry [b, m, n, i, j] is of segment i in modality m with segment j in n,
            0 audio and 1 visual.
        groups: (B, T) int64: segments with the same number belong together (AVG's ground truth, from the features).
    """

    grounding: "Tensor"
    groups: "Tensor"


MODEL_DEFAULTS: dict[str, Any] = {
    "default_loss": "cross_entropy",
    "default_weak_loss": None,
    "default_pooling": "max",
    "default_loss_weights": {"clip": 1.0, "audio": 1.0, "visual": 1.0},
    "default_label_smoothing": (0.0, 0.0),
}
"""What "default" in a recipe means for a model without the class attribute; `default_weak_loss` None: `default_loss`."""


def model_default(model: type, name: str) -> Any:
    """The model's class attribute `name`, else that of `MODEL_DEFAULTS`."""
    return getattr(model, name, MODEL_DEFAULTS[name])


@dataclass(frozen=True)
class ModelCard:
    """A model's entry in `docs/models.md`; the `CARD` in the model's file.

    Args:
        title: the name the field uses.
        paper: authors, title, venue, year.
        task: the task that trains it ("localization", "parsing", ...).
        inputs: features behind the published numbers, in words.
        parameters: trainable parameters with the paper's sizes and default options.
        code: where the authors' code is, or "none public".
        abstract_only: we had neither the paper nor code, only the abstract.
        assumptions: choices of ours that no source settles, and deviations from the released code.
    """

    title: str
    paper: str
    task: str
    inputs: str
    parameters: int
    code: str
    abstract_only: bool = False
    assumptions: tuple[str, ...] = ()
