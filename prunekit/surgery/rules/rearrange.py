"""Rules for ops that copy, shift or re-deal positions: repeat, roll, flip, pad, GLU, pixel and channel shuffle, unfold.

Each says where every position of the output comes from; positions that the op can only treat together are united.
"""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from prunekit.surgery.labels import Ints
from prunekit.surgery.rules.contract import unknown
from prunekit.surgery.rules.walk import Walk, result, where
from prunekit.surgery.values import Value, freeze_axes, freeze_value, place, support


def repeat(w: Walk, node: Node) -> Value | list[Value]:
    """x.repeat(times): whole copies, one after the other; a copied channel goes with all its copies."""
    x, out = next(w.inputs(node)), node.meta["val"]
    extra = (1,) * (out.dim() - len(x.shape))
    factors = [f.reshape(extra + f.shape) for f in x.factors]
    times = [new // old for old, new in zip(extra + x.shape, out.shape, strict=True)]
    return result(node, tuple(np.tile(f, [t if s > 1 else 1 for t, s in zip(times, f.shape)]) for f in factors))


def repeat_interleave(w: Walk, node: Node) -> Value | list[Value]:
    """Every position some times in a row (key and value heads that several query heads share)."""
    a, x = w.args(node), next(w.inputs(node))
    if not isinstance(getattr(a, "repeats", None), int) or a.dim is None:
        return unknown(w, node)
    axis = a.dim % len(x.shape)
    return result(node, tuple(np.repeat(f, a.repeats, axis) if f.shape[axis] > 1 else f for f in x.factors))


def roll(w: Walk, node: Node) -> Value | list[Value]:
    """torch.roll along pixels or tokens passes channels on; a shift of channels by a number stays as it is."""
    a, x = w.args(node), next(w.inputs(node))
    axes = {d % len(x.shape) for d in a.dims} or set(range(len(x.shape)))
    for factor in x.factors:
        if support(factor) & axes:
            w.labels.freeze(factor, f"no rule for {where(node)} along channels")
    return result(node, tuple(f for f in x.factors if not support(f) & axes))


def flip(w: Walk, node: Node) -> Value | list[Value]:
    """The order of some axes is turned round."""
    a, x = w.args(node), next(w.inputs(node))
    return result(node, tuple(np.flip(f, tuple(d for d in a.dims if f.shape[d] > 1)) for f in x.factors))


def pad(w: Walk, node: Node) -> Value | list[Value]:
    """Padding pixels passes channels on; padding channels adds positions that stay. (1, -1) shifts an axis."""
    sizes, x, ndim = w.args(node).pad, next(w.inputs(node)), node.meta["val"].dim()
    ends = {ndim - 1 - i // 2: tuple(sizes[i : i + 2]) for i in range(0, len(sizes), 2) if any(sizes[i : i + 2])}
    factors, fixed = list(x.factors), set(ends)
    for axis, (before, after) in ends.items():
        factor = x.factor_on(axis)
        if axis != 1 or factor is None or support(factor) != {axis}:
            continue
        if min(before, after) < 0 or getattr(w.args(node), "mode", "constant") != "constant":
            return unknown(w, node)
        zeros = [np.zeros(n, np.int64) for n in (before, after)]
        padded = place(np.concatenate([zeros[0], factor.ravel(), zeros[1]]), axis, ndim)
        factors = [padded if f is factor else f for f in factors]
        fixed -= {axis}
    return result(node, freeze_axes(w.labels, Value(x.shape, tuple(factors)), fixed, f"padded in {where(node)}"))


def glu(w: Walk, node: Node) -> Value | list[Value]:
    """x[:half] * sigmoid(x[half:]): both halves lose the same positions."""
    a, x = w.args(node), next(w.inputs(node))
    axis = a.dim % len(x.shape)
    out = []
    for factor in x.factors:
        if factor.shape[axis] > 1:
            first, second = np.split(factor, 2, axis)
            w.labels.unite(first, second, where(node))
            factor = first
        out.append(factor)
    return result(node, tuple(out))


def _line(w: Walk, node: Node, channel: int) -> tuple[Ints, tuple[Ints, ...]]:
    """Labels of the channel axis, and the factors on leading axes; the pixels behind must stay."""
    x = next(w.inputs(node))
    rest = freeze_axes(w.labels, x, set(range(channel + 1, len(x.shape))), f"pixels of {where(node)}")
    passing = tuple(f for f in rest if channel not in support(f))
    return w.line(x, channel, node), passing


def _dealt(node: Node, line: Ints, channel: int, passing: tuple[Ints, ...]) -> Value | list[Value]:
    ndim = node.meta["val"].dim()
    resized = tuple(f.reshape(f.shape[: channel + 1] + (1,) * (ndim - channel - 1)) for f in passing)
    return result(node, (*resized, place(line, channel, ndim)) if line.any() else resized)


def pixel_shuffle(w: Walk, node: Node) -> Value | list[Value]:
    """(..., C*r*r, H, W) -> (..., C, H*r, W*r): r*r channels become one, so they go together."""
    channel = node.meta["val"].dim() - 3
    line, passing = _line(w, node, channel)
    return _dealt(node, _tied(w, line, node.meta["val"].shape[channel], where(node)), channel, passing)


def pixel_unshuffle(w: Walk, node: Node) -> Value | list[Value]:
    """(..., C, H*r, W*r) -> (..., C*r*r, H, W): one channel becomes r*r."""
    channel = node.meta["val"].dim() - 3
    line, passing = _line(w, node, channel)
    return _dealt(node, np.repeat(line, node.meta["val"].shape[channel] // len(line)), channel, passing)


def channel_shuffle(w: Walk, node: Node) -> Value | list[Value]:
    """(B, G*C, ...): the groups are interleaved; position c goes in all of them, so they stay equally wide."""
    line, passing = _line(w, node, 1)
    line_GC = line.reshape(w.args(node).groups, -1)
    w.labels.unite(line_GC, line_GC[:1], where(node))
    return _dealt(node, line_GC.T.ravel(), 1, passing)


def im2col(w: Walk, node: Node) -> Value | list[Value]:
    """F.unfold, (B, C, H, W) -> (B, C*k*k, L): every channel k*k times."""
    line, passing = _line(w, node, 1)
    return _dealt(node, np.repeat(line, math.prod(w.args(node).kernel_size)), 1, passing)


def col2im(w: Walk, node: Node) -> Value | list[Value]:
    """F.fold, (B, C*k*k, L) -> (B, C, H, W): the k*k rows of a channel go together."""
    line, passing = _line(w, node, 1)
    return _dealt(node, _tied(w, line, len(line) // math.prod(w.args(node).kernel_size), where(node)), 1, passing)


def _tied(w: Walk, line: Ints, units: int, why: str) -> Ints:
    line_UK = line.reshape(units, -1)
    w.labels.unite(line_UK, line_UK[:, :1], why)
    return line_UK[:, 0]


def grid_sampler(w: Walk, node: Node) -> Value | list[Value]:
    """F.grid_sample: pixels (B, C, H, W) are looked up by a grid of places, channels pass."""
    a, why = w.args(node), where(node)
    freeze_value(w.labels, a.grid, f"places of {why}")
    return result(node, freeze_axes(w.labels, a.input, set(range(2, len(a.input.shape))), f"pixels of {why}"))
