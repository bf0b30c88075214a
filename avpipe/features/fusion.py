"""Making a convolutional network fast for inference without changing what it computes.

Batch-norms are folded into the convolutions before them (exact but for rounding). On the processor, where oneDNN is
there, ReLUs and residual sums are computed inside the convolutions too, with weights packed once: it is what
`torch.compile` emits, without needing a C++ compiler on the user's machine. 3x3 convolutions of many channels are done
by Winograd's filtering (winograd.py). The operators belong to PyTorch's internals, so the result is
compared with the folded network before it is used, and where they are missing or differ the folded network serves.
"""

import copy
import logging
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from avpipe.features.winograd import WinogradConvolution, best_tile

_LOGGER = logging.getLogger(__name__)
_SMALLEST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.998}


class _Tracer(fx.Tracer):
    """Takes subclasses of convolutions (torchvision's video models have some) as one node."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.Conv3d)) or super().is_leaf_module(module, name)


class FusedConvolution(nn.Module):
    """A convolution of oneDNN with what follows it: a ReLU, or a residual sum and a ReLU.

    Args:
        convolution: with its batch-norm folded in.
        relu: whether a ReLU follows.
    """

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, relu: bool) -> None:
        super().__init__()
        self.weight: Tensor = convolution.weight.detach()
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        assert not isinstance(convolution.padding, str)
        self.geometry = [
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        ]
        self.relu = relu
        self.packed = False
        self.winograd: WinogradConvolution | None = None

    def forward(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(convolution(inputs)), or relu(convolution(inputs) + residual), which overwrites `residual`."""
        if not self.packed:
            self._pack(inputs)
        if self.winograd is not None:
            outputs = self.winograd(inputs)
            if residual is not None:
                outputs += residual
            return outputs.relu_() if self.relu else outputs
        operators = torch.ops.mkldnn
        if residual is not None:
            return operators._convolution_pointwise_.binary(
                residual, inputs, self.weight, self.bias, *self.geometry, "add", 1.0, "relu", [], ""
            )
        attribute = "relu" if self.relu else "none"
        return operators._convolution_pointwise(
            inputs, self.weight, self.bias, *self.geometry, attribute, [], ""
        )

    def _pack(self, inputs: Tensor) -> None:
        """Bring the weights into the form that is fastest for such inputs."""
        tile = best_tile(self.weight, self.geometry, *inputs.shape[2:])
        if tile is None:
            arguments = [*self.geometry, list(inputs.shape)]
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *arguments)
        else:
            self.winograd = WinogradConvolution(self.weight, self.bias, tile)
            self.weight = torch.empty(0)
        self.packed = True


def optimise(network: nn.Module, example: Tensor, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A network that computes what `network` does, faster, on `device` in `dtype`.

    Args:
        network: float32, on the processor, in evaluation mode; traceable by torch.fx. Left as it was.
        example: (N, C, ...) float32 input, small; the fused network is checked on it.
        device: where it will run.
        dtype: of its arithmetic; inputs must have it.
    """
    folded = fold(network)
    layout = torch.channels_last_3d if example.dim() == 5 else torch.channels_last
    plain = folded.to(device, dtype).to(memory_format=layout)
    if device.type != "cpu" or example.dim() != 4 or not torch.backends.mkldnn.is_available():
        return plain
    inputs = example.to(dtype, memory_format=layout)
    try:
        fused = fuse(plain)
        with torch.inference_mode():
            expected, found = plain(inputs).float().flatten(1), fused(inputs).float().flatten(1)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        _LOGGER.warning("oneDNN's fused convolutions do not work here (%s); going on without them", error)
        return plain
    cosine = torch.cosine_similarity(expected, found).min().item()
    if not cosine >= _SMALLEST_COSINE[dtype]:
        _LOGGER.warning("oneDNN's fused convolutions differ (cosine %.6f); going on without them", cosine)
        return plain
    return fuse(plain)  # anew, so that weights are packed for the batches to come


def fold(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` with each batch-norm folded into the convolution before it."""
    network = copy.deepcopy(network)  # a layer that nothing is folded into would else be shared
    traced = fx.GraphModule(network, _Tracer().trace(network))
    graph = traced.graph
    modules = dict(traced.named_modules())
    nodes: list[Any] = list(graph.nodes)
    for node in nodes:
        norm = _module(modules, node, (nn.BatchNorm2d, nn.BatchNorm3d))
        if norm is None:
            continue
        source = node.args[0]
        convolution = _module(modules, source, (nn.Conv2d, nn.Conv3d))
        if convolution is None or len(source.users) > 1:
            continue
        traced.add_submodule(source.target, fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def fuse(folded: fx.GraphModule) -> fx.GraphModule:
    """A copy of a folded network whose convolutions do the ReLU and the residual sum that follow them."""
    graph: fx.Graph = fx.Graph()
    graph.output(graph.graph_copy(folded.graph, {}))
    fused = fx.GraphModule(folded, graph)
    modules = dict(fused.named_modules())
    nodes: list[Any] = list(graph.nodes)
    for node in nodes:
        if not _is_relu(modules, node):
            continue
        source = node.args[0]
        if len(source.users) > 1:
            continue
        if _module(modules, source, (nn.Conv2d,)) is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            fused.add_submodule(source.target, FusedConvolution(modules[source.target], relu=True))
        elif source.op == "call_function" and source.target in (operator.add, operator.iadd, torch.add):
            _fuse_sum(fused, graph, modules, source, node)
    for name, module in list(fused.named_modules()):
        if isinstance(module, nn.Conv2d):
            fused.add_submodule(name, FusedConvolution(module, relu=False))
    graph.lint()
    fused.recompile()
    return fused


def _fuse_sum(fused: fx.GraphModule, graph: fx.Graph, modules: dict[str, Any], total: Any, relu: Any) -> None:
    """convolution(x) + residual, then ReLU: one call, if nothing else uses either term later."""
    for branch, residual in (total.args, total.args[::-1]):
        convolution = _module(modules, branch, (nn.Conv2d,))
        if convolution is None or len(branch.users) > 1:
            continue
        # the sum overwrites the residual: so that must be a tensor of its own, whose other users are done by then
        if _module(modules, residual, (nn.Conv2d, nn.MaxPool2d)) is None or branch.args[0] is residual:
            continue
        order = {node: index for index, node in enumerate(graph.nodes)}
        if any(order[user] > order[branch] for user in residual.users if user is not total):
            continue
        if (
            order[residual] > order[branch]
        ):  # a projection computed after the branch: so the branch comes later
            residual.append(branch)
        branch.args = (*branch.args, residual)
        fused.add_submodule(branch.target, FusedConvolution(convolution, relu=True))
        relu.replace_all_uses_with(branch)
        graph.erase_node(relu)
        graph.erase_node(total)
        return


def _module(modules: dict[str, Any], node: Any, kinds: tuple[type, ...]) -> Any:
    """The module that `node` calls, if it is of one of `kinds`."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = modules[str(node.target)]
    return module if isinstance(module, kinds) else None


def _is_relu(modules: dict[str, Any], node: Any) -> bool:
    functions: tuple[Callable[..., Any], ...] = (torch.relu, nn.functional.relu)
    return _module(modules, node, (nn.ReLU,)) is not None or (
        node.op == "call_function" and node.target in functions
    )
