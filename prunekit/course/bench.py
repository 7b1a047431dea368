"""The fair bench: every criterion on one network, with the same work removed and the same fine-tuning. Resumable.

    prunekit run bench --methods l1,taylor,random --ratios 0.5 0.75 --seeds 3

Fair means: one dense network; one planner, which by default gives all methods the very same widths, so that only the
choice of channels differs; the same steps, learning rate and, for the same seed, the same order of images. A seed
changes that order, the images that criteria look at, and what is drawn at random.

Not in it: what some papers add to their criterion. Slimming's and CAP's sparse training and DCFP's loss while
fine-tuning are left out, since they would change the network that all start from; DCFP's scores do use its loss and its
crops. ThiNet has its least-squares repair. Any other method gets it by its name, as in `l1+repair`, and `random+repair`
shows what the repair alone is worth.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunekit.core import Groups, Scores
from prunekit.course import ledger, site, verdict
from prunekit.course.presets import Bench, Scale
from prunekit.course.quickstart import dense_model, train_config
from prunekit.course.setup import pick_device
from prunekit.course.tasks import Task, load_task
from prunekit.data.crops import BalancedCrops
from prunekit.errors import BudgetError, InputError, ScoreError
from prunekit.methods import cap, chip, dcfp, depgraph, fpgm, hrank, l1, random, sirfp, slimming, taylor, thinet
from prunekit.metrics import Evaluation, evaluate
from prunekit.models import zoo
from prunekit.plan import Limits, budget_plan
from prunekit.profiling import count_macs, count_params
from prunekit.reconstruct import reconstruct
from prunekit.surgery import find_groups, prune
from prunekit.train import finetune, gsrl_loss
from prunekit.train.batches import dice

CLAIM = "bench"
THIN = ("pole", "traffic light", "traffic sign", "sign symbol")
REPAIR = "+repair"


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at. batches: training images with masks. crops: the same number of batches of
    class-balanced crops. loss: the one of training.
    """

    batches: list[Any]
    crops: Callable[[], list[Any]]
    loss: Callable[[Any, Tensor], Tensor]
    seed: int


METHODS: dict[str, Callable[[nn.Module, Groups, Evidence], Scores]] = {
    "random": lambda model, groups, see: random.score(model, groups, seed=see.seed),
    "l1": lambda model, groups, see: l1.score(model, groups),
    "l2": lambda model, groups, see: l1.score(model, groups, p=2),
    "depgraph": lambda model, groups, see: depgraph.score(model, groups),
    "fpgm": lambda model, groups, see: fpgm.score(model, groups),
    "slimming": lambda model, groups, see: slimming.score(model, groups),
    "taylor": lambda model, groups, see: taylor.score(model, groups, see.batches, loss_fn=see.loss),
    "hrank": lambda model, groups, see: hrank.score(model, groups, see.batches),
    "chip": lambda model, groups, see: chip.score(model, groups, see.batches),
    "cap": lambda model, groups, see: cap.score(model, groups, see.batches),
    "dcfp": lambda model, groups, see: dcfp.score(model, groups, see.crops(), loss_fn=partial(gsrl_loss, window=3)),
    "sirfp": lambda model, groups, see: sirfp.score(model, groups, see.batches),
    "thinet": lambda model, groups, see: thinet.score(model, groups, see.batches, seed=see.seed),
}
ALL = (*METHODS, "random" + REPAIR)


@dataclass(frozen=True)
class Run:
    """One cell of the bench."""

    method: str
    ratio: float
    seed: int


def run(bench: Bench, *, scale: Scale, root: Path | None, out: Path) -> None:
    """Do what the ledger does not hold yet, one record a run, and print the standings.

    Stop it and start it again: it goes on where it was. A method that is not defined for the network (batch-norm scales
    on a transformer) or a ratio out of its reach is left out, with the reason. Raises InputError for a bench that
    cannot be run, and as load_task does.
    """
    check(bench)
    task, device = load_task(bench.training.dataset, size=bench.training.size, root=root), pick_device()
    dense = dense_model(bench.training, task, out / bench.model, model=bench.model).to(device)
    x = task.examples(1)[0].to(device)
    groups = find_groups(dense, x)
    where = {"dataset": bench.training.dataset, "image": list(x.shape[-2:]), "model": bench.model}
    done = [(entry.method, entry.seed, entry.settings) for entry in ledger.load(CLAIM) if entry.scale == scale]
    if ("dense", 0, where) not in done:
        start = time.perf_counter()
        found = measured(dense, task, x)
        ledger.record(
            CLAIM,
            method="dense",
            seed=0,
            metrics=found,
            seconds=time.perf_counter() - start,
            settings=where,
            scale=scale,
        )
    todo = list(runs(bench))
    for number, each in enumerate(todo, 1):
        head = f"{number}/{len(todo)} {each.method} {each.ratio:.0%} seed {each.seed}"
        given = settings(bench, where, each.ratio)
        if (each.method, each.seed, given) in done:
            continue
        start = time.perf_counter()
        try:
            found = one(bench, each, task, dense, groups, x, out / bench.model)
        except (ScoreError, BudgetError) as err:
            print(f"{head}: left out, {err}", flush=True)
            continue
        seconds = time.perf_counter() - start
        ledger.record(
            CLAIM, method=each.method, seed=each.seed, metrics=found, seconds=seconds, settings=given, scale=scale
        )
        print(
            f"{head}: mIoU {found['miou']:.3f}, {found['miou_before_tuning']:.3f} before, {seconds:.0f} s", flush=True
        )
    for ratio in bench.ratios:
        given = settings(bench, where, ratio)
        rows = verdict.standings(e for e in ledger.load(CLAIM) if (e.scale, e.settings) == (scale, given))
        print(f"\n{bench.model}, {ratio:.0%} of the MACs removed\n{verdict.table(rows)}")


