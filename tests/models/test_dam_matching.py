"""DAM's matching: the answer to every query, each from its own segments and the other modality alone."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from avpipe.models.base import CrossModalityBatch
from avpipe.models.dam import RelevantSelfAttention, matching_score
from avpipe.models.dam_matching import DAMMatching, interval_features, matching_loss
from avpipe.models.layers import intervals

from .builders import fit, random_clips

T = 5


batch = partial(random_clips, 3, 4, segments=T, kind=CrossModalityBatch)


def small() -> DAMMatching:
    torch.manual_seed(0)
    return DAMMatching(audio_dim=3, visual_dim=4, hidden_dim=6).eval()


def number(onset: int, length: int) -> int:
    """Which interval of T = 5 this is: those that begin earlier come first, T of them, T - 1, ..."""
    return sum(T - earlier for earlier in range(onset)) + length - 1


def test_every_interval_occurs_once():
    members = intervals(3).int().tolist()
    assert members == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert intervals(10).shape == (55, 10)


def test_an_interval_s_feature_is_dam_s_of_these_segments_alone():
    attention, local = RelevantSelfAttention(6), torch.randn(2, T, 6)
    found = interval_features(attention, local, intervals(T))
    for onset, length in ((0, 1), (1, 3), (2, 3), (0, 5)):
        alone = attention(local[:, onset : onset + length], torch.ones(2, length))
        torch.testing.assert_close(found[:, number(onset, length)], alone)


def test_a_query_is_compared_with_each_segment_of_the_other_modality():
    model, clips = small(), batch()
    output = model(clips)
    heard = interval_features(model.audio_global, model.audio_local(clips.audio), intervals(T))
    expected = matching_score(heard[:, number(1, 2)], model.visual_local(clips.visual))
    torch.testing.assert_close(output.audio_to_visual[:, number(1, 2)], expected)


def test_the_loss_asks_for_the_event_and_nothing_else():
    members = intervals(T)
    by_audio, by_visual = torch.randn(2, 2, len(members), T)
    event = torch.tensor([[0.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    first = (by_audio[0, number(1, 2)].sigmoid() + by_visual[0, number(1, 2)].sigmoid()) / 2
    second = (by_audio[1, number(0, 5)].sigmoid() + by_visual[1, number(0, 5)].sigmoid()) / 2
    expected = functional.binary_cross_entropy(torch.stack([first, second]), event)
    torch.testing.assert_close(matching_loss(by_audio, by_visual, event, members), expected)


def test_a_clip_whose_event_is_no_interval_does_not_count():
    members = intervals(T)
    by_audio, by_visual = torch.randn(2, 3, len(members), T)
    event = torch.tensor([[0.0, 1, 1, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    expected = matching_loss(by_audio[:1], by_visual[:1], event[:1], members)
    torch.testing.assert_close(matching_loss(by_audio, by_visual, event, members), expected)
    none = matching_loss(by_audio[1:], by_visual[1:], event[1:], members)
    assert none.item() == pytest.approx(0)


def test_matching_rises_on_event_segments_when_it_is_trained():
    random = torch.Generator().manual_seed(3)
    onset = torch.randint(0, 3, (48,), generator=random).unsqueeze(1)
    event = ((torch.arange(T) >= onset) & (torch.arange(T) < onset + 3)).long()
    sounds, looks = torch.randn(2, 3, generator=random), torch.randn(2, 4, generator=random)
    clips = CrossModalityBatch(audio=sounds[event], visual=looks[event])
    clips.event = event.float()
    model = small().train()
    fit(model, lambda: model(clips).losses["matching"], steps=60)
    output = model.eval()(clips)
    asked = (event.bool().unsqueeze(1) == intervals(T)).all(-1)
    for direction in (output.audio_to_visual, output.visual_to_audio):
        scores = direction[asked]
        assert scores[event == 1].min() > scores[event == 0].max()
