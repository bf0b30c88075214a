"""3x3 convolutions by Winograd's minimal filtering: fewer multiplications for the same sums.

A tile of m x m outputs needs (m + 2)^2 multiplications a pair of channels instead of 9 m^2 (Lavin and Gray 2016,
arXiv:1509.09308, eq. 8): with input transform B, filter transform G and output transform A,

    Y = A [(G g G') * (B d B')] A',

and the products over all channels are (m + 2)^2 matrix products, which oneDNN computes as one grouped 1x1 convolution
with packed weights.

A, B and G come from interpolation at m + 1 points and infinity (Toom-Cook). The points here, unlike the customary
0, +-1, +-2, ..., make rounding errors small (found by search; compare Barabasz et al. 2020, arXiv:1803.10986): in
float32 about 1e-5 of a convolution's norm. In bfloat16 only the smaller tile is accurate enough.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

POINTS: dict[int, tuple[float, ...]] = {
    4: (0, 1.5, -1.5, 0.75, -0.75),
    7: (2.1875, -2.1875, 1.125, -1.125, 0.6875, -0.6875, 0.234375, -0.234375),
}
TILES = {torch.float32: (4, 7), torch.bfloat16: (4,)}
"""Tiles whose rounding errors a type bears."""
_CACHE = 1_250_000
"""Bytes of transformed tiles that are worked on at once: few enough to stay in a core's cache,"""
_FEWEST = 64
"""but this many tiles, for matrix products with fewer rows are slow."""


def transforms(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (m, n), B (n, n) and G (n, 3) in double precision, n = m + 2: A [(G g) * (B d)] correlates d with g."""
    points = torch.tensor(POINTS[tile], dtype=torch.float64)

    def evaluation(terms: int) -> Tensor:
        infinity = torch.eye(terms, dtype=torch.float64)[-1:]
        return torch.cat([points[:, None] ** torch.arange(terms), infinity])

    # rows of B as polynomials with leading coefficient 1; G takes the scale
    scale = torch.cat([(points[:, None] - points).fill_diagonal_(1).prod(1), torch.ones(1)])[:, None]
    inverse = torch.linalg.inv(evaluation(tile + 2)).T
    return evaluation(tile).T, scale * inverse, evaluation(3) / scale


def best_tile(weight: Tensor, geometry: Sequence[object], height: int, width: int) -> int | None:
    """The tile with the fewest multiplications, or None where the convolution itself serves better.

    That is: where it is no 3x3 convolution with stride 1 and padding 1 in a type of `TILES`, has fewer than 128 channels (the
    transforms cost too much), gives fewer than 4 tiles a picture (too few rows a matrix), or does not save half of the
    products.
    """
    simple = weight.shape[2:] == (3, 3) and list(geometry) == [[1, 1], [1, 1], [1, 1], 1]
    if not simple or weight.dtype not in TILES or min(weight.shape[:2]) < 128:
        return None
    tiles = {tile: -(-height // tile) * -(-width // tile) for tile in TILES[weight.dtype]}
    products = {tile: number * (tile + 2) ** 2 for tile, number in tiles.items() if number >= 4}
    best = min(products, key=products.__getitem__, default=None)
    return best if best and 2 * products[best] <= 9 * height * width else None


class WinogradConvolution(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1.

    Args:
        weight: (K, C, 3, 3) of a type of `TILES`; its transform is computed in double precision.
        bias: (K,) or None.
        tile: m, a key of `POINTS`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, tile: int) -> None:
        super().__init__()
        self.tile, self.side = tile, tile + 2
        self.geometry = [[0, 0], [1, 1], [1, 1], self.side**2]
        output, inputs, filters = transforms(tile)
        if weight.dtype == torch.bfloat16:  # one rounding instead of two, and faster; in float32 slower
            inputs, output = torch.kron(inputs, inputs), torch.kron(output, output)
        self.inwards, self.outwards = inputs.to(weight.dtype), output.to(weight.dtype)
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        products = torch.einsum("ia,jb,kcab->ijkc", filters, filters, weight.double())
        self.weight = products.flatten(0, 2)[..., None, None].to(weight.dtype)  # (n^2 K, C, 1, 1)
        # Of a matrix: those of whole pictures, as many whatever the first batch has; fewer are padded.
        self.rows = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels last."""
        height, width = inputs.shape[2:]
        tiles = -(-height // self.tile) * -(-width // self.tile)
        if not self.rows:
            size = self.side**2 * inputs.shape[1] * inputs.element_size()
            self._pack(tiles * max(1, max(_FEWEST, _CACHE // size) // tiles))
        at_once = max(1, self.rows // tiles)
        outputs = inputs.new_empty(len(inputs), height, width, len(self.bias))
        pictures = inputs.permute(0, 2, 3, 1)
        for some, sums in zip(pictures.split(at_once), outputs.split(at_once), strict=True):
            torch.add(self._convolve(some), self.bias, out=sums)
        return outputs.permute(0, 3, 1, 2)

    def _convolve(self, pictures: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, K), without bias."""
        count, height, width, channels = pictures.shape
        side, tile = self.side, self.tile
        down, across = -(-height // tile), -(-width // tile)
        borders = (0, 0, 1, across * tile - width + 1, 1, down * tile - height + 1)
        padded = nn.functional.pad(pictures, borders)
        tiles = padded.unfold(1, side, tile).unfold(2, side, tile).permute(0, 1, 2, 4, 5, 3)
        sums = self._multiply(_transformed(tiles.reshape(-1, side, side, channels), self.inwards))
        outputs = _transformed(sums, self.outwards).view(count, down, across, tile, tile, -1)
        outputs = outputs.transpose(2, 3).reshape(count, down * tile, across * tile, -1)
        return outputs[:, :height, :width]

    def _multiply(self, tiles: Tensor) -> Tensor:
        """(P, n, n, C) -> (P, n, n, K): at each of the n^2 places of a tile, its matrix."""
        count = len(tiles)
        if count < self.rows:
            tiles = nn.functional.pad(tiles, (0, 0, 0, 0, 0, 0, 0, self.rows - count))
        rows = tiles.view(1, len(tiles), 1, -1).permute(0, 3, 1, 2)  # (1, n^2 C, P, 1), channels last
        sums = torch.ops.mkldnn._convolution_pointwise(
            rows, self.weight, None, *self.geometry, "none", [], ""
        )
        return sums.permute(0, 2, 3, 1).view(-1, self.side, self.side, len(self.bias))[:count]

    def _pack(self, rows: int) -> None:
        """Bring the weights into the form for so many tiles; with others, oneDNN may reorder them at every call."""
        shape = [1, self.weight.shape[1] * self.side**2, rows, 1]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, shape)
        self.rows = rows


def _transformed(tiles: Tensor, matrix: Tensor) -> Tensor:
    """(P, n, n, C) -> (P, m, m, C) by the matrix (m, n) along both axes, or by its Kronecker square at once."""
    count, side, _, channels = tiles.shape
    rows = len(matrix)
    if matrix.shape[1] == side**2:
        both = torch.bmm(matrix.expand(count, -1, -1), tiles.view(count, -1, channels))
        return both.view(count, math.isqrt(rows), -1, channels)
    down = torch.bmm(matrix.expand(count, -1, -1), tiles.view(count, side, -1)).view(-1, side, channels)
    return torch.bmm(matrix.expand(len(down), -1, -1), down).view(count, rows, rows, channels)
