"""The search: ask for a generation, evaluate what is new, tell the values, keep the table; or random, as many.

The table of evaluations is the whole checkpoint. A search that was stopped is run again from its seed with the values
that the table has, which takes milliseconds a generation, and goes on where they end: the result is that of an unbroken
search, whatever was in pymoo's memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from torch import nn

from prunekit.core import PruningPlan
from prunekit.errors import BudgetError, InputError, ScoreError
from prunekit.methods.eapruning.bar import progress
from prunekit.methods.eapruning.evolution import Evolution
from prunekit.methods.eapruning.fitness import Fitness
from prunekit.methods.eapruning.front import Candidate, along, check_window, front, hypervolume
from prunekit.methods.eapruning.sharing import prices, sharing
from prunekit.methods.eapruning.space import Counts, Sampling, Space
from prunekit.methods.eapruning.table import Evaluations
from prunekit.methods.eapruning.workers import same_for_all

How = Literal["nsga3", "random"]


@dataclass(frozen=True)
class Settings:
    """population: candidates of the start and of each generation; offspring: new ones a generation; so population +
    generations * offspring are evaluated. sampling: of the start, see Space.draw. directions: NSGA-III's reference
    directions, as many as the population without; fewer in a space that has fewer candidates. window: costs that are
    allowed, fractions of the whole network's.
    """

    population: int = 64
    offspring: int = 50
    generations: int = 30
    sampling: Sampling = "uniform"
    directions: int | None = None
    window: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.population, self.offspring, self.generations)
        if not all(type(n) is int and n >= 1 for n in counts) or self.population < 4:
            raise InputError(
                f"population, offspring and generations are {counts}; give whole numbers, the first from 4 "
                "on, the others from 1 on."
            )
        if type(self.seed) is not int or self.seed < 0:
            raise InputError(f"seed is a whole number from 0 on, got {self.seed!r}.")
        if self.directions is not None and (
            type(self.directions) is not int or not 2 <= self.directions <= self.population
        ):
            raise InputError(
                f"a population of {self.population} for {self.directions} reference directions: each wants one "
                "candidate of its own, and a front has two ends. Make population larger, or directions 2 or more."
            )
        if self.window is not None:
            check_window(self.window)

    @property
    def budget(self) -> int:
        """Candidates that are evaluated in all."""
        return self.population + self.generations * self.offspring


@dataclass(frozen=True)
class Found:
    """What a search found. generations: the candidates asked for, the start first. populations: who survived. fitness:
    by which they were judged; it holds the factors, so they stay in memory as long as this does. seconds: that
    evaluating took, those of earlier starts included.
    """

    fitness: Fitness = field(repr=False, compare=False)
    generations: tuple[tuple[Candidate, ...], ...]
    populations: tuple[tuple[Candidate, ...], ...]
    seconds: float = field(default=0.0, compare=False)

    @property
    def space(self) -> Space:
        """Which counts there are, and who stays."""
        return self.fitness.rebuilder.space

    def candidates(self, generation: int | None = None) -> tuple[Candidate, ...]:
        """All that were evaluated, up to a generation (0 = the start)."""
        last = len(self.generations) if generation is None else generation + 1
        return tuple(each for one in self.generations[:last] for each in one)

    def front(self, generation: int | None = None) -> tuple[Candidate, ...]:
        """Those that none beats, of all evaluated up to a generation; the cheapest first."""
        return front(self.candidates(generation))

    def hypervolumes(self, *, of: Literal["all", "population"] = "all") -> tuple[float, ...]:
        """After each generation: of all candidates so far (never falls), or of the surviving population alone."""
        if of not in ("all", "population"):
            raise InputError(f"of is 'all' or 'population', got {of!r}.")
        if of == "population":
            return tuple(hypervolume(one) for one in self.populations)
        return tuple(hypervolume(self.candidates(n)) for n in range(len(self.generations)))

    def points(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """(cost, error) of each generation's candidates, for pictures."""
        return tuple(tuple((c.cost, c.error) for c in one) for one in self.generations)

    def small(self, counts: Counts) -> nn.Module:
        """The network that a candidate's error was measured on, cut to size: a new model with rebuilt weights. A plan
        alone is the cut, so `prune(model, groups, plan)` has the old weights. PlanError for a foreign candidate.
        """
        return self.fitness.rebuilder.small(counts, rebuild=self.fitness.rebuild)

    def within(self, cost: float) -> tuple[PruningPlan, Candidate]:
        """The plan of the least error that costs at most so much, and the candidate that it cuts; `small` makes its
        network. BudgetError when nothing is as cheap.
        """
        whole = self.front()
        best = along(whole, len(whole), window=(0.0, cost))[-1]
        return _noted(self.space, best), best

    def plans(
        self, number: int, *, window: tuple[float, float] = (0.0, 1.0)
    ) -> tuple[tuple[PruningPlan, Candidate], ...]:
        """Plans along the front, the cheapest first, with what they are worth once `small` has rebuilt the weights;
        see front.along for what is raised.
        """
        return tuple((_noted(self.space, each), each) for each in along(self.candidates(), number, window=window))


