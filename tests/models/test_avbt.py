"""AV-BT: its loss against loops in float64, its encoders, and the classifier on its features."""

import json

import pytest
import torch
from torch import nn

from avpipe.models.avbt import AVBT, SoundAndFrames, VGGish, barlow_twins_terms, cross_correlation
from avpipe.models.avbt_mlp import AVBTMLP
from avpipe.models.base import LocalizationBatch
from tests.training.test_processes import in_two_processes

SMALL = {
    "backbone": "resnet18",
    "image_size": 40,
    "cnn_dim": 12,
    "audio_channels": 1,
    "dim": 6,
    "projector_dim": 8,
}
N, T, D = 3, 5, 4


def embeddings(dtype=torch.float64, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, N, T, D, generator=random, dtype=dtype) * 3 + 1)


def clips(segments: int = 4) -> SoundAndFrames:
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (2, segments, 3, 48, 44), generator=random, dtype=torch.uint8)
    return SoundAndFrames(frames, torch.randn(2, segments, 96, 64, generator=random))


def by_loops(audio, visual, divisor) -> list[list[float]]:
    """Equation 1 as it is printed, one number after the other."""
    total = [[0.0] * D for _ in range(D)]
    for a, v in zip(audio.tolist(), visual.tolist(), strict=True):
        for i in range(D):
            for j in range(D):
                x, y = [row[i] for row in a], [row[j] for row in v]
                x, y = [e - sum(x) / T for e in x], [e - sum(y) / T for e in y]
                product = sum(p * q for p, q in zip(x, y, strict=True))
                scale = (sum(p * p for p in x) / divisor) ** 0.5 * (sum(q * q for q in y) / divisor) ** 0.5
                total[i][j] += product / scale / N
    return total


@pytest.mark.parametrize(("normalization", "divisor"), [("norm", 1), ("deviation", T - 1)])
def test_the_loss_is_that_of_equations_1_and_2_or_of_algorithm_1(normalization, divisor):
    audio, visual = embeddings()
    expected = by_loops(audio, visual, divisor)
    found = cross_correlation(audio, visual, normalization)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    losses = barlow_twins_terms(found, 5e-3)
    invariance = sum((1 - expected[i][i]) ** 2 for i in range(D))
    redundancy = 5e-3 * sum(expected[i][j] ** 2 for i in range(D) for j in range(D) if i != j)
    assert float(losses["invariance"]) == pytest.approx(invariance, rel=1e-12)
    assert float(losses["redundancy"]) == pytest.approx(redundancy, rel=1e-12)


def test_the_correlation_of_a_clip_with_itself_is_one_or_by_algorithm_1_its_segments_less_one():
    audio, _ = embeddings()
    torch.testing.assert_close(cross_correlation(audio, audio).diagonal(), torch.ones(D, dtype=torch.float64))
    by_deviation = cross_correlation(audio, audio, "deviation").diagonal()
    torch.testing.assert_close(by_deviation, torch.full((D,), T - 1.0, dtype=torch.float64))


@pytest.mark.parametrize("normalization", ["norm", "deviation"])
def test_the_gradient_is_that_of_finite_differences(normalization):
    def loss(audio, visual):
        return sum(barlow_twins_terms(cross_correlation(audio, visual, normalization), 0.3).values())

    assert torch.autograd.gradcheck(loss, [z.requires_grad_() for z in embeddings()])


def test_the_loss_does_not_depend_on_scale_offset_or_the_order_of_clips():
    audio, visual = embeddings(torch.float32)
    expected = cross_correlation(audio, visual)
    for other in (
        cross_correlation(7 * audio + 2, visual),
        cross_correlation(audio, visual / 90),
        cross_correlation(audio[[2, 0, 1]], visual[[2, 0, 1]]),
    ):
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(cross_correlation(audio[[2, 0, 1]], visual), expected, atol=0.05)
    assert not torch.allclose(cross_correlation(audio[:, [1, 2, 3, 4, 0]], visual), expected, atol=0.05)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_dimension_that_is_constant_over_time_counts_as_zero_and_gives_no_nan(value):
    audio, visual = embeddings(torch.float32)
    audio[..., 1] = value
    audio.requires_grad_()
    found = cross_correlation(audio, visual)
    assert found[1].eq(0).all()
    sum(barlow_twins_terms(found, 5e-3).values()).backward()
    assert audio.grad.isfinite().all()
    assert audio.grad[..., 1].eq(0).all()


