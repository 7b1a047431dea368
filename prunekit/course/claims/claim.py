"""A claim, what it needs, and the judgement of the ledger's runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prunekit.course import verdict
from prunekit.course.ledger import ENOUGH_SEEDS, Record

Relation = Literal[">", ">=", "=", "<="]
Word = Literal["reproduced", "partly", "not reproduced", "open"]
POINT = 0.01  # what two methods may differ by and still count as equal: one point of mIoU


@dataclass(frozen=True)
class Need:
    """A relation between two methods' means of the claim's metric, judged by these two alone.

    With gap = mean(left) - mean(right) and margin = three standard errors of it, from the pooled spread of the two:

        >    gap > margin                  better, and not by the seeds
        >=   gap - margin >= -POINT        worse by a point at most, even if the seeds were unlucky
        =    |gap| + margin <= POINT       a point apart at most, even then
        <=   gap + margin <= 0             no more than it, even then: for costs

    So noise never helps a claim. A third method's noise does not count. right: a method, or a number that the paper
    prints, without spread. metric: of these two, "" = the claim's. times: what the right one counts.
    """

    left: str
    relation: Relation
    right: str | float
    metric: str = ""
    times: float = 1.0

    def __str__(self) -> str:
        times = "" if self.times == 1 else f"{self.times:g} × "
        return f"{self.left} {self.relation} {times}{self.right}{self.metric and f' ({self.metric})'}"

    def holds(self, values: Mapping[str, Sequence[float]]) -> bool:
        """values: method -> metric, one a seed, three at least."""
        ours, other = values[self.left], str(self.right)
        right = values[self.right] if isinstance(self.right, str) else [self.right] * len(ours)
        pair = {self.left: ours, other: [self.times * value for value in right]}
        gap, margin, _ = verdict.judge(pair, other)[self.left]
        if self.relation == ">":
            return gap > margin
        if self.relation == "<=":
            return gap + margin <= 0
        return gap - margin >= -POINT if self.relation == ">=" else abs(gap) + margin <= POINT


@dataclass(frozen=True)
class Claim:
    """One finding of a paper.

    id: as in the ledger's records. says: one sentence. where: tables or figures of the paper. prints: method, as the
    ledger names it -> what the paper prints. unit: of those. needs: what must hold. metric: of our records, higher is
    better.
    """

    id: str
    says: str
    where: str
    prints: Mapping[str, str] = field(default_factory=dict)
    unit: str = "mIoU, %"
    needs: tuple[Need, ...] = ()
    metric: str = "miou"


@dataclass(frozen=True)
class Outcome:
    """One comparison's answer to a claim. settings: with the scale, what its runs share. values: method -> metric, one
    a seed. held, broken: needs that are shown, and not shown. word: the verdict.
    """

    settings: Mapping[str, Any]
    values: Mapping[str, tuple[float, ...]]
    held: tuple[Need, ...]
    broken: tuple[Need, ...]
    word: Word


def above(winner: str, *others: str, relation: Relation = ">") -> tuple[Need, ...]:
    """The winner against each of the others."""
    return tuple(Need(winner, relation, other) for other in others)


def outcomes(claim: Claim, records: Iterable[Record]) -> list[Outcome]:
    """One for each comparison among the claim's records; none without records."""
    mine = [entry for entry in records if entry.claim == claim.id]
    found = []
    for runs in verdict.comparisons(mine).values():
        metrics = {claim.metric, *(need.metric or claim.metric for need in claim.needs)}
        values = {metric: _by_method(runs, metric) for metric in metrics}
        found.append(_judged(claim, {"scale": runs[0].scale, **runs[0].settings}, values))
    return found


def _by_method(runs: Iterable[Record], metric: str) -> dict[str, tuple[float, ...]]:
    """Method -> the metric, one a seed, of those that have it."""
    found: dict[str, dict[int, float]] = {}
    for entry in runs:
        if (value := entry.metrics.get(metric)) is not None:
            found.setdefault(entry.method, {})[entry.seed] = float(value)
    return {method: tuple(by_seed.values()) for method, by_seed in found.items()}


def _judged(
    claim: Claim, settings: Mapping[str, Any], by_metric: Mapping[str, Mapping[str, tuple[float, ...]]]
) -> Outcome:
    values = by_metric[claim.metric]
    asked = {
        (need.metric or claim.metric, method)
        for need in claim.needs
        for method in (need.left, need.right)
        if isinstance(method, str)
    }
    if not claim.needs or any(len(by_metric[metric].get(method, ())) < ENOUGH_SEEDS for metric, method in asked):
        return Outcome(settings, values, (), (), "open")
    held, broken = [], []
    for need in claim.needs:
        (held if need.holds(by_metric[need.metric or claim.metric]) else broken).append(need)
    word: Word = "reproduced" if not broken else "partly" if held else "not reproduced"
    return Outcome(settings, values, tuple(held), tuple(broken), word)
