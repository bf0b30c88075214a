"""AVSDN: what the decoder starts from, and how labels guide the encoders."""

from functools import partial

import pytest
import torch

from avpipe.models.avsdn import AVSDN, clip_target

from .builders import count_parameters, lstm_parameters, random_clips, untrained

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 6}
STATES = ["fusion", "visual", "audio", "label_guided"]


features = partial(random_clips, 4, 5)


def small(seed: int = 0, **options) -> AVSDN:
    torch.manual_seed(seed)
    return AVSDN(**SIZES, **options)


BLOCK = 4 * (128 * 128 + 128)
DECODER = lstm_parameters(128 + 512) + 256 * 29 + 29
GUIDE = 256 * 64 + 64 + 64 * 29 + 29


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("fusion", lstm_parameters(128) + lstm_parameters(512) + BLOCK + DECODER),
        ("visual", lstm_parameters(512) + DECODER),
        ("audio", lstm_parameters(128) + DECODER),
        ("label_guided", lstm_parameters(128) + lstm_parameters(512) + BLOCK + DECODER + 2 * GUIDE),
    ],
)
def test_each_row_has_the_parts_it_names(state, expected):
    assert count_parameters(AVSDN(initial_state=state)) == expected


@pytest.mark.parametrize("state", ["fusion", "label_guided"])
def test_the_decoder_starts_from_the_fused_last_states(state):
    model, batch = small(initial_state=state), features()
    _, (h_audio, c_audio) = model.encoders["audio"](batch.audio)
    _, (h_visual, c_visual) = model.encoders["visual"](batch.visual)
    start = model.fusion(h_audio, h_visual), model.fusion(c_audio, c_visual)
    decoded, _ = model.decoder(torch.cat([batch.audio, batch.visual], dim=-1), start)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(decoded))


@pytest.mark.parametrize("state", ["visual", "audio"])
def test_the_decoder_starts_from_one_encoder_but_reads_both_modalities(state):
    model, batch = small(initial_state=state), features()
    _, start = model.encoders[state](getattr(batch, state))
    decoded, _ = model.decoder(torch.cat([batch.audio, batch.visual], dim=-1), start)
    torch.testing.assert_close(model(batch).segment_logits, model.classifier(decoded))


def test_the_first_segment_depends_on_the_whole_clip_through_the_initial_state():
    """A decoder that runs forward knows of later segments only by its initial state."""
    model, batch = small(bidirectional=False), features()
    batch.audio.requires_grad_()
    model(batch).segment_logits[0, 0].sum().backward()
    assert (batch.audio.grad[0].abs().sum(dim=-1) > 0).all()


def test_labels_guide_the_encoders_by_their_last_hidden_states():
    model, batch = small(initial_state="label_guided"), features()
    batch.target = torch.eye(4)[torch.tensor([[3, 1] * 4, [3, 3] * 4])]
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


def test_the_guides_do_not_change_the_scores():
    guided, plain = small(initial_state="label_guided"), small()
    plain.load_state_dict({k: v for k, v in guided.state_dict().items() if "guides" not in k})
    torch.testing.assert_close(guided(features()).segment_logits, plain(features()).segment_logits)


@pytest.mark.parametrize("state", STATES)
def test_only_a_guided_model_has_more_losses_and_each_row_trains_all_it_has(state):
    model, batch = small(initial_state=state), features()
    assert model(batch).losses == {}
    batch.target = torch.eye(4)[[1, 3]]
    output = model(batch)
    assert bool(output.losses) == (state == "label_guided")
    loss = (output.segment_logits * torch.randn(2, 8, 4)).sum() + sum(output.losses.values())
    loss.backward()
    assert untrained(model) == []


def test_a_clip_has_the_categories_of_its_segments_or_background():
    labels = torch.tensor([[0, 3, 0], [1, 2, 3], [3, 3, 3]])
    expected = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert clip_target(torch.eye(4)[labels]).tolist() == expected
    assert clip_target(torch.tensor(expected)).tolist() == expected
