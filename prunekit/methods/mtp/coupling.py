"""Two copies of a backbone that must agree: the terms of Eqs. 7, 9 and 10 that are no losses.

    h(W1) = <E, W1 - W3> + mu/2 ||W1 - W3||^2 + alpha1 |gamma1|_1        the same for W3, where E has the other sign

Next to a step of SGD along the loss's gradient, h is minimised in closed form (a proximal step, forward-backward
splitting: Combettes and Wajs, 2005). With v = the weight after the step and s = its size, for W1:

    w = argmin 1/2s (w - v)^2 + h(w) = soft(v + s (mu w3 - e), s alpha1) / (1 + s mu)
    soft(x, t) = sign(x) max(|x| - t, 0)

So scales become 0 exactly; a subgradient alpha sign(gamma) in the gradient leaves them jittering around it. In 60 steps
with alpha 0.2 it brought none of a mini DeepLabV3's scales to 0 and under 5 % below 0.001; this step set more than half
to 0 (tests/benchmarks/bench_mtp.py keeps that true). And mu may grow without limit, where a step along h's gradient
diverges from s mu = 2 on; at 1e30 it stays: the copies have long been equal to the last bit, and 32 bits hold no more.
Where nothing moves any more, the loss's gradient and h's subgradient sum to 0, as Eq. 7 wants. With momentum beta the
gradients of 1 / (1 - beta) steps add up, hence s = lr / (1 - beta).

Legend: W1, W3 = name of a parameter -> tensor, the classifier's and the segmenter's backbone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.errors import InputError

MOST_MU = 1e30


class Coupling:
    """Holds W1 and W3 (the tensors themselves, changed in place), the multipliers E, from 0, and mu.

    first, third: name -> parameter. Raises InputError for rho at most 1 and for mu at most 0 or above 1e30.
    """

    def __init__(self, first: Mapping[str, Tensor], third: Mapping[str, Tensor], *, mu: float, rho: float) -> None:
        if not (isinstance(rho, Real) and math.isfinite(rho) and rho > 1):
            raise InputError(
                f"rho is {rho!r}; mu is multiplied by it after each round, so it must be above 1, e.g. 1.3."
            )
        if not (isinstance(mu, Real) and 0 < mu <= MOST_MU):
            raise InputError(
                f"mu is {mu!r}; it weighs ||W1 - W3||^2 in the first round and must be above 0, e.g. 0.01, up to "
                f"{MOST_MU:g}."
            )
        self.first, self.third, self.mu, self.rho = dict(first), dict(third), mu, rho
        self.multipliers = {name: torch.zeros_like(w, requires_grad=False) for name, w in first.items()}

    @torch.no_grad()
    def pull_first(self, step: float, l1: float = 0.0, scales: Collection[str] = ()) -> None:
        """After a step of size `step` on W1's loss: the rest of Eq. 7. scales: which parameters l1 = alpha1 is for."""
        for name, w in self.first.items():
            w.add_(self.third[name], alpha=step * self.mu).sub_(self.multipliers[name], alpha=step)
            _shrink_and_divide(w, step * l1 if name in scales else 0.0, 1 + step * self.mu)

    @torch.no_grad()
    def pull_third(self, step: float, l1: float = 0.0, scales: Collection[str] = ()) -> None:
        """After a step of size `step` on W3's loss: the rest of Eq. 9. In <E, W1 - W3> W3 has a minus: + E here."""
        for name, w in self.third.items():
            w.add_(self.first[name], alpha=step * self.mu).add_(self.multipliers[name], alpha=step)
            _shrink_and_divide(w, step * l1 if name in scales else 0.0, 1 + step * self.mu)

    @torch.no_grad()
    def update(self) -> None:
        """Eq. 10: E += mu (W1 - W3), mu *= rho, up to MOST_MU."""
        for name, e in self.multipliers.items():
            e.add_(self.first[name], alpha=self.mu).sub_(self.third[name], alpha=self.mu)
        self.mu = min(self.mu * self.rho, MOST_MU)

    @torch.no_grad()
    def residual(self) -> float:
        """||W1 - W3||, over all parameters."""
        return _norm(w - self.third[name] for name, w in self.first.items())

    @torch.no_grad()
    def size(self) -> float:
        """||W1||, what the residual is small against."""
        return _norm(self.first.values())


@torch.no_grad()
def soft_threshold_(w: Tensor, threshold: float) -> None:
    """w <- sign(w) max(|w| - threshold, 0), in place."""
    w.copy_(F.softshrink(w, threshold))


def _shrink_and_divide(w: Tensor, threshold: float, divisor: float) -> None:
    if threshold:
        soft_threshold_(w, threshold)
    w.div_(divisor)


def _norm(tensors: object) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))  # type: ignore[attr-defined]
