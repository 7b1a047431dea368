"""Who evaluates a generation: this process, local workers, or the ranks of a launch.

A cost that is asked may be a time, and times that several processes take side by side on the same cores are those of a
crowd. So one process asks for all of a generation's costs, before the others have errors to compute; they never see the
cost, which need not be sendable either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from prunekit.methods.eapruning.fitness import Fitness
from prunekit.methods.eapruning.space import Counts
from prunekit.methods.eapruning.workers import Values, by_rank, ranks, same_for_all, shared_out


@contextmanager
def sharing(fitness: Fitness, processes: int) -> Iterator[Callable[[Sequence[Counts]], Iterator[tuple[int, Values]]]]:
    """Gives evaluate(candidates) -> (place, values) as they come. Raises as shared_out and by_rank."""
    asked = callable(fitness.cost) and (ranks() > 1 or processes != 1)
    work = replace(fitness, cost="macs") if asked else fitness
    with by_rank(work) if ranks() > 1 else shared_out(work, processes) as evaluate:

        def with_prices(candidates: Sequence[Counts]) -> Iterator[tuple[int, Values]]:
            costs = prices(fitness, candidates)
            for place, (wrong, _) in evaluate(candidates):
                yield place, (wrong, costs[place])

        yield with_prices if asked else evaluate


def prices(fitness: Fitness, candidates: Sequence[Counts]) -> list[float]:
    """Relative costs, in order; of the ranks of a launch the first asks for them."""
    return same_for_all(lambda: [fitness.price(each) for each in candidates])
