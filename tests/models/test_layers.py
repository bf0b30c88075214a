"""Audio-guided visual attention, against its definition written out cell by cell."""

import math

import pytest
import torch

from avpipe.models.layers import AudioGuidedAttention, ResidualFusion, classifier, spatial_average


def attention(cells: int = 6, audio_term: str = "per_cell") -> AudioGuidedAttention:
    torch.manual_seed(0)
    return AudioGuidedAttention(3, 5, cells, hidden_dim=4, audio_term=audio_term).double()


@pytest.mark.parametrize("audio_term", ["per_cell", "per_channel"])
def test_weighs_cells_as_the_definition_says(audio_term):
    layer = attention(audio_term=audio_term)
    audio, visual = torch.randn(1, 1, 3).double(), torch.randn(1, 1, 2, 3, 5).double()
    attended, weights = layer(audio, visual)

    a = torch.relu(layer.embed_audio.weight @ audio[0, 0] + layer.embed_audio.bias)
    from_audio = layer.map_audio.weight @ a
    scores = []
    for k, cell in enumerate(visual[0, 0].reshape(6, 5)):
        v = torch.relu(layer.embed_visual.weight @ cell + layer.embed_visual.bias)
        heard = from_audio[k] if audio_term == "per_cell" else from_audio
        scores.append((layer.score.weight[0] @ torch.tanh(layer.map_visual.weight @ v + heard)).item())
    exponentials = [math.exp(score) for score in scores]
    expected = torch.tensor(exponentials).double() / sum(exponentials)

    torch.testing.assert_close(weights.flatten(), expected)
    torch.testing.assert_close(attended[0, 0], (expected[:, None] * visual[0, 0].reshape(6, 5)).sum(0))


def test_weights_of_a_segment_sum_to_one_over_its_cells():
    _, weights = attention()(torch.randn(2, 4, 3).double(), torch.randn(2, 4, 2, 3, 5).double())
    torch.testing.assert_close(weights.sum(dim=(2, 3)), torch.ones(2, 4).double())


def test_looks_elsewhere_when_the_sound_changes():
    layer, visual = attention(), torch.randn(1, 1, 2, 3, 5).double()
    _, one = layer(torch.randn(1, 1, 3).double(), visual)
    _, other = layer(torch.randn(1, 1, 3).double(), visual)
    assert not torch.allclose(one, other)


def test_equal_cells_are_attended_as_they_are():
    cell = torch.randn(5).double()
    attended, _ = attention()(torch.randn(1, 1, 3).double(), cell.expand(1, 1, 2, 3, 5))
    torch.testing.assert_close(attended[0, 0], cell)


def test_spatial_average_keeps_vectors_and_averages_maps():
    grid = torch.arange(8.0).reshape(1, 1, 2, 2, 2)  # cells (0, 1), (2, 3), (4, 5), (6, 7)
    assert spatial_average(grid).tolist() == [[[3.0, 4.0]]]
    assert spatial_average(grid[:, :, 0, 0]).tolist() == [[[0.0, 1.0]]]


def test_residual_fusion_adds_the_mean_of_both_modalities_to_each():
    fusion = ResidualFusion(1)
    for branch, factor in ((fusion.from_audio, 2.0), (fusion.from_visual, 4.0)):
        branch[0].weight.data, branch[0].bias.data = torch.ones(1, 1), torch.zeros(1)
        branch[2].weight.data, branch[2].bias.data = torch.full((1, 1), factor), torch.zeros(1)
    audio, visual = 0.5, -1.0
    merged = (2 * math.tanh(audio) + 4 * math.tanh(visual)) / 2
    expected = (math.tanh(visual + merged) + math.tanh(audio + merged)) / 2
    assert fusion(torch.tensor([audio]), torch.tensor([visual])).item() == pytest.approx(expected)


def test_xavier_weights_stay_within_their_bound():
    weight = classifier(30, 6, hidden_dim=10)[0].weight
    bound = math.sqrt(6 / (30 + 10))  # Glorot and Bengio 2010, uniform
    assert 0.9 * bound < weight.abs().max() <= bound
