"""Two ways to choose channels that are no scores: another solver of the clique problem, another criterion's choice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.course.bench import METHODS, Evidence
from prunekit.methods import sirfp
from prunekit.methods.sirfp.clique import clique_weight, ehgp
from prunekit.methods.sirfp.solvers import tabu
from prunekit.observe import still


class Borrowed:
    """SIRFP's widths, with another criterion's channels."""

    def __init__(self, see: Evidence, method: str) -> None:
        self.see, self.method = see, method
        self.others = Scores()

    def score(self, model: nn.Module, groups: Groups) -> Scores:
        """SIRFP's scores; the other criterion's are kept."""
        self.others = METHODS[self.method](model, groups, self.see)
        return sirfp.score(model, groups, self.see.batches)

    def plan(self, plan: Callable[..., PruningPlan], groups: Groups, scores: Scores, **target: Any) -> PruningPlan:
        """As many channels of each layer as SIRFP keeps, those that the other criterion scores highest."""
        widths = plan(groups, scores, **target)
        keep = {n: tuple(sorted(self.others[n].topk(len(kept)).indices.tolist())) for n, kept in widths.keep.items()}
        return PruningPlan(widths.sizes, keep, f"{self.method}, widths: {widths.note}")

    def metrics(self) -> dict[str, float]:
        """Nothing beside the usual."""
        return {}


class Solved:
    """EHGP's widths, with the channels chosen by another solver of the same clique problem (Table 6).

    reversed: the clique that weighs least, greedily, which is what the paper's printed Algorithm 1 looks for.
    seconds: of the solves of all cuts. weight: edge weight at the last cut, relative to EHGP's. Both of this process: a
    run that was stopped after its last cut does not know them.
    """

    def __init__(self, see: Evidence, method: str) -> None:
        self.see, self.method = see, method
        self.edges: dict[str, Tensor] = {}
        self.seconds, self.weight = 0.0, 0.0

    def score(self, model: nn.Module, groups: Groups) -> Scores:
        """EHGP's scores; the edge weights are kept."""
        observer = sirfp.Observer(groups, decay=1 - 1e-12)
        with observer.watching(model), still(model, groups):
            for images, _ in self.see.batches:
                model(images)
        self.edges = dict(observer.edges)
        return observer.scores(groups)

    def plan(self, plan: Callable[..., PruningPlan], groups: Groups, scores: Scores, **target: Any) -> PruningPlan:
        """The plan with each layer's set solved anew."""
        greedy = plan(groups, scores, **target)
        start = time.perf_counter()
        keep = {name: self.solve(self.edges[name], len(kept)) for name, kept in greedy.keep.items()}
        self.seconds += time.perf_counter() - start
        reached, base = (
            sum(clique_weight(self.edges[name], kept[name]) for name in keep) for kept in (keep, greedy.keep)
        )
        self.weight = reached / base
        return PruningPlan(greedy.sizes, keep, f"{self.method}: {greedy.note}")

    def metrics(self) -> dict[str, float]:
        """For the ledger."""
        return {"solver_seconds": self.seconds, "edge_weight": self.weight} if self.weight else {}

    def solve(self, a_UU: Tensor, size: int) -> tuple[int, ...]:
        """Channels to keep."""
        if self.method == "tabu":
            return tabu(a_UU, size, steps=2000)
        return ehgp(a_UU if self.method == "ehgp" else -a_UU).keep(size)
