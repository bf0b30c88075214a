"""How an experiment is trained."""

from typing import Literal

from pydantic import Field, field_validator

from avpipe.plan.section import Section


class Recipe(Section):
    """How an experiment is trained. A paper's own schedule is a named recipe; the study's default is one for all."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, description="sgd only")
    schedule: Literal["constant", "step", "milestones", "plateau", "cosine"] = Field(
        "constant", description="of the learning rate"
    )
    step: int = Field(10, ge=1, description="step: epochs between decays; plateau: patience in epochs")
    watch: Literal["validation", "loss"] = Field(
        "validation", description="plateau: what must get better, the validation score or the training loss"
    )
    milestones: tuple[int, ...] = Field((), description="milestones: epochs after which the rate decays")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of a decay")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of the model, trained and evaluated; bfloat16: of its matrix products (torch.autocast), while LSTMs, weights, losses and the optimizer stay in float32",
    )
    standardize: bool = Field(
        False,
        description="features with mean 0 and standard deviation 1, a dimension at a time, by the training split; no paper here does it, features of random networks need it",
    )
    shuffle: bool = Field(True, description="a new seeded order each epoch; false is AVEL's released code")
    drop_last: bool = Field(False, description="drop the last, partial batch; true is AVEL's released code")
    evaluate_every: int = Field(1, ge=1, description="epochs between evaluations on the validation split")
    protocol: Literal["validation", "last", "best_test"] = Field(
        "validation",
        description="which checkpoint a table reports; best_test only to compare with papers that chose on the test split",
    )
    loss: str = Field(
        "default",
        description="localization: cross_entropy, soft_margin (AVEL's code: MultiLabelSoftMarginLoss on softmax probabilities) or binary_cross_entropy (on softmax probabilities); default is the model's paper's",
    )
    pooling: Literal["default", "max", "mean"] = Field(
        "default",
        description="weakly-supervised localization: how segment scores become a clip's; default is the model's paper's",
    )
    weak_labels: Literal["categories", "durations"] = Field(
        "categories",
        description="weakly-supervised localization: what the clip's label says; durations is the released weak PSP's, the share of segments of each category and of background, which reveals more than which categories there are",
    )
    loss_weights: dict[str, float] = Field(
        default_factory=dict,
        description="parsing: factors of the loss's terms (clip, audio, visual, and those that the model adds); a term that is not named keeps the model's paper's",
    )
    label_smoothing: tuple[float, float] | None = Field(
        None,
        description="parsing: e for audio and for visual, each 0 to 1; a label y becomes y (1 - e) + e / 2; default: the model's paper's",
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="parsing: probability from which a segment has a category"
    )
    gate: Literal["clip", "modality"] = Field(
        "clip",
        description="parsing: a category counts only where the clip's probability of it (HAN), or that of the clip's audio or visual track alone (MA), reaches `gate_threshold`",
    )
    gate_threshold: float = Field(0.5, gt=0, lt=1, description="parsing: see `gate`")
    refine_epochs: int | Literal["same"] = Field(
        0,
        description="parsing: epochs of a first training, whose model then takes labels out of the audio or the visual track (MA); same: as many as `epochs`; 0 for none",
    )

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
