"""The front: candidates that nobody beats, and how much of the square they leave behind. A candidate is beaten
(dominated) when another is no worse in error and cost, and better in one.

    hypervolume = area of {(cost, error) that some candidate beats or equals}, up to (1, 1)

Costs are relative to the whole network and errors fractions, so it lies in [0, 1]; larger is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prunekit.errors import BudgetError, InputError
from prunekit.methods.eapruning.space import Counts


@dataclass(frozen=True)
class Candidate:
    """counts: units that each group keeps. error: fraction. cost: relative to the whole network's."""

    counts: Counts
    error: float
    cost: float


def front(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that nobody beats, the cheapest first; of equals one."""
    best: list[Candidate] = []
    for each in sorted(candidates, key=lambda c: (c.cost, c.error, c.counts)):
        if not best or each.error < best[-1].error:
            best.append(each)
    return tuple(best)


def hypervolume(candidates: Iterable[Candidate], *, corner: tuple[float, float] = (1.0, 1.0)) -> float:
    """Area that the candidates' front dominates. corner: (cost, error) up to which it counts."""
    inside = [c for c in front(candidates) if c.cost < corner[0] and c.error < corner[1]]
    edges = [*(c.cost for c in inside[1:]), corner[0]]
    return sum((right - c.cost) * (corner[1] - c.error) for c, right in zip(inside, edges))


def along(
    candidates: Iterable[Candidate], number: int, *, window: tuple[float, float] = (0.0, 1.0)
) -> tuple[Candidate, ...]:
    """`number` candidates of the front whose costs are spread evenly over the window, the cheapest first.

    Fewer come when the front has fewer there. Raises InputError for a window that is none, BudgetError with the costs
    that there are when the front has nothing in it.
    """
    check_window(window)
    if type(number) is not int or number < 1:
        raise InputError(f"asked for {number} plans; give a whole number from 1 on.")
    whole = front(candidates)
    if not whole:
        raise BudgetError("no candidates, so there is no front: search first.")
    inside = [c for c in whole if window[0] <= c.cost <= window[1]]
    if not inside:
        raise BudgetError(
            f"the front has nothing between {window[0]:.1%} and {window[1]:.1%} of the cost; it goes from "
            f"{whole[0].cost:.1%} to {whole[-1].cost:.1%}. Search longer, or with window={window}."
        )
    low, high = inside[0].cost, inside[-1].cost
    wanted = [low + (high - low) * i / max(1, number - 1) for i in range(number)] if number > 1 else [(low + high) / 2]
    return _nearest(inside, wanted)


def _nearest(inside: Sequence[Candidate], wanted: Sequence[float]) -> tuple[Candidate, ...]:
    """For each wanted cost the candidate nearest to it, each once."""
    left, chosen = list(inside), []
    for cost in wanted:
        if left:
            best = min(left, key=lambda c: abs(c.cost - cost))
            chosen.append(best)
            left.remove(best)
    return tuple(sorted(chosen, key=lambda c: c.cost))


def sketch(best: Sequence[Candidate], width: int = 9) -> str:
    """The front in one line: the least error at 1/9, 2/9 ... of the cost, as bars; a space where nothing is."""
    bars = []
    for n in range(1, width + 1):
        errors = [c.error for c in best if c.cost <= n / width]
        bars.append("▁▂▃▄▅▆▇█"[min(7, int(8 * min(errors)))] if errors else " ")
    return f"|{''.join(bars)}|"


def check_window(window: tuple[float, float]) -> None:
    """InputError unless it is (low, high), fractions of the whole network's cost."""
    try:
        low, high = map(float, window)
        fits = 0 <= low < high <= 1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(f"window is {window}; give (low, high), fractions of the whole cost, such as (0.4, 0.6).")
