"""The runs behind EAPruning's claims at mini scale: searches of 300 candidates, and what comes of their plans.

    prunekit run claims E2 --seeds 5 --record
    prunekit run claims E3 E4 E5 E7 --record

E2 searches four networks, evolved and at random, from starts of uniform counts as in the paper; with `, spread` the
start draws a width for each candidate first, so that networks of all sizes occur (a stronger chance to beat). E3 to E7
start spread. A seed draws the images to rebuild on and for the error, the order in which units go, the search, and the
order of training.

E4, E5 and E7 compare networks of the same MACs, so each size has a search of its own, whose window is that size and two
points below, and what is taken is the least error inside it, of equals the cheapest. At these sizes many candidates
misclassify none of the images; the probability that the right class lacks still tells them apart, so it is their error.

E3's control is the same search of networks that are cut and not rebuilt: there the choice should matter, or equality
says nothing. E4's fine-tuning and E5's take 50 steps, at a tenth of the rate of training from scratch (more would undo
what least squares did); from scratch takes 150, three times as many, as in the paper (100 epochs and 300). E7 takes
E5's plans: "kept" is the mean of the heads and of the neurons that are left, of all, in the first of eight blocks, in
the next two, in the middle two, in two more, and in the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunekit.core import Heads
from prunekit.course.eapruning.data import Doubt, sources
from prunekit.course.eapruning.experiment import Lab, dense_model, prepare, trained
from prunekit.course.eapruning.preset import EaPruning, preset_of
from prunekit.course.experiments import Row, Stretch, carry_out, costs, runs_of, training
from prunekit.errors import BudgetError, InputError
from prunekit.methods import eapruning
from prunekit.methods.eapruning import Candidate, Choice, Found, Misclassified
from prunekit.methods.eapruning.search import How
from prunekit.methods.eapruning.space import Sampling

HELD = {"resnet": 200, "mobilenet": 200, "deit": 200, "segmenter": 16}  # images of the error: less than the preset's
TUNED, SCRATCH = ("tuned", 50, False), ("scratch", 150, True)  # name in the records, steps, fresh
PARTS = {"first": (0,), "early": (1, 2), "middle": (3, 4), "late": (5, 6), "last": (7,)}  # of DeiT's blocks


@dataclass(frozen=True)
class Way:
    """One run. rebuild: candidates get new weights, or are only cut. ratio: fraction of the MACs that its plan removes,
    to WINDOW; 0: the search alone. steps: of the training that follows, 0 = none; fresh: from scratch.
    """

    network: str
    how: How = "nsga3"
    sampling: Sampling = "spread"
    choose: Choice = "random"
    rebuild: bool = True
    heads: Heads = "number"
    ratio: float = 0.0
    steps: int = 0
    fresh: bool = False

    @property
    def window(self) -> tuple[float, float] | None:
        """Costs that its search wants; None: all."""
        return (1 - self.ratio - WINDOW, 1 - self.ratio) if self.ratio else None


SEARCHES = {
    "nsga3": ("nsga3", "uniform"),
    "random": ("random", "uniform"),
    "nsga3, spread": ("nsga3", "spread"),
    "random, spread": ("random", "spread"),
}
WINDOW = 0.02  # of the MACs: a plan removes its ratio, or up to so much more
PLANS = {"−24 %": 0.24, "−42 %": 0.42}  # the paper's 13.5 G and 10.3 G of 17.8 G
E4 = {"−30 %": 0.30, "−42 %": 0.42}  # its 12.5 G and 10.3 G


def ways(network: str) -> dict[str, dict[str, Way]]:
    """Claim -> method in the ledger -> run, for one network."""
    found = {"E2": {name: Way(network, how, start) for name, (how, start) in SEARCHES.items()}}  # type: ignore[arg-type]
    if network == "resnet":
        found["E3"] = {
            f"{choose} choice{note}": Way(network, choose=choose, rebuild=rebuild)  # type: ignore[arg-type]
            for choose in ("random", "l1")
            for rebuild, note in ((True, ""), (False, ", cut only"))
        }
    if network == "deit":
        tuned, fresh = (partial(Way, network, steps=steps, fresh=new) for _, steps, new in (TUNED, SCRATCH))
        found["E4"] = {
            f"{heads} {n}": tuned(heads=heads, ratio=r) for heads in ("number", "dimension") for n, r in E4.items()
        }
        found["E5"] = {
            **{f"from scratch {n}": fresh(ratio=r) for n, r in PLANS.items()},
            **{f"fine-tuned {n}": tuned(ratio=r) for n, r in PLANS.items()},
        }
        found["E7"] = {f"{part} {n}": Way(network, ratio=r) for n, r in PLANS.items() for part in PARTS}
    return found


NETWORKS = tuple(HELD)


class Bench:
    """Searches and networks, each made once."""

    def __init__(self, seed: int, out: Path) -> None:
        self.seed, self.out = seed, out
        self._labs: dict[Any, Lab] = {}

    def lab(self, way: Way) -> Lab:
        """The network, ready to be searched."""
        key = (way.network, way.choose, way.rebuild, way.heads, bool(way.ratio))
        if key not in self._labs:
            given = replace(preset(way.network), choose=way.choose, heads=way.heads)
            source = sources(given, None)
            lab = prepare(given, source, dense_model(given, source.classes), seed=self.seed)
            fitness = replace(lab.fitness, rebuild=way.rebuild)
            if way.ratio and isinstance(fitness.error, Misclassified):
                fitness = replace(fitness, error=Doubt(fitness.error.images, fitness.error.labels, fitness.error.batch))
            self._labs = {key: replace(lab, fitness=fitness)}
        return self._labs[key]

    def found(self, way: Way) -> Found:
        """Its search; what the folder holds is not evaluated again."""
        lab = self.lab(way)
        settings = replace(lab.preset.search, sampling=way.sampling, window=way.window, seed=self.seed)
        name = "-".join([way.network, way.how, way.sampling, way.choose, way.heads, str(self.seed)])
        name += ("" if way.rebuild else "-cut") + (f"-{way.ratio:g}" if way.ratio else "")
        return eapruning.search(lab.fitness, settings, how=way.how, checkpoint=self.out / name, quiet=True)

    def measure(self, way: Way) -> dict[str, Any]:
        """What the ledger gets."""
        lab, start = self.lab(way), time.perf_counter()
        found = self.found(way)
        waited = time.perf_counter() - start
        ends = found.hypervolumes()
        metrics: dict[str, Any] = {"hypervolume": ends[-1], "hypervolumes": list(ends)}
        metrics["earlier"] = max(0.0, found.seconds - waited)  # another run's search, or an earlier start's
        metrics["front"] = [[c.cost, c.error] for c in found.front()]
        if way.window is None:
            return metrics
        worth = taken(found, way.window)
        plan = found.space.plan(worth.counts)
        metrics |= {**costs(lab.groups, plan), "held_error": worth.error, "counts": list(worth.counts)}
        metrics["kept"] = kept(found.space, worth.counts)
        if way.steps:
            small = lab.rebuilder.small(worth.counts)
            task = training(stretch(way), lab.source.train, lab.source.loss, seed=self.seed)
            quiet = replace(task, config=replace(task.config, quiet=True))
            metrics |= {f"{name}_rebuilt": value for name, value in lab.source.measure(small).items()}
            metrics |= lab.source.measure(trained(lab, small, quiet, fresh=way.fresh, seed=self.seed, folder=None))
        return metrics


def taken(found: Found, window: tuple[float, float]) -> Candidate:
    """The least error inside the window, of equals the cheapest; a front's own may lie far below it. BudgetError when
    the search saw nothing there.
    """
    inside = [each for each in found.candidates() if window[0] <= each.cost <= window[1]]
    if not inside:
        raise BudgetError(
            f"no candidate has {window[0]:.1%} to {window[1]:.1%} of the MACs, of "
            f"{len(found.candidates())}: search longer."
        )
    return min(inside, key=lambda each: (each.error, each.cost, each.counts))


def stretch(way: Way) -> Stretch:
    """The preset's training, in as many steps."""
    return replace(replace(preset(way.network), fresh=way.fresh).training, steps=way.steps)


