"""Algorithm 1 and equations 4 to 6, worked by hand; groups also against scipy's connected components."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from avpipe.models.grounding import (
    all_similarities,
    connected,
    cosine_similarity,
    first_of_group,
    grounding_loss,
    same_group,
)


def directions(*degrees: float) -> torch.Tensor:
    """(1, T, 2): unit vectors at these angles, so that the cosine of two is that of the angle between them."""
    angles = torch.tensor([math.radians(degree) for degree in degrees])
    return torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)


def groups(audio: torch.Tensor, visual: torch.Tensor, connect: str = "either") -> list[int]:
    """Connected up to 30 degrees in sound and up to 10 degrees in looks."""
    thresholds = {
        "audio_threshold": math.cos(math.radians(30.5)),
        "visual_threshold": math.cos(math.radians(10.5)),
    }
    return first_of_group(same_group(audio, visual, connect=connect, **thresholds))[0].tolist()


def test_similarity_is_the_cosine_whatever_the_length():
    found = cosine_similarity(directions(0, 60) * 5, directions(0, 90) * 0.1)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0], [0.5, math.sin(math.radians(60))]]]))


def test_segments_that_sound_alike_or_look_alike_are_in_one_group():
    apart = directions(0, 60, 120, 180)
    assert groups(apart, apart) == [0, 1, 2, 3]
    assert groups(directions(0, 20, 120, 180), apart) == [0, 0, 2, 3]
    assert groups(directions(0, 20, 120, 180), directions(0, 60, 120, 130)) == [0, 0, 2, 2]


def test_groups_merge_through_a_chain_of_either_modality():
    # 0 sounds like 1, 1 looks like 2, 2 sounds like 3: one group, though 0 and 3 have nothing in common.
    assert groups(directions(0, 20, 120, 140), directions(0, 90, 95, 180)) == [0, 0, 0, 0]


def test_figure_5_node_3_alone_between_two_segments_of_the_same_group():
    # 1 and 2 look alike, 4 and 5 sound alike, 2 and 4 sound alike.
    looks, sounds = directions(0, 5, 90, 180, 270), directions(0, 100, 170, 110, 130)
    assert groups(sounds, looks) == [0, 0, 2, 0, 0]


def test_both_asks_for_sound_and_looks_of_the_same_pair():
    sounds, looks = directions(0, 20, 100, 110), directions(0, 5, 10, 15)
    assert groups(sounds, looks) == [0, 0, 0, 0]
    assert groups(sounds, looks, connect="both") == [0, 0, 2, 2]


def test_the_threshold_itself_is_similar():
    right = directions(0, 0)
    found = same_group(right, directions(0, 90), audio_threshold=1.0, visual_threshold=1.0, connect="either")
    assert found.all()


@st.composite
def graphs(draw):
    nodes = draw(st.integers(1, 12))
    edges = draw(
        st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=2 * nodes)
    )
    matrix = np.zeros((nodes, nodes), bool)
    for one, other in edges:
        matrix[one, other] = matrix[other, one] = True
    return matrix


@given(graphs())
@settings(deadline=None)
def test_groups_are_scipys_connected_components(matrix):
    _, component = connected_components(matrix, directed=False)
    expected = component[:, None] == component[None, :]
    found = connected(torch.from_numpy(matrix).unsqueeze(0))
    assert np.array_equal(found[0].numpy(), expected)
    assert first_of_group(found)[0].tolist() == [list(component).index(c) for c in component]


# Equations


def test_similarities_are_of_segment_i_in_the_first_modality_with_j_in_the_second():
    similarity = all_similarities(directions(0, 90), directions(60, 180))
    assert similarity.shape == (1, 2, 2, 2, 2)
    torch.testing.assert_close(similarity[0, 0, 1, 0], torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(similarity[0, 1, 0], similarity[0, 0, 1].T)
    torch.testing.assert_close(similarity[0, 0, 0], torch.eye(2), atol=1e-6, rtol=0)


def loss(objective: str, segment: int = 0) -> float:
    """Of three segments, the first two in one group; p = 0.7, n = 0.4."""
    similarity = all_similarities(directions(0, 60, 90), directions(0, 0, 60))
    same = torch.tensor([[[True, True, False], [True, True, False], [False, False, True]]])
    at = torch.tensor([segment])
    return float(grounding_loss(similarity, same, at, objective, positive_margin=0.7, negative_margin=0.4))


def test_equation_4_compares_within_each_modality():
    # Sound 0 with 0, 1, 2: 1, 0.5, 0 -> 0, 0.7 - 0.5, 0. Picture 0: 1, 1, 0.5 -> 0, 0, 0.5 - 0.4.
    assert loss("uni") == pytest.approx(0.2 / 3 + 0.1 / 3, abs=1e-6)


def test_equation_5_compares_across_modalities():
    # Sound 0 with pictures 0, 1, 2: 1, 1, 0.5 -> 0.1. Picture 0 with sounds: 1, 0.5, 0 -> 0.2.
    assert loss("cross") == pytest.approx(0.1 / 3 + 0.2 / 3, abs=1e-6)


def test_equation_6_is_the_sum_of_4_and_5():
    for segment in range(3):
        expected = loss("uni", segment) + loss("cross", segment)
        assert loss("multi", segment) == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_zero_beyond_the_margins():
    alike = torch.ones(1, 2, 2, 2, 2)
    everyone = torch.ones(1, 2, 2, dtype=torch.bool)
    margins = {"positive_margin": 0.7, "negative_margin": 0.7}
    segments = torch.tensor([1])
    assert grounding_loss(alike, everyone, segments, "multi", **margins) == 0
    assert grounding_loss(0.7 * alike, ~everyone, segments, "multi", **margins) == 0
    assert grounding_loss(alike, ~everyone, segments, "multi", **margins) == pytest.approx(4 * 0.3)


def test_groups_are_found_in_float32_whatever_the_precision():
    random = torch.Generator().manual_seed(0)
    near = torch.randn(64, 1, 128, generator=random) + 0.1 * torch.randn(64, 10, 128, generator=random)
    given = {"audio_threshold": 0.99, "visual_threshold": 2.0, "connect": "either"}
    exact = same_group(near, near, **given)
    assert 0.05 < exact.float().mean() < 0.95
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(same_group(near, near, **given), exact)
