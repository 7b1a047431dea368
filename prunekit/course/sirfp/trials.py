"""The runs behind SIRFP's claims at mini scale: every criterion, metric, resolution and solver in one pipeline.

    prunekit run claims S1 S2 S3 S4 S7 S8 --record

All start from one dense network and go through the same two cuts with the same fine-tuning (GSRL, same images in the
same order for a seed); only the scores differ, or the solver. A seed draws the images that are looked at and the order
of training. The network comes trained and is observed on some batches, without pre-training, so that all criteria see
the same weights. Stop it and start it again: it goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from torch import nn
from torch.utils.data import DataLoader

from prunekit.core import Groups, Scores
from prunekit.course import bench
from prunekit.course.bench import METHODS, Evidence, evidence
from prunekit.course.experiments import Row, carry_out
from prunekit.course.presets import BENCH
from prunekit.course.quickstart import train_config
from prunekit.course.setup import pick_device
from prunekit.course.sirfp.choices import Borrowed, Solved
from prunekit.course.sirfp.experiment import images_of
from prunekit.course.tasks import Task, load_task
from prunekit.data.crops import BalancedCrops
from prunekit.errors import InputError
from prunekit.methods import sirfp
from prunekit.models import zoo
from prunekit.plan import How, Limits, budget_plan
from prunekit.profiling import latency_ms
from prunekit.progressive import Cut, Training, progressive
from prunekit.surgery import find_groups, prune
from prunekit.train import gsrl_loss

STEPS = (30, 60)  # of fine-tuning after each of the two cuts
Score = Callable[[nn.Module, Groups], Scores]


@dataclass(frozen=True)
class Trial:
    """One run. method: its name in the claim's records."""

    claim: str
    method: str
    ratio: float
    how: How
    seed: int


SIRFP: dict[str, dict[str, dict[str, Any]]] = {  # claim -> method -> what differs from the library's defaults
    "S2": {metric: {"metric": metric} for metric in ("js", "kl", "dice", "dot")},
    "S3": {size: {"resolution": size} for size in ("vector", "quarter", "half", "full", "twice")},
    "S8": {
        "softmax, sum": {},
        "softmax, mean": {"score_scale": "mean"},
        "|map|, sum": {"normalize_map": "sum"},
        "|map|, mean": {"normalize_map": "sum", "score_scale": "mean"},
    },
}
OURS = ({}, {"metric": "js"}, {"resolution": "full"})  # the library's defaults, spelt out
WIDTHS = " in sirfp's widths"  # the other half of the question: who chooses how many, who chooses which
CRITERIA = ("random", "slimming", "taylor", "depgraph", "fpgm", "dcfp", "sirfp")
SOLVERS = ("ehgp", "tabu", "reversed")
SPEEDS = {"60 %": 0.6, "70 %": 0.7, "80 %": 0.8}


def trials(claim: str, seeds: int) -> list[Trial]:
    """What a claim needs, the first seed of everything first. InputError for a claim without runs, or no seed."""
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give a whole number from 1 on.")
    if claim == "S1":
        cells = [_cell(method, how) for how in get_args(How) for method in CRITERIA]
        cells += [_cell(method + WIDTHS) for method in ("random", "fpgm")]
    elif claim == "S4":
        cells = [_cell(method) for method in SOLVERS]
    elif claim == "S7":
        cells = [_cell(method, ratio=ratio) for method, ratio in SPEEDS.items()]
    elif claim in SIRFP:
        cells = [_cell(method) for method in SIRFP[claim]]
    else:
        raise InputError(f"no runs for {claim!r}; there are: S1, S4, S7, {', '.join(SIRFP)}.")
    return [Trial(claim, method, ratio, how, seed) for seed in range(seeds) for method, ratio, how in cells]


def _cell(method: str, how: How = "global", *, ratio: float = 0.75) -> tuple[str, float, How]:
    return method, ratio, how


def run(claims: Iterable[str], *, seeds: int, out: Path) -> None:
    """Do what the ledger does not hold yet, one record a run."""
    todo = [trial for claim in claims for trial in trials(claim, seeds)]
    rows = {each: [Row(each.claim, each.method, each.seed, settings(each))] for each in todo}
    task, dense = load_task("scenes"), zoo.load(BENCH["mini"].model)
    crops = BalancedCrops(task.train, BENCH["mini"].training.size)
    carry_out(
        rows, lambda each: speed(each, task, dense) if each.claim == "S7" else accuracy(each, task, crops, dense, out)
    )


