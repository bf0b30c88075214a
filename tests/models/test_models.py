"""What every model promises, and forms that several models have in common."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import nn

from avpipe.models import MODELS, create_model, list_models, model_card
from avpipe.models.base import (
    CrossModalityBatch,
    FeatureBatch,
    LocalizationBatch,
    ModelOutput,
    ParsingBatch,
    SegmentOutput,
    model_default,
)
from avpipe.plan import registry
from avpipe.plan.registry import options_of, target
from avpipe.training import TASKS
from avpipe.training.localization import LOSSES

from .builders import count_parameters, random_clips, untrained

B, T, C = 3, 5, 4
SIZES = {"num_classes": C, "audio_dim": 6, "visual_dim": 8, "visual_cells": 4, "motion_dim": 7}
_TRANSFORMER = {"hidden_dim": 16, "layers": 2, "heads": 2, "feed_forward_dim": 32}
SMALLER = {"avg": _TRANSFORMER, "avg_parser": _TRANSFORMER}
SMALLER["avbt_mlp"] = {"visual_dim": 6}  # it sums both modalities
SMALLER |= {name: {"hidden_dim": 16} for name in ("avrb", "avsdn", "cmran", "jcan")}
"""Options of models whose own sizes are too large for a test."""
BATCHES = {
    "localization": LocalizationBatch,
    "parsing": ParsingBatch,
    "refined_parsing": ParsingBatch,
    "cross_modality": CrossModalityBatch,
    "pretraining": FeatureBatch,
}
"""Tasks whose models take features. Models of other tasks read clips, and promise only a card and plain options here."""
every_listed_model = pytest.mark.parametrize("name", list_models())
OF_FEATURES = [name for name in list_models() if model_card(name).task in BATCHES]
every_model = pytest.mark.parametrize("name", OF_FEATURES)
PARSERS = [name for name in list_models() if "parsing" in model_card(name).task]
PRETRAINED = [name for name in list_models() if model_card(name).task == "pretraining"]
MATCHERS = [name for name in list_models() if model_card(name).task == "cross_modality"]
LOCALIZERS = [name for name in list_models() if model_card(name).task == "localization"]
every_parser = pytest.mark.parametrize("name", PARSERS)
every_matcher = pytest.mark.parametrize("name", MATCHERS)
every_localizer = pytest.mark.parametrize("name", LOCALIZERS)
RELEASED = [
    ("avel", {}, 1_335_246),
    ("avel", {"fusion": "dmrn"}, 1_571_150),
    ("avsdn", {"attention": True}, 2_162_510),
    ("cmran", {}, 9_509_150),
    ("cmran", {"setting": "weakly-supervised"}, 9_509_407),
    ("jcan", {}, 22_776_510),
    ("psp", {}, 1_548_657),
    ("psp", {"setting": "weakly-supervised"}, 1_253_902),
]
"""Numbers of parameters of released code (of AVSDN: two heads, 256 -> 1 and 256 -> 28, in place of 256 -> 29)."""
AVERAGED = [
    *((name, {"attention": False}) for name in ("avel", "avrb", "avsdn", "cman", "dam", "mpn", "psp")),
    ("psp", {"attention": False, "setting": "weakly-supervised"}),
    ("avin", {}),
    ("tacma", {}),
]
"""Models that attend to no cells, with their options."""
ATTENDING = [("jcan", {}), *((name, {"attention": True}) for name, _ in AVERAGED[:7])]


def small(name: str, seed: int = 0, **options) -> nn.Module:
    known = options_of(target(MODELS, name, "model"))
    torch.manual_seed(seed)
    given = {size: SIZES[size] for size in SIZES if size in known}
    return create_model(name, **{**given, **SMALLER.get(name, {}), **options})


def batch(name: str, clips: int = B, segments: int = T, **changes) -> Any:
    """Random features without labels, of the type that the model takes."""
    kind = BATCHES[model_card(name).task]
    visual = (2, 2, SMALLER.get(name, SIZES).get("visual_dim", 8))
    return replace(random_clips(6, visual, 7, clips=clips, segments=segments, kind=kind), **changes)


def scores_of(output: ModelOutput) -> dict[str, torch.Tensor]:
    """What the model said, by name; `groups` follow from its inputs."""
    said = {name: value for name, value in vars(output).items() if name != "groups"}
    return {name: value for name, value in said.items() if isinstance(value, torch.Tensor)}


@every_parser
def test_a_parser_gives_probabilities_of_each_segment_each_modality_and_the_clip(name):
    output = small(name)(batch(name))
    shapes = {
        "parsing_probabilities": (B, T, 2, C),
        "modality_probabilities": (B, 2, C),
        "clip_probabilities": (B, C),
    }
    assert {name: score.shape for name, score in scores_of(output).items()} == shapes
    assert all((score >= 0).all() for score in scores_of(output).values())
    assert (output.parsing_probabilities <= 1).all()
    assert (output.modality_probabilities <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretraining_gives_similarities_within_and_across_modalities(name):
    clips = batch(name)
    output = small(name)(clips)
    assert {score: value.shape for score, value in scores_of(output).items()} == {
        "grounding": (B, 2, 2, T, T)
    }
    assert output.groups.shape == (B, T)
    assert output.losses
    assert small(name).eval()(clips).losses == {}


@every_matcher
def test_a_matcher_gives_similarities_of_segments_or_of_intervals(name):
    scores = scores_of(small(name)(batch(name)))
    queries = T * (T + 1) // 2
    pairs = {"similarity": (B, T, T)}
    whole = {"audio_to_visual": (B, queries, T), "visual_to_audio": (B, queries, T)}
    assert {score: value.shape for score, value in scores.items()} in (pairs, whole)


@every_matcher
def test_a_matcher_uses_targets_for_its_loss_only(name):
    model, clips = small(name).eval(), batch(name)
    without = model(clips)
    clips.event = torch.tensor([[0.0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    output = model(clips)
    assert without.losses == {}
    assert all(loss.ndim == 0 and loss.isfinite() for loss in output.losses.values())
    assert output.losses
    for score, value in scores_of(without).items():
        assert torch.equal(value, scores_of(output)[score])


@every_matcher
def test_its_loss_reaches_every_parameter(name):
    model, clips = small(name), batch(name)
    clips.event = torch.tensor([[0.0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    torch.stack(list(model(clips).losses.values())).sum().backward()
    assert untrained(model) == []


@every_localizer
def test_scores_every_segment_for_every_category_and_background(name):
    output = small(name)(batch(name))
    if isinstance(output, SegmentOutput):
        assert output.segment_logits.shape == (B, T, C + 1)
    else:
        assert output.event_logits.shape == (B, T)
        assert output.category_logits.shape == (B, C)


@every_model
def test_takes_any_number_of_segments_and_clips(name):
    scores = scores_of(small(name)(batch(name, clips=1, segments=13)))
    assert {score.shape[0] for score in scores.values()} == {1}
    assert 13 in {size for score in scores.values() for size in score.shape[1:]}


@every_model
def test_a_step_of_training_reaches_every_parameter(name):
    model = small(name)
    output = model(batch(name))
    scores = [(score * torch.randn_like(score)).sum() for score in scores_of(output).values()]
    torch.stack(scores + list(output.losses.values())).sum().backward()
    assert untrained(model) == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def targets(name: str) -> dict[str, Any]:
    """What the model's task would give it in training."""
    event = torch.tensor([[0.0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    segments = torch.nn.functional.one_hot(torch.where(event > 0, 2, C).long(), C + 1).float()
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    labelled = {"clip_labels": labels, "audio_labels": labels, "visual_labels": labels, "progress": 0.5}
    given = {"event": event, "target": segments, **labelled}
    known = {each.name for each in fields(BATCHES[model_card(name).task])}
    return {field: label for field, label in given.items() if field in known}


@every_model
def test_in_bfloat16_scores_are_nearly_those_of_float32_and_weights_stay_float32(name):
    exact = scores_of(small(name).eval()(batch(name)))
    model, clips = small(name), batch(name)
    with torch.autocast("cpu", torch.bfloat16):
        rough = scores_of(model.eval()(clips).in_float32())
        output = model.train()(replace(clips, **targets(name)))
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    for score, value in exact.items():
        assert rough[score].dtype == torch.float32
        assert (rough[score] - value).norm() < 0.1 * value.norm()  # PSP's threshold may fall otherwise
    terms = [score.sum() for score in scores_of(output.in_float32()).values()] + list(output.losses.values())
    torch.stack(terms).sum().backward()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_model
def test_the_seed_decides_weights_and_scores(name):
    first, again, other = (scores_of(small(name, seed).eval()(batch(name))) for seed in (1, 1, 2))
    for score, value in first.items():
        assert torch.equal(value, again[score])
        assert not torch.equal(value, other[score])


@every_model
def test_the_score_of_a_clip_does_not_depend_on_the_others(name):
    model = small(name).eval()
    whole = batch(name)
    one = replace(whole, audio=whole.audio[1:2], visual=whole.visual[1:2], motion=whole.motion[1:2])
    together, alone = scores_of(model(whole)), scores_of(model(one))
    for score, value in together.items():
        torch.testing.assert_close(alone[score][0], value[1])


WRONG = [
    ({"audio": None}, "needs audio features"),
    ({"visual": None}, "needs visual features"),
    ({"audio": torch.zeros(B, T, 7)}, r"audio features \(B, T, 6\), found \(3, 5, 7\)"),
    ({"visual": torch.zeros(B, T, 2, 2, 9)}, r"found \(3, 5, 2, 2, 9\)"),
    ({"audio": torch.zeros(B, T + 1, 6)}, "same clips and segments"),
]
WRONG_FOR_LOCALIZERS = [({"visual": torch.zeros(B, T, 2, 8)}, r"found \(3, 5, 2, 8\)")]
WRONG_FOR_PARSERS = [
    ({"motion": None}, "was built for motion features"),
    ({"motion": torch.zeros(B, T, 9)}, r"motion features \(B, T, 7\), found \(3, 5, 9\)"),
    ({"motion": torch.zeros(B, T + 1, 7)}, "same clips and segments"),
]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [(name, *wrong) for name in LOCALIZERS + MATCHERS for wrong in WRONG + WRONG_FOR_LOCALIZERS]
    + [(name, *wrong) for name in PARSERS + PRETRAINED for wrong in WRONG + WRONG_FOR_PARSERS],
)
def test_a_missing_modality_or_a_wrong_shape_is_named(name, changes, says):
    with pytest.raises(ValueError, match=says):
        small(name)(batch(name, **changes))


@every_parser
def test_a_parser_averages_the_frames_of_a_segment_and_the_cells_of_a_map(name):
    model = small(name).eval()
    maps = batch(name).visual
    expected = scores_of(model(batch(name, visual=maps.mean(dim=(2, 3)))))
    for form in (maps, maps.flatten(2, 3), maps.unsqueeze(2)):
        found = scores_of(model(batch(name, visual=form)))
        for score, value in expected.items():
            torch.testing.assert_close(found[score], value)


@every_parser
def test_a_parser_works_without_motion_features(name):
    model = small(name, motion_dim=0)
    assert model(batch(name, motion=None)).parsing_probabilities.shape == (B, T, 2, C)


@every_parser
def test_a_parser_has_default_weights_for_its_losses(name):
    model = registry.load(MODELS, name, "model")
    output = small(name)(batch(name))
    assert {"clip", "audio", "visual"} <= model_default(model, "default_loss_weights").keys()
    assert output.losses.keys() <= model_default(model, "default_loss_weights").keys()
    assert all(0 <= smoothing <= 1 for smoothing in model_default(model, "default_label_smoothing"))


WITH_EMBEDDINGS = ("avel", "avin", "avt", "cmran", "psp", "tacma")


@pytest.mark.parametrize("name", WITH_EMBEDDINGS)
def test_gives_embeddings_of_each_segment_before_and_after_fusion(name):
    embeddings = small(name)(batch(name)).embeddings
    assert set(embeddings) - {"audio_fused", "visual_fused"} == {"audio", "visual", "fused"}
    for embedding in embeddings.values():
        assert embedding.shape[:2] == (B, T)
        assert embedding.ndim == 3


@pytest.mark.parametrize("name", WITH_EMBEDDINGS)
def test_the_audio_embedding_before_fusion_does_not_depend_on_visual(name):
    model = small(name).eval()
    first, other = (
        model(
            batch(name, visual=torch.randn(B, T, 2, 2, 8, generator=torch.Generator().manual_seed(seed)))
        ).embeddings
        for seed in (1, 2)
    )
    assert torch.equal(first["audio"], other["audio"])
    assert not torch.equal(first["fused"], other["fused"])


@every_listed_model
def test_the_card_states_the_number_of_parameters_and_a_known_task(name):
    card = model_card(name)
    with torch.device("meta"):  # shapes without values
        model = create_model(name)
    assert card.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert card.task in TASKS
    assert all((card.title, card.paper, card.inputs, card.code))


@every_listed_model
def test_its_options_can_be_read_without_running_it(name):
    options = options_of(target(MODELS, name, "model"))
    sizes = {"audio_dim", "visual_dim"} | ({"num_classes"} if name not in MATCHERS + PRETRAINED else set())
    assert name not in OF_FEATURES or sizes <= options.keys()
    for option, described in options.items():
        assert not described["required"], option
        assert described["choices"] or described["type"] in ("int", "float", "bool"), option


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("avell", {}, "did you mean 'avel'"),
        ("avel", {"audio_dm": 3}, "did you mean 'audio_dim'"),
        *((name, {**options, "visual_cells": 1}, "attention: false") for name, options in ATTENDING),
        ("cmran", {"hidden_dim": 10}, "multiple of its 4 heads"),
        ("mpn", {"hidden_dim": 10}, "multiple of `heads` 4"),
    ],
)
def test_unknown_names_and_options_that_do_not_fit_are_refused(name, options, says):
    with pytest.raises(ValueError, match=says):
        create_model(name, **options)


