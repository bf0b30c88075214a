"""Folding and fusing change the speed, not the features."""

import pytest
import torch
from torch import Tensor, nn

from avpipe.features import fusion
from avpipe.features.fusion import FusedConvolution, fold, fuse, optimise
from avpipe.features.winograd import WinogradConvolution

CPU = torch.device("cpu")
HAS_ONEDNN = torch.backends.mkldnn.is_available()


class Residual(nn.Module):
    """A block whose input is also used after the sum, if `late`."""

    def __init__(self, late: bool, swapped: bool, project: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.side = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.late, self.swapped, self.project = late, swapped, project

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = torch.relu(self.first(inputs))
        branch = self.norm(self.second(inputs))
        residual = self.side(inputs) if self.project else inputs
        total = torch.relu(residual + branch if self.swapped else branch + residual)
        return total * inputs if self.late else total


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("project", [False, True])
@torch.inference_mode()
def test_residual_blocks_keep_their_values(late: bool, swapped: bool, project: bool) -> None:
    network = randomised(Residual(late, swapped, project))
    pictures = torch.randn(3, 4, 9, 9)
    before = pictures.clone()
    expected = network(pictures)
    folded = fold(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(pictures), expected, rtol=1e-4, atol=1e-4)
    if HAS_ONEDNN:
        fused = fuse(folded)
        for _ in range(2):  # the first call packs the weights
            torch.testing.assert_close(fused(pictures), expected, rtol=1e-4, atol=1e-4)
        assert any(isinstance(m, FusedConvolution) for m in fused.modules())
    assert torch.equal(pictures, before)


@torch.inference_mode()
def test_a_norm_whose_convolution_is_used_elsewhere_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, inputs: Tensor) -> Tensor:
            raw = self.convolution(inputs)
            return self.norm(raw) + raw

    network = randomised(Shared())
    pictures = torch.randn(2, 2, 5, 5)
    folded = fold(network)
    assert any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(pictures), network(pictures))


@torch.inference_mode()
def test_works_for_batches_of_any_size() -> None:
    network = randomised(Residual(False, False, False))
    fast = optimise(network, torch.randn(2, 4, 8, 8), CPU, torch.float32)
    for count in (5, 1, 3):
        pictures = torch.randn(count, 4, 8, 8)
        torch.testing.assert_close(fast(pictures), network(pictures), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_wide_layers_by_winograd_keep_their_values() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(128, 128, 3, padding=1, bias=bias) for bias in (True, False))

        def forward(self, inputs: Tensor) -> Tensor:
            inputs = torch.relu(self.first(inputs))
            return torch.relu(self.second(torch.relu(self.first(inputs))) + inputs)

    network = Block().eval()
    pictures = torch.randn(3, 128, 14, 14)
    expected = network(pictures)
    fast = optimise(network, pictures, CPU, torch.float32)
    torch.testing.assert_close(fast(pictures), expected, rtol=1e-4, atol=1e-4)
    if HAS_ONEDNN:
        assert any(isinstance(m, WinogradConvolution) for m in fast.modules())


@torch.inference_mode()
def test_the_network_itself_stays_float32() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    pictures = torch.randn(3, 4, 2, 2)
    expected = network(pictures)
    optimise(network, pictures, CPU, torch.bfloat16)
    assert torch.equal(network(pictures), expected)


@pytest.mark.parametrize("trouble", ["differs", "is missing"])
@torch.inference_mode()
def test_goes_on_without_onednn_where_it(
    trouble: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(self: FusedConvolution, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        if trouble == "is missing":
            raise AttributeError("no such operator")
        return torch.randn_like(inputs)

    monkeypatch.setattr(fusion.FusedConvolution, "forward", wrong)
    network = randomised(Residual(False, False, False))
    pictures = torch.randn(2, 4, 8, 8)
    fast = optimise(network, pictures, CPU, torch.float32)
    torch.testing.assert_close(fast(pictures), network(pictures), rtol=1e-4, atol=1e-4)
    if HAS_ONEDNN:
        assert "going on without them" in caplog.text
