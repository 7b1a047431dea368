"""The soft mask: one number s a unit, open where it is above the threshold; the step is passed straight through.

    b = 1[s > threshold],   db/ds := 1        (Bengio et al., Estimating or Propagating Gradients, arXiv 1308.3432)

Legend: U = units of a group.
"""

from __future__ import annotations

from torch import Tensor

from prunekit.plan import Limits

START, CEILING = 1.0, 1.5  # s of a fresh mask; s is held in [0, CEILING], so that a closed unit is never far from open


def straight_through(s_U: Tensor, threshold: float = 0.5, min_keep: int = 1) -> Tensor:
    """b (U,), exactly 0 or 1, whose gradient with respect to s is 1. The `min_keep` largest s are open in any case."""
    fixed_U = s_U.detach()
    open_U = (fixed_U > threshold).scatter(0, fixed_U.topk(min(min_keep, len(s_U))).indices, True)
    return open_U.to(s_U.dtype) + (s_U - fixed_U)  # the bracket is 0


def limited(s_U: Tensor, *, threshold: float, limits: Limits) -> Tensor:
    """b (U,) of a group that keeps at least what the limits say."""
    return straight_through(s_U, threshold, limits.kept(len(s_U), 0))
