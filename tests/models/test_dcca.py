"""DCCA: the linear analysis against the angles between two planes, and what training does to the correlation."""

import torch

from avpipe.models.base import CrossModalityBatch
from avpipe.models.dcca import DCCA, canonical_directions

from .builders import fit


def related(pairs: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views (pairs, 3), (pairs, 3) that share one signal and a half."""
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(pairs, 2, generator=random, dtype=torch.float64)
    noise = torch.randn(2, pairs, 3, generator=random, dtype=torch.float64)
    mix = torch.randn(2, 2, 3, generator=random, dtype=torch.float64)
    return shared @ mix[0] + 0.2 * noise[0], shared @ mix[1] + 0.2 * noise[1]


def analyse(one: torch.Tensor, other: torch.Tensor, ridge: float = 0.0):
    joint = torch.cov(torch.cat([one, other], dim=1).T)
    return canonical_directions(joint[:3, :3], joint[3:, 3:], joint[:3, 3:], ridge)


def test_correlations_are_the_cosines_of_the_angles_between_both_views():
    one, other = related()
    left, right, correlation = analyse(one, other)
    planes = [torch.linalg.qr(view - view.mean(0))[0] for view in (one, other)]
    torch.testing.assert_close(correlation, torch.linalg.svdvals(planes[0].T @ planes[1]))
    variates = (one - one.mean(0)) @ left, (other - other.mean(0)) @ right
    assert torch.allclose(torch.cov(variates[0].T), torch.eye(3, dtype=torch.float64), atol=1e-6)
    cross = torch.cov(torch.cat(variates, dim=1).T)[:3, 3:]
    assert torch.allclose(cross, correlation.diag(), atol=1e-6)


def test_a_linear_change_of_one_view_changes_no_correlation():
    one, other = related()
    turned = one @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [1, 0, 3]], dtype=torch.float64) + 5
    torch.testing.assert_close(analyse(turned, other)[2], analyse(one, other)[2])


def test_a_ridge_keeps_dependent_directions_finite():
    one, other = related()
    flat = torch.cat([one[:, :2], one[:, :1]], dim=1)  # rank 2
    correlation = analyse(flat, other, ridge=0.01)[2]
    assert torch.isfinite(correlation).all()
    assert (correlation < 1).all()


def small() -> DCCA:
    torch.manual_seed(0)
    return DCCA(audio_dim=8, visual_dim=10, hidden_dim=16, embedding_dim=4)


def clips() -> CrossModalityBatch:
    """Sixty clips of eight seconds; both modalities show one of three kinds, and much else."""
    random = torch.Generator().manual_seed(2)
    kind = torch.randint(3, (60, 8), generator=random)
    looks, sounds = torch.randn(3, 10, generator=random), torch.randn(3, 8, generator=random)
    batch = CrossModalityBatch(
        audio=sounds[kind] + torch.randn(60, 8, 8, generator=random),
        visual=looks[kind] + torch.randn(60, 8, 10, generator=random),
    )
    batch.event = torch.ones(60, 8)
    return batch


def test_training_raises_the_correlation_and_the_similarity_of_pairs():
    model, batch = small(), clips()
    first = model(batch).losses["correlation"].item()
    last = fit(model, lambda: model(batch).losses["correlation"], steps=50)
    assert -1 <= last < first - 0.1
    with torch.no_grad():
        similarity = model.eval()(batch).similarity
    assert (similarity.abs() <= 1 + 1e-6).all()
    assert torch.diagonal(similarity, dim1=1, dim2=2).mean() > similarity.mean() + 0.2


def test_only_event_segments_count():
    model, half, same = small(), clips(), clips()
    half.event = same.event = torch.cat([torch.ones(60, 4), torch.zeros(60, 4)], dim=1)
    same.audio[:, 4:] = 7.0
    torch.testing.assert_close(model(same).losses["correlation"], model(half).losses["correlation"])


def test_a_batch_without_an_event_changes_nothing():
    model, batch = small(), clips()
    batch.event = torch.zeros(60, 8)
    before = model.covariance.clone()
    assert model(batch).losses["correlation"].item() == 0
    assert torch.equal(model.covariance, before)
