"""EAPruning from data to a small network: rebuild and evaluate candidates, evolve, choose from the front, train.

    prunekit run eapruning                                                      # crops of scenes, on a laptop
    prunekit run eapruning --dataset deit --macs-ratio 0.4 --processes 2
    prunekit run eapruning --scale full --dataset resnet50 --root data/imagenet
    accelerate launch -m prunekit.cli run eapruning --scale full ...            # many GPUs share out the candidates

Stop it and start it again with the same arguments: it goes on where it was. Files in out/eapruning-DATASET-MODEL-...,
a folder for each ratio, cost, choice and seed:

    dense/          checkpoints of training     search/     every candidate's error and cost
    tuned-PLAN/     those of the chosen one     seconds-*   of the trainings, all starts
    plans/NN.json   plans along the front       plan.json   the chosen one
    front.png       the front by generation     small/      the result, for `load_pruned`
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan
from prunekit.course import ledger
from prunekit.course.eapruning.data import Sources, sources, split
from prunekit.course.eapruning.preset import MODELS, EaPruning
from prunekit.course.experiments import Clock, costs, fetched, first_process, own_device, same_run, training
from prunekit.course.presets import Scale
from prunekit.errors import BudgetError, InputError
from prunekit.methods import eapruning
from prunekit.models import zoo
from prunekit.plan import latency_of
from prunekit.progressive import Training
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune, save_pruned
from prunekit.train import finetune
from prunekit.train.config import Precision
from prunekit.widgets import front_strip

CLAIM = "eapruning"


@dataclass(frozen=True)
class Outcome:
    """model: small and trained. found: the search. certificate: of the cut, before weights were rebuilt. metrics: what
    the ledger got.
    """

    model: nn.Module
    plan: PruningPlan
    found: eapruning.Found
    certificate: Certificate
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """A dense network ready to be searched: data, space, least squares."""

    preset: EaPruning
    source: Sources
    model: nn.Module
    groups: Groups
    fitness: eapruning.Fitness

    @property
    def rebuilder(self) -> eapruning.Rebuilder:
        """Of the fitness."""
        return self.fitness.rebuilder


def prepare(preset: EaPruning, source: Sources, model: nn.Module, *, seed: int = 0, workers: int = 0) -> Lab:
    """Gather and factor. seed: which images, and which units stay."""
    batches, error = split(preset, source, next(model.parameters()).device, seed=seed, workers=workers)
    groups, space, x = searched(preset, model, seed=seed)
    ready = eapruning.rebuilder(model, space, batches, samples=preset.samples, first=preset.tokens, seed=seed)
    cost = latency_of(model, groups, x) if preset.cost == "latency" else preset.cost
    return Lab(preset, source, model, groups, eapruning.Fitness(ready, error, cost))


def searched(preset: EaPruning, model: nn.Module, *, seed: int = 0) -> tuple[Groups, eapruning.Space, Tensor]:
    """The network's groups, what the search may choose from, and an input. Nothing is trained or evaluated for it.

    InputError for heads that a network without attention does not have, BudgetError for a ratio that the smallest
    candidate does not reach (a time is not measured for it).
    """
    x = torch.zeros(1, 3, *preset.size, device=next(model.parameters()).device)
    groups = find_groups(model, x, heads=preset.heads)
    if preset.heads == "dimension" and not any(group.kind == "head_dim" for group in groups.values()):
        raise InputError(f"{preset.model} has no attention, so its heads have no dimension: leave --heads out.")
    space = eapruning.space(model, groups, choose=preset.choose, step=preset.step, seed=seed)
    if preset.cost != "latency":
        count = space.macs if preset.cost == "macs" else space.params
        least = count(space.counts(0 * space.levels)) / count(space.whole)
        if least > 1 - preset.macs_ratio:
            raise BudgetError(
                f"--macs-ratio {preset.macs_ratio:g} is out of reach: the smallest candidate of {preset.model} still "
                f"has {least:.1%} of the {preset.cost}. Give at most {math.floor(1000 * (1 - least)) / 1000}."
            )
    return groups, space, x


def dense_model(preset: EaPruning, classes: int, *, seed: int = 0) -> nn.Module:
    """The stored network for scenes and their crops, the paper's by timm's hub, else a mini one with random weights."""
    torch.manual_seed(seed)
    if preset.model in MODELS:
        return fetched(lambda: MODELS[preset.model](pretrained=preset.pretrained, num_classes=classes))
    stored = preset.dataset in ("crops", "scenes")
    return zoo.load(preset.model) if stored else zoo.build(preset.model, classes=classes)


def trained(lab: Lab, small: nn.Module, task: Training, *, fresh: bool, seed: int, folder: Path | None) -> nn.Module:
    """The chosen network, from its rebuilt weights or from scratch."""
    start = eapruning.from_scratch(small, lab.model, seed=seed) if fresh else small
    return finetune(start, task.loader, task.config, loss_fn=task.loss_fn, checkpoint=folder).model


class Starts:
    """The seconds of a run that was stopped and started again: this start's, and what earlier ones put into stages
    whose results a checkpoint still holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.begun, self.earlier = folder, time.perf_counter(), 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Gives the folder of a training's checkpoints."""
        with Clock(self.folder / f"seconds-{name}.json") as clock:
            self.earlier += clock.before
            yield self.folder / name
            clock.total()

    def search(self, fitness: eapruning.Fitness, settings: eapruning.Settings, processes: int) -> eapruning.Found:
        """As eapruning's, kept in the folder."""
        start = time.perf_counter()
        found = eapruning.search(fitness, settings, processes=processes, checkpoint=self.folder / "search")
        self.earlier += max(0.0, found.seconds - (time.perf_counter() - start))
        return found

    def total(self) -> float:
        """Until now."""
        return self.earlier + time.perf_counter() - self.begun


