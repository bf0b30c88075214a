"""Audio-guided visual attention, against its definition written out cell by cell."""

import math

import pytest
import torch

from avpipe.models.layers import (
    AudioGuidedAttention,
    ParsingHead,
    ResidualFusion,
    attentive_mmil_pooling,
    spatial_average,
)


def attention(cells: int = 6, audio_term: str = "per_cell") -> AudioGuidedAttention:
    torch.manual_seed(0)
    return AudioGuidedAttention(3, 5, cells, hidden_dim=4, audio_term=audio_term).double()


@pytest.mark.parametrize("audio_term", ["per_cell", "per_channel"])
def test_attention_weights_are_those_of_the_definition(audio_term):
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


def test_mmil_pooling_of_two_segments_by_hand():
    # one clip, one category. Scores of time log 1 and log 3 in audio, equal in visual; of modality equal, then log 1 to log 3
    p = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]).unsqueeze(-1)  # (1, T, 2, 1)
    time = torch.tensor([[[1.0, 1.0], [3.0, 1.0]]]).log().unsqueeze(-1)
    modality = torch.tensor([[[1.0, 1.0], [1.0, 3.0]]]).log().unsqueeze(-1)
    clip, of_modality = attentive_mmil_pooling(p, time, modality)
    torch.testing.assert_close(of_modality[0, :, 0], torch.tensor([0.8 / 4 + 0.4 * 3 / 4, 0.2 / 2 + 0.6 / 2]))
    expected = 1 / 4 * 1 / 2 * 0.8 + 1 / 2 * 1 / 2 * 0.2 + 3 / 4 * 1 / 4 * 0.4 + 1 / 2 * 3 / 4 * 0.6
    assert clip.item() == pytest.approx(expected)


def test_mmil_pooling_of_a_clip_can_reach_two():
    p = torch.ones(1, 2, 2, 1)
    time = torch.tensor([[[50.0, -50], [-50, 50]]]).unsqueeze(-1)  # audio looks at segment 0, visual at 1,
    modality = torch.tensor([[[50.0, -50], [-50, 50]]]).unsqueeze(-1)  # where each has all of the weight
    clip, of_modality = attentive_mmil_pooling(p, time, modality)
    assert clip.item() == pytest.approx(2)
    assert of_modality.flatten().tolist() == pytest.approx([1, 1])


def test_the_parsing_head_treats_both_modalities_alike():
    head = ParsingHead(6, 3)
    audio, visual = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    one, other = head(audio, visual), head(visual, audio)
    torch.testing.assert_close(one.parsing_probabilities, other.parsing_probabilities.flip(2))
    torch.testing.assert_close(one.modality_probabilities, other.modality_probabilities.flip(1))
    torch.testing.assert_close(one.clip_probabilities, other.clip_probabilities)
