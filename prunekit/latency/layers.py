"""The layers of a network as shapes: what a latency table has a row for.

Legend: a layer is one call of a convolution or a linear layer with a weight of the model; its *geometry* is everything
that decides how long it takes, widths included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.errors import InputError
from prunekit.metrics import evaluating
from prunekit.profiling import run
from prunekit.surgery.trace import plain_attention, tensors_of

ATEN = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """One call. tensor: the weight's name in the state dict. inputs, outputs: channels. grid: (B, H, W) of a
    convolution's input, (rows,) of a linear layer's. kernel, stride, padding, dilation, groups: () and 1 for linear."""

    tensor: str
    inputs: int
    outputs: int
    grid: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def with_weight(self, shape: Sequence[int]) -> Layer:
        """The same layer with a weight of another shape: (outputs, inputs / groups, ...)."""
        outputs, inner = shape[0], shape[1]
        whole = inner == self.inputs // self.groups and self.groups > 1  # whole groups went, as in depth-wise layers
        groups = max(1, round(self.groups * outputs / self.outputs)) if whole else self.groups
        return replace(self, inputs=inner * groups, outputs=outputs, groups=groups)

    def key(self) -> str:
        """A text that two layers share when they take the same time."""
        return ",".join(
            f"{name}={getattr(self, name)}".replace(" ", "")
            for name in ("inputs", "outputs", "grid", "kernel", "stride", "padding", "dilation", "groups")
        )

    def module(self) -> nn.Module:
        """The layer alone, with random weights."""
        if not self.kernel:
            return nn.Linear(self.inputs, self.outputs)
        shape: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, groups=self.groups, **shape)  # type: ignore[arg-type]

    def input_shape(self) -> tuple[int, ...]:
        """Of its input: (B, C, H, W), or (rows, C)."""
        return (self.grid[0], self.inputs, *self.grid[1:]) if self.kernel else (*self.grid, self.inputs)

    def makes(self, shape: Sequence[int]) -> bool:
        """May a tensor of this shape be its output, or what an operator made of it channel by channel?"""
        if not self.kernel:
            return len(shape) > 1 and shape[-1] == self.outputs and math.prod(shape[:-1]) == math.prod(self.grid)
        pixels = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.grid[1:], self.kernel, self.stride, self.padding, self.dilation)
        ]
        return tuple(shape) == (self.grid[0], self.outputs, *pixels)


def layers_of(model: nn.Module, x: Tensor) -> list[Layer]:
    """Every 2-D convolution and linear layer that one forward pass on x runs, in order; traced graphs too."""
    watch = _Watch({t.untyped_storage().data_ptr(): name for name, t in tensors_of(model).items() if t.ndim >= 2})
    with torch.no_grad(), plain_attention(), evaluating(model), watch:
        run(model, x)
    if not watch.layers:
        raise InputError(f"{type(model).__name__} runs no convolution and no linear layer on x: nothing to time.")
    return watch.layers


class _Watch(TorchDispatchMode):
    """Writes down each call of a kernel that reads one of the named weights."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self._names = names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ATEN.convolution.default:
            self._convolution(*args)
        elif func in (ATEN.addmm.default, ATEN.mm.default):
            x, weight = args[-2:]  # (rows, inputs), (inputs, outputs)
            self._add(weight, inputs=weight.shape[0], outputs=weight.shape[1], grid=tuple(x.shape[:-1]))
        return func(*args, **(kwargs or {}))

    def _convolution(self, x: Tensor, weight: Tensor, _bias: Any, stride: Any, padding: Any, *rest: Any) -> None:
        dilation, transposed, _, groups = rest
        if weight.ndim != 4 or transposed:
            return
        self._add(
            weight,
            inputs=x.shape[1],
            outputs=weight.shape[0],
            grid=(x.shape[0], *x.shape[2:]),
            kernel=tuple(weight.shape[2:]),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
        )

    def _add(self, weight: Tensor, **geometry: Any) -> None:
        name = self._names.get(weight.untyped_storage().data_ptr())
        if name is not None:
            self.layers.append(Layer(name, **geometry))


def write_onnx(layer: Layer, path: str) -> None:
    """The layer as an ONNX file of one node, without torch's exporter: a table needs hundreds of them."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shape = (layer.outputs, layer.inputs // layer.groups, *layer.kernel)
    if not layer.kernel:
        shape = (layer.inputs, layer.outputs)
    weight = rng.standard_normal(shape, dtype=np.float32) / math.sqrt(math.prod(shape[1:]))
    tensors = {"weight": weight, "bias": np.zeros(layer.outputs, np.float32)}
    names = ["image", *tensors]
    if layer.kernel:
        pads = [*layer.padding, *layer.padding]
        attributes = {"strides": layer.stride, "dilations": layer.dilation, "pads": pads, "group": layer.groups}
        node = helper.make_node("Conv", names, ["logits"], **attributes)
    else:
        node = helper.make_node("Gemm", names, ["logits"])
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, layer.input_shape())],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
