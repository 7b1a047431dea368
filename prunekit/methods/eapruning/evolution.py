"""NSGA-III (Deb and Jain, IEEE TEVC 2014) by pymoo: who is crossed, who mutates, who survives.

Asked for candidates and told their values, in turn. All chance comes from the seed, so the same values give the same
candidates: that is what makes a search repeatable from the table of its evaluations alone.

The paper prints no operators. Ours: each count from either parent (uniform crossover), two counts a child mutated on
the average (polynomial, eta 3, rounded). They were chosen on a known function of ten groups, not on a network; the test
compares them with chance, on that one and on another, with other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunekit.errors import MissingDependencyError
from prunekit.methods.eapruning.space import Counts, Space
from prunekit.methods.eapruning.workers import Values


class Evolution:
    """ask() -> candidates to evaluate, tell(values) -> the next generation. window: of allowed costs."""

    def __init__(
        self,
        space: Space,
        first: Sequence[Counts],
        offspring: int,
        *,
        directions: int | None = None,
        window: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.space, self.window = space, window
        many = min(directions or len(first), len(first))  # a small space has fewer candidates than were asked for
        self.algorithm = _nsga3(space, first, offspring, many, window is not None, seed)
        self._asked: Any = None

    def ask(self) -> list[Counts]:
        """A generation's candidates; those that are alike, or as their parents, are there once. Empty: none are new."""
        self._asked = self.algorithm.ask()
        if self._asked is None:
            return []
        return [self.space.counts(levels) for levels in self._asked.get("X")]

    def tell(self, values: Sequence[Values]) -> None:
        """(error, cost) of each, in the order asked."""
        self._asked.set("F", np.array(values, dtype=float))
        if self.window:
            low, high = self.window
            self._asked.set("G", np.array([[low - cost, cost - high] for _, cost in values]))
        self.algorithm.evaluator.n_eval += len(values)
        self.algorithm.tell(infills=self._asked)

    def survivors(self) -> list[Counts]:
        """The population as it is."""
        return [self.space.counts(levels) for levels in self.algorithm.pop.get("X")]


def _nsga3(space: Space, first: Sequence[Counts], offspring: int, directions: int, constrained: bool, seed: int) -> Any:
    try:
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.ux import UX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.selection.tournament import TournamentSelection
        from pymoo.util.ref_dirs import get_reference_directions
    except ImportError as err:
        raise MissingDependencyError("NSGA-III needs pymoo: pip install 'prunekit[evolution]'.") from err
    levels, step = space.levels, np.array([space.step[name] for name in space.names])
    start: Any = levels - (np.array(space.whole) - np.array(first)) // step
    start = start.astype(float)
    crossover: Any = UX(prob=0.9)
    algorithm = NSGA3(
        get_reference_directions("das-dennis", 2, n_partitions=max(1, directions - 1)),
        pop_size=len(first),
        n_offsprings=offspring,
        sampling=start,
        selection=TournamentSelection(func_comp=_nearer),
        crossover=crossover,
        mutation=PM(eta=3, prob_var=min(0.5, 2 / len(levels)), vtype=float, repair=RoundingRepair()),
    )
    problem = Problem(n_var=len(levels), n_obj=2, n_ieq_constr=2 if constrained else 0, xl=0, xu=levels, vtype=float)
    return algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)


def _nearer(pop: Any, pairs: np.ndarray, *, random_state: np.random.Generator, **_: Any) -> np.ndarray:
    """Of each pair the one that misses the window by less, of equals either: NSGA-III's own tournament in pymoo, which
    asks dice without a seed when two miss it by the same.
    """
    off = pop.get("CV")[:, 0]
    won = [(a if off[a] < off[b] else b) if off[a] != off[b] else random_state.choice([a, b]) for a, b in pairs]
    return np.array(won)[:, None]
