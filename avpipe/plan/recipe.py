"""How an experiment is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from avpipe.plan.section import NAME, Count, Section

_Share = Annotated[float, Field(ge=0, le=1)]
LATER_KEYS = (
    "accumulate", "eps", "lr_vectors", "warmup", "final", "augment", "pairs", "window", "overlap", "frame_step", "crop",
    "control", "negatives", "audio_jitter", "test_clips", "test_crops", "clip_target", "frames", "phase", "off_screen",
)  # fmt: skip


class Recipe(Section):
    """How an experiment is trained. `training_of` and `recipes` take the same keys."""

    epochs: int = Field(
        100,
        ge=0,
        le=10**9,
        description="passes over the training clips; 0 leaves the model as it is drawn, for a control",
    )
    batch_size: Count = Field(64, description="clips per step of the optimizer")
    accumulate: Count = Field(
        1, description="batches whose gradients are averaged for one step of the optimizer"
    )
    optimizer: Literal["adam", "adamw", "sgd", "lars"] = Field(
        "adam",
        description="optimizer, as torch.optim has it; lars, as timm has it, leaves adaptation out for vectors (biases, normalisation)",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate at the start, or after `warmup`")
    lr_vectors: float | None = Field(
        None,
        gt=0,
        description="learning rate of weights that are vectors (biases, normalisation), for optimizer lars; null: `lr`",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="`weight_decay` of the optimizer; sgd and lars leave vectors (biases, normalisation) out of it",
    )
    eps: float = Field(
        1e-8,
        gt=0,
        description="added to the denominator by adam and adamw; Keras has 1.0e-7",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum; only sgd and lars use it")
    schedule: Literal["constant", "step", "milestones", "plateau", "cosine"] = Field(
        "constant",
        description="how the learning rate changes: never, every `step` epochs, after the `milestones`, when `watch` stops improving, or along a cosine to `final`",
    )
    warmup: int = Field(
        0,
        ge=0,
        le=10**9,
        description="schedule cosine: epochs in which the learning rate rises in equal steps to `lr`, before the cosine",
    )
    final: float = Field(
        0.0, ge=0, le=1, description="schedule cosine: the learning rate at the end, as a share of `lr`"
    )
    step: Count = Field(
        10,
        description="schedule step: epochs between two decays; plateau: epochs without improvement before a decay",
    )
    watch: Literal["validation", "loss"] = Field(
        "validation",
        description="schedule plateau: what must improve, the validation score or the training loss",
    )
    milestones: tuple[Count, ...] = Field(
        (), description="schedule milestones: epochs after which the rate decays"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="a decay multiplies the learning rate by this factor")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no limit")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of the model; bfloat16 is for matrix products only (torch.autocast): LSTMs, weights, losses and the optimizer stay in float32",
    )
    standardize: bool = Field(
        False,
        description="shift and scale each feature dimension to mean 0 and standard deviation 1 over the training split; no paper here does so, but features of random networks need it",
    )
    shuffle: bool = Field(
        True,
        description="a new random order in each epoch; false: the order of the split's file, as AVEL's released code has it",
    )
    drop_last: bool = Field(
        False,
        description="leave out the last batch of an epoch if it is smaller; true is AVEL's released code",
    )
    evaluate_every: Count = Field(1, description="epochs between two evaluations on the validation split")
    protocol: Literal["validation", "last", "best_test"] = Field(
        "validation",
        description="which checkpoint the tables report: best on the validation split, of the last epoch, or best on the test split (only to compare with papers that chose so)",
    )
    loss: Literal["default", "cross_entropy", "soft_margin", "binary_cross_entropy"] = Field(
        "default",
        description="localization only: cross_entropy, soft_margin (MultiLabelSoftMarginLoss on softmax probabilities, as in AVEL's code), binary_cross_entropy (on softmax probabilities), or default, the loss of the model's paper",
    )
    pooling: Literal["default", "max", "mean"] = Field(
        "default",
        description="weakly-supervised localization only: how scores of segments become a clip's score; default: as the model's paper does",
    )
    weak_labels: Literal["categories", "durations"] = Field(
        "categories",
        description="weakly-supervised localization only: a clip's label says which categories occur, or which share of its segments each category and background has (durations, as in PSP's released code; this reveals more)",
    )
    loss_weights: dict[str, float] = Field(
        default_factory=dict,
        description="parsing and separation: term of the loss (clip, audio, visual, or one that the model adds; on_off, any_order, l2) -> its factor; other terms keep the factor of the model's paper",
    )
    label_smoothing: tuple[_Share, _Share] | None = Field(
        None,
        description="parsing only: e for audio and e for visual labels, each from 0 to 1; a label y becomes y (1 - e) + e / 2; null: as the model's paper does",
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="parsing only: a segment has a category from this probability on"
    )
    gate: Literal["clip", "modality"] = Field(
        "clip",
        description="parsing only: a segment can have a category only if a probability reaches `gate_threshold`: the clip's (as HAN does), or that of the clip's audio or visual track alone (modality, as MA does)",
    )
    gate_threshold: float = Field(0.5, gt=0, lt=1, description="parsing only: see `gate`")
    refine_epochs: int | Literal["same"] = Field(
        0,
        description="task refined_parsing only (MA): epochs of a first training, whose model then removes labels from the audio or the visual track; same: as many as `epochs`; 0: no first training",
    )

    augment: tuple[Literal["crop", "mild_crop", "flip", "jitter", "grayscale", "blur", "solarize"], ...] = (
        Field(
            ("crop", "blur"),
            description="barlow_twins only: random changes of the frames, always in this order: a crop (mild_crop keeps at least half of the area), a flip, colour jitter, grayscale, Gaussian blur, solarize",
        )
    )
    pairs: Literal["same_clip", "other_clip"] = Field(
        "same_clip",
        description="barlow_twins and source_localization: where the sound beside a clip's pictures comes from; other_clip, another one (of the batch, or the next one of the split), is a control: nothing belongs together",
    )
    window: float = Field(
        4.2,
        gt=0,
        description="alignment, actions and separation: seconds that the network sees and hears at once; separation takes the nearest multiple of 2.1 s",
    )
    overlap: int = Field(
        60,
        ge=0,
        description="alignment only: frames that the windows of the aligned and of the shifted sound may have in common; with `window` and a clip's length this says how far sounds are shifted",
    )
    frame_step: Count = Field(
        1, description="alignment only: the network sees every n-th frame of a window; it hears all of it"
    )
    crop: Count = Field(
        224,
        description="alignment, actions and separation: pixels, width and height, of the part of the frames that the network sees: at a random place in training, the centre in evaluation (actions: see `test_crops`)",
    )
    control: Literal["none", "sound", "frames", "one_frame"] = Field(
        "none",
        description="alignment only: what is left to the network in a control, whose accuracy must be chance: sound without pictures (they are black), frames without sound (silence), or the sound and one frame, drawn from the whole clip, that stands still",
    )
    negatives: Literal["shifted", "other_clip"] = Field(
        "shifted",
        description="alignment only: the sound that does not belong to the pictures: of the same clip at another time, or of another clip (random pairing)",
    )
    audio_jitter: float = Field(
        0.0,
        ge=0,
        description="actions only: in training, sound begins up to so many frames before or after the pictures",
    )
    test_clips: Count = Field(
        25,
        description="actions only: windows of a clip, evenly spaced, whose class probabilities are averaged in evaluation",
    )
    test_crops: Literal[1, 10] = Field(
        10,
        description="actions only: places of each such window: the centre, or the four corners and the centre, each also mirrored",
    )
    frames: Literal["own", "other_clip", "grey", "side_by_side"] = Field(
        "own",
        description="separation only: pictures in evaluation; for controls those of another clip, grey ones, or both clips of the mixture side by side with either half hidden",
    )
    phase: Literal["predicted", "mixture"] = Field(
        "predicted",
        description="separation only: which phases the separated sounds get, those that the network predicts or the mixture's",
    )
    off_screen: str | None = Field(
        None,
        pattern=NAME,
        description="separation only: in training, half of the off-screen sounds are of the training clips of this dataset, whose own study has run (results/NAME) with the same `preset`; null: all are of the study's clips",
    )
    clip_target: Literal["weak", "audio"] = Field(
        "weak",
        description="task refined_parsing only (MA): what the clip's probabilities learn in the second training, its weak labels or those that remain for its audio (MA's released code)",
    )

    @model_serializer(mode="wrap")
    def _without_later_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave defaults of later keys out, so that experiments keep the id they had before these keys existed."""
        written: dict[str, Any] = serialize(self)
        for key in LATER_KEYS:
            if getattr(self, key) == Recipe.model_fields[key].default:
                written.pop(key, None)
        return written

    @model_validator(mode="after")
    def _trained_or_said(self) -> "Recipe":
        if self.epochs == 0 and self.protocol != "last":
            raise ValueError("epochs: 0 leaves the model as it is drawn, which only `protocol: last` reports")
        return self

    @field_validator("refine_epochs")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("0 or more, or same")
        return value

    @property
    def needs_validation(self) -> bool:
        """Whether training looks at the validation split: to choose the checkpoint, or to lower the learning rate."""
        return self.protocol == "validation" or (self.schedule == "plateau" and self.watch == "validation")
