"""Winograd's filtering gives the sums of the convolution itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avpipe.features.winograd import POINTS, TILES, WinogradConvolution, best_tile, transforms

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN is not there")

DIRECT = [[1, 1], [1, 1], [1, 1], 1]


@pytest.mark.parametrize("tile", POINTS)
def test_transforms_correlate_exactly(tile: int) -> None:
    outwards, inwards, filters = transforms(tile)
    generator = torch.Generator().manual_seed(tile)
    line = torch.randn(tile + 2, generator=generator, dtype=torch.float64)
    kernel = torch.randn(3, generator=generator, dtype=torch.float64)
    found = outwards @ ((filters @ kernel) * (inwards @ line))
    torch.testing.assert_close(found, line.unfold(0, 3, 1) @ kernel)


@pytest.mark.parametrize("tile", POINTS)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    channels=st.tuples(st.sampled_from([1, 3, 16, 33]), st.sampled_from([1, 8, 17])),
    biased=st.booleans(),
)
@settings(max_examples=25, deadline=None)
@torch.inference_mode()
def test_equals_the_convolution(
    tile: int,
    counts: list[int],
    size: tuple[int, int],
    channels: tuple[int, int],
    biased: bool,
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels[1], channels[0], 3, 3, generator=generator)
    bias = torch.randn(channels[1], generator=generator) if biased else None
    layer = WinogradConvolution(weight, bias, tile)
    for count in counts:  # the first packs the weights
        inputs = torch.randn(count, channels[0], *size, generator=generator)
        before = inputs.clone()
        found = layer(inputs.contiguous(memory_format=torch.channels_last))
        expected = torch.conv2d(
            inputs.double(), weight.double(), None if bias is None else bias.double(), padding=1
        )
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-4
        assert torch.equal(inputs, before)


@pytest.mark.parametrize("tile", TILES[torch.bfloat16])
@torch.inference_mode()
def test_bfloat16_is_nearly_as_exact_as_the_convolution_in_it(tile: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, 3, 3, generator=generator).bfloat16()
    inputs = (
        torch.randn(3, 64, 14, 13, generator=generator)
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
    )
    bias = torch.randn(32, generator=generator).bfloat16()
    exact = torch.conv2d(inputs.double(), weight.double(), bias.double(), padding=1)
    error = (WinogradConvolution(weight, bias, tile)(inputs) - exact).norm() / exact.norm()
    direct = (torch.conv2d(inputs, weight, bias, padding=1) - exact).norm() / exact.norm()
    assert error < 10 * direct


def test_many_pictures_are_done_in_parts() -> None:
    weight, inputs = torch.randn(4, 64, 3, 3), torch.randn(5, 64, 28, 28)
    layer = WinogradConvolution(
        weight, None, 4
    )  # 49 tiles of 36 x 64 x 4 bytes a picture: 2 pictures at once
    torch.testing.assert_close(layer(inputs), torch.conv2d(inputs, weight, padding=1), rtol=1e-4, atol=1e-4)
    assert layer.rows == 2 * 49


def test_a_small_first_batch_does_not_make_those_after_it_slow() -> None:
    weight, inputs = torch.randn(4, 64, 3, 3), torch.randn(9, 64, 14, 14)
    layer = WinogradConvolution(weight, None, 4)
    for count in (1, 9, 2):  # 16 tiles a picture of 36 x 64 x 4 bytes: 8 pictures at once
        some = inputs[:count]
        torch.testing.assert_close(layer(some), torch.conv2d(some, weight, padding=1), rtol=1e-4, atol=1e-4)
        assert layer.rows == 8 * 16


@pytest.mark.parametrize(
    ("dtype", "channels", "size", "tile"),
    [
        (torch.float32, 256, 14, 7),  # 4 tiles x 81 = 324 products, 9 x 14 x 14 = 1764 without
        (
            torch.float32,
            512,
            7,
            4,
        ),  # 4 x 36 = 144, not one tile of 7 with 81: its matrices would have too few rows
        (torch.float32, 64, 56, None),
        (torch.float32, 256, 2, None),  # one tile
        (torch.bfloat16, 256, 14, 4),  # 16 x 36 = 576; a tile of 7 would be too inexact
        (torch.float16, 256, 14, None),
    ],
)
def test_tile_of_a_layer(dtype: torch.dtype, channels: int, size: int, tile: int | None) -> None:
    weight = torch.empty(channels, channels, 3, 3, dtype=dtype)
    assert best_tile(weight, DIRECT, size, size) == tile


@pytest.mark.parametrize(
    "geometry",
    [[[0, 0], *DIRECT[1:]], [[1, 1], [2, 2], [1, 1], 1], [[1, 1], [1, 1], [2, 2], 1], [*DIRECT[:3], 2]],
)
def test_other_convolutions_stay(geometry: list[object]) -> None:
    weight = torch.empty(256, 256, 3, 3)
    assert best_tile(weight, geometry, 14, 14) is None
    assert best_tile(weight[..., :1, :1], DIRECT, 14, 14) is None
