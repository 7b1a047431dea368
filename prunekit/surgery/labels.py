"""Integer labels and which of them must be equal: the book-keeping behind `find_groups`.

Every position on every axis of every parameter gets a number. Walking the graph we learn facts of two kinds: "these
two positions are the same channel" (`unite`) and "this position must stay" (`freeze`, with the reason). Facts are
only collected; `solve` answers them all at once with numpy: the connected components are the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """root[label] = its component. reason: frozen components and why. The others: components with that mark."""

    root: Ints
    reason: dict[int, str]
    inexact: frozenset[int]
    heads: frozenset[int]
    positional: frozenset[int]


class Labels:
    """Facts about labels. Label 0 is the position that always stays."""

    def __init__(self) -> None:
        self.count = 1
        self._left: list[Ints] = []
        self._right: list[Ints] = []
        self._frozen: list[tuple[Ints, str]] = []
        self._inexact: list[Ints] = []
        self._heads: list[Ints] = []
        self._positional: list[Ints] = []

    def fresh(self, size: int) -> Ints:
        """`size` new labels; a single position cannot be pruned away, so an axis of size 1 is born frozen."""
        if size == 1:
            return np.zeros(1, dtype=np.int64)
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def unite(self, left: Ints, right: Ints, why: str) -> None:
        """The positions are the same channel, element by element (numpy broadcasting). Facing a 0 freezes."""
        a, b = (side.ravel() for side in np.broadcast_arrays(left, right))
        self.freeze(a[b == 0], why)
        self.freeze(b[a == 0], why)
        both = (a > 0) & (b > 0) & (a != b)
        self._left.append(a[both])
        self._right.append(b[both])

    def freeze(self, labels: Ints, why: str) -> None:
        """These positions must stay. The first reason given for a channel is the one reported."""
        labels = labels[labels > 0]
        if labels.size:
            self._frozen.append((labels.ravel(), why))

    def mark_inexact(self, labels: Ints) -> None:
        """Removing one of these changes the others a little (a LayerNorm's statistics)."""
        self._inexact.append(labels.ravel())

    def mark_head(self, labels: Ints) -> None:
        """These are attention heads."""
        self._heads.append(labels.ravel())

    def mark_positional(self, labels: Ints) -> None:
        """The code slices or splits this axis by numbers, so what it reads depends on what was removed before it."""
        self._positional.append(labels.ravel())

    def facts(self) -> tuple[Ints, Ints, list[tuple[Ints, str]]]:
        """What was collected: labels that are equal, as two arrays, and frozen labels with their reasons."""
        left, right = (np.concatenate([*side, np.zeros(0, np.int64)]) for side in (self._left, self._right))
        return left, right, self._frozen

    def solve(self) -> Solution:
        """Connected components by hooking to the smaller root and pointer jumping; O(log n) rounds of numpy."""
        root = np.arange(self.count, dtype=np.int64)
        left, right, frozen = self.facts()
        while True:
            a, b = root[left], root[right]
            if np.array_equal(a, b):
                break
            low = np.minimum(a, b)
            np.minimum.at(root, a, low)
            np.minimum.at(root, b, low)
            while not np.array_equal(root, root[root]):
                root = root[root]
        reason: dict[int, str] = {}
        for labels, why in frozen:
            for component in np.unique(root[labels]).tolist():
                reason.setdefault(component, why)
        marks = (_components(root, marked) for marked in (self._inexact, self._heads, self._positional))
        return Solution(root, reason, *marks)


def _components(root: Ints, marked: list[Ints]) -> frozenset[int]:
    labels = np.concatenate([*marked, np.zeros(0, np.int64)])
    return frozenset(np.unique(root[labels[labels > 0]]).tolist())
