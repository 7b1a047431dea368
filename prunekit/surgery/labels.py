"""Integer labels and which of them must be equal: the book-keeping behind `find_groups`.

Every position on every axis of every parameter gets a number. Walking the graph we learn facts of two kinds: "these
two positions are the same channel" (`unite`) and "this position must stay" (`freeze`, with the reason). Facts are
only collected; `solve` answers them all at once with numpy: the connected components are the channels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# inexact: removing one changes the others a little (a LayerNorm's statistics). head: an attention head. dimension: a
# position that every head has. positional: the code slices or splits this axis by numbers, so what it reads depends
# on what was removed before it.
Mark = Literal["inexact", "head", "dimension", "positional"]


@dataclass(frozen=True)
class Solution:
    """root[label] = its component. reason: frozen components and why. marked: the components with each mark."""

    root: Ints
    reason: dict[int, str]
    marked: dict[Mark, frozenset[int]]


class Labels:
    """Facts about labels. Label 0 is the position that always stays."""

    def __init__(self) -> None:
        self.count = 1
        self._left: list[Ints] = []
        self._right: list[Ints] = []
        self._frozen: list[tuple[Ints, str]] = []
        self._marked: defaultdict[Mark, list[Ints]] = defaultdict(list)

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

    def mark(self, kind: Mark, labels: Ints) -> None:
        """Note a property of these positions that the groups will have."""
        self._marked[kind].append(labels.ravel())

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
        return Solution(root, reason, {kind: _components(root, self._marked[kind]) for kind in get_args(Mark)})


def _components(root: Ints, marked: list[Ints]) -> frozenset[int]:
    labels = np.concatenate([*marked, np.zeros(0, np.int64)])
    return frozenset(np.unique(root[labels[labels > 0]]).tolist())
