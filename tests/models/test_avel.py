"""AVEL: the parts and inputs of each form that the tables list."""

import pytest
import torch

from avpipe.models.avel import AVEL
from avpipe.models.base import LocalizationBatch

from .builders import count_parameters, lstm_parameters, random_clips

HEAD = 512 * 64 + 64 + 64 * 29 + 29
SINGLE_HEAD = 256 * 64 + 64 + 64 * 29 + 29


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"inputs": "audio"}, lstm_parameters(128) + SINGLE_HEAD),
        ({"inputs": "visual"}, lstm_parameters(512) + SINGLE_HEAD),
        ({"attention": False}, lstm_parameters(128) + lstm_parameters(512) + HEAD),
        ({"visual_cells": 1, "attention": False}, lstm_parameters(128) + lstm_parameters(512) + HEAD),
        ({"visual_dim": 2048}, 1_335_246 + (2048 - 512) * (512 + 2 * 4 * 128)),  # wider first layers only
    ],
)
def test_each_form_has_the_parts_it_names(options, expected):
    assert count_parameters(AVEL(**options)) == expected


@pytest.mark.parametrize(
    ("options", "visual"),
    [
        ({}, (2, 10, 7, 7, 512)),
        ({"visual_dim": 2048}, (2, 10, 7, 7, 2048)),
        ({"visual_cells": 16}, (2, 10, 4, 4, 512)),
        ({"visual_cells": 6}, (2, 10, 2, 3, 512)),
        ({"visual_cells": 1, "attention": False}, (2, 10, 512)),
        ({"attention": False}, (2, 10, 512)),
        ({"attention": False}, (2, 10, 5, 4, 512)),
        ({"inputs": "visual"}, (2, 10, 7, 7, 512)),
    ],
)
def test_takes_maps_of_any_size_and_vectors(options, visual):
    output = AVEL(**options)(LocalizationBatch(audio=torch.randn(2, 10, 128), visual=torch.randn(visual)))
    assert output.segment_logits.shape == (2, 10, 29)
    attends = options.get("inputs") is None and len(visual) == 5 and options.get("attention", True)
    assert output.attention.keys() == ({"visual"} if attends else set())
    if attends:
        assert output.attention["visual"].shape == visual[:4]


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_one_modality_alone_does_not_need_the_other(inputs):
    model = AVEL(inputs=inputs, num_classes=3, audio_dim=4, visual_dim=5)
    both = random_clips(4, 5)
    alone = model(LocalizationBatch(**{inputs: getattr(both, inputs)})).segment_logits
    torch.testing.assert_close(alone, model(both).segment_logits)


def test_maps_of_a_size_that_it_was_not_built_for_are_refused():
    with pytest.raises(ValueError, match=r"49.*\(1, 10, 4, 4, 512\)"):
        AVEL()(LocalizationBatch(audio=torch.randn(1, 10, 128), visual=torch.randn(1, 10, 4, 4, 512)))


def test_dmrn_classifies_the_fused_lstm_outputs_by_one_linear_layer():
    torch.manual_seed(0)
    model = AVEL(fusion="dmrn", attention=False, num_classes=3, audio_dim=4, visual_dim=5)
    batch = random_clips(4, 5)
    fused = model.fusion(model.audio_lstm(batch.audio)[0], model.visual_lstm(batch.visual)[0])
    expected = fused @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(batch).segment_logits, expected)


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_dmrn_of_one_modality_is_refused(inputs):
    with pytest.raises(ValueError, match="nothing to fuse"):
        AVEL(inputs=inputs, fusion="dmrn")


def test_scores_of_a_segment_depend_on_all_segments():
    model = AVEL(inputs="audio", num_classes=3, audio_dim=4)
    audio = torch.randn(1, 6, 4, requires_grad=True)
    model(LocalizationBatch(audio=audio)).segment_logits[0, 2].sum().backward()
    assert (audio.grad[0].abs().sum(dim=-1) > 0).all()
