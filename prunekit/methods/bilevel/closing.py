"""The end of a search: from masks that hover about the target to a plan that meets it.

Open units with the smallest s are closed until the MACs are at most the target's; then closed units with the largest s
are opened again wherever they still fit. What is left between the plan and the target is less than one unit's work.
Units move `round_to` at a time where the limits ask for multiples.

Legend: U = units of a group, G groups, n = units open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.methods.bilevel.cost import Macs, fewest
from prunekit.plan import Limits


@dataclass(frozen=True)
class Closing:
    """What the correction did. before, after: share of the dense MACs. moved: units closed or opened, of `units`."""

    before: float
    after: float
    moved: int
    units: int

    def __str__(self) -> str:
        if not self.moved:
            return f"the search ended at {self.after:.1%} of the MACs, no unit was moved"
        return (
            f"the search ended at {self.before:.1%} of the MACs, closing step: {self.moved} of {self.units} units "
            f"moved, now {self.after:.1%}"
        )


def close(
    groups: Groups, scores: Scores, masks: Sequence[Tensor], macs: Macs, target: float, limits: Limits
) -> tuple[PruningPlan, Closing]:
    """The plan nearest below `target` MACs that s leads to, and what it took. masks: bool (U,), open at the end.

    Within a group the open units are always those with the largest s, so a count for each group says it all.
    """
    ranked = [scores[name].argsort(descending=True, stable=True).tolist() for name in groups]
    least, sizes = fewest(groups, limits), [group.size for group in groups.values()]
    start = [int(mask_U.sum()) for mask_U in masks]
    wide = [group.channels() for group in groups.values()]

    def allowed(g: int, count: int) -> int:
        return limits.kept(sizes[g], count, channels=wide[g])

    n = [allowed(g, count) for g, count in enumerate(start)]

    def cost(counts: list[int]) -> float:
        return float(macs(torch.tensor(counts)))

    def moves(up: bool) -> list[tuple[float, int]]:
        """(s, group) of each next unit that could open (up) or close, the most wanted first."""
        found = []
        for g, (name, order) in enumerate(zip(groups, ranked, strict=True)):
            if n[g] < sizes[g] if up else n[g] > least[g]:
                found.append((float(scores[name][order[n[g] if up else n[g] - 1]]), g))
        return sorted(found, reverse=up)

    while cost(n) > target and (candidates := moves(up=False)):
        g = candidates[0][1]
        n[g] = allowed(g, n[g] - limits.step(sizes[g], wide[g]))
    blocked: set[int] = set()  # groups whose next unit does not fit; the work left only gets less
    while candidates := [g for _, g in moves(up=True) if g not in blocked]:
        g, more = candidates[0], n.copy()
        more[g] = allowed(g, n[g] + limits.step(sizes[g], wide[g]))
        if more[g] == n[g] or cost(more) > target:
            blocked.add(g)
        else:
            n = more
    keep = {name: tuple(sorted(order[:count])) for name, order, count in zip(groups, ranked, n, strict=True)}
    moved = sum(abs(a - b) for a, b in zip(start, n, strict=True))
    done = Closing(cost(start) / macs.dense, cost(n) / macs.dense, moved, sum(sizes))
    note = f"bilevel, {1 - target / macs.dense:.0%} of macs removed; {done}"
    return PruningPlan(dict(zip(groups, sizes, strict=True)), keep, note), done
