"""A plan that buys milliseconds: remove what costs least importance for each millisecond it saves.

After HALP (Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022), whose knapsack is solved
greedily here. A cut takes the `round_to` least important units of a group; of all groups and of one to eight cuts at
once (a runtime may gain nothing from the first) the one with the smallest

    importance lost / milliseconds saved

goes next, until the target is met. importance: scores divided by their group's mean, as in `global_plan`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import BudgetError
from prunekit.plan import Limits, checked_scores, keep_best

if TYPE_CHECKING:
    from prunekit.latency.table import LatencyTable

AT_ONCE = (1, 2, 4, 8)  # cuts


def knapsack_plan(table: LatencyTable, groups: Groups, scores: Scores, ratio: float, limits: Limits) -> PruningPlan:
    """The plan that takes at least `ratio` off the table's milliseconds. Raises BudgetError when it cannot be had,
    else as `budget_plan`."""
    scores = checked_scores(groups, scores)
    state = _State(table, groups, scores, limits)
    dense = table.total_ms(groups.shapes)
    queue = [entry for name in scores for entry in [state.best(name)] if entry]
    heapq.heapify(queue)
    total, wanted = dense, (1 - ratio) * dense
    while total > wanted:
        if not queue:
            raise BudgetError(
                f"asked to remove {ratio:.1%} of {dense:.2f} ms, but within the limits {1 - total / dense:.1%} is the "
                f"most ({table.rest_ms:.2f} ms belong to no layer). Ask for less, or raise Limits(max_ratio=...)."
            )
        price, _, name, count = heapq.heappop(queue)
        fresh = state.best(name)  # its neighbours may have shrunk since
        if fresh is None:
            continue
        if fresh[0] > price * (1 + 1e-9):
            heapq.heappush(queue, fresh)
            continue
        total -= state.cut(name, state.gentlest(name, fresh[3], total - wanted))
        following = state.best(name)
        if following:
            heapq.heappush(queue, following)
    note = f"latency plan for {ratio:.0%} of {dense:.3g} ms removed ({table.where})"
    return keep_best(groups, scores, state.counts, note)


class _State:
    """How many units each group has now, and what each further cut would lose and save."""

    def __init__(self, table: LatencyTable, groups: Groups, scores: Mapping[str, Tensor], limits: Limits) -> None:
        self.counts = {name: groups[name].size for name in scores}
        self.shapes = {name: list(shape) for name, shape in groups.shapes.items()}
        self._table, self._limits, self._groups = table, limits, groups
        self._lost = {name: _running_loss(score) for name, score in scores.items()}
        self._layers = {
            name: [layer for layer in table.layers if layer.tensor in {m.tensor for m in groups[name].members}]
            for name in scores
        }
        self._after = {name: self._followers(name) for name in scores}

    def _followers(self, name: str) -> float:
        """Milliseconds that each unit of the group costs in steps that are no layer."""
        ms, dense = self._table.followers_ms, self._groups.shapes
        rows = (m for m in self._groups[name].members if m.dim == 0 and m.tensor in ms)
        return sum(ms[m.tensor] * m.index.shape[1] / dense[m.tensor][0] for m in rows)

    def best(self, name: str) -> tuple[float, int, str, int] | None:
        """(importance per millisecond, tie-breaker, group, units left) of the group's best cut, if there is one."""
        offers = []
        for cuts in AT_ONCE:
            count = self._left(name, cuts)
            if count < self.counts[name]:
                saved = self._saved(name, count)
                if saved > 0:
                    size, lost = self._groups[name].size, self._lost[name]
                    price = (lost[size - count] - lost[size - self.counts[name]]) / saved
                    offers.append((price, -count, name, count))
        least = min((price for price, *_ in offers), default=0.0)
        return min(
            (offer for offer in offers if offer[0] <= least + 1e-9 * abs(least)), key=lambda o: o[1], default=None
        )

    def gentlest(self, name: str, count: int, enough: float) -> int:
        """`count`, or more units where they save enough milliseconds too: the last cut need not overshoot."""
        steps = {self._left(name, cuts) for cuts in range(1, AT_ONCE[-1])}
        return max((more for more in steps if more > count and self._saved(name, more) >= enough), default=count)

    def cut(self, name: str, count: int) -> float:
        """Shrink the group to `count` units; the milliseconds saved."""
        saved = self._saved(name, count)
        self._shrink(name, count, self.shapes)
        self.counts[name] = count
        return saved

    def _left(self, name: str, cuts: int) -> int:
        group, channels = self._groups[name], self._groups[name].channels()
        step = self._limits.step(group.size, channels)
        wanted = (-(-self.counts[name] // step) - cuts) * step
        return self._limits.kept(group.size, max(wanted, 0), channels=channels)

    def _saved(self, name: str, count: int) -> float:
        layers = self._layers[name]
        shapes = {layer.tensor: list(self.shapes[layer.tensor]) for layer in layers}
        before = sum(self._table.layer_ms(layer, shapes[layer.tensor]) for layer in layers)
        self._shrink(name, count, shapes)
        after = sum(self._table.layer_ms(layer, shapes[layer.tensor]) for layer in layers)
        return before - after + self._after[name] * (self.counts[name] - count)

    def _shrink(self, name: str, count: int, shapes: Mapping[str, list[int]]) -> None:
        for member in self._groups[name].members:
            if member.tensor in shapes:
                shapes[member.tensor][member.dim] -= (self.counts[name] - count) * member.index.shape[1]


def _running_loss(score: Tensor) -> Sequence[float]:
    """Importance lost when 0, 1, 2 ... of the lowest units go, in multiples of the mean (of negatives: as they are)."""
    mean = score.mean()
    ordered = score.sort().values / mean if mean > 0 else score.sort().values
    return [0.0, *ordered.cumsum(0).tolist()]
