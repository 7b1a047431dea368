"""When sizes are built into a model's Python code: its graph, with the sizes fitted to the pruned tensors.

`x.reshape(B, N, 3, 12, -1)` asks for twelve heads whatever the weights say. The traced graph shows every such number,
and the labels say which positions of which axis are left, so the numbers can be set. The result is a `torch.fx`
GraphModule with the model's own parameter names: it trains, takes any batch size the model takes, saves and exports.
It follows the eval-mode forward: an auxiliary head that works in training only, and stochastic depth, are left out.
Hooks that change values are in the graph; those that only watch, and the class's other methods, are left behind.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from prunekit.core import Groups, PruningPlan
from prunekit.errors import PlanError
from prunekit.surgery.graph_module import as_module
from prunekit.surgery.groups import label_parameters, walk_graph
from prunekit.surgery.labels import Ints
from prunekit.surgery.rules import Walk, op_name, where
from prunekit.surgery.trace import export, first_names
from prunekit.surgery.values import Value

aten = torch.ops.aten


def edited_graph(model: nn.Module, small: nn.Module, groups: Groups, plan: PruningPlan) -> fx.GraphModule:
    """The forward of `model` as a graph that fits the tensors of `small`.

    Raises PlanError where the removed units do not leave whole axes (one head shorter than another), TraceError when
    the model cannot be traced with a free batch size.
    """
    weight = next(model.parameters())
    example = pytree.tree_map_only(Tensor, lambda t: _zeros(t, weight), groups.example)
    program = export(model, example, free_batch=True)
    for node in program.graph.nodes:
        node.meta["val"] = pytree.tree_map(_concrete, node.meta.get("val"))
    walk = Walk(heads=groups.heads)
    params = label_parameters(walk, model)
    walk_graph(walk, program, params, first_names(model))
    fit = _Fit(walk, _removed(walk, params, groups, plan))
    for node in list(program.graph.nodes):
        if node.op == "call_function":
            fit.node(node)
    return as_module(program, small)


class _Fit:
    """Sets the sizes in the arguments of one op after another."""

    def __init__(self, walk: Walk, gone: Ints) -> None:
        self.walk = walk
        self.root = walk.labels.solve().root
        self.gone = gone

    def alive(self, value: Value, axis: int) -> np.ndarray | None:
        """Which positions of an axis are left, (n,) bool; None for an axis without labels."""
        factor = value.factor_on(axis)
        if factor is None:
            return None
        left = ~np.isin(self.root[factor], self.gone)
        line = np.asarray(left.any(tuple(a for a in range(left.ndim) if a != axis)))
        grid = math.prod(int(left.any(tuple(b for b in range(left.ndim) if b != a)).sum()) for a in range(left.ndim))
        if left.sum() != grid:
            raise PlanError("the plan leaves rows of different lengths in a tensor that the code treats as a grid.")
        return line

    def size(self, value: Value, axis: int, before: Any) -> Any:
        """The new number for an axis; -1 is right already. One that the graph computes is batch x heads: scaled."""
        left = None if before == -1 else self.alive(value, axis)
        if left is None or left.all():
            return before
        if isinstance(before, int):
            return int(left.sum())
        graph = before.graph
        with graph.inserting_after(before):
            scaled = graph.call_function(operator.mul, (before, int(left.sum())))
        with graph.inserting_after(scaled):
            return graph.call_function(operator.floordiv, (scaled, len(left)))

    def node(self, node: fx.Node) -> None:
        """Fit one op."""
        edit = getattr(self, f"_{op_name(node).lstrip('_')}", None)
        if edit is not None:
            edit(node)

    def _view(self, node: fx.Node) -> None:
        out: Value = self.walk.values[node]
        sizes = [self.size(out, axis, before) for axis, before in enumerate(node.args[1])]  # type: ignore[arg-type]
        node.update_arg(1, sizes)

    _reshape = _unsafe_view = _expand = _view

    def _unflatten(self, node: fx.Node) -> None:
        out: Value = self.walk.values[node]
        first = node.args[1] % len(next(self.walk.inputs(node)).shape)  # type: ignore[operator]
        node.update_arg(2, [self.size(out, first + i, s) for i, s in enumerate(node.args[2])])  # type: ignore[arg-type]

    def _split(self, node: fx.Node) -> None:
        """Every kind of split becomes one that lists its lengths."""
        pieces: list[Value] = self.walk.values[node]
        a = self.walk.args(node)
        axis = a.dim % len(pieces[0].shape)
        lengths = [self.size(piece, axis, piece.shape[axis]) for piece in pieces]
        node.target = aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], lengths, axis), {}

    _chunk = _split_with_sizes = _tensor_split = _split

    def _slice(self, node: fx.Node) -> None:
        a, x = self.walk.args(node), next(self.walk.inputs(node))
        axis = a.dim % len(x.shape)
        left = self.alive(x, axis)
        if left is None:
            return
        if a.step != 1:
            raise PlanError(
                f"channels are read in steps of {a.step} by {where(node)}; freeze the layer that makes them."
            )
        start, end = (len(left) + i if i < 0 else min(i, len(left)) for i in (a.start or 0, _or(a.end, len(left))))
        node.args = (node.args[0], axis, int(left[:start].sum()), int(left[:end].sum()))
        node.kwargs = {}

    def _select(self, node: fx.Node) -> None:
        a, x = self.walk.args(node), next(self.walk.inputs(node))
        axis = a.dim % len(x.shape)
        left = self.alive(x, axis)
        if left is not None:
            node.args, node.kwargs = (node.args[0], axis, int(left[: a.index % len(left)].sum())), {}

    def _layer_norm(self, node: fx.Node) -> None:
        x = next(self.walk.inputs(node))
        shape = list(node.args[1])  # type: ignore[arg-type]
        first = len(x.shape) - len(shape)
        node.update_arg(1, [self.size(x, first + i, size) for i, size in enumerate(shape)])

    _rms_norm = _layer_norm

    def _scaled_dot_product_attention(self, node: fx.Node) -> None:
        """Where the scale is left to torch, it stays that of the full head."""
        a = self.walk.args(node)
        left = self.alive(a.query, len(a.query.shape) - 1)
        if a.scale is None and left is not None:
            node.update_kwarg("scale", len(left) ** -0.5)

    def _conv2d(self, node: fx.Node) -> None:
        a = self.walk.args(node)
        left = self.alive(a.weight, 0)
        if a.groups > 1 and a.weight.shape[1] == 1 and left is not None:
            spec = [s.name for s in node.target._schema.arguments]  # type: ignore[union-attr]
            full = [node.args[i] if i < len(node.args) else getattr(a, name) for i, name in enumerate(spec)]
            full[spec.index("groups")] = a.groups * int(left.sum()) // len(left)
            node.args, node.kwargs = tuple(full), {}

    _conv1d = _conv3d = _conv2d


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _removed(walk: Walk, params: dict[str, Value], groups: Groups, plan: PruningPlan) -> Ints:
    """Components of the units that the plan removes."""
    root = walk.labels.solve().root
    gone = [np.zeros(0, np.int64)]
    for name, keep in plan.keep.items():
        out = np.ones(groups[name].size, bool)
        out[list(keep)] = False
        for member in groups[name].members:
            line = params[member.tensor].factor_on(member.dim)
            if line is not None and out.any():
                gone.append(root[line.ravel()[member.index.numpy()[out].ravel()]])
    return np.unique(np.concatenate(gone))


def _zeros(tensor: Tensor, weight: Tensor) -> Tensor:
    """Two images at least: torch.export takes a batch of one for a constant."""
    dtype = weight.dtype if tensor.is_floating_point() else tensor.dtype
    shape = (max(2, tensor.shape[0]), *tensor.shape[1:]) if tensor.dim() else ()
    return torch.zeros(shape, dtype=dtype, device=weight.device)


def _concrete(val: Any) -> Any:
    """A traced value with the example's numbers in place of symbols."""
    if isinstance(val, Tensor):
        return torch.empty([_hint(s) for s in val.shape], dtype=val.dtype, device="meta")
    return _hint(val)


def _hint(size: Any) -> Any:
    return size.node.hint if isinstance(size, torch.SymInt) else size
