"""The gradient of the mask when the weights follow it.

    min_s L_m(w*(s), s),   w*(s) = argmin_w L(w, s) + |w|^2 / (2 lambda),   L_m = L + beta L_reg

    dL_m/ds = grad_s L  +  beta grad_s L_reg  +  (dw*/ds)^T grad_w L
              direct       macs                  implicit

Where the lower problem is stationary, w* = -lambda grad_w L, so dw*/ds = -(H + 1/lambda)^-1 d(grad_w L)/ds. Leave the
Hessian H out, and of d(grad_w L)/ds what comes through H as well: s scales the output of w, grad_w L = s l'(s w), and
d/ds of it is l' + s w l'' -> l'. Then, summed over the weights that make unit u,

    implicit_u = -lambda b_u sum (dL/dw)^2

It is never positive: it holds open what the weights still learn from. A check that needs no Hessian: with
homogeneous layers and at w* itself, s dL/ds = w . dL/dw = -lambda |dL/dw|^2, so there direct and implicit are equal.

Neither beta nor lambda is free of scale, and masks moved by Adam follow signs: a MACs term far above the direct one
closes all units of a network in the same step. `Balance` measures both in the direct term's running size:

    lambda 1    the implicit term is as large as the direct one
    beta        the MACs term is 2 beta |macs - C| / dense times the direct one, and at most STRONGEST times

Legend: U = units of a group, C = positions on the axis that makes them, b = the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.core import Groups


@dataclass(frozen=True)
class Terms:
    """The three terms, (U,) for each group; beta and lambda are in them. Their sum is what the mask descends."""

    direct: tuple[Tensor, ...]
    macs: tuple[Tensor, ...]
    implicit: tuple[Tensor, ...]

    def total(self) -> tuple[Tensor, ...]:
        """dL_m/ds of each group, (U,)."""
        return tuple(d + m + i for d, m, i in zip(self.direct, self.macs, self.implicit, strict=True))

    def sizes(self) -> tuple[float, float, float]:
        """Root mean square of each term over all units."""
        return root_mean_square(self.direct), root_mean_square(self.macs), root_mean_square(self.implicit)


def squared_gradients(groups: Groups, gradients: Mapping[str, Tensor | None], masks: Sequence[Tensor]) -> list[Tensor]:
    """b sum (dL/dw)^2 over the weights that make each unit, (U,) for each group: the implicit term but for -lambda.

    gradients: tensor name -> dL/dw; None counts as 0 (a layer that this loss does not reach).
    """
    found = []
    for group, b_U in zip(groups.values(), masks, strict=True):
        square_U = torch.zeros_like(b_U)
        for member in group.producers():
            gradient = gradients[member.tensor]
            if gradient is not None:
                square_C = gradient.detach().movedim(member.dim, 0).square().flatten(1).sum(1)
                square_U = square_U + square_C[member.index.to(square_C.device)].sum(1)
        found.append(b_U.detach() * square_U)
    return found


STRONGEST = 2.0


@dataclass
class Balance:
    """Running mean squares of the direct term and of the squared gradients."""

    direct: float = 0.0
    squares: float = 0.0
    updates: int = 0
    decay: float = 0.9

    def see(self, direct: Sequence[Tensor], squares: Sequence[Tensor]) -> None:
        """Look at this step's terms."""
        self.updates += 1
        new = max(1 - self.decay, 1 / self.updates)  # the plain mean at first
        self.direct += new * (root_mean_square(direct) ** 2 - self.direct)
        self.squares += new * (root_mean_square(squares) ** 2 - self.squares)

    def lam(self, relative: float) -> float:
        """The raw lambda."""
        return relative * (self.direct / self.squares) ** 0.5 if self.squares > 0 else 0.0

    def beta(self, relative: float, distance: float, slope: Sequence[Tensor]) -> float:
        """The raw beta; distance: L_reg, slope: its gradient."""
        size = root_mean_square(slope)
        return min(2 * relative * distance**0.5, STRONGEST) * self.direct**0.5 / size if size > 0 else 0.0


def root_mean_square(parts: Sequence[Tensor]) -> float:
    """Over all elements of all parts."""
    return float(torch.cat([part.detach() for part in parts]).double().square().mean().sqrt())


def mean_over_processes(parts: list[Tensor]) -> list[Tensor]:
    """Gates are not among the parameters whose gradients the processes exchange by themselves."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return parts
    row = torch.cat(parts)
    torch.distributed.all_reduce(row)
    return list((row / torch.distributed.get_world_size()).split([len(part) for part in parts]))
