"""Labels refined a modality at a time: partners, thresholds and what is removed, on cases worked by hand."""

import pytest
import torch
from torch import nn

from avpipe.models.base import ParsingBatch, ParsingOutput
from avpipe.training import fit
from avpipe.training.parsing import Parsing
from avpipe.training.refined_parsing import difficulty, not_there, refine_labels, unrelated_clips

from .conftest import assert_same, read, run

WEAK = "weakly-supervised"


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


def test_a_clip_that_shares_labels_with_all_others_has_no_partner():
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


def test_a_base_model_without_errors_removes_nothing():
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
def test_a_label_is_removed_if_both_probabilities_are_low(own, other, hard, expected):
    exchanged = torch.tensor([own, other]).view(1, 2, 1)
    for modalities in (exchanged, exchanged.flip(1)):
        assert not_there(modalities, torch.ones(1, 1), torch.tensor([hard])).item() is expected
    assert not not_there(exchanged, torch.zeros(1, 1), torch.tensor([hard])).any()


# A base model whose probabilities are the features


class Literal(nn.Module):
    """Each modality's probability of a category is the mean of its feature of that index."""

    def forward(self, batch: ParsingBatch) -> ParsingOutput:
        both = torch.stack([batch.audio, batch.visual], dim=2)
        return ParsingOutput(
            parsing_probabilities=both,
            modality_probabilities=both.mean(dim=1),
            clip_probabilities=both[:, 0, 0],
        )


DOG, SPEECH, BELL = range(3)


def clips(heard: list[list[int]], seen: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T, C) features: 0.9 where the category is heard (or seen), else 0.1."""
    found = []
    for there in (heard, seen):
        features = torch.full((len(there), 4, 3), 0.1)
        for clip, categories in enumerate(there):
            features[clip, :, categories] = 0.9
        found.append(features)
    return found[0], found[1]


def refine(labels: torch.Tensor, heard: list[list[int]], seen: list[list[int]], seed: int = 0):
    pairs = zip(*clips(heard, seen), strict=True)
    dataset = [ParsingBatch(audio, visual, clips="a clip") for audio, visual in pairs]
    return refine_labels(labels, Literal(), dataset, generator(seed))


@pytest.mark.parametrize("seed", range(4))
def test_a_modality_loses_the_labels_of_events_absent_from_it(seed):
    # speech behind a dog that is seen and silent; a bell heard and seen; a dog and a bell, both of both
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]])
    heard, seen = [[SPEECH], [BELL], [BELL], [DOG]], [[DOG], [BELL], [BELL], [DOG]]
    refined = refine(labels, heard, seen, seed)
    expected_audio, expected_visual = labels.clone(), labels.clone()
    expected_audio[0, DOG] = 0
    expected_visual[0, SPEECH] = 0
    assert torch.equal(refined["audio_labels"], expected_audio)
    assert torch.equal(refined["visual_labels"], expected_visual)


def test_a_label_supported_by_the_partners_track_only_is_removed():
    # 0 has a dog that is only heard. Its partner can only be 1, which shares nothing with it
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    refined = refine(labels, [[DOG], [BELL]], [[], [BELL]])
    assert refined["visual_labels"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert refined["audio_labels"].tolist() == labels.tolist()


def test_a_clip_without_partner_keeps_its_labels():
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 0, 1]])
    refined = refine(labels, [[DOG], [DOG], [BELL]], [[], [DOG], [BELL]])
    assert torch.equal(refined["visual_labels"], labels)  # 0 would lose both


# The task


def test_a_run_refines_and_retrains(study, describe, capsys):
    experiment = describe("ma", WEAK, task="refined_parsing", epochs=8, refine_epochs=8)
    (metrics,) = run(experiment, study.results)
    assert metrics["status"] == "ok"
    said = capsys.readouterr().err
    assert "audio loses" in said
    assert "of 42 labels" in said  # 48 clips, each eighth without an event
    # the toy's events are always in both modalities, so few labels should go
    assert metrics["metrics"]["last"]["segment_type"] > 0.5


def test_a_killed_job_does_not_repeat_the_first_training(study, describe, stop_after, capsys):
    experiment = describe("ma", WEAK, task="refined_parsing", epochs=4, refine_epochs=3)
    run(experiment, study.results)
    uninterrupted = read(experiment, study.results)
    stop_after(6, experiment, study.results)  # 3 epochs of the first training and 3 of the second
    capsys.readouterr()
    run(experiment, study.results)
    said = capsys.readouterr().err
    assert "first training: going on after epoch 3" in said  # of 3: nothing is left
    assert "seed 0: going on after epoch 2" in said
    assert_same(uninterrupted, read(experiment, study.results))


def test_the_second_training_is_a_new_one_with_the_refined_labels(study, describe, monkeypatch):
    """All visual labels are taken away between the trainings, as long as `same` says both are."""
    task = "avpipe.training.refined_parsing.refine_labels"
    monkeypatch.setattr(task, lambda labels, *_: {"visual_labels": torch.zeros_like(labels)})
    seen, terms, started = [], Parsing.terms, []
    start = fit._Training.__init__

    def watching(self, output, batch):
        seen.append(batch.visual_labels.any().item())
        return terms(self, output, batch)

    def starting(self, *arguments):
        start(self, *arguments)
        started.append(torch.nn.utils.parameters_to_vector(self.network.parameters()).detach().clone())

    monkeypatch.setattr(Parsing, "terms", watching)
    monkeypatch.setattr(fit._Training, "__init__", starting)
    experiment = describe("ma", WEAK, task="refined_parsing", epochs=3, batch_size=48, refine_epochs="same")
    (metrics,) = run(experiment, study.results)
    assert seen == [True] * 3 + [False] * 3
    assert torch.equal(*started)  # the same seed, the same first weights
    assert metrics["metrics"]["last"]["segment_visual"] < 0.3


def test_a_first_training_that_diverges_fails_the_run(study, describe, monkeypatch):
    monkeypatch.setattr(
        Parsing, "terms", lambda self, output, batch: {"nan": output.clip_probabilities.sum() * float("nan")}
    )
    (metrics,) = run(describe("ma", WEAK, task="refined_parsing", refine_epochs=1), study.results)
    assert metrics["status"] == "failed"
    assert "first training" in metrics["reason"]
