"""AVG: what each objective trains, and which weights the parser takes over."""

from functools import cache

import pytest
import torch

from avpipe.models import create_model
from avpipe.models.base import FeatureBatch

from .builders import fit, untrained

SMALL = {
    "audio_dim": 6,
    "visual_dim": 8,
    "hidden_dim": 16,
    "layers": 1,
    "heads": 2,
    "feed_forward_dim": 32,
    "dropout": 0.0,
}
T = 6


def clips(count: int = 8) -> FeatureBatch:
    """Clips of two scenes, T / 2 segments each, which look and sound alike but for a little noise."""
    random = torch.Generator().manual_seed(0)
    scene = torch.arange(T) // (T // 2)

    def features(dim: int) -> torch.Tensor:
        scenes = torch.randn(count, 2, dim, generator=random)
        return scenes[:, scene] + 0.05 * torch.randn(count, T, dim, generator=random)

    return FeatureBatch(audio=features(6), visual=features(8))


def grounding(model, batch: FeatureBatch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(batch).grounding


@cache
def trained(objective: str):
    torch.manual_seed(0)
    options = {"audio_threshold": 0.9, "visual_threshold": 0.9, "negative_margin": 0.2}
    model = create_model("avg", objective=objective, **options, **SMALL).train()
    batch = clips()
    fit(model, lambda: model(batch).losses["grounding"], steps=60, lr=3e-3)
    return model


def gap(similarity: torch.Tensor) -> float:
    """By how much pairs of one scene are more alike than pairs of two; (B, T, T)."""
    scene = torch.arange(T) // (T // 2)
    same = scene[:, None] == scene[None, :]
    others = ~torch.eye(T, dtype=torch.bool)
    return float(similarity[:, same & others].mean() - similarity[:, ~same].mean())


def test_its_groups_are_those_of_the_features():
    model = create_model("avg", audio_threshold=0.9, visual_threshold=0.9, **SMALL)
    assert model(clips(1)).groups.tolist() == [[0, 0, 0, 3, 3, 3]]


def test_the_mean_of_a_segment_s_frames_is_what_is_compared():
    model = create_model("avg", audio_threshold=0.9, visual_threshold=0.9, **SMALL)
    batch = clips()
    frames = FeatureBatch(audio=batch.audio, visual=torch.stack([batch.visual + 3, batch.visual - 3], dim=2))
    assert torch.equal(model(frames).groups, model(batch).groups)


@pytest.mark.parametrize(
    ("objective", "modalities"),
    [("uni", [(0, 0), (1, 1)]), ("cross", [(0, 1)]), ("multi", [(0, 0), (1, 1), (0, 1)])],
)
def test_training_tells_scenes_apart_in_what_the_objective_compares(objective, modalities):
    batch = clips()
    torch.manual_seed(0)
    before = grounding(create_model("avg", **SMALL), batch)
    after = grounding(trained(objective), batch)
    for m, n in modalities:
        assert gap(after[:, m, n]) > gap(before[:, m, n]) + 0.2


@pytest.mark.parametrize("objective", ["uni", "cross", "multi"])
def test_each_objective_moves_every_weight(objective):
    torch.manual_seed(0)
    model = create_model(
        "avg", objective=objective, audio_threshold=0.9, visual_threshold=0.9, **SMALL
    ).train()
    model(clips()).losses["grounding"].backward()
    assert untrained(model) == []


def test_segments_are_drawn_at_random():
    model = create_model("avg", audio_threshold=0.9, visual_threshold=0.9, **SMALL).train()
    losses = {float(model(clips(1)).losses["grounding"].detach()) for _ in range(20)}
    assert len(losses) > 1


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of heads 2"):
        create_model("avg", **{**SMALL, "hidden_dim": 15})


def test_random_positions_are_a_fixed_draw_for_each_modality_as_the_released_initialization_leaves_them():
    torch.manual_seed(0)
    transformer = create_model("avg", positions="random", **{**SMALL, "hidden_dim": 1024}).transformer
    audio, visual = transformer.audio.positions, transformer.visual.positions
    assert audio.shape == visual.shape == (10, 1024)
    assert not torch.equal(audio, visual)
    for drawn in (audio, visual):
        assert (drawn.mean().item(), drawn.std().item()) == pytest.approx((0, 0.02), abs=0.001)
    assert not any(name.endswith("positions") for name, _ in transformer.named_parameters())
    # LN(LN(W x) + position + type), by hand for audio's third segment
    kind, clip = transformer.kind.weight[1], clips(1)
    hidden = torch.nn.functional.layer_norm(transformer.audio.linear(clip.audio[0, 2]), (1024,))
    expected = torch.nn.functional.layer_norm(hidden + audio[2] + kind, (1024,))
    torch.testing.assert_close(transformer.audio(clip.audio, kind)[0, 2], expected)
    with pytest.raises(ValueError, match="10 segments a clip, found 12"):
        transformer.audio(clip.audio.repeat(1, 2, 1), kind)


@pytest.mark.parametrize("positions", ["sinusoidal", "random"])
def test_the_parser_s_transformer_is_that_of_pretraining(positions):
    sizes = {"motion_dim": 7, "positions": positions, **SMALL}
    pretrained = create_model("avg", **sizes).state_dict()
    parser = create_model("avg_parser", num_classes=3, head_dim=12, **sizes).state_dict()
    shared = {name: weight.shape for name, weight in pretrained.items()}
    assert shared == {name: w.shape for name, w in parser.items() if name.startswith("transformer.")}