def settings(trial: Trial) -> dict[str, Any]:
    """What a run shares with those it is compared with; speed is a comparison of ratios."""
    preset = BENCH["mini"].training
    same = {"model": BENCH["mini"].model, "dataset": "scenes", "how": trial.how, "score_batches": 4, "max_ratio": 0.9}
    if trial.claim == "S7":
        return {**same, "image": [512, 1024], "threads": 1, "device": "cpu", "round_to": 8}
    tuning = {"macs_ratio": trial.ratio, "steps": list(STEPS), "batch": preset.batch, "lr": preset.lr}
    return {**same, **tuning, "image": list(preset.size), "round_to": preset.round_to}


def accuracy(trial: Trial, task: Task, crops: BalancedCrops, dense: nn.Module, out: Path) -> dict[str, Any]:
    """Two cuts with fine-tuning between, and the mIoU in the end."""
    see = evidence(task, BENCH["mini"], trial.seed)
    preset = BENCH["mini"].training
    dense, x = dense.to(pick_device()), task.examples(1)[0].to(pick_device())
    loader = DataLoader(crops, preset.batch, shuffle=True, drop_last=True)
    configs = [train_config(replace(preset, tune_steps=n), seed=trial.seed, tune=True, quiet=True) for n in STEPS]
    first, last = (Training(config, loader, partial(gsrl_loss, window=3), images_of) for config in configs)
    planner = planner_of(trial, see)
    limits = Limits(max_ratio=0.9, round_to=preset.round_to)
    # redundancies are compared over layers as they are; other criteria have a scale of their own in each layer
    normalize = "none" if trial.method not in CRITERIA or trial.method == "sirfp" else "mean"
    plan = partial(budget_plan, how=trial.how, normalize=normalize, limits=limits)
    score = planner.score if planner else scorer(trial, see)
    found = progressive(
        dense,
        x,
        [Cut(trial.ratio / 2, first), Cut(trial.ratio, last)],
        out / f"{name_of(trial)}-{trial.ratio:g}-{trial.how}-{trial.seed}",
        score=score,
        plan=partial(planner.plan, plan) if planner else plan,
        measure=lambda model: {} if model is dense else bench.measured(model, task, x),
    )
    end = found.stages[-1]
    extra = planner.metrics() if planner else {}
    return {**end.tuned, "miou_before_tuning": end.cut["miou"], **extra}


def planner_of(trial: Trial, see: Evidence) -> Solved | Borrowed | None:
    """What chooses channels otherwise than by the highest scores; None for nothing."""
    if trial.claim == "S4":
        return Solved(see, trial.method)
    return Borrowed(see, trial.method.removesuffix(WIDTHS)) if trial.method.endswith(WIDTHS) else None


def name_of(trial: Trial) -> str:
    """The run's folder; claims that ask for the same run share it."""
    ours = trial.method == "sirfp" or SIRFP.get(trial.claim, {}).get(trial.method) in OURS
    return "sirfp" if ours else f"{trial.claim}-{re.sub('[^a-z]+', '-', trial.method)}"


def scorer(trial: Trial, see: Evidence) -> Score:
    """score(model, groups) of one run."""
    if name_of(trial) == "sirfp":
        return partial(sirfp.score, batches=see.batches)
    if trial.claim == "S1":
        return lambda model, groups: METHODS[trial.method](model, groups, see)
    return partial(sirfp.score, batches=see.batches, **SIRFP[trial.claim][trial.method])


def speed(trial: Trial, task: Task, dense: nn.Module) -> dict[str, Any]:
    """How much faster the cut network is than the dense one, by medians of passes in turn on one CPU thread."""
    dense, x = dense.cpu(), task.examples(1)[0]
    groups = find_groups(dense, x)
    scores = sirfp.score(dense, groups, evidence(task, BENCH["mini"], trial.seed).batches)
    plan = budget_plan(groups, scores, macs_ratio=trial.ratio, how=trial.how, limits=Limits(max_ratio=0.9, round_to=8))
    models = {"dense": dense, "small": prune(dense, groups, plan)}
    height, width = settings(trial)["image"]
    times = latency_ms(models, x.new_zeros(1, 3, height, width), repeats=10, warmup=1, threads=1)
    return {"speedup": times["dense"] / times["small"], "dense_ms": times["dense"], "small_ms": times["small"]}