def kept(space: eapruning.Space, counts: eapruning.Counts) -> dict[str, float]:
    """Part of DeiT -> the fraction of its heads and neurons that stays; empty for other networks."""
    shares: dict[int, list[float]] = {}
    for name, count, size in zip(space.names, counts, space.whole, strict=True):
        if name.startswith("blocks."):
            shares.setdefault(int(name.split(".")[1]), []).append(count / size)
    if not shares:
        return {}
    return {part: sum(sum(shares[b]) / len(shares[b]) for b in blocks) / len(blocks) for part, blocks in PARTS.items()}


def preset(network: str) -> EaPruning:
    """The mini preset with fewer images for the error, since there are many searches."""
    given = preset_of("mini", network)
    return replace(given, held=HELD[network], images=given.images if network != "segmenter" else 30)


def settings(claim: str, way: Way) -> Mapping[str, Any]:
    """What the runs of a comparison share."""
    given = preset(way.network)
    shared = {
        "model": given.model,
        "dataset": given.dataset,
        "budget": given.search.budget,
        "images": given.images,
        "held": given.held,
        "samples": given.samples,
        "step": given.step,
    }
    if way.ratio:
        shared |= {"window": WINDOW, "error": "doubt"}
    trainings = {"E4": (TUNED,), "E5": (TUNED, SCRATCH)}.get(claim, ())
    for name, steps, fresh in trainings:
        how = stretch(replace(way, steps=steps, fresh=fresh))
        used = {"steps": steps, "batch": how.batch, "lr": how.lr, "warmup": how.config(seed=0).warmup}
        shared |= {f"{name}_{key}": value for key, value in used.items()}
    return shared


def run(claims: Iterable[str], *, seeds: int, out: Path, networks: Iterable[str] = NETWORKS) -> None:
    """Do what the ledger does not hold yet, one record for every claim that a run is for."""
    wanted = list(claims)
    known = {claim for network in NETWORKS for claim in ways(network)}
    if unknown := [claim for claim in wanted if claim not in known]:
        raise InputError(f"no runs for {unknown[0]!r}; there are: {', '.join(sorted(known))}.")
    todo: dict[tuple[int, Way], list[Row]] = {}
    for network in networks:
        there = ways(network)
        todo |= runs_of([claim for claim in wanted if claim in there], there, seeds=seeds, settings=settings)
    benches = {seed: Bench(seed, out / "eapruning") for seed in range(seeds)}
    carry_out(todo, lambda one: benches[one[0]].measure(one[1]), of=_of)


def _of(row: Row, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """E7 is about one part of the network."""
    if row.claim != "E7":
        return metrics
    return {**metrics, "kept": metrics["kept"][row.method.split()[0]], "parts": metrics["kept"]}