def runs(bench: Bench) -> Iterator[Run]:
    """All cells; the first seed of everything first, so that a bench that is stopped early still compares."""
    for seed in range(bench.seeds):
        for ratio in bench.ratios:
            for method in bench.methods or ALL:
                yield Run(method, ratio, seed)


def one(bench: Bench, each: Run, task: Task, dense: nn.Module, groups: Groups, x: Tensor, out: Path) -> dict[str, Any]:
    """Score, plan, prune, fine-tune, measure: one run's metrics."""
    see = evidence(task, bench, each.seed)
    start = time.perf_counter()
    scores = METHODS[each.method.removesuffix(REPAIR)](dense, groups, see)
    scoring = time.perf_counter() - start
    limits = Limits(round_to=bench.training.round_to)
    plan = budget_plan(groups, scores, macs_ratio=each.ratio, how=bench.how, limits=limits)
    small = prune(dense, groups, plan)
    if each.method == "thinet" or each.method.endswith(REPAIR):
        small = reconstruct(dense, small, groups, plan, see.batches, seed=each.seed)
    before = evaluate(small, task.test_loader(), len(task.classes))
    config = train_config(bench.training, seed=each.seed, tune=True, quiet=True)
    asked = json.dumps(settings(bench, {}, each.ratio), sort_keys=True).encode()
    unfinished = out / f"{each.method}-s{each.seed}-{hashlib.sha256(asked).hexdigest()[:8]}"
    loader = task.train_loader(bench.training.batch)
    tuned = finetune(small, loader, config, loss_fn=task.loss, checkpoint=unfinished).model
    found = measured(tuned, task, x)
    shutil.rmtree(unfinished)
    return {**found, "miou_before_tuning": before.miou, "scoring_seconds": round(scoring, 3)}


def measured(model: nn.Module, task: Task, x: Tensor) -> dict[str, Any]:
    """Costs, and accuracy on the test images."""
    found = evaluate(model, task.test_loader(), len(task.classes))
    costs = {"macs": count_macs(model, x), "params": count_params(model)}
    return {"miou": found.miou, "iou": list(found.iou), "iou_thin": thin(found, task.classes), **costs}


def thin(found: Evaluation, classes: tuple[str, ...]) -> float:
    """Mean IoU of poles, lights and signs, which lose most when channels go."""
    return mean(found.iou[classes.index(name)] for name in THIN if name in classes)


def evidence(task: Task, bench: Bench, seed: int) -> Evidence:
    """The images that criteria look at with this seed."""
    batch, count = bench.training.batch, bench.score_batches

    def crops() -> list[Any]:
        height, width = task.train[0][1].shape
        data = BalancedCrops(task.train, (3 * height // 4, 3 * width // 4))
        with dice("crops", seed):
            return list(islice(DataLoader(data, batch, shuffle=True, drop_last=True), count))

    with dice("batches", seed):
        return Evidence(list(islice(task.train_loader(batch), count)), crops, task.loss, seed)


def settings(bench: Bench, where: dict[str, Any], ratio: float) -> dict[str, Any]:
    """What a run must share with others to be compared with them."""
    training = bench.training
    return {
        **where,
        "macs_ratio": ratio,
        "how": bench.how,
        "round_to": training.round_to,
        "tune_steps": training.tune_steps,
        "batch": training.batch,
        "lr": training.lr,
        "score_batches": bench.score_batches,
    }


def stored(bench: Bench, ratio: float, *, scale: Scale = "mini") -> list[ledger.Record]:
    """The ledger's runs of this comparison; none outside a checkout."""
    found = ledger.load(CLAIM) if site.checkout() is not None or "PRUNEKIT_RESULTS" in os.environ else ()
    alike = settings(bench, {"model": bench.model, "dataset": bench.training.dataset}, ratio)
    return [e for e in found if e.scale == scale and alike.items() <= e.settings.items()]


def check(bench: Bench) -> None:
    """Raise InputError, with the nearest name where one is misspelt, for what cannot be run."""
    plain = [name.removesuffix(REPAIR) for name in bench.methods]
    for kind, names, known in (("method", plain, METHODS), ("model", (bench.model,), zoo.BUILDERS)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                advice = f"did you mean {near[0]}? " if near else ""
                raise InputError(f"no {kind} {name!r}; {advice}There are: {', '.join(known)}.")
    if len(set(bench.methods)) < len(bench.methods) or len(set(bench.ratios)) < len(bench.ratios):
        raise InputError(f"a method or ratio is named twice: {', '.join(map(str, (*bench.methods, *bench.ratios)))}.")
    wrong = [ratio for ratio in bench.ratios if not 0 < ratio < 1]
    if wrong or not bench.ratios:
        given = wrong[0] if wrong else "missing"
        raise InputError(f"a ratio is {given}; it is the fraction of MACs to remove, between 0 and 1, such as 0.5.")
    for name, number in (("seeds", bench.seeds), ("steps", bench.training.tune_steps)):
        if number < 1:
            raise InputError(f"{name} is {number}; give a whole number from 1 on.")
