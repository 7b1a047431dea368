"""The search space: how many units each group keeps. Which ones follows from a fixed order.

A candidate is a tuple of counts, one a group: convolutions that must agree on their channels share one count, attention
has its number of heads (or, with find_groups(heads="dimension"), their size), an MLP its hidden neurons. Groups that
are not exact, such as a transformer's embedding, keep their size: behind a LayerNorm no least squares is exact.

Legend: U units of a group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from prunekit.core import Groups, PruningPlan
from prunekit.errors import InputError, PlanError
from prunekit.observe import filters, mean_over
from prunekit.plan import plan_macs, plan_params

Counts = tuple[int, ...]
Choice = Literal["random", "l1"]
Sampling = Literal["uniform", "spread"]


@dataclass(frozen=True)
class Space:
    """groups: those that may shrink. order: group -> its units, those that stay longest first. least: the smallest
    count of each group; step: counts are a size minus a multiple of it.
    """

    groups: Groups
    order: dict[str, tuple[int, ...]]
    least: dict[str, int]
    step: dict[str, int]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.order))

    @property
    def whole(self) -> Counts:
        """The candidate that loses nothing."""
        return tuple(self.groups[name].size for name in self.names)

    @property
    def levels(self) -> np.ndarray:
        """How many counts each group can choose from, less one, (groups,)."""
        sizes, least, step = (np.array([f[n] for n in self.names]) for f in (self._sizes, self.least, self.step))
        return (sizes - least) // step

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: self.groups[name].size for name in self.names}

    def counts(self, level: Iterable[float]) -> Counts:
        """The candidate at these levels: 0 = each group at its smallest, `levels` = whole."""
        gap = self.levels - np.rint(np.asarray(tuple(level), dtype=float)).astype(int)
        return tuple(int(size - self.step[n] * g) for (n, size), g in zip(self._sizes.items(), gap, strict=True))

    def plan(self, counts: Counts) -> PruningPlan:
        """Who stays. PlanError unless the candidate is one of this space."""
        self.check(counts)
        keep = {name: tuple(sorted(self.order[name][:count])) for name, count in zip(self.names, counts, strict=True)}
        return PruningPlan(self._sizes, keep, "eapruning")

    def macs(self, counts: Counts) -> int:
        """Multiply-accumulates for the example input of the groups."""
        return plan_macs(self.groups, self.plan(counts))

    def params(self, counts: Counts) -> int:
        """Parameters."""
        return plan_params(self.groups, self.plan(counts))

    def check(self, counts: Counts) -> None:
        """PlanError unless every count is from 1 to its group's size. Least counts and steps bind the search alone."""
        if len(counts) != len(self.names):
            raise PlanError(f"a candidate has {len(self.names)} counts here, one a group, got {len(counts)}.")
        for name, count in zip(self.names, counts, strict=True):
            if not isinstance(count, (int, np.integer)) or not 1 <= count <= self._sizes[name]:
                raise PlanError(f"'{name}' has {self._sizes[name]} units; it cannot keep {count}.")

    def draw(self, number: int, *, seed: int, how: Sampling = "uniform") -> list[Counts]:
        """Candidates at random, no two alike. uniform: every count of every group as likely as any other. spread: each
        candidate draws a common width first, so that all sizes of network occur. Fewer come where there are fewer.
        """
        if how not in get_args(Sampling):
            raise InputError(f"sampling is 'uniform' or 'spread', got {how!r}.")
        dice, found = np.random.default_rng(seed), dict[Counts, None]()
        for _ in range(100 * number):
            level = dice.random(len(self.names)) * (self.levels + 1) - 0.5
            if how == "spread":
                level = dice.random() * self.levels * (0.5 + dice.random(len(self.names)))
            found[self.counts(np.clip(level, 0, self.levels))] = None
            if len(found) == number:
                break
        return list(found)

    def describe(self) -> dict[str, Any]:
        """What makes two spaces the same: sizes, steps, and a digest of the order."""
        order = hashlib.sha256(json.dumps(self.order).encode()).hexdigest()[:16]
        return {"sizes": self._sizes, "least": dict(self.least), "step": dict(self.step), "order": order}


def space(
    model: nn.Module,
    groups: Groups,
    *,
    choose: Choice = "random",
    step: int = 1,
    max_ratio: float = 0.9,
    seed: int = 0,
) -> Space:
    """The search space of a model.

    choose: which units stay, at random (once, by `seed`) or those of the largest L1 norm. step: of the counts of
    channels and neurons, 1 as in the paper for convolutions; heads go one by one. max_ratio: largest fraction of a
    group that goes, at least one unit stays. Raises InputError when nothing can shrink.
    """
    if choose not in get_args(Choice):
        raise InputError(f"choose is 'random' or 'l1', got {choose!r}.")
    if type(step) is not int or step < 1 or not 0 < max_ratio < 1:
        raise InputError(f"step is a whole number from 1 on and max_ratio in (0, 1), got {step!r} and {max_ratio!r}.")
    names = [name for name, group in groups.items() if group.exact]
    if not names:
        raise InputError(f"nothing to search: none of the model's {len(groups)} groups can be cut exactly.")
    few = groups.only(names)
    dice = torch.Generator().manual_seed(seed)
    order, least, steps = {}, {}, {}
    for name, group in few.items():
        score_U = torch.rand(group.size, generator=dice)
        if choose == "l1":
            score_U = mean_over(w_UD.norm(1, dim=1) for w_UD in filters(model, few, name).values())
        order[name] = tuple(score_U.argsort(descending=True, stable=True).tolist())
        steps[name] = 1 if group.kind in ("head", "head_dim") else min(step, group.size)
        floor = max(1, round(group.size * (1 - max_ratio)))
        least[name] = group.size - (group.size - floor) // steps[name] * steps[name]
    return Space(few, order, least, steps)
