"""What every model promises, whichever it is."""

import pytest
import torch
from torch import nn

from avpipe import lazy
from avpipe.lazy import UnknownNameError, options_of, target
from avpipe.models import MODELS, AVBatch, create_model, list_models, model_card
from avpipe.training import TASKS
from avpipe.training.localization import LOSSES

B, T, C = 3, 5, 4
SIZES = {"num_classes": C, "audio_dim": 6, "visual_dim": 8, "visual_cells": 4}
every_model = pytest.mark.parametrize("name", list_models())


def small(name: str, seed: int = 0, **options) -> nn.Module:
    known = options_of(target(MODELS, name, "model"))
    torch.manual_seed(seed)
    return create_model(name, **{size: SIZES[size] for size in SIZES if size in known}, **options)


def batch(seed: int = 0, **changes) -> AVBatch:
    random = torch.Generator().manual_seed(seed)
    audio = torch.randn(B, T, 6, generator=random)
    visual = torch.randn(B, T, 2, 2, 8, generator=random)
    return AVBatch(**{"audio": audio, "visual": visual, **changes})


@every_model
def test_scores_every_segment_for_every_category_and_background(name):
    output = small(name)(batch())
    if output.segment_logits is not None:
        assert output.segment_logits.shape == (B, T, C + 1)
    else:
        assert output.event_logits.shape == (B, T)
        assert output.category_logits.shape == (B, C)


@every_model
def test_takes_any_number_of_segments_and_clips(name):
    longer = AVBatch(audio=torch.randn(1, 13, 6), visual=torch.randn(1, 13, 2, 2, 8))
    output = small(name)(longer)
    scores = output.segment_logits if output.segment_logits is not None else output.event_logits
    assert scores.shape[:2] == (1, 13)


@every_model
def test_a_step_of_training_reaches_every_parameter(name):
    model = small(name)
    output = model(batch())
    scores = [
        s for s in (output.segment_logits, output.event_logits, output.category_logits) if s is not None
    ]
    torch.stack(
        [(s * torch.randn_like(s)).sum() for s in scores] + list(output.losses.values())
    ).sum().backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_model
def test_the_seed_decides_weights_and_scores(name):
    first, again, other = (small(name, seed).eval()(batch()) for seed in (1, 1, 2))
    scores = "segment_logits" if first.segment_logits is not None else "event_logits"
    assert torch.equal(getattr(first, scores), getattr(again, scores))
    assert not torch.equal(getattr(first, scores), getattr(other, scores))


@every_model
def test_a_clip_is_scored_without_a_look_at_the_others(name):
    model = small(name).eval()
    whole = model(batch())
    alone = model(AVBatch(audio=batch().audio[1:2], visual=batch().visual[1:2]))
    scores = "segment_logits" if whole.segment_logits is not None else "event_logits"
    torch.testing.assert_close(getattr(alone, scores)[0], getattr(whole, scores)[1])


@every_model
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"audio": None}, "needs audio features"),
        ({"visual": None}, "needs visual features"),
        ({"audio": torch.zeros(B, T, 7)}, r"audio features \(B, T, 6\), found \(3, 5, 7\)"),
        ({"visual": torch.zeros(B, T, 2, 2, 9)}, r"found \(3, 5, 2, 2, 9\)"),
        ({"visual": torch.zeros(B, T, 2, 8)}, r"found \(3, 5, 2, 8\)"),
        ({"visual": torch.zeros(B, T + 1, 2, 2, 8)}, "same clips and segments"),
    ],
)
def test_a_missing_modality_or_a_wrong_shape_is_named(name, changes, says):
    with pytest.raises(ValueError, match=says):
        small(name)(batch(**changes))


@every_model
def test_has_a_card_that_is_true(name):
    card = model_card(name)
    parameters = sum(p.numel() for p in create_model(name).parameters() if p.requires_grad)
    assert card.parameters == parameters
    assert card.task in TASKS
    assert all((card.title, card.paper, card.inputs, card.code))


@every_model
def test_its_options_can_be_read_without_running_it(name):
    options = options_of(target(MODELS, name, "model"))
    assert {"num_classes", "audio_dim", "visual_dim"} <= options.keys()
    for option, described in options.items():
        assert not described["required"], option
        assert described["choices"] or described["type"] in ("int", "float", "bool"), option


@every_model
def test_says_what_its_paper_trains_it_with(name):
    model = lazy.load(MODELS, name, "model")
    if model_card(name).task == "localization":
        assert model.default_loss in LOSSES
        assert getattr(model, "default_weak_loss", model.default_loss) in LOSSES
        assert model.default_pooling in ("max", "mean")


@every_model
def test_an_option_it_does_not_have_is_refused(name):
    with pytest.raises(UnknownNameError, match="num_classes"):
        create_model(name, num_clases=3)


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'avel'"):
        create_model("avell")
