"""Other answers to the clique problem, to judge the greedy one by: two exact solvers and a longer search.

    brute_force   every set; up to a million of them
    milp          a mixed integer linear program for HiGHS (needs scipy); tens of channels
    tabu          swaps one kept channel for one removed, the best swap first, and may not undo it for a while

Legend: a_CC = edge weights, symmetric; size = channels to keep. All return the kept channels, ascending.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from torch import Tensor

from prunekit.errors import InputError, MissingDependencyError
from prunekit.methods.sirfp.clique import ehgp

SETS = 10**6


def brute_force(a_CC: Tensor, size: int) -> tuple[int, ...]:
    """The best of all sets. Raises InputError when there are more than a million."""
    a, count = _edges(a_CC, size), math.comb(len(a_CC), size)
    if count > SETS:
        raise InputError(
            f"{size} of {len(a_CC)} channels make {count:.1e} sets, more than {SETS:.0e}; use milp or tabu."
        )
    return max(combinations(range(len(a)), size), key=lambda kept: a[np.ix_(kept, kept)].sum())


def milp(a_CC: Tensor, size: int, *, seconds: float = 60.0) -> tuple[int, ...]:
    """The optimum, proven. Raises InputError when HiGHS has no proof in time, MissingDependencyError without scipy.

    Variables: m_i, keep channel i; y_ij <= m_i, keep edge ij. Each kept channel has size - 1 kept edges:
    sum_j y_ij = (size - 1) m_i, which makes y_ij = m_i m_j whatever the signs of the weights.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint
        from scipy.optimize import milp as solve
        from scipy.sparse import coo_array, hstack, identity
    except ImportError as err:
        raise MissingDependencyError(f"milp needs scipy: pip install 'prunekit[solvers]' ({err}).") from err
    a, count = _edges(a_CC, size), len(a_CC)
    first, second = np.triu_indices(count, 1)
    edges = len(first)
    ends, which = np.concatenate([first, second]), np.concatenate([np.arange(edges)] * 2)
    touches = coo_array((np.ones(2 * edges), (ends, which)), shape=(count, edges))  # channel x edge
    one = LinearConstraint(np.concatenate([np.ones(count), np.zeros(edges)]), size, size)
    degree = LinearConstraint(hstack([-(size - 1) * identity(count), touches]).tocsr(), 0, 0)
    at_end = [coo_array((np.ones(edges), (np.arange(edges), end)), shape=(edges, count)) for end in (first, second)]
    below = [LinearConstraint(hstack([-end, identity(edges)]).tocsr(), -np.inf, 0) for end in at_end]
    found = solve(
        -np.concatenate([np.zeros(count), a[first, second]]),
        constraints=[one, degree, *below],
        integrality=np.concatenate([np.ones(count), np.zeros(edges)]),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds},
    )
    if found.status != 0:
        raise InputError(
            f"HiGHS has no proof for {size} of {count} channels after {seconds:g} s; give it more, or use tabu."
        )
    return tuple(np.flatnonzero(found.x[:count] > 0.5).tolist())


def tabu(a_CC: Tensor, size: int, *, steps: int = 1000, tenure: int = 7) -> tuple[int, ...]:
    """The best set met in `steps` swaps from the greedy answer; a channel that moved stays put for `tenure` swaps."""
    a = _edges(a_CC, size)
    inside = np.zeros(len(a), dtype=bool)
    inside[list(ehgp(a_CC).keep(size))] = True
    s, free_at = a[:, inside].sum(1), np.zeros(len(a))
    value = best = 0.0
    answer = inside.copy()
    for step in range(steps):
        out, new = np.flatnonzero(inside & (free_at <= step)), np.flatnonzero(~inside & (free_at <= step))
        if not len(out) or not len(new):
            continue
        gain = s[new][None] - s[out][:, None] - a[np.ix_(out, new)]
        at = np.unravel_index(gain.argmax(), gain.shape)
        u, v = out[at[0]], new[at[1]]
        inside[u], inside[v], free_at[[u, v]] = False, True, step + 1 + tenure
        s += a[v] - a[u]
        value += gain[at]
        if value > best + 1e-12:
            best, answer = value, inside.copy()
    return tuple(np.flatnonzero(answer).tolist())


def _edges(a_CC: Tensor, size: int) -> np.ndarray:
    if not 1 <= size <= len(a_CC):
        raise InputError(f"a clique of {size} among {len(a_CC)} channels: size is from 1 to {len(a_CC)}.")
    a = a_CC.detach().cpu().double().numpy().copy()
    np.fill_diagonal(a, 0.0)
    return a
