"""AVIN: the slides' equations on numbers worked by hand, and each mechanism seen at work."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.avin import AVIN, ProjectedFusion, temporal_attention
from avpipe.models.base import LocalizationBatch
from avpipe.models.layers import MFB

from .builders import random_clips, untrained

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 6, "fusion_dim": 7}
ABLATIONS = {
    "only LSTM": {"fusion": "none", "intra": False, "inter": False},
    "only MFB": {"lstm": False, "intra": False, "inter": False},
    "LSTM + intra-mod": {"fusion": "none", "inter": False},
    "LSTM + intra + inter-mod": {"fusion": "none"},
    "LSTM + MFB + intra + inter-mod": {},
}


features = partial(random_clips, 4, 5)


def worked_mfb() -> tuple[MFB, torch.Tensor, torch.Tensor]:
    """p = q = 2; U^T F^v = (1, 2, 3, 3) and V^T F^a = (6, -1, -2, -1) for the features returned."""
    mfb = MFB(2, 2, p=2, q=2, dropout=0.0)
    mfb.visual.weight.data = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 1]])
    mfb.audio.weight.data = torch.tensor([[2.0, 0], [0, 1], [0, 2], [0, 1]])
    return mfb, torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])


def test_equation_2_sums_groups_of_q_products():
    mfb, visual, audio = worked_mfb()
    # product (6, -2, -6, -3), summed by twos
    assert mfb.bilinear(visual, audio).tolist() == [4.0, -9.0]


def test_equation_3_takes_signed_roots_and_unit_length():
    mfb, visual, audio = worked_mfb()
    # (4, -9) -> (2, -3), of length sqrt(13)
    expected = torch.tensor([2.0, -3.0]) / math.sqrt(13)
    torch.testing.assert_close(mfb(visual, audio), expected)


def test_mfb_is_the_bilinear_form_of_equation_1_with_w_of_rank_q():
    torch.manual_seed(0)
    mfb = MFB(5, 4, p=3, q=2, dropout=0.0).double()
    visual, audio = torch.randn(5).double(), torch.randn(4).double()
    u, v = mfb.visual.weight.T, mfb.audio.weight.T  # (d_v, pq), (d_a, pq)
    for i, z in enumerate(mfb.bilinear(visual, audio)):
        w = sum(torch.outer(u[:, j], v[:, j]) for j in range(2 * i, 2 * i + 2))
        torch.testing.assert_close(z, visual @ w @ audio)


def test_zero_features_give_zero_and_a_finite_gradient():
    mfb = MFB(5, 4, p=16, q=3, dropout=0.0)
    z = mfb(torch.randn(2, 5), torch.zeros(2, 4))
    (z * torch.randn_like(z)).sum().backward()
    assert not z.any()
    assert torch.isfinite(mfb.visual.weight.grad).all()
    assert torch.isfinite(mfb.audio.weight.grad).all()


def test_with_biases_a_product_keeps_a_part_of_each_modality_alone():
    torch.manual_seed(0)
    audio, silence = torch.randn(3, 4), torch.zeros(3, 5)
    for fusion in (
        MFB(5, 4, p=16, q=3, dropout=0.0, bias=1.0),
        ProjectedFusion(5, 4, 64, "multiplication", 1.0),
    ):
        assert 0.7 < fusion.visual.bias.std() < 1.3
        alone = fusion(silence, audio)
        assert (alone - alone.mean(dim=0)).abs().max() > 0.1
    without = MFB(5, 4, p=16, q=3, dropout=0.0)
    assert without.visual.bias is None
    assert not without(silence, audio).any()


def test_equation_4_weighs_segments_by_their_product_with_the_mean():
    h = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    s, weights = temporal_attention(h, h.mean(dim=1))
    # mean (0.5, 1): products 0.5 and 2, so the first weight is 1 / (1 + e^1.5) = 0.182426
    torch.testing.assert_close(weights, torch.tensor([[0.182426, 0.817574]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(s, torch.tensor([[[0.182426, 0.0], [0.0, 1.635149]]]), atol=2e-6, rtol=0)


def test_equation_6_weighs_one_modality_by_the_mean_of_the_other():
    h_audio, s_visual = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[0.0, 0.0], [2.0, -2.0]]])
    c, weights = temporal_attention(h_audio, s_visual.mean(dim=1))
    # mean (1, -1): products 1 and -2, so the first weight is 1 / (1 + e^-3) = 0.952574
    torch.testing.assert_close(weights, torch.tensor([[0.952574, 0.047426]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(c, torch.tensor([[[0.952574, 0.0], [0.0, 0.094852]]]), atol=2e-6, rtol=0)


def test_equations_4_to_7_are_chained_as_the_slides_write_them():
    model = AVIN(**SIZES)
    h = {"audio": torch.randn(2, 8, 6), "visual": torch.randn(2, 8, 6)}
    encoded, _ = model.interact(h["audio"], h["visual"])
    s = {name: temporal_attention(value, value.mean(dim=1))[0] for name, value in h.items()}
    for name, other in (("audio", "visual"), ("visual", "audio")):
        c, _ = temporal_attention(h[name], s[other].mean(dim=1))
        torch.testing.assert_close(encoded[name], torch.cat([s[name], c], dim=-1))


@pytest.mark.parametrize("inter", [True, False])
def test_only_inter_modality_attention_makes_audio_depend_on_visual(inter):
    model = AVIN(**SIZES, fusion="none", inter=inter)
    h_audio, h_visual = torch.randn(2, 8, 6), torch.randn(2, 8, 6)
    one, _ = model.interact(h_audio, h_visual)
    other, _ = model.interact(h_audio, 3 * torch.randn(2, 8, 6))
    assert torch.equal(one["audio"], other["audio"]) != inter


def test_only_attention_lets_a_segment_depend_on_later_ones():
    for intra in (False, True):
        model = AVIN(**SIZES, fusion="none", intra=intra, inter=False)
        batch = features()
        batch.audio.requires_grad_()
        model(batch).segment_logits[0, 2].sum().backward()
        assert bool(batch.audio.grad[0, 3:].any()) == intra


@pytest.mark.parametrize("row", ABLATIONS)
def test_each_ablation_row_has_the_parts_it_names_and_trains_all_of_them(row):
    model = AVIN(**SIZES, **ABLATIONS[row])
    assert (model.audio_lstm is not None) == (model.visual_lstm is not None) == ("LSTM" in row)
    assert isinstance(model.fusion, MFB) == ("MFB" in row)
    output = model(features())
    assert ("intra_audio" in output.attention) == ("intra" in row)
    assert ("inter_audio" in output.attention) == ("inter" in row)
    (output.segment_logits * torch.randn_like(output.segment_logits)).sum().backward()
    assert untrained(model) == []


@pytest.mark.parametrize("fuse", ["features", "attended"])
@pytest.mark.parametrize("fusion", ["mfb", "multiplication", "addition", "concatenation"])
def test_each_fusion_uses_both_modalities(fusion, fuse):
    model = AVIN(**SIZES, fusion=fusion, fuse=fuse).eval()
    batch = features()
    before = model(batch).segment_logits
    for role in ("audio", "visual"):
        changed = features()
        setattr(changed, role, 2 * getattr(changed, role))
        assert not torch.allclose(model(changed).segment_logits, before)


def test_simple_fusions_are_what_their_names_say():
    visual, audio = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    for kind, expected in (("multiplication", [6.0, 9.0]), ("addition", [5.0, 6.0])):
        fusion = ProjectedFusion(2, 1, 2, kind)
        fusion.visual.weight.data, fusion.visual.bias.data = torch.tensor([[0.0, 1], [1, 1]]), torch.zeros(2)
        fusion.audio.weight.data, fusion.audio.bias.data = torch.ones(2, 1), torch.zeros(2)
        # visual (2, 3), audio (3, 3)
        assert fusion(visual, audio).tolist() == expected
    joint = ProjectedFusion(2, 1, 1, "concatenation")
    joint.joint.weight.data, joint.joint.bias.data = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([-2.0])
    assert joint(visual, audio).tolist() == [4.0]  # 1 + 2 + 3 - 2
    assert joint(-visual, audio).tolist() == [0.0]  # ReLU of -1 - 2 + 3 - 2


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_one_modality_alone_does_not_need_the_other(inputs):
    model = AVIN(**SIZES, inputs=inputs, fusion="none", inter=False)
    batch = features()
    alone = model(LocalizationBatch(**{inputs: getattr(batch, inputs)}))
    assert torch.equal(alone.segment_logits, model(batch).segment_logits)
    assert alone.attention.keys() == {f"intra_{inputs}"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": "audio"}, "fusion: none"),
        ({"inputs": "visual", "fusion": "none"}, "inter: false"),
        ({"intra": False}, "intra: true"),
        ({"lstm": False}, "lstm: true"),
        ({"lstm": False, "intra": False, "inter": False, "fusion": "none"}, "nothing is left"),
        ({"fuse": "attended", "fusion": "none"}, "needs `lstm: true` and a `fusion`"),
        ({"fusion_bias": -1.0}, "0 or more"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        AVIN(**options)
