"""CMRAN: its attentions written out, and the released sizes."""

from functools import partial

import torch

from avpipe.models.base import LocalizationBatch
from avpipe.models.cmran import CMRAN, RelationLayer, SpatialChannelAttention

from .builders import random_clips

SIZES = {"num_classes": 3, "audio_dim": 4, "visual_dim": 5, "hidden_dim": 8}


features = partial(random_clips, visual=(2, 2, 5), segments=6)


def model(**options) -> CMRAN:
    torch.manual_seed(0)
    return CMRAN(**SIZES, **options).eval()


def test_channels_are_weighed_then_cells_as_the_definition_says():
    torch.manual_seed(0)
    layer = SpatialChannelAttention(3, 4).double()
    audio, cells = torch.randn(1, 1, 3).double(), torch.randn(1, 1, 5, 4).double()
    attended, channels, weights = layer(audio, cells)

    def relu(linear: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return (linear.weight @ x + linear.bias).clamp(min=0)

    a = audio[0, 0]
    products = [relu(layer.visual_channels, cell) * relu(layer.audio_channels, a) for cell in cells[0, 0]]
    squeezed = relu(layer.bottleneck, sum(products) / 5)
    expected_channels = torch.sigmoid(layer.channels.weight @ squeezed + layer.channels.bias)
    torch.testing.assert_close(channels[0, 0], expected_channels)

    amplified = [cell * (1 + expected_channels) for cell in cells[0, 0]]
    asked = relu(layer.audio_cells, a)
    scores = [
        layer.cells.weight @ (relu(layer.visual_cells, x) * asked) + layer.cells.bias for x in amplified
    ]
    expected_weights = torch.tanh(torch.cat(scores)).softmax(dim=0)
    torch.testing.assert_close(weights[0, 0], expected_weights)
    expected = sum(w * x for w, x in zip(expected_weights, amplified, strict=True))
    torch.testing.assert_close(attended[0, 0], expected)


def test_the_relation_layer_is_attention_then_feed_forward_each_added_and_normalised():
    torch.manual_seed(0)
    layer = RelationLayer(8, 4, dropout=0.1).eval()
    query, memory = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    both = torch.cat([memory, query], dim=1)
    found = torch.nn.functional.layer_norm(query + layer.attention(query, both, both)[0], (8,))
    expected = torch.nn.functional.layer_norm(found + layer.forward_part(found), (8,))
    torch.testing.assert_close(layer(query, memory), expected)


def test_the_query_of_the_fusion_is_the_product_of_both_modalities():
    network = model()
    audio, visual = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    network.fusion.out_proj.weight.data.zero_()  # nothing is found: only the question is left
    network.fusion.out_proj.bias.data.zero_()
    expected = torch.nn.functional.layer_norm(audio * visual, (8,))
    torch.testing.assert_close(network.fuse(audio, visual), expected)


def test_the_two_networks_differ_in_heads_and_in_background():
    for setting, heads, categories in (("supervised", 4, 3), ("weakly-supervised", 2, 4)):
        network = model(setting=setting)
        assert network.fusion.num_heads == heads
        assert network(features()).category_logits.shape == (2, categories)


def test_the_clips_category_does_not_depend_on_the_order_of_its_segments():
    """No position is told, so segments that change places take their event scores with them."""
    batch, order = features(), torch.tensor([3, 1, 5, 0, 2, 4])
    first = model()(batch)
    moved = model()(LocalizationBatch(audio=batch.audio[:, order], visual=batch.visual[:, order]))
    torch.testing.assert_close(moved.category_logits, first.category_logits)
    torch.testing.assert_close(moved.event_logits, first.event_logits[:, order])


def test_a_vector_is_a_map_of_one_cell():
    vectors = torch.randn(2, 6, 5)
    output = model()(LocalizationBatch(audio=features().audio, visual=vectors))
    as_map = model()(LocalizationBatch(audio=features().audio, visual=vectors[:, :, None, None]))
    torch.testing.assert_close(output.event_logits, as_map.event_logits)
    assert output.attention == {}
