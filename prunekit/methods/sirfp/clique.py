"""Which channels to keep: the set of a given size with the largest sum of edge weights (a clique, Eq. 2).

`ehgp` is the paper's greedy answer (Algorithm 1). One vertex less is solved exactly by dropping the vertex whose edges
weigh least, s_i = sum_j a_ij over those that remain (Eq. 6); do it again until one is left. Each round costs one row of
the matrix, O(C^2) in all. The printed algorithm compares the other way round, against its own Eq. 6; we follow the
equation.

`unit_scores` makes of a layer's order one number a channel, so that one threshold can serve the whole network.
Thresholding s itself would not do: s sums over the channels still there, so it falls as channels go, and "remove low s"
would take the survivors. Written in redundancies, s_i = sum_j (1 - r_ij), and sum_j r_ij is how much a channel repeated
the rest when it went, the largest first: that is what the paper's "prune s above the threshold" fits. So
score = -sum_j r_ij ("sum") or -mean_j r_ij ("mean").

Legend: a_CC = edge weights, 1 - redundancy, symmetric; its diagonal is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prunekit.errors import InputError

ScoreScale = Literal["sum", "mean"]


@dataclass(frozen=True)
class Removal:
    """order: channels, first removed first, the last survivor at the end. weight: each one's s when it went, (C,)."""

    order: tuple[int, ...]
    weight: Tensor

    def keep(self, size: int) -> tuple[int, ...]:
        """The greedy clique of this size, ascending. Raises InputError for a size that no set has."""
        if not 1 <= size <= len(self.order):
            raise InputError(
                f"a clique of {size} among {len(self.order)} channels: size is from 1 to {len(self.order)}."
            )
        return tuple(sorted(self.order[len(self.order) - size :]))


def ehgp(a_CC: Tensor) -> Removal:
    """Efficient heuristic greedy pruning, down to one channel.

    Raises InputError for what is no square table, and for weights that are not finite.
    """
    if a_CC.ndim != 2 or a_CC.shape[0] != a_CC.shape[1]:
        raise InputError(f"edge weights are a square table, (channels, channels), got {tuple(a_CC.shape)}.")
    a = a_CC.detach().cpu().double().numpy().copy()
    np.fill_diagonal(a, 0.0)
    if not np.isfinite(a).all():
        raise InputError("an edge weight is nan or inf: were the maps finite, and each a probability map?")
    s = a.sum(1)
    order, weight = [], []
    for _ in range(len(a)):
        k = int(s.argmin())
        order.append(k)
        weight.append(s[k])
        s -= a[k]
        s[k] = np.inf
    return Removal(tuple(order), torch.tensor(weight, dtype=torch.float64))


def clique_weight(a_CC: Tensor, keep: tuple[int, ...]) -> float:
    """Sum of the edge weights between the kept channels, each edge once."""
    inside = a_CC.double()[list(keep)][:, list(keep)]
    return float(inside.triu(1).sum())


def unit_scores(a_CC: Tensor, scale: ScoreScale) -> Tensor:
    """One score a channel, (C,), at most 0 for redundancies of at least 0; keeping the n best is EHGP's clique of n.

    A layer loses as many channels as are beyond the threshold, in EHGP's order (Appendix D of the paper), so the values
    are handed out along the order, sorted: a mean, unlike a sum, can rise by a little on the way. Of the last two
    neither repeats more than the other: both get the same. Raises InputError for another scale.
    """
    if scale not in ("sum", "mean"):
        raise InputError(f"score_scale is 'sum' or 'mean', got {scale!r}.")
    removal = ehgp(a_CC)
    others_C = torch.arange(len(a_CC) - 1, -1, -1, dtype=torch.float64)
    repeated_C = others_C - removal.weight
    if scale == "mean":
        repeated_C = repeated_C / others_C.clamp_min(1)
    if len(repeated_C) > 1:
        repeated_C[-1] = repeated_C[-2]
    score_C = torch.empty_like(repeated_C)
    score_C[list(removal.order)] = (-repeated_C).sort().values - 1e-12 * others_C  # ties in EHGP's order
    return score_C
