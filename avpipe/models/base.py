"""The input and output types of every model, and the card that describes it."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AVBatch:
    """Features of B clips. A modality that the experiment does not use is None.

    Args:
        audio: (B, T, D_a) float.
        visual: float; (B, T, D_v), maps (B, T, H, W, D_v), or several frames a segment (B, T, F, D_v).
        motion: (B, T, D_m) float, features of a 3D network.
        targets: labels of these clips (`Task.targets`), for models whose loss terms or states need them. The training
            loop sets them; None in evaluation. All are 0 or 1 (localization with `weak_labels: durations`: shares).
            Localization: `target`, (B, T, C + 1) supervised, (B, C + 1) weakly supervised, background last. Parsing:
            `clip`, (B, C), the clip's categories, and `audio` and `visual`, (B, C), those that may occur in that
            modality. Cross-modality localization: `event`, (B, T).
        progress: share of the training steps done, 0 <= p < 1, for schedules inside a model. Set like `targets`.
    """

    audio: "Tensor | None" = None
    visual: "Tensor | None" = None
    motion: "Tensor | None" = None
    targets: "dict[str, Tensor] | None" = field(default=None, init=False)
    progress: float | None = field(default=None, init=False)


@dataclass
class AVOutput:
    """A model's answer for B clips. C is the number of event categories without background.

    A localization model gives `segment_logits`, or `event_logits` with `category_logits`. A parsing model gives the
    three probabilities; categories are independent of each other. A cross-modality model gives `similarity`, or
    `audio_to_visual` with `visual_to_audio`. A model for pretraining gives `grounding` and `groups`.

    Args:
        segment_logits: (B, T, C + 1), background last.
        event_logits: (B, T): is there an event of any category?
        category_logits: (B, C), of the whole clip; (B, C + 1), background last, from a model that is weakly supervised
            with clips without an event (CMRAN's released code).
        parsing_probabilities: (B, T, 2, C): the category occurs in this segment's audio (index 0), visual (1).
        modality_probabilities: (B, 2, C): it occurs anywhere in the clip's audio, visual.
        clip_probabilities: (B, C): it occurs in the clip, in either modality. HAN's pooling can give up to 2.
        similarity: (B, T, T), of audio segment i with visual segment j; larger is more similar.
        audio_to_visual: (B, I, T), how well each visual segment matches audio query i. Queries are all
            I = T (T + 1) / 2 intervals, in the order of `layers.intervals`; so no model is told the event's interval.
        visual_to_audio: (B, I, T), how well each audio segment matches visual query i.
        grounding: (B, 2, 2, T, T), cosines; entry [b, m, n, i, j] is of segment i in modality m with segment j in n,
            0 audio and 1 visual.
        groups: (B, T) int64: segments with the same number belong together (AVG's ground truth, from the features).
        losses: further loss terms, name -> scalar tensor. Localization adds them; parsing weighs each by its name
            (`default_loss_weights` of the model, `loss_weights` of the recipe).
        attention: name -> weights, for figures; never used for the loss.
        embeddings: features of the segments inside the model, (B, T, D) with a D of their own, for figures: "audio" and
            "visual", encoded and not yet fused; "fused", the classifier's input.
    """

    segment_logits: "Tensor | None" = None
    event_logits: "Tensor | None" = None
    category_logits: "Tensor | None" = None
    parsing_probabilities: "Tensor | None" = None
    modality_probabilities: "Tensor | None" = None
    clip_probabilities: "Tensor | None" = None
    similarity: "Tensor | None" = None
    audio_to_visual: "Tensor | None" = None
    visual_to_audio: "Tensor | None" = None
    grounding: "Tensor | None" = None
    groups: "Tensor | None" = None
    losses: "dict[str, Tensor]" = field(default_factory=dict)
    attention: "dict[str, Tensor]" = field(default_factory=dict)
    embeddings: "dict[str, Tensor]" = field(default_factory=dict)

    def in_float32(self) -> "AVOutput":
        """The same with bfloat16 tensors as float32; integer tensors are unchanged."""

        def cast(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cast(entry) for name, entry in value.items()}
            return value.float() if value is not None and value.is_floating_point() else value

        return AVOutput(**{each.name: cast(getattr(self, each.name)) for each in fields(self)})


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
