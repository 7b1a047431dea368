"""Rules for products between activations, which is what attention is made of.

q @ k.T sums over the positions of a head. No weight reads one of them alone, so either a whole head is the unit
(Walk.heads = "number"), or position d of every head is one, in q and k alike ("dimension").
Legend: H = heads, M and N = tokens, D = positions of a head.
"""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from prunekit.surgery.rules.contract import NOTHING, unknown, weight_product
from prunekit.surgery.rules.walk import Walk, result, where
from prunekit.surgery.values import Value, axis_labels, collapse, combine, freeze_axes, support


def matmul(w: Walk, node: Node) -> Value | list[Value]:
    """(..., M, C) @ (..., C, N); with a bare parameter on the right it is a linear layer."""
    a = w.args(node)
    first, second = a.self, a.other if hasattr(a, "other") else a.mat2
    if len(first.shape) < 2 or len(second.shape) < 2:
        return unknown(w, node)
    if second.param is not None and len(second.shape) == 2:
        return weight_product(w, node, first, second)
    return result(node, _product(w, first, second, where(node)).factors)


def attention(w: Walk, node: Node) -> Value | list[Value]:
    """scaled_dot_product_attention: q (..., H, M, D), k and v (..., H, N, D), fewer heads in k and v if enable_gqa."""
    a, why = w.args(node), where(node)
    key, value = (_shared_heads(side, a.query) if a.enable_gqa else side for side in (a.key, a.value))
    if a.query.shape[:-2] != key.shape[:-2]:
        return unknown(w, node)
    ndim = len(key.shape)
    transposed = Value((*key.shape[:-2], key.shape[-1], key.shape[-2]), tuple(f.swapaxes(-1, -2) for f in key.factors))
    scores = _product(w, a.query, transposed, why)
    if a.attn_mask is not None:
        scores = combine(w.labels, scores, a.attn_mask, why)
    weights = freeze_axes(w.labels, scores, {ndim - 2, ndim - 1}, f"normalised in {why}")
    return result(node, _product(w, Value(scores.shape, weights), value, why).factors)


def _shared_heads(side: Value, query: Value) -> Value:
    """Every head of k or v as often as query heads share it."""
    axis = len(side.shape) - 3
    times = query.shape[axis] // side.shape[axis]
    factors = tuple(np.repeat(f, times, axis) if f.shape[axis] > 1 else f for f in side.factors)
    return Value((*side.shape[:axis], query.shape[axis], *side.shape[axis + 1 :]), factors)


def einsum(w: Walk, node: Node) -> Value | list[Value]:
    """A product of two activations in other letters, e.g. 'bhmd,bhnd->bhmn': one letter is summed."""
    a = w.args(node)
    terms, _, out = a.equation.replace(" ", "").partition("->")
    first, _, second = terms.partition(",")
    summed = [c for c in first if c not in out]
    left, right = ([c for c in out if c not in other] for other in (second, first))
    shared = [c for c in out if c in first and c in second]
    if (
        len(summed) * len(left) * len(right) != 1
        or sorted(first) != sorted({*shared, *left, *summed})
        or sorted(second) != sorted({*shared, *summed, *right})
        or any(value.param is not None for value in a.tensors)
    ):
        return unknown(w, node)
    x = _permuted(a.tensors[0], [first.index(c) for c in (*shared, *left, *summed)])
    y = _permuted(a.tensors[1], [second.index(c) for c in (*shared, *summed, *right)])
    made = _product(w, x, y, where(node))
    return result(node, _permuted(made, [[*shared, *left, *right].index(c) for c in out]).factors)


def _permuted(value: Value, order: list[int]) -> Value:
    return Value(tuple(value.shape[i] for i in order), tuple(np.transpose(f, order) for f in value.factors))


def _product(w: Walk, left: Value, right: Value, why: str) -> Value:
    """(..., M, C) @ (..., C, N), and whose MACs these are."""
    shape = (*np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1])
    macs = math.prod(shape) * left.shape[-1]
    rows, columns = len(left.shape) - 1, len(right.shape) - 2
    owner = NOTHING
    if w.heads == "dimension":
        left, right = _alike(w, left, why), _alike(w, right, why)
        owner = axis_labels(w.labels, left, rows, why)
        w.labels.unite(owner, axis_labels(w.labels, right, columns, why), why)
    left, right = _sum(w, left, rows, why), _sum(w, right, columns, why)
    # As (..., M, 1) and (..., 1, N) the product's axes meet element by element.
    met = combine(
        w.labels,
        Value((*left.shape[:-1], 1), left.factors),
        Value((*right.shape[:-2], 1, right.shape[-1]), right.factors),
        why,
    )
    for factor in met.factors:  # one product for each position of a leading axis: those are heads
        if w.heads == "number" and min(support(factor)) < len(shape) - 2:
            w.labels.mark("head", factor)
    if not owner.any() and len(met.factors) == 1:  # as many as there are units in the one factor
        owner = met.factors[0].ravel()
    w.products.append((macs, owner))
    return Value(shape, met.factors)


def _sum(w: Walk, value: Value, axis: int, why: str) -> Value:
    """The summed axis is gone. Heads x d leaves whole heads; d alone has no weight that reads it."""
    kept = []
    for factor in value.factors:
        if axis not in support(factor):
            kept.append(factor)
        elif w.heads == "dimension":
            w.labels.mark("dimension", factor)
        elif support(factor) == {axis}:
            w.labels.freeze(factor, f"summed in {why}")
        else:
            kept.append(collapse(w.labels, factor, {axis}, why))
    return Value(value.shape, tuple(kept))


def _alike(w: Walk, value: Value, why: str) -> Value:
    """All heads lose the same positions, and none of them goes."""
    leading = set(range(len(value.shape) - 2))
    for factor in value.factors:
        if support(factor) <= leading:
            w.labels.freeze(factor, f"heads of {why}")
    factors = [collapse(w.labels, f, leading, why) for f in value.factors if not support(f) <= leading]
    return Value(value.shape, tuple(factors))
