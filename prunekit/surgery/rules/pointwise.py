"""Rules for ops that treat channels one by one, and for those that normalise or reduce over some axes."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from torch.fx import Node

from prunekit.surgery.labels import Ints
from prunekit.surgery.rules.walk import Walk, op_name, result, where
from prunekit.surgery.values import Value, collapse, combine, freeze_axes, place, support

_STATISTICS = ("mean", "var", "std", "var_mean", "linalg_vector_norm", "norm")


def unary(w: Walk, node: Node) -> Value | list[Value]:
    """f(x) element by element: same channels. Some have bounds that are tensors too (clamp)."""
    if len(list(w.inputs(node))) > 1:
        return elementwise(w, node)
    return result(node, next(w.inputs(node)).factors)


def elementwise(w: Walk, node: Node) -> Value | list[Value]:
    """add, mul, maximum, ...: channels that face each other are one."""
    values = list(w.inputs(node))
    for factor in (f for v in values for f in v.factors if _from_size(node, f.size)):
        w.labels.mark("positional", factor)
    return result(node, reduce(lambda a, b: combine(w.labels, a, b, where(node)), values).factors)


def _from_size(node: Node, size: int) -> bool:
    """Whether x is multiplied or divided by a number that may have been computed from its size: C, C ** -0.5, ..."""
    numbers = [abs(a) for a in node.args if isinstance(a, (int, float)) and a]
    return any(math.isclose(n, size**power, rel_tol=1e-6) for n in numbers for power in (1, -1, 0.5, -0.5))


def batch_norm(w: Walk, node: Node) -> Value | list[Value]:
    """Statistics, scale and shift all follow the channels of x (B, C, ...)."""
    a, why = w.args(node), where(node)
    x = next(w.inputs(node))
    freeze_axes(w.labels, x, set(range(len(x.shape))) - {1}, f"pixels of {why}")
    x_C = w.line(x, 1, node)
    for side in (a.weight, a.bias, getattr(a, "running_mean", None), getattr(a, "running_var", None)):
        if side is not None:
            w.labels.unite(x_C, w.line(side, 0, node), why)
    return result(node, (place(x_C, 1, len(x.shape)),))


def prelu(w: Walk, node: Node) -> Value | list[Value]:
    """One slope for all, or one per channel."""
    a = w.args(node)
    if a.weight.shape == (1,):
        return result(node, a.self.factors)
    w.labels.unite(w.line(a.self, 1, node), w.line(a.weight, 0, node), where(node))
    return result(node, a.self.factors)


def layer_norm(w: Walk, node: Node) -> Value | list[Value]:
    """Scale and shift follow; the statistics run over the channels, so removing one is not exact."""
    a, why = w.args(node), where(node)
    axes = len(a.normalized_shape)
    factors = a.input.factors
    for side in (a.weight, getattr(a, "bias", None)):
        if side is not None:
            factors = combine(w.labels, Value(a.input.shape, factors), side, why).factors
    normed = set(range(len(a.input.shape) - axes, len(a.input.shape)))
    for factor in factors:
        if support(factor) & normed:
            w.labels.mark("inexact", factor)
    return result(node, factors)


def group_norm(w: Walk, node: Node) -> Value | list[Value]:
    """Groups of channels share statistics: the same position goes in every group, and removing it is not exact."""
    a, why = w.args(node), where(node)
    x_C = w.line(a.input, 1, node)
    for side in (a.weight, a.bias):
        if side is not None:
            w.labels.unite(x_C, w.line(side, 0, node), why)
    x_GC = x_C.reshape(a.num_groups, -1)
    w.labels.unite(x_GC, x_GC[:1], why)
    w.labels.mark("inexact", x_C)
    return result(node, (place(x_C, 1, len(a.input.shape)),))


def spatial(w: Walk, node: Node) -> Value | list[Value]:
    """Pooling, resizing, padding of the trailing axes: they keep their size, the others pass."""
    x = next(w.inputs(node))
    out = node.meta["val"]
    out = out if not isinstance(out, (tuple, list)) else out[0]
    pixels = int(next(c for c in op_name(node) if c.isdigit()))  # max_pool2d works on the last two axes
    changed = {i for i, (a, b) in enumerate(zip(x.shape, out.shape, strict=True)) if a != b}
    touched = set(range(len(x.shape) - pixels, len(x.shape))) | changed
    return result(node, freeze_axes(w.labels, x, touched, f"pixels of {where(node)}"))


def reduction(w: Walk, node: Node) -> Value | list[Value]:
    """mean, sum, amax over some axes: those must keep their size, the others pass.

    A mean over channels that is kept as an axis of size 1 is a statistic, of a LayerNorm written by hand: not exact.
    """
    a, x = w.args(node), next(w.inputs(node))
    if hasattr(a, "other"):  # max(x, y)
        return elementwise(w, node)
    ndim = len(x.shape)
    dims = getattr(a, "dim", None)
    dims = range(ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    axes = {d % ndim for d in dims}
    statistic = op_name(node) in _STATISTICS and (getattr(a, "keepdim", False) or op_name(node) == "var_mean")
    kept = _summed(w, x, axes, f"reduced in {where(node)}", inexact=statistic)
    out = node.meta["val"]
    out = out if not isinstance(out, (tuple, list)) else out[0]
    if out.dim() != ndim:
        kept = tuple(np.squeeze(f, tuple(axes)) for f in kept)
    return result(node, kept)


def softmax(w: Walk, node: Node) -> Value | list[Value]:
    """The normalised axis keeps its size."""
    a, x = w.args(node), next(w.inputs(node))
    axis = a.dim % len(x.shape)
    whole = _summed(w, x, {axis}, f"normalised in {where(node)}")
    return result(node, whole)


def _summed(w: Walk, x: Value, axes: set[int], why: str, *, inexact: bool = False) -> tuple[Ints, ...]:
    """Factors after `axes` were summed over: heads x d is left as heads, whole ones; channels alone must stay."""
    kept = []
    for factor in x.factors:
        if not support(factor) & axes:
            kept.append(factor)
        elif support(factor) - axes:
            kept.append(collapse(w.labels, factor, axes, why))
        elif inexact:
            w.labels.mark("inexact", factor)
        else:
            w.labels.freeze(factor, why)
    return tuple(kept)


def constant(w: Walk, node: Node) -> Value | list[Value]:
    """Made by the code itself: carries no channels."""
    return result(node)