def run(
    preset: EaPruning,
    *,
    scale: Scale,
    root: Path | None,
    out: Path,
    seed: int = 0,
    precision: Precision = "no",
    workers: int = 0,
    processes: int = 1,
) -> Outcome:
    """All of it, with the result in the ledger. processes: local ones that share out the candidates.

    Raises the errors of the readers, of eapruning.search and of finetune; those of `searched`, before anything is
    trained; BudgetError when the search found nothing as small as asked.
    """
    starts = Starts(out / f"{preset.folder}-{seed}")
    source, folder = sources(preset, root), starts.folder
    learn = partial(training, seed=seed, precision=precision, workers=workers)
    model = dense_model(preset, source.classes, seed=seed).to(own_device())
    searched(preset, model)  # what cannot be, before hours of training
    same_run(folder, preset.tune.config(seed=seed, precision=precision), preset, root, but=("search",))
    if preset.pretrain:
        task = learn(preset.pretrain, source.train, source.loss)
        with starts.stage("dense") as there:
            model = finetune(model, task.loader, task.config, loss_fn=task.loss_fn, checkpoint=there).model
    lab = prepare(preset, source, model, seed=seed, workers=workers)
    found = starts.search(lab.fitness, replace(preset.search, seed=seed), processes)
    if (smallest := found.front()[0].cost) > 1 - preset.macs_ratio:
        raise BudgetError(
            f"the search found nothing as small as --macs-ratio {preset.macs_ratio:g} asks, its smallest has "
            f"{smallest:.1%} of the cost: give more --generations, or a smaller ratio."
        )
    plan, worth = found.within(1 - preset.macs_ratio)
    x = torch.randn(1, 3, *preset.size, generator=torch.Generator().manual_seed(0)).to(own_device())
    certificate = check_equivalence(model, prune(model, lab.groups, plan), lab.groups, plan, x)
    rebuilt = lab.rebuilder.small(worth.counts)
    task = learn(preset.training, source.train, source.loss)
    with starts.stage(f"tuned-{digest(plan)}") as there:  # a longer search may choose another plan
        small = trained(lab, rebuilt, task, fresh=preset.fresh, seed=seed, folder=there)
    metrics: dict[str, Any] = {}
    if first_process():
        measure = partial(source.measure, workers=workers)
        before = {
            f"{source.score}_{name}": measure(net)[source.score]
            for name, net in (("dense", model), ("rebuilt", rebuilt))
        }
        metrics = {**measure(small), **before, **costs(lab.groups, plan), "hypervolume": found.hypervolumes()[-1]}
        metrics |= {"held_error": worth.error, "cost": worth.cost, "certificate": certificate.max_error}
        _leave(found, plan, small, folder, preset)
        _report(preset, source, plan, metrics, scale=scale, seed=seed, seconds=starts.total())
    return Outcome(small, plan, found, certificate, metrics)


def digest(plan: PruningPlan) -> str:
    """The same eight letters for the same units."""
    return hashlib.sha256(json.dumps(sorted(plan.keep.items())).encode()).hexdigest()[:8]


def _leave(found: eapruning.Found, plan: PruningPlan, small: nn.Module, folder: Path, preset: EaPruning) -> None:
    """Plans, the small network, the picture."""
    (folder / "plans").mkdir(parents=True, exist_ok=True)
    for place, (each, _) in enumerate(found.plans(preset.plans)):
        each.save(folder / "plans" / f"{place:02d}.json")
    plan.save(folder / "plan.json")
    save_pruned(folder / "small", small, plan)
    cost = {"macs": "MACs"}.get(preset.cost, preset.cost)
    front_strip(found.points(), cost=cost).savefig(folder / "front.png", dpi=120)


def _report(
    preset: EaPruning,
    source: Sources,
    plan: PruningPlan,
    metrics: dict[str, Any],
    *,
    scale: Scale,
    seed: int,
    seconds: float,
) -> None:
    name, how = source.score, "from scratch" if preset.fresh else "fine-tuned"
    dense, rebuilt = metrics[f"{name}_dense"], metrics[f"{name}_rebuilt"]
    print(f"{plan.note}\n{name}: dense {dense:.3f}, rebuilt {rebuilt:.3f}, {how} {metrics[name]:.3f}", flush=True)
    settings = {
        "dataset": preset.dataset,
        "model": preset.model,
        "image": list(preset.size),
        "macs_ratio": round(preset.macs_ratio, 4),
        "budget": preset.search.budget,
        **{name: getattr(preset.search, name) for name in ("population", "offspring", "generations", "sampling")},
        **{name: getattr(preset.training, name) for name in ("steps", "batch", "lr")},
        **{name: getattr(preset, name) for name in ("images", "held", "samples", "step", "cost", "choose", "heads")},
    }
    ledger.record(CLAIM, method=how, seed=seed, scale=scale, settings=settings, metrics=metrics, seconds=seconds)
