"""PSP: the propagation and its losses on numbers worked by hand, and the released sizes."""

from functools import partial

import pytest
import torch

from avpipe.models.psp import PSP, PositiveSamplePropagation, pair_similarity_loss, positive_pairs

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "visual_cells": 4, "hidden_dim": 6}


features = partial(random_clips, visual=(2, 2, 5), segments=10)


def propagation(tau: float, supervised: bool = True) -> PositiveSamplePropagation:
    torch.manual_seed(0)
    return PositiveSamplePropagation(6, tau, supervised, dropout=0.1).eval()


def encoded(segments: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return tuple(torch.randn(1, segments, 6, generator=random) for _ in range(2))


def test_pairs_above_the_threshold_share_a_row():
    # shares 1/8, 3/8, 4/8, and nothing; of 4 segments the threshold is 0.06 * 10 / 4 = 0.15
    similarity = torch.tensor([[[1.0, 3, 4, 0], [0, 0, 0, 0], [2, 2, 2, 2], [0, 0, 5, 0]]])
    expected = [[0, 3 / 7, 4 / 7, 0], [0, 0, 0, 0], [1 / 4] * 4, [0, 0, 1, 0]]
    torch.testing.assert_close(positive_pairs(similarity, 0.06, True)[0], torch.tensor(expected))
    expected[0] = [0, 3 / 8, 4 / 8, 0]
    torch.testing.assert_close(positive_pairs(similarity, 0.06, False)[0], torch.tensor(expected))


def test_a_visual_segment_depends_on_exactly_the_audio_of_its_pairs():
    audio, visual = encoded()
    audio.requires_grad_()
    _, out, seen = propagation(0.1)(audio, visual)
    for t in range(10):
        (gradient,) = torch.autograd.grad(out[0, t].norm() + out[0, t, 0], audio, retain_graph=True)
        known = gradient[0].abs().amax(dim=-1)
        pairs = seen["visual_from_audio"][0, t] > 0
        assert (known[~pairs] < 1e-5).all()
        if pairs.sum() > 1:  # alone it always has weight one, through ReLU layers that may be shut
            assert (known[pairs] > 1e-5).any()


def test_both_directions_use_the_same_similarities():
    # the largest similarity of all is the largest of its row and of its column
    *_, seen = propagation(0.0, supervised=False)(*encoded())
    to_visual, to_audio = seen["visual_from_audio"][0], seen["audio_from_visual"][0].T
    assert torch.equal(to_visual > 0, to_audio > 0)
    torch.testing.assert_close(seen["audio_from_visual"][0].sum(dim=-1), torch.ones(10))


def test_without_any_pair_each_modality_keeps_its_own_features():
    layer, (audio, visual) = propagation(1.0, supervised=False), encoded()
    out_audio, out_visual, _ = layer(audio, visual)
    torch.testing.assert_close(out_audio, layer.norm(audio))
    torch.testing.assert_close(out_visual, layer.norm(visual))


def test_the_propagation_is_its_definition_written_out():
    layer, (audio, visual) = propagation(0.1).double(), [x.double() for x in encoded()]
    out, *_ = layer(audio, visual)
    sends = torch.relu(visual[0] @ layer.visual_sends.weight.T)
    asks = torch.relu(visual[0] @ layer.visual_asks.weight.T)
    asked = torch.relu(audio[0] @ layer.audio_asked.weight.T)
    for s in range(10):
        similar = [max((asks[t] @ asked[s]).item() / 6**0.5, 0) for t in range(10)]
        left = [x if x / sum(similar) > 0.1 else 0 for x in similar]
        received = sum(x / sum(left) * sends[t] for t, x in enumerate(left))
        expected = torch.relu(layer.audio_out[0].weight @ (audio[0, s] + received))
        torch.testing.assert_close(out[0, s], layer.norm(expected), atol=1e-6, rtol=0)


def test_pair_similarity_compares_shares_with_an_equal_share_on_event_segments():
    audio = torch.tensor([[[1.0, 0], [1, 0], [0, 2], [3, 0]]])
    visual = torch.tensor([[[2.0, 0], [0, 1], [0, 1], [-1, 0]]])
    # cosines 1, 0, 1, -1: shares 1/2, 0, 1/2, 0
    background = torch.tensor([0.0, 0, 1, 1])
    target = torch.stack([1 - background, background], dim=-1)[
        None
    ]  # events in the first two: 1/2, 1/2, 0, 0
    assert pair_similarity_loss(audio, visual, target).item() == pytest.approx(2 * 0.5**2 / 4)
    nothing = torch.tensor([0.0, 1]).expand(1, 4, 2)  # all background: 1/4 each
    assert pair_similarity_loss(audio, visual, nothing).item() == pytest.approx(4 * 0.25**2 / 4)


@pytest.mark.parametrize(
    ("options", "labels", "expected"),
    [
        ({}, True, {"pair_similarity"}),
        ({}, False, set()),
        ({"pair_similarity": False}, True, set()),
        ({"setting": "weakly-supervised"}, True, set()),
    ],
)
def test_the_pair_similarity_loss_needs_the_labels_of_segments(options, labels, expected):
    model, batch = PSP(**SIZES, **options), features()
    if labels:
        shape = (2, 4) if "setting" in options else (2, 10, 4)
        batch.target = torch.eye(4)[torch.zeros(shape[:-1], dtype=torch.long)]
    assert model(batch).losses.keys() == expected


def test_labels_change_no_score():
    model, batch = PSP(**SIZES).eval(), features()
    before = model(batch).segment_logits
    batch.target = torch.eye(4).expand(2, 4, 4)[:, [0, 0, 3, 3, 3, 3, 3, 3, 3, 3]]
    assert torch.equal(model(batch).segment_logits, before)


def test_the_pair_similarity_loss_is_weighted_a_hundredfold_and_trains_both_modalities():
    model, batch = PSP(**SIZES, dropout=0.0), features()
    batch.target = torch.eye(4)[torch.tensor([[0] * 3 + [3] * 7] * 2)]
    found = {}
    model.propagation.register_forward_hook(lambda *a: found.update(out=a[2]))
    loss = model(batch).losses["pair_similarity"]
    audio, visual, _ = found["out"]
    torch.testing.assert_close(loss, 100 * pair_similarity_loss(audio, visual, batch.target))
    loss.backward()
    assert all(lstm.weight_ih_l0.grad.any() for lstm in (model.audio_lstm, model.visual_lstm))


def test_weakly_supervised_scores_are_weighted_per_segment():
    model = PSP(**SIZES, setting="weakly-supervised").eval()
    model.weigh.weight.data = torch.tensor([[1.0, 0, 0, 0]])
    found = {}
    model.classifier.register_forward_hook(lambda *a: found.update(scores=a[2]))
    logits = model(features()).segment_logits
    scores = found["scores"]
    torch.testing.assert_close(logits, scores * scores[..., :1].clamp(min=0).sigmoid())
    ratio = logits / scores
    assert (ratio >= 0.5).all()
    assert (ratio < 1).all()
