"""AVDLN: distances and the contrastive loss by hand; a pair's distance depends on this pair alone."""

import math
from functools import partial

import pytest
import torch

from avpipe.models.avdln import AVDLN, contrastive_loss, encoder, pairwise_distance
from avpipe.models.base import CrossModalityBatch

from .builders import fit, random_clips

batch = partial(random_clips, 3, 5, segments=4, kind=CrossModalityBatch)


def small() -> AVDLN:
    torch.manual_seed(0)
    return AVDLN(audio_dim=3, visual_dim=5, hidden_dim=8, embedding_dim=6)


def test_distances_are_euclidean_between_every_two_segments():
    audio, visual = torch.tensor([[[0.0, 0], [3, 4]]]), torch.tensor([[[0.0, 4], [3, 0]]])
    torch.testing.assert_close(pairwise_distance(audio, visual), torch.tensor([[[4.0, 3], [3, 4]]]))


def test_the_gradient_of_a_zero_distance_is_finite():
    same = torch.ones(1, 1, 2, requires_grad=True)
    distance = pairwise_distance(same, torch.ones(1, 1, 2))
    distance.sum().backward()
    assert distance.item() == pytest.approx(math.sqrt(1e-7))  # Keras' epsilon under the root
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_the_loss_pulls_pairs_together_and_pushes_others_to_the_margin():
    distance, same = torch.tensor([0.5, 0.5, 3.0, 3.0]), torch.tensor([1.0, 0, 1, 0])
    # margin 2: together 0.5^2 and 3^2; apart (2 - 0.5)^2, and nothing beyond the margin
    assert contrastive_loss(distance, same, margin=2.0).item() == (0.25 + 2.25 + 9 + 0) / 4


def test_training_compares_pairs_of_the_same_second_only():
    model, clips = small(), batch()
    clips.event = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    output = model(clips)
    distance = -output.similarity
    of_one_second = torch.stack([distance[:, t, t] for t in range(4)], dim=1)
    expected = contrastive_loss(of_one_second, clips.event, 2.0)
    torch.testing.assert_close(output.losses["contrastive"], expected)
    assert model(batch()).losses == {}


def test_weights_are_drawn_as_keras_draws_them():
    network = encoder(512, 128, 64)
    assert network[0].weight.abs().max() <= math.sqrt(6 / (512 + 128))
    assert not network[0].bias.any()
    assert network[1](torch.tensor(-1.0)) == pytest.approx(-0.3)


def test_training_separates_matching_from_other_pairs():
    """Two kinds of seconds; a pair is an event if both are of the same kind."""
    random = torch.Generator().manual_seed(1)
    audio_kind, visual_kind = torch.randint(2, (2, 64, 4), generator=random)
    sounds, looks = torch.randn(2, 3, generator=random), torch.randn(2, 5, generator=random)
    model = small()
    clips = CrossModalityBatch(audio=sounds[audio_kind], visual=looks[visual_kind])
    clips.event = (audio_kind == visual_kind).float()
    fit(model, lambda: model(clips).losses["contrastive"], steps=100)
    similarity = model(clips).similarity
    same = audio_kind.unsqueeze(2) == visual_kind.unsqueeze(1)
    assert similarity[same].min() > similarity[~same].max()