def search(
    fitness: Fitness,
    settings: Settings,
    *,
    how: How = "nsga3",
    processes: int = 1,
    checkpoint: str | Path | None = None,
    quiet: bool = False,
    on_generation: Callable[[Found], None] | None = None,
) -> Found:
    """NSGA-III over the fitness's space, or as many candidates at random.

    processes: local ones that share out each generation; under `accelerate launch` its processes do. The result does
    not depend on it. checkpoint: a folder; what it holds of this very search is not evaluated again, and with more
    generations the search goes on. on_generation: called with what was found so far, e.g. to draw it.
    Raises InputError for a checkpoint with an error or cost that cannot say what it is, MissingDependencyError without
    pymoo, BudgetError for a window out of reach, CheckpointError (damaged, or of another search), RuntimeFailure when
    workers die over a candidate, and what the fitness raises.
    """
    if how not in ("nsga3", "random"):
        raise InputError(f"how is 'nsga3' or 'random', got {how!r}.")
    space = fitness.rebuilder.space
    first = _first(fitness, settings)
    source = _evolved(space, first, settings) if how == "nsga3" else _drawn(space, settings)
    identity = {"how": how, "settings": asdict(settings), "space": space.describe(), **fitness.describe()}
    if checkpoint is not None:
        fitness.refuse_nameless()
    table = Evaluations.open(checkpoint, identity, fitness.rebuilder.model)
    generations: list[tuple[Candidate, ...]] = []
    populations: list[tuple[Candidate, ...]] = []
    with sharing(fitness, processes) as evaluate, progress(settings.budget, quiet) as show:
        for asked, answer in source:
            with table.kept() as put:
                new = [counts for counts in dict.fromkeys(asked) if counts not in table.values]
                for place, values in evaluate(new):
                    put(new[place], values)
                    show(table, generations)
            generations.append(tuple(Candidate(counts, *table.values[counts]) for counts in asked))
            survivors = answer([table.values[counts] for counts in asked])
            populations.append(tuple(Candidate(counts, *table.values[counts]) for counts in survivors))
            show(table, generations)
            if on_generation:
                on_generation(Found(fitness, tuple(generations), tuple(populations), table.seconds))
    found = Found(fitness, tuple(generations), tuple(populations), table.seconds)
    _warn_of_an_empty_window(found, settings)
    return found


def _warn_of_an_empty_window(found: Found, settings: Settings) -> None:
    costs = sorted(each.cost for each in found.candidates())
    if settings.window and not any(settings.window[0] <= cost <= settings.window[1] for cost in costs):
        low, high = settings.window
        below, above = [c for c in costs if c < low][-1:], [c for c in costs if c > high][:1]
        nearest = " and ".join(f"{cost:.2%}" for cost in below + above)
        warnings.warn(
            f"eapruning: no candidate has {low:.2%} to {high:.2%} of the cost, the nearest have {nearest}. Widen the "
            "window, or search longer.",
            RuntimeWarning,
            stacklevel=3,
        )


Round = tuple[list[Counts], Callable[[list[tuple[float, float]]], list[Counts]]]  # asked, values -> survivors


def _evolved(space: Space, first: list[Counts], settings: Settings) -> Iterator[Round]:
    evolution = Evolution(
        space,
        first,
        settings.offspring,
        directions=settings.directions,
        window=settings.window,
        seed=settings.seed,
    )

    def told(values: list[tuple[float, float]]) -> list[Counts]:
        evolution.tell(values)
        return evolution.survivors()

    for _ in range(settings.generations + 1):
        asked = evolution.ask()
        if not asked:
            return  # a small space: all that could come has been
        yield asked, told


def _drawn(space: Space, settings: Settings) -> Iterator[Round]:
    """The same number of candidates, the same share at a time; nobody is chosen, so all survive."""
    every = space.draw(settings.budget, seed=settings.seed, how=settings.sampling)
    edges = [0, *range(settings.population, settings.budget + 1, settings.offspring)]
    for start, stop in pairwise(edges):
        part = every[start:stop]
        if part:
            yield part, lambda values, stop=stop: every[:stop]


def _first(fitness: Fitness, settings: Settings) -> list[Counts]:
    """The start. With a window: BudgetError unless the space reaches it."""
    space = fitness.rebuilder.space
    whole = same_for_all(lambda: fitness.whole)  # a time is measured here, once for all workers
    if not 0 < whole < float("inf"):
        raise ScoreError(f"the whole network's cost is {whole}; a cost is a positive number.")
    if settings.window:
        low, high = settings.window
        least, most = prices(fitness, [space.counts(levels) for levels in (0 * space.levels, space.levels)])
        if low > most or high < least:
            raise BudgetError(
                f"the window {low:.1%} to {high:.1%} of the cost cannot be reached: these groups go from "
                f"{least:.1%} to {most:.1%}. Move the window, or make the space with a larger max_ratio."
            )
    return space.draw(settings.population, seed=settings.seed, how=settings.sampling)


def _noted(space: Space, each: Candidate) -> PruningPlan:
    plan = space.plan(each.counts)
    note = f"eapruning, {each.cost:.1%} of the cost, error {each.error:.4f} after rebuilding"
    return PruningPlan(plan.sizes, plan.keep, note)
