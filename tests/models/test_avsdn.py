"""AVSDN: what the decoder starts from, and how labels guide the encoders."""

import pytest
import torch

from avpipe.models import AVBatch
from avpipe.models.avsdn import AVSDN, clip_target

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 6}
STATES = ["fusion", "visual", "audio", "label_guided"]


def features(seed: int = 0) -> AVBatch:
    random = torch.Generator().manual_seed(seed)
    return AVBatch(
        audio=torch.randn(2, 8, 4, generator=random), visual=torch.randn(2, 8, 5, generator=random)
    )


def small(seed: int = 0, **options) -> AVSDN:
    torch.manual_seed(seed)
    return AVSDN(**SIZES, **options)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lstm(inputs: int, hidden: int = 128) -> int:
    """Both directions: four gates, each with input and recurrent weights and two biases."""
    return 2 * 4 * (hidden * (inputs + hidden) + 2 * hidden)


BLOCK = 4 * (128 * 128 + 128)
DECODER = lstm(128 + 512) + 256 * 29 + 29
GUIDE = 256 * 64 + 64 + 64 * 29 + 29


def test_with_attention_it_has_the_parameters_of_the_public_reimplementation():
    """Their two heads, 256 -> 1 and 256 -> 28, are as many weights as ours, 256 -> 29."""
    assert parameters(AVSDN(attention=True)) == 2_162_510


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("fusion", lstm(128) + lstm(512) + BLOCK + DECODER),
        ("visual", lstm(512) + DECODER),
        ("audio", lstm(128) + DECODER),
        ("label_guided", lstm(128) + lstm(512) + BLOCK + DECODER + 2 * GUIDE),
    ],
)
def test_each_row_has_the_parts_it_names(state, expected):
    assert parameters(AVSDN(initial_state=state)) == expected


@pytest.mark.parametrize("state", ["fusion", "label_guided"])
def test_the_decoder_starts_from_the_fused_last_states(state):
    model, batch = small(initial_state=state), features()
    _, (h_audio, c_audio) = model.encoders["audio"](batch.audio)
    _, (h_visual, c_visual) = model.encoders["visual"](batch.visual)
    start = model.fusion(h_audio, h_visual), model.fusion(c_audio, c_visual)
    decoded, _ = model.decoder(torch.cat([batch.audio, batch.visual], dim=-1), start)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(decoded))


@pytest.mark.parametrize("state", ["visual", "audio"])
def test_the_decoder_starts_from_one_encoder_but_hears_and_sees(state):
    model, batch = small(initial_state=state), features()
    _, start = model.encoders[state](getattr(batch, state))
    decoded, _ = model.decoder(torch.cat([batch.audio, batch.visual], dim=-1), start)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(decoded))


def test_the_initial_state_brings_the_whole_clip_to_the_first_segment():
    """A decoder that runs forward knows of later segments only by its initial state."""
    model, batch = small(bidirectional=False), features()
    batch.audio.requires_grad_()
    model(batch).segment_logits[0, 0].sum().backward()
    assert (batch.audio.grad[0].abs().sum(dim=-1) > 0).all()


def test_labels_guide_the_encoders_by_their_last_hidden_states():
    model, batch = small(initial_state="label_guided"), features()
    batch.targets = {"target": torch.eye(4)[torch.tensor([[3, 1] * 4, [3, 3] * 4])]}
    output = model(batch)
    assert output.losses.keys() == {"guide_audio", "guide_visual"}
    outputs, _ = model.encoders["audio"](batch.audio)
    last = torch.cat([outputs[:, -1, :6], outputs[:, 0, 6:]], dim=-1)  # the directions end at opposite ends
    probabilities = model.guides["audio"](last).softmax(dim=-1)
    expected = torch.nn.BCELoss()(probabilities, torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 1]]))
    torch.testing.assert_close(output.losses["guide_audio"], expected)
    output.losses["guide_audio"].backward()
    assert model.encoders["audio"].weight_hh_l0.grad.any()
    assert model.encoders["visual"].weight_hh_l0.grad is None


def test_guiding_adds_nothing_to_what_is_predicted_from_the_same_weights():
    guided, plain = small(initial_state="label_guided"), small()
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if "guides" not in k})
    torch.testing.assert_close(guided(features()).segment_logits, plain(features()).segment_logits)


@pytest.mark.parametrize("state", STATES)
def test_only_a_guided_model_in_training_has_more_losses(state):
    model, batch = small(initial_state=state), features()
    assert model(batch).losses == {}
    batch.targets = {"target": torch.eye(4)[[1, 3]]}
    assert bool(model(batch).losses) == (state == "label_guided")


@pytest.mark.parametrize("state", STATES)
def test_each_row_trains_all_it_has(state):
    model, batch = small(initial_state=state), features()
    batch.targets = {"target": torch.eye(4)[[1, 3]]}
    output = model(batch)
    loss = (output.segment_logits * torch.randn(2, 8, 4)).sum() + sum(output.losses.values())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_clip_has_the_categories_of_its_segments_or_background():
    labels = torch.tensor([[0, 3, 0], [1, 2, 3], [3, 3, 3]])
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert clip_target(torch.eye(4)[labels]).tolist() == expected
    assert clip_target(torch.tensor(expected)).tolist() == expected


def test_audio_guided_attention_can_take_the_place_of_the_average():
    maps = torch.randn(2, 8, 3, 3, 5)
    averaged = small(visual_cells=9)
    torch.testing.assert_close(
        averaged(AVBatch(audio=features().audio, visual=maps)).segment_logits,
        averaged(AVBatch(audio=features().audio, visual=maps.mean(dim=(2, 3)))).segment_logits,
    )
    seen = small(visual_cells=9, attention=True)(AVBatch(features().audio, maps)).attention
    assert seen["visual"].shape == (2, 8, 3, 3)
