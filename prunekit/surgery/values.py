"""A tensor of the traced graph as the engine sees it: its shape, and which channel each position belongs to.

A value carries *factors*: integer arrays with as many axes as the tensor, of full length on the axes they speak
about and of length 1 elsewhere. The activation of a convolution, (B, C, H, W), has one factor of shape (1, C, 1, 1).
After `view(B, N, heads, d)` a factor can span two axes, (1, 1, heads, d), and stays exact: nothing has been decided
about heads or head dimensions yet. A position lives while all its factors' labels live; factors never share an axis.
An axis without a factor is neutral (batch, pixels, tokens): it must keep its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.surgery.labels import Ints, Labels


@dataclass(frozen=True)
class Value:
    """shape of the tensor; factors as above; param: the state_dict name when the tensor is a parameter or buffer."""

    shape: tuple[int, ...]
    factors: tuple[Ints, ...] = ()
    param: str | None = None

    def factor_on(self, axis: int) -> Ints | None:
        """The factor that speaks about this axis, if any."""
        return next((f for f in self.factors if f.shape[axis] > 1), None)


def support(factor: Ints) -> set[int]:
    """The axes a factor speaks about."""
    return {axis for axis, size in enumerate(factor.shape) if size > 1}


def place(line: Ints, axis: int, ndim: int) -> Ints:
    """A 1-D array of labels as a factor on one axis of an ndim tensor."""
    return line.reshape([-1 if a == axis else 1 for a in range(ndim)])


def collapse(labels: Labels, factor: Ints, axes: set[int], why: str) -> Ints:
    """Unite along `axes` and drop them: heads x d becomes heads, each head one unit."""
    for axis in axes & support(factor):
        first = factor.take([0], axis)
        labels.unite(factor, first, why)
        factor = first
    return factor


def axis_labels(labels: Labels, value: Value, axis: int, why: str) -> Ints:
    """One label per position of `axis`, (n,), zeros where nothing may go; a joint factor is collapsed onto it."""
    factor = value.factor_on(axis)
    if factor is None:
        return np.zeros(value.shape[axis], dtype=np.int64)
    return collapse(labels, factor, support(factor) - {axis}, why).ravel()


def freeze_axes(labels: Labels, value: Value, axes: set[int], why: str) -> tuple[Ints, ...]:
    """Freeze every factor that touches `axes`; returns the factors that do not."""
    for factor in value.factors:
        if support(factor) & axes:
            labels.freeze(factor, why)
    return tuple(f for f in value.factors if not support(f) & axes)


def freeze_value(labels: Labels, value: Value, why: str) -> None:
    """Freeze all that this tensor carries."""
    for factor in value.factors:
        labels.freeze(factor, why)


def _fit(labels: Labels, factor: Ints, other: Value, why: str) -> Ints | None:
    """What is left of `factor` when its tensor meets `other` element by element; None when nothing is."""
    axes = support(factor)
    partners = [f for f in other.factors if support(f) & axes]
    spoken = set().union(*(support(p) for p in partners)) if partners else set()
    # `other` has a full, neutral axis here: its positions cannot go, so ours can go along that axis only as a whole.
    stiff = {a for a in axes if other.shape[a] > 1 and a not in spoken}
    if stiff == axes:
        labels.freeze(factor, why)
        return None
    factor = collapse(labels, factor, stiff, why)
    for partner in partners:
        labels.unite(factor, partner, why)
    return factor


def combine(labels: Labels, first: Value, second: Value, why: str) -> Value:
    """Element by element (add, mul, ...), with numpy broadcasting: what faces each other is one channel."""
    ndim = max(len(first.shape), len(second.shape))
    a, b = _pad(first, ndim), _pad(second, ndim)
    shape = np.broadcast_shapes(a.shape, b.shape)
    mine = [f for f in (_fit(labels, f, b, why) for f in a.factors) if f is not None]
    theirs = [f for f in (_fit(labels, f, a, why) for f in b.factors) if f is not None]
    out = []
    for factor in mine:
        facing = [t for t in theirs if support(t) & support(factor)]
        theirs = [t for t in theirs if not support(t) & support(factor)]
        full = np.broadcast_shapes(factor.shape, *(t.shape for t in facing))
        out.append(np.broadcast_to(factor, full))
    return Value(shape, (*out, *theirs))


def _pad(value: Value, ndim: int) -> Value:
    extra = (1,) * (ndim - len(value.shape))
    return Value(extra + value.shape, tuple(f.reshape(extra + f.shape) for f in value.factors))


def reshape(labels: Labels, value: Value, shape: tuple[int, ...], why: str) -> Value:
    """`view`: axes that merge or split carry their labels along; two factors that merge into one axis are frozen."""
    blocks = _blocks(value.shape, shape)
    factors: list[Ints] = []
    taken: set[int] = set()
    for factor in value.factors:
        source, target = list(factor.shape), [1] * len(shape)
        for olds, news in blocks:
            if support(factor) & set(olds):
                if sum(shape[axis] > 1 for axis in news) > 1:  # the code decides where the pieces begin
                    labels.mark("positional", factor)
                for axis in olds:
                    source[axis] = value.shape[axis]
                for axis in news:
                    target[axis] = shape[axis]
        moved = squeeze_constant(np.broadcast_to(factor, source).reshape(target))
        if support(moved) & taken:
            labels.freeze(moved, why)
            for other in [f for f in factors if support(f) & support(moved)]:
                labels.freeze(other, why)
                factors = [f for f in factors if f is not other]
            continue
        taken |= support(moved)
        factors.append(moved)
    return Value(shape, tuple(factors))


def squeeze_constant(factor: Ints) -> Ints:
    """Drop the axes along which the labels do not change."""
    for axis in support(factor):
        first = factor.take([0], axis)
        if (factor == first).all():
            factor = first
    return factor


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products: (2, 12, 5) -> (2, 3, 4, 5) gives ([1], [1, 2]) between two singles."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news, left, right = [], [], 1, 1
        while True:
            if left <= right and i < len(old) and (left < right or not olds):
                left *= old[i]
                olds.append(i)
                i += 1
            elif j < len(new) and (right < left or not news):
                right *= new[j]
                news.append(j)
                j += 1
            else:
                break
        blocks.append((olds, news))
    return blocks
