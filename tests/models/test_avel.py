"""AVEL: released sizes, and each form that the tables list."""

import pytest
import torch

from avpipe.models import AVBatch, create_model
from avpipe.models.avel import AVEL


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lstm(inputs: int, hidden: int = 128) -> int:
    """Both directions: four gates, each with input and recurrent weights and two biases."""
    return 2 * 4 * (hidden * (inputs + hidden) + 2 * hidden)


HEAD = 512 * 64 + 64 + 64 * 29 + 29
SINGLE_HEAD = 256 * 64 + 64 + 64 * 29 + 29


def test_has_the_released_number_of_parameters():
    assert parameters(AVEL()) == 1_335_246
    assert parameters(AVEL(fusion="dmrn")) == 1_571_150


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"inputs": "audio"}, lstm(128) + SINGLE_HEAD),
        ({"inputs": "visual"}, lstm(512) + SINGLE_HEAD),
        ({"attention": False}, lstm(128) + lstm(512) + HEAD),
        ({"visual_cells": 1, "attention": False}, lstm(128) + lstm(512) + HEAD),
        ({"visual_dim": 2048}, 1_335_246 + (2048 - 512) * (512 + 2 * 4 * 128)),  # wider first layers only
    ],
)
def test_each_form_has_the_parts_it_names(options, expected):
    assert parameters(AVEL(**options)) == expected


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
    output = create_model("avel", **options)(
        AVBatch(audio=torch.randn(2, 10, 128), visual=torch.randn(visual))
    )
    assert output.segment_logits.shape == (2, 10, 29)
    attends = options.get("inputs") is None and len(visual) == 5 and options.get("attention", True)
    assert output.attention.keys() == ({"visual"} if attends else set())
    if attends:
        assert output.attention["visual"].shape == visual[:4]


def test_without_attention_a_map_counts_by_its_average():
    torch.manual_seed(0)
    model = AVEL(attention=False, num_classes=3, audio_dim=4, visual_dim=5)
    audio, maps = torch.randn(2, 6, 4), torch.randn(2, 6, 3, 3, 5)
    on_maps = model(AVBatch(audio=audio, visual=maps)).segment_logits
    on_vectors = model(AVBatch(audio=audio, visual=maps.mean(dim=(2, 3)))).segment_logits
    torch.testing.assert_close(on_maps, on_vectors)


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_one_modality_alone_does_not_need_the_other(inputs):
    model = AVEL(inputs=inputs, num_classes=3, audio_dim=4, visual_dim=5)
    features = {"audio": torch.randn(2, 6, 4), "visual": torch.randn(2, 6, 5)}
    alone = model(AVBatch(**{inputs: features[inputs]})).segment_logits
    torch.testing.assert_close(alone, model(AVBatch(**features)).segment_logits)


def test_maps_of_another_size_than_it_was_built_for_are_refused():
    with pytest.raises(ValueError, match=r"H x W = 49.*found \(1, 10, 4, 4, 512\)"):
        AVEL()(AVBatch(audio=torch.randn(1, 10, 128), visual=torch.randn(1, 10, 4, 4, 512)))


def test_attention_over_vectors_is_refused():
    with pytest.raises(ValueError, match="attention: false"):
        AVEL(visual_cells=1)


def test_dmrn_classifies_the_fused_lstm_outputs_by_one_linear_layer():
    torch.manual_seed(0)
    model = AVEL(fusion="dmrn", attention=False, num_classes=3, audio_dim=4, visual_dim=5)
    audio, visual = torch.randn(2, 6, 4), torch.randn(2, 6, 5)
    fused = model.fusion(model.audio_lstm(audio)[0], model.visual_lstm(visual)[0])
    expected = fused @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(AVBatch(audio=audio, visual=visual)).segment_logits, expected)


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_dmrn_of_one_modality_is_refused(inputs):
    with pytest.raises(ValueError, match="nothing to fuse"):
        AVEL(inputs=inputs, fusion="dmrn")


def test_a_segment_knows_what_comes_before_and_after():
    model = AVEL(inputs="audio", num_classes=3, audio_dim=4)
    audio = torch.randn(1, 6, 4, requires_grad=True)
    model(AVBatch(audio=audio)).segment_logits[0, 2].sum().backward()
    assert (audio.grad[0].abs().sum(dim=-1) > 0).all()
