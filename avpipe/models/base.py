"""What every model takes, returns and says about itself."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AVBatch:
    """Features of B clips. A modality that the experiment does not use is None.

    Args:
        audio: (B, T, D_a) float.
        visual: (B, T, D_v), or a spatial map (B, T, H, W, D_v), float; (B, T, F, D_v) for several frames a
            segment.
        motion: (B, T, D_m) float, features of a 3D network.
        targets: what the task's loss compares with (`Task.targets`, of these clips), for terms and states that need
            labels. The loop sets it while a model is trained; None while it is evaluated. Localization has
            `target`: (B, T, C + 1) supervised, (B, C + 1) weakly supervised, 0 or 1, background last. Parsing has `clip`,
            `audio` and `visual`, (B, C), 0 or 1: the clip's categories, and which of them may be heard and seen in it.
            Cross-modality localization has `event`: (B, T), 0 or 1.
        progress: the share of the training's steps that lie behind, 0 <= p < 1, for schedules inside a model. The
            loop sets it as it does `targets`.
    """

    audio: "Tensor | None" = None
    visual: "Tensor | None" = None
    motion: "Tensor | None" = None
    targets: "dict[str, Tensor] | None" = field(default=None, init=False)
    progress: float | None = field(default=None, init=False)


@dataclass
class AVOutput:
    """What a model says of B clips. C is the number of event categories, background not counted.

    A localization model gives either `segment_logits`, or `event_logits` with `category_logits`. A parsing model gives
    the three probabilities, `attentive_mmil_pooling` of layers.py two of them; every category has one of its own. A
    cross-modality model gives either `similarity`, or `audio_to_visual` with `visual_to_audio`. A model to be pretrained
    gives `grounding` and `groups`.

    Args:
        segment_logits: (B, T, C + 1) unnormalised; the last class is background.
        event_logits: (B, T), unnormalised: is there an event, whichever it is.
        category_logits: (B, C), unnormalised, of the whole clip; (B, C + 1), background last, from a model that is
            weakly supervised with clips without an event (CMRAN's released code).
        parsing_probabilities: (B, T, 2, C): is the category heard (index 0), is it seen (1), in this segment?
        modality_probabilities: (B, 2, C): is it heard, is it seen, anywhere in the clip?
        clip_probabilities: (B, C): is it there, heard or seen? HAN's pooling may go beyond 1, up to 2.
        similarity: (B, T, T): how well the sound of segment i goes with the picture of segment j; larger is better.
        audio_to_visual: (B, I, T): how well the picture of each segment goes with the sound of query i, for every one of
            the I = T (T + 1) / 2 intervals that could be asked for, in the order of `layers.intervals`. So that no model
            is told where the event is.
        visual_to_audio: (B, I, T): the sound of each segment with the picture of query i.
        grounding: (B, 2, 2, T, T), cosines: segment i in one modality with segment j in another or the same, entry
            [b, m, n, i, j], 0 audio and 1 visual.
        groups: (B, T) int64: segments with the same number belong together by their features (AVG's ground truth).
        losses: further terms of the training loss, name -> scalar tensor. Localization adds them as they are; parsing
            weighs each term by its name (`default_loss_weights` of the model, `loss_weights` of the recipe).
        attention: what can be looked at, name -> tensor (for figures); never used for the loss.
        embeddings: features of the segments on their way through the model, (B, T, D) with a D of their own: "audio"
            and "visual", encoded and not yet fused; "fused", what the classifier reads (for figures).
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
        """The same in float32, where a model that computes in bfloat16 gave that; whole numbers stay what they are."""

        def cast(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: cast(entry) for name, entry in value.items()}
            return value.float() if value is not None and value.is_floating_point() else value

        return AVOutput(**{each.name: cast(getattr(self, each.name)) for each in fields(self)})


@dataclass(frozen=True)
class ModelCard:
    """What `docs/models.md` says of a model; stands as `CARD` beside the class.

    Args:
        title: the name the field uses.
        paper: authors, title, venue, year.
        task: the task that trains it ("localization", "parsing", ...).
        inputs: features of the published numbers, in words.
        parameters: trainable parameters with the paper's sizes and default options.
        code: where the authors' code is, or "none public".
        assumptions: what no source says and we chose.
    """

    title: str
    paper: str
    task: str
    inputs: str
    parameters: int
    code: str
    assumptions: tuple[str, ...] = ()
