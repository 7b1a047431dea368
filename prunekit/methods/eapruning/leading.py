"""One layer's least squares for every number of kept units at once: leading blocks of one Cholesky factor.

    W'_n = argmin sum ||W x - W' x_n||^2  solves  G_n W'_n^T = (G W^T)_n,   x_n = the first n inputs, in a fixed order

With L L^T = G + ridge I, the leading block of L is the factor of the leading block of G, and forward substitution goes
from the first row down, so Z = L^-1 G W^T is solved once, and its first n rows are the answer for n. What is left for a
candidate is one triangular solve, L_n^T W'_n^T = Z_n: O n^2 multiplications, where least squares from S features takes
S n^2 and more. The bias (a column of ones) and inputs that never go come first in the order.

Legend: O outputs, D inputs (channels x kernel positions, a one for the bias), S samples, n kept inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunekit.reconstruct import fit, solvable, with_bias


@dataclass(frozen=True)
class Leading:
    """A layer that reads one group. inputs: the layer's D inputs in order; first: how many of them never go; each: how
    many one unit has. ridge, condition: of the Gram matrix, see reconstruct.solvable.
    """

    group: str
    inputs: Tensor
    first: int
    each: int
    factor_DD: Tensor
    half_DO: Tensor
    ridge: float
    condition: float

    def solve(self, counts: Mapping[str, int]) -> Tensor:
        """(O, D) float64: the fitted weights, 0 where inputs are gone."""
        n = len(self.keep(counts))
        weight_nO = torch.linalg.solve_triangular(self.factor_DD[:n, :n].T, self.half_DO[:n], upper=True)
        weight_OD = torch.zeros(self.half_DO.shape[::-1], dtype=torch.float64)
        weight_OD[:, self.inputs[:n]] = weight_nO.T
        return weight_OD

    def keep(self, counts: Mapping[str, int]) -> Tensor:
        """Inputs that stay, (n,)."""
        return self.inputs[: self.first + self.each * counts[self.group]]

    @property
    def moments(self) -> tuple[Tensor, ...]:
        """What it was made from."""
        return (self.factor_DD, self.half_DO)

    @property
    def groups(self) -> tuple[str, ...]:
        """What it reads: candidates with the same counts of these have the same weights here."""
        return (self.group,)

    @property
    def bytes(self) -> int:
        """Of what is held."""
        return sum(t.numel() * t.element_size() for t in (self.factor_DD, self.half_DO, self.inputs))


@dataclass(frozen=True)
class Several:
    """A layer that reads several groups (a concatenation): no order makes all candidates leading blocks, so each has a
    Cholesky factor of its own, of the same Gram matrix.
    """

    always: Tensor
    units: dict[str, Tensor]  # group -> (U, positions), in order
    gram_DD: Tensor
    weight_OD: Tensor
    ridge: float
    condition: float

    def solve(self, counts: Mapping[str, int]) -> Tensor:
        """(O, D) float64, as Leading's."""
        keep = self.keep(counts)
        weight_OD = torch.zeros_like(self.weight_OD)
        relative = self.ridge / float(self.gram_DD.diagonal().mean()) if self.ridge else 0.0
        weight_OD[:, keep] = fit(self.weight_OD, self.gram_DD, keep, ridge=relative)
        return weight_OD

    def keep(self, counts: Mapping[str, int]) -> Tensor:
        """As Leading's."""
        left = [index_UE[: counts[name]].flatten() for name, index_UE in self.units.items()]
        return torch.cat([self.always, *left])

    @property
    def moments(self) -> tuple[Tensor, ...]:
        """As Leading's."""
        return (self.gram_DD, self.weight_OD)

    @property
    def groups(self) -> tuple[str, ...]:
        """As Leading's."""
        return tuple(self.units)

    @property
    def bytes(self) -> int:
        """As Leading's."""
        return sum(t.numel() * t.element_size() for t in (self.gram_DD, self.weight_OD))


Solver = Leading | Several


def solver(
    layer: nn.Linear | nn.Conv2d,
    reads: Mapping[str, Tensor],
    order: Mapping[str, Sequence[int]],
    gram_DD: Tensor,
    *,
    condition: float = 1e8,
    name: str = "a layer",
) -> Solver:
    """reads: group -> (U, K), the layer's input channels that each unit has. order: group -> units, the first stays
    longest. gram_DD: of the layer's inputs, the one last (observe.grams). condition, name: see reconstruct.solvable.
    """
    weight_OD, places = with_bias(layer), layer.weight[0, 0].numel()
    units = {}
    for group, index_UK in reads.items():
        ordered_UK = index_UK[torch.tensor(order[group])]
        units[group] = (ordered_UK[..., None] * places + torch.arange(places)).flatten(1)
    free = torch.ones(len(gram_DD), dtype=torch.bool)
    for index_UE in units.values():
        free[index_UE.flatten()] = False
    free[-1] = layer.bias is not None
    always = free.nonzero().flatten()
    if len(units) > 1:
        used = torch.cat([always, *(index_UE.flatten() for index_UE in units.values())])
        _, ridge, found = solvable(gram_DD[used][:, used], condition=condition, name=name)
        return Several(always, units, gram_DD, weight_OD, ridge, found)
    ((group, index_UE),) = units.items()
    inputs = torch.cat([always, index_UE.flatten()])
    ordered_DD = gram_DD[inputs][:, inputs]
    factor_DD, ridge, found = solvable(ordered_DD, condition=condition, name=name)
    right_DO = ordered_DD @ weight_OD[:, inputs].T
    half_DO = torch.linalg.solve_triangular(factor_DD, right_DO, upper=False)
    wide_DO = torch.zeros(weight_OD.shape[::-1], dtype=torch.float64)
    wide_DO[: len(half_DO)] = half_DO  # without a bias the last row stays 0
    return Leading(group, inputs, len(always), index_UE.shape[1], factor_DD, wide_DO, ridge, found)


class Memory:
    """Solutions that were wanted before, the latest ones, within a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.found: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What was made for this key before, else made now."""
        if key in self.found:
            self.found.move_to_end(key)
            return self.found[key]
        value = self.found[key] = make()
        self.used += value.numel() * value.element_size()
        while self.used > self.limit and len(self.found) > 1:
            _, old = self.found.popitem(last=False)
            self.used -= old.numel() * old.element_size()
        return value