@pytest.mark.parametrize(("name", "options", "expected"), RELEASED)
def test_has_as_many_parameters_as_the_released_code(name, options, expected):
    with torch.device("meta"):
        assert count_parameters(create_model(name, **options)) == expected


@pytest.mark.parametrize(("name", "options"), AVERAGED)
def test_without_attention_over_cells_a_map_counts_as_its_average(name, options):
    model, maps = small(name, **options).eval(), batch(name)
    vectors = model(batch(name, visual=maps.visual.mean(dim=(2, 3))))
    assert "visual" not in vectors.attention
    for score, value in scores_of(model(maps)).items():
        torch.testing.assert_close(scores_of(vectors)[score], value)


@pytest.mark.parametrize(("name", "options"), [*ATTENDING, ("avin", {"visual_attention": True})])
def test_attention_over_cells_has_the_shape_of_the_map(name, options):
    assert small(name, **options)(batch(name)).attention["visual"].shape == (B, T, 2, 2)


@every_localizer
def test_the_loss_and_the_pooling_of_its_paper_exist(name):
    model = registry.load(MODELS, name, "model")
    assert model_default(model, "default_loss") in LOSSES
    assert model_default(model, "default_weak_loss") in {None, *LOSSES}
    assert model_default(model, "default_pooling") in ("max", "mean")
