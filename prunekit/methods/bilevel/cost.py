"""MACs as a function of how many units each group keeps: exact, differentiable, and no model needed.

    macs(n) = sum over weights of  positions * product over axes of (size - sum over groups of K (U - n))  + heads

the polynomial of `plan_macs`, so it counts the surviving inputs of a layer as well as its surviving outputs. The paper
counts o' i k^2, with the dense number of inputs i: then closing a unit saves its own layer's work only.

    L_reg = ((macs(n) - C) / macs(U))^2

Legend: G groups, W weights, D axes, U = units of a group, n = units open, K = positions of a unit on an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prunekit.core import Groups
from prunekit.errors import BudgetError, GroupError, InputError
from prunekit.plan import Limits


class Macs:
    """MACs of a network with n_G units left in its groups, for the input that `groups` was found with.

    units_G: units there are. dense: MACs with all of them.
    """

    def __init__(self, groups: Groups) -> None:
        weights = [name for name, count in groups.positions.items() if count]
        number = {name: w for w, name in enumerate(weights)}
        axes = max((len(groups.shapes[name]) for name in weights), default=1)
        self.size_WD = torch.ones(len(weights), axes, dtype=torch.float64)
        self.per_unit_WDG = torch.zeros(len(weights), axes, len(groups), dtype=torch.float64)
        self.positions_W = torch.tensor([groups.positions[name] for name in weights], dtype=torch.float64)
        self.heads_G = torch.tensor([groups.unit_macs.get(name, 0.0) for name in groups], dtype=torch.float64)
        self.other = groups.other_macs
        self.units_G = torch.tensor([group.size for group in groups.values()], dtype=torch.float64)
        for name, w in number.items():
            shape = groups.shapes[name]
            self.size_WD[w, : len(shape)] = torch.tensor(shape, dtype=torch.float64)
        for g, group in enumerate(groups.values()):
            for member in group.members:
                if member.tensor in number:
                    self.per_unit_WDG[number[member.tensor], member.dim, g] += member.index.shape[1]
        self.dense = float(self(self.units_G))

    def __call__(self, n_G: Tensor) -> Tensor:
        """A scalar in float64 on n_G's device; n_G may be any real numbers, for gradients."""
        n_G = n_G.double()
        here = n_G.device
        size_WD = self.size_WD.to(here) + self.per_unit_WDG.to(here) @ (n_G - self.units_G.to(here))
        return self.positions_W.to(here) @ size_WD.prod(1) + self.heads_G.to(here) @ n_G + self.other


def macs_term(macs: Macs, masks: Sequence[Tensor], target: float) -> Tensor:
    """L_reg, a scalar; masks: b (U,) of each group, target: MACs. Relative to the dense MACs, so it has no scale."""
    n_G = torch.stack([b_U.double().sum() for b_U in masks])
    return ((macs(n_G) - target) / macs.dense).square()


def fewest(groups: Groups, limits: Limits) -> list[int]:
    """The units that the limits leave each group at least."""
    return [limits.kept(group.size, 0, channels=group.channels()) for group in groups.values()]


def check_groups(groups: Groups) -> None:
    """GroupError for units that no layer reads, or no groups at all."""
    unread = [name for name, group in groups.items() if not group.consumers() and group.kind != "head_dim"]
    if unread or not len(groups):
        raise GroupError(
            f"no layer reads the units of '{unread[0]}': a gate there changes nothing. Leave it out: "
            "groups.only([...])."
            if unread
            else "no group to gate: see groups.frozen for the reasons."
        )


def check_reachable(groups: Groups, macs: Macs, macs_ratio: float, limits: Limits) -> None:
    """BudgetError with the reachable range, unless the limits allow to remove this fraction of the MACs; InputError."""
    if not isinstance(limits, Limits):
        raise InputError(f"limits is a {type(limits).__name__}; give Limits(...), or nothing for the usual ones.")
    if isinstance(macs_ratio, bool) or not isinstance(macs_ratio, (int, float)) or math.isnan(macs_ratio):
        raise InputError(f"macs_ratio is {macs_ratio!r}; give the fraction of the MACs to remove, such as 0.5.")

    def most(limits: Limits) -> float:
        return 1 - float(macs(torch.tensor(fewest(groups, limits)))) / macs.dense

    reach = most(limits)
    if not 0 < macs_ratio <= reach:
        looser = {  # what to change -> the limits without it
            "raise Limits(max_ratio=...)": replace(limits, max_ratio=1 - 1e-6),
            "lower Limits(min_keep=...)": replace(limits, min_keep=1),
            "lower Limits(round_to=...)": replace(limits, round_to=1),
        }
        ways = [way for way, other in looser.items() if most(other) > reach]
        raise BudgetError(
            f"asked to remove {macs_ratio:.1%} of the MACs, but within the limits anything above 0 and up to "
            f"{reach:.1%} can go. {', '.join(['Ask for less', *ways])}, or gate more groups."
        )
