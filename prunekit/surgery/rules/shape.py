"""Rules for ops that move positions without changing them: reshape, permute, concatenate, split, index."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from prunekit.surgery.labels import Ints
from prunekit.surgery.rules.contract import unknown
from prunekit.surgery.rules.walk import Walk, result, where
from prunekit.surgery.values import Value, combine, freeze_axes, place, reshape, support


def view(w: Walk, node: Node) -> Value | list[Value]:
    """view, reshape, flatten, unflatten, squeeze, unsqueeze: the target shape tells it all."""
    out = reshape(w.labels, next(w.inputs(node)), tuple(node.meta["val"].shape), where(node))
    w.grids.extend((factor, where(node)) for factor in out.factors if len(support(factor)) > 1)
    return out


def index(w: Walk, node: Node) -> Value | list[Value]:
    """x[:, table]: one axis is looked up by a tensor of numbers and must stay, the others pass."""
    a, x = w.args(node), next(w.inputs(node))
    looked_up = [axis for axis, by in enumerate(a.indices) if by is not None]
    if len(looked_up) != 1:
        return unknown(w, node)
    axis = looked_up[0]
    new = len(a.indices[axis].shape)
    kept = freeze_axes(w.labels, x, {axis}, f"looked up by {where(node)}")
    return result(node, tuple(f.reshape(f.shape[:axis] + (1,) * new + f.shape[axis + 1 :]) for f in kept))


def permute(w: Walk, node: Node) -> Value | list[Value]:
    """permute, transpose, t: axes change places."""
    a, x = w.args(node), next(w.inputs(node))
    order = list(range(len(x.shape)))
    if hasattr(a, "dims"):
        order = [d % len(order) for d in a.dims]
    else:
        i, j = (a.dim0 % len(order), a.dim1 % len(order)) if hasattr(a, "dim0") else (0, len(order) - 1)
        order[i], order[j] = order[j], order[i]
    return result(node, tuple(np.transpose(f, order) for f in x.factors))


def expand(w: Walk, node: Node) -> Value | list[Value]:
    """Copies along an axis of size 1."""
    x, ndim = next(w.inputs(node)), node.meta["val"].dim()
    extra = (1,) * (ndim - len(x.shape))
    return result(node, tuple(f.reshape(extra + f.shape) for f in x.factors))


def cat(w: Walk, node: Node) -> Value | list[Value]:
    """Labels are concatenated along the axis; on all other axes the inputs must agree."""
    a, why = w.args(node), where(node)
    values = [v for v in a.tensors if v.shape != (0,)]
    axis = a.dim % len(values[0].shape)
    lines: list[Ints] = []
    rest: Value | None = None
    for value in values:
        factor = value.factor_on(axis)
        lines.append(place(np.zeros(value.shape[axis], np.int64), axis, len(value.shape)) if factor is None else factor)
        shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
        others = Value(shape, tuple(f for f in value.factors if axis not in support(f)))
        rest = others if rest is None else combine(w.labels, rest, others, why)
    assert rest is not None
    full = np.broadcast_shapes(*((*f.shape[:axis], 1, *f.shape[axis + 1 :]) for f in lines))
    lines = [np.broadcast_to(f, (*full[:axis], f.shape[axis], *full[axis + 1 :])) for f in lines]
    joined = np.concatenate(lines, axis)
    return result(node, (joined, *rest.factors) if joined.any() else rest.factors)


def _take(w: Walk, node: Node, value: Value, axis: int, index: slice | list[int], drop: bool) -> tuple[Ints, ...]:
    out = []
    for factor in value.factors:
        if factor.shape[axis] > 1:
            whole, factor = factor, factor[(slice(None),) * axis + (index,)]
            if whole.size != factor.size:
                w.labels.mark("positional", whole)
                w.picked.setdefault(node.name, []).append(factor.ravel())
        factor = np.squeeze(factor, axis) if drop else factor
        if factor.size == 1:  # one channel read by its number: the code counts on it
            w.labels.freeze(factor, f"read by its number in {where(node)}")
        elif factor.any():
            out.append(factor)
    return tuple(out)


def slice_(w: Walk, node: Node) -> Value | list[Value]:
    """x[start:end:step] along one axis."""
    a, x = w.args(node), next(w.inputs(node))
    axis = a.dim % len(x.shape)
    return result(node, _take(w, node, x, axis, slice(a.start, a.end, a.step), drop=False))


def select(w: Walk, node: Node) -> Value | list[Value]:
    """x[i] along one axis, which goes."""
    a, x = w.args(node), next(w.inputs(node))
    axis = a.dim % len(x.shape)
    return result(node, _take(w, node, x, axis, [a.index % x.shape[axis]], drop=True))


def split(w: Walk, node: Node) -> Value | list[Value]:
    """split, chunk, unbind: consecutive pieces, their lengths read from the outputs."""
    a, x = w.args(node), next(w.inputs(node))
    axis = a.dim % len(x.shape)
    drop = len(node.meta["val"][0].shape) < len(x.shape)
    out, start = [], 0
    for piece in node.meta["val"]:
        stop = start + (1 if drop else piece.shape[axis])
        out.append(Value(tuple(piece.shape), _take(w, node, x, axis, slice(start, stop), drop)))
        start = stop
    return out


def getitem(w: Walk, node: Node) -> Value | list[Value]:
    """One output of an op that has several."""
    source, index = node.args
    return w.values[source][index]  # type: ignore[index]


def stack(w: Walk, node: Node) -> Value | list[Value]:
    """A new axis; on the old ones the inputs must agree."""
    a, why = w.args(node), where(node)
    values = list(a.tensors)
    if not all(isinstance(v, Value) for v in values):
        return unknown(w, node)
    met = values[0]
    for value in values[1:]:
        met = combine(w.labels, met, value, why)
    axis = a.dim % (len(met.shape) + 1)
    return result(node, tuple(np.expand_dims(f, axis) for f in met.factors))