def losses_of_part(rank: int | None) -> list[float]:
    """Loss and gradient of a process's clips: of two clips or of one; None: of all three."""
    audio, visual = (z.clone().requires_grad_() for z in embeddings())
    part = slice(None) if rank is None else slice(2) if rank == 0 else slice(2, None)
    loss = sum(barlow_twins_terms(cross_correlation(audio[part], visual[part]), 5e-3).values())
    loss.backward()
    return [float(loss.detach()), *audio.grad[part].flatten().tolist()]


def in_a_process() -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = losses_of_part(rank)
    torch.distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


IN_A_PROCESS = "import sys; sys.path.insert(0, sys.argv[1]); from tests.models.test_avbt import in_a_process; in_a_process()"


@pytest.mark.slow
def test_two_processes_with_their_parts_of_a_batch_have_the_loss_and_the_gradient_of_one(request):
    found = json.loads(in_two_processes(IN_A_PROCESS, str(request.config.rootpath)))
    loss, *gradient = losses_of_part(None)
    assert found[0] == pytest.approx(loss, rel=1e-9)
    # `fit` averages gradients over the processes; each process's is of the sum of both losses
    assert torch.tensor(found[1:]) / 2 == pytest.approx(torch.tensor(gradient[: 2 * T * D]), rel=1e-6)


def test_features_are_the_encoders_outputs_and_the_projector_is_shared_unless_asked_otherwise():
    torch.manual_seed(0)
    model = AVBT(**SMALL).eval()
    features, output = model.encode(clips()), model(clips())
    assert {name: tuple(f.shape) for name, f in features.items()} == {"audio": (2, 4, 6), "visual": (2, 4, 6)}
    for name in ("audio", "visual"):
        by_hand = model.projector(features[name].flatten(0, 1)).unflatten(0, (2, 4))
        torch.testing.assert_close(getattr(output, name), by_hand)
    separate = AVBT(**SMALL, share_projector=False)
    parameters = sum(p.numel() for p in model.projector.parameters())
    assert (
        sum(p.numel() for p in separate.parameters())
        == sum(p.numel() for p in model.parameters()) + parameters
    )


def test_only_with_attention_do_visual_features_depend_on_the_sound():
    batch = clips()
    other = SoundAndFrames(batch.frames, batch.spectrograms.flip(0))
    for attention in (False, True):
        torch.manual_seed(0)
        model = AVBT(**SMALL, attention=attention).eval()
        nn.init.normal_(model.audio_cnn.embeddings[-2].bias)
        same = torch.equal(model.encode(batch)["visual"], model.encode(other)["visual"])
        assert same is not attention


def test_the_visual_cnn_sees_the_centre_of_a_larger_frame():
    model, batch = AVBT(**SMALL).eval(), clips()
    centre = SoundAndFrames(batch.frames[..., 4:44, 2:42], batch.spectrograms)
    assert torch.equal(model.encode(batch)["visual"], model.encode(centre)["visual"])


def test_vggish_is_torchvggishs_network():
    from torchvggish.torchvggish import VGG, make_layers

    with torch.device("meta"):
        released, ours = VGG(make_layers(), postprocess=False), VGGish()
    shapes = {name: weight.shape for name, weight in ours.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in released.state_dict().items()}


@pytest.mark.full_size
def test_vggish_gives_torchvggishs_numbers():
    from torchvggish.torchvggish import VGG, make_layers

    torch.manual_seed(0)
    released, ours = VGG(make_layers(), postprocess=False), VGGish()
    ours.load_state_dict(released.state_dict())
    sounds = torch.randn(2, 96, 64)
    assert torch.equal(ours(sounds), released(sounds.unsqueeze(1)))


def test_the_mlp_on_both_modalities_classifies_their_sum():
    torch.manual_seed(0)
    model = AVBTMLP(num_classes=3, audio_dim=6, visual_dim=6)
    audio, visual = torch.randn(2, 1, 4, 6)
    both = model(LocalizationBatch(audio, visual)).segment_logits
    torch.testing.assert_close(both, model(LocalizationBatch(visual, audio)).segment_logits)
    torch.testing.assert_close(both, model.classifier(audio + visual))
    with pytest.raises(ValueError, match="cannot be summed"):
        AVBTMLP(audio_dim=6, visual_dim=8)


@pytest.mark.parametrize("inputs", ["audio", "visual"])
def test_the_mlp_on_one_modality_needs_no_other(inputs):
    model = AVBTMLP(num_classes=3, audio_dim=6, visual_dim=8, inputs=inputs)
    features = torch.randn(2, 4, 6 if inputs == "audio" else 8)
    assert model(LocalizationBatch(**{inputs: features})).segment_logits.shape == (2, 4, 4)
