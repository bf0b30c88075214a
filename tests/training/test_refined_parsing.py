"""Labels refined a modality at a time: partners, thresholds and what is removed, on cases worked by hand."""

import pytest
import torch

from avpipe.training.refined_parsing import difficulty, not_there, unrelated_clips


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Partners


def test_partners_share_no_label():
    labels = (torch.rand(700, 8, generator=generator()) < 0.15).float()
    partners, found = unrelated_clips(labels, generator(1))
    assert found.all()
    assert not (labels.bool() & labels[partners].bool()).any()


def test_every_unrelated_clip_may_be_the_partner():
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 0]])
    drawn = {unrelated_clips(labels, generator(seed))[0][0].item() for seed in range(60)}
    assert drawn == {2, 3, 4}


def test_a_clip_that_shares_a_label_with_every_other_has_no_partner():
    labels = torch.tensor([[1.0, 1], [1, 0], [0, 1]])
    partners, found = unrelated_clips(labels, generator())
    assert found.tolist() == [False, True, True]
    assert partners.tolist() == [0, 2, 1]


# Thresholds


def test_difficulty_is_the_error_rate_as_a_share_of_the_largest():
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]])
    says = torch.tensor([[0.9, 0.1, 0.2], [0.2, 0.1, 0.2], [0.2, 0.3, 0.2], [0.2, 0.9, 0.5]])
    # wrong: one of four, two of four, none (0.5 itself is not found)
    assert difficulty(says, labels).tolist() == [0.5, 1.0, 0.0]


def test_a_base_model_without_any_error_removes_nothing():
    labels = torch.tensor([[1.0, 0]])
    hard = difficulty(labels, labels)
    assert hard.tolist() == [0, 0]
    assert not not_there(torch.zeros(1, 2, 2), labels, hard).any()


@pytest.mark.parametrize(
    ("own", "other", "hard", "expected"),
    [
        (0.2, 0.2, 1.0, True),
        (0.2, 0.2, 0.3, False),  # an easy category: 0.2 / 0.3 > 0.5
        (0.1, 0.1, 0.3, True),
        (0.6, 0.2, 1.0, False),  # one of the two finds it
        (0.2, 0.6, 1.0, False),
        (0.5, 0.5, 1.0, False),
    ],
)
def test_a_label_goes_if_neither_probability_supports_it(own, other, hard, expected):
    exchanged = torch.tensor([own, other]).view(1, 2, 1)
    for modalities in (exchanged, exchanged.flip(1)):
        assert not_there(modalities, torch.ones(1, 1), torch.tensor([hard])).item() is expected
    assert not not_there(exchanged, torch.zeros(1, 1), torch.tensor([hard])).any()
