"""AVT: positions, co-attention of three kinds of tokens, and attention over instances."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.avt import AVT
from avpipe.models.base import LocalizationBatch
from avpipe.models.layers import sinusoidal_positions

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 8, "heads": 2}


def small() -> AVT:
    torch.manual_seed(0)
    return AVT(**SIZES).eval()


features = partial(random_clips, visual=(2, 3, 5), segments=6)


def test_positions_are_sines_and_cosines_of_slower_and_slower_waves():
    positions = sinusoidal_positions(3, 4)
    # rates 1 and 10000^(-2/4) = 1/100
    expected = [[math.sin(t), math.cos(t), math.sin(t / 100), math.cos(t / 100)] for t in range(3)]
    torch.testing.assert_close(positions, torch.tensor(expected))


def test_co_attention_lets_each_kind_of_token_change_the_two_others():
    model = small()
    tokens = {"audio": torch.randn(1, 2, 8), "inter": torch.randn(1, 2, 8), "intra": torch.randn(1, 2, 3, 8)}
    before = model.attend_together(**tokens)
    for name in tokens:
        changed = model.attend_together(**(tokens | {name: tokens[name] + torch.randn_like(tokens[name])}))
        for one, other in zip(before, changed, strict=True):
            assert not torch.isclose(one, other).all(dim=-1).any()


def test_co_attention_stays_within_a_segment():
    model = small()
    tokens = {"audio": torch.randn(1, 2, 8), "inter": torch.randn(1, 2, 8), "intra": torch.randn(1, 2, 3, 8)}
    before = model.attend_together(**tokens)
    tokens["intra"][:, 1] += 1.0
    for one, other in zip(before, model.attend_together(**tokens), strict=True):
        torch.testing.assert_close(one[:, 0], other[:, 0])


def test_an_instance_is_chosen_by_audio_and_the_frame_features():
    model = small()
    model.instance_query.weight.data = 100 * torch.eye(8).repeat(1, 2)  # asks for audio + inter-frame
    model.instance_query.bias.data.zero_()
    model.instance_key.weight.data = torch.eye(8)
    cells = torch.eye(8)[:3].expand(1, 1, 3, 8)
    audio, inter = torch.eye(8)[1].view(1, 1, 8), torch.zeros(1, 1, 8)
    chosen, weights = model.attend_instances(audio, inter, cells)
    torch.testing.assert_close(weights, torch.tensor([[[0.0, 1.0, 0.0]]]))
    torch.testing.assert_close(chosen, cells[:, :, 1])
    chosen, _ = model.attend_instances(audio, 2 * cells[:, :, 2], cells)  # what is seen over time weighs more
    torch.testing.assert_close(chosen, cells[:, :, 2])


@pytest.mark.parametrize("layer", ["over_audio", "over_frames"])
def test_only_the_transformers_over_time_connect_segments(layer):
    other = {"over_audio": "over_frames", "over_frames": "over_audio"}[layer]
    model, batch = small(), features()
    setattr(model, other, torch.nn.Identity())
    role = "audio" if layer == "over_audio" else "visual"
    for name, reaches in ((role, True), ("visual" if role == "audio" else "audio", False)):
        asked = getattr(batch, name).requires_grad_()
        (gradient,) = torch.autograd.grad(model(batch).segment_logits[0, 2].sum(), asked)
        assert bool(gradient[0, 4].any()) == reaches
        assert gradient[0, 2].any()


def test_scores_depend_on_the_order_of_segments():
    model, batch = small(), features()
    turned = LocalizationBatch(audio=batch.audio.flip(1), visual=batch.visual.flip(1))
    assert not torch.allclose(model(turned).segment_logits.flip(1), model(batch).segment_logits, atol=1e-3)


def test_scores_do_not_depend_on_the_order_of_cells():
    model, batch = small(), features()
    turned = LocalizationBatch(audio=batch.audio, visual=batch.visual.flip(2, 3))
    torch.testing.assert_close(model(turned).segment_logits, model(batch).segment_logits)
    torch.testing.assert_close(model(turned).attention["visual"].flip(2, 3), model(batch).attention["visual"])


def test_takes_maps_of_any_size_and_vectors_as_maps_of_one_cell():
    model, batch = small(), features()
    assert model(LocalizationBatch(batch.audio, torch.randn(2, 6, 4, 4, 5))).attention["visual"].shape == (
        2,
        6,
        4,
        4,
    )
    vectors = torch.randn(2, 6, 5)
    output = model(LocalizationBatch(batch.audio, vectors))
    assert output.attention == {}
    one_cell = model(LocalizationBatch(batch.audio, vectors.view(2, 6, 1, 1, 5)))
    torch.testing.assert_close(output.segment_logits, one_cell.segment_logits)
