"""Bi-level pruning from data to a small network: train, search masks, prune, certificate, fine-tune, measure.

    prunekit run bilevel                                                       # scenes, on a laptop
    prunekit run bilevel --method eagleeye                                     # another plan, as many steps in all
    prunekit run bilevel --scale full --dataset ade20k --root data/ADEChallengeData2016

Stop it and start it again with the same arguments: it goes on where it was.

    folder/run.json settings.json    what was started; anything else is refused
           dense/ search/ tuned/     checkpoints          plan.json   who stays       search.json  what it took
           dense.json cut.json tuned.json   metrics       small/      the result, for `load_pruned`
           history.json              of the masks: every flip, and a line an update
           seconds.json              of all starts, and those of a rival's search in searching.json
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from prunekit.core import Groups, PruningPlan
from prunekit.course import ledger
from prunekit.course.bilevel.preset import MODELS, Bilevel
from prunekit.course.experiments import Clock, costs, image_loader, own_device, pictures, same_run, segmentation
from prunekit.course.presets import Scale
from prunekit.course.tasks import Task
from prunekit.methods import bilevel, eagleeye, l1, regrow, slimming
from prunekit.methods.bilevel.history import COLUMNS
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.plan import budget_plan
from prunekit.profiling import watch_peak
from prunekit.progressive.store import Store, identity
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune, save_pruned
from prunekit.train import TrainConfig, finetune
from prunekit.train.config import Precision

CLAIM = "bilevel"


@dataclass(frozen=True)
class Outcome:
    """model: small and fine-tuned. plan: how. metrics: what the ledger got. certificate: masked equals pruned."""

    model: nn.Module
    plan: PruningPlan
    metrics: dict[str, Any]
    certificate: Certificate


def run(
    preset: Bilevel,
    *,
    scale: Scale,
    root: Path | None,
    out: Path,
    seed: int = 0,
    precision: Precision = "no",
    workers: int = 0,
) -> Outcome:
    """All of it, with every file in out/METHOD-DATASET-MODEL-RATIO-SEED and the result in the ledger.

    precision: of the training, "no" or "bf16". Raises the errors of `learn_plan`, `finetune` and of the readers.
    """
    folder = out / f"{preset.method}-{preset.dataset}-{preset.model}-{preset.macs_ratio:.3g}-{seed}"
    with Clock(folder / "seconds.json") as clock:
        return _run(preset, clock, folder, scale=scale, root=root, seed=seed, precision=precision, workers=workers)


def _run(
    preset: Bilevel,
    clock: Clock,
    folder: Path,
    *,
    scale: Scale,
    root: Path | None,
    seed: int,
    precision: Precision,
    workers: int,
) -> Outcome:
    task = task_of(preset, root)
    model = dense_model(preset, len(task.classes), seed=seed).to(own_device())
    stretches = {name: s for name in ("pretrain", "search", "tune") if (s := getattr(preset, name)) is not None}
    configs = {name: s.config(seed=seed, precision=precision) for name, s in stretches.items()}
    store = Store(folder, configs["tune"])
    # of the class, its plain numbers: another beta is another run
    criterion = partial(
        bilevel.MaskConfig,
        method=preset.method,
        round_to=preset.round_to,
        min_keep=preset.min_keep,
        candidates=preset.candidates,
        batch=preset.tune.batch,
        **asdict(preset.masks),
    )
    store.refuse_another(identity(model, criterion, [preset.macs_ratio], list(configs.values())))
    same_run(folder, store.config, preset, root)

    def train(name: str, network: nn.Module, to: str) -> nn.Module:
        loader = image_loader(task.train, stretches[name].batch, workers=workers)
        return finetune(network, loader, configs[name], loss_fn=task.loss, checkpoint=folder / to).model

    def measured(name: str, network: nn.Module) -> dict[str, Any]:
        look = partial(segmentation, test=task.test, classes=len(task.classes), workers=workers)
        return store.once(name, lambda: json.dumps(look(network)), json.loads)

    groups = find_groups(model, torch.zeros(1, 3, *preset.size, device=own_device()))
    # what cannot be reached is refused now
    bilevel.Masks(groups, preset.macs_ratio, preset.search.steps, preset.masks, limits=preset.limits())
    if "pretrain" in stretches:
        model = train("pretrain", model, "dense")
    dense = measured("dense.json", model)
    model, plan, search = _planned(preset, model, groups, task, configs["search"], store, workers)
    small = prune(model, groups, plan)
    x = torch.randn(1, 3, *preset.size, generator=torch.Generator().manual_seed(0)).to(own_device())
    certificate = check_equivalence(model, small, groups, plan, x)
    cut = measured("cut.json", small)
    small = train("tune", small, "tuned")
    tuned = measured("tuned.json", small)
    metrics = {**tuned, "miou_dense": dense["miou"], "miou_cut": cut["miou"], **costs(groups, plan), **search}
    store.by_one(lambda: save_pruned(folder / "small", small, [plan]))
    store.by_one(lambda: _record(preset, metrics, scale=scale, seed=seed, seconds=clock.total()))
    return Outcome(small, plan, metrics, certificate)


def task_of(preset: Bilevel, root: Path | None) -> Task:
    """The preset's data; of VOC 2012 the 1,464 pictures that the paper names. DataError when the folder is not what it
    should be.
    """
    split = "train" if preset.dataset == "voc" else None
    return pictures(preset.dataset, root, size=preset.size, short_side=preset.short_side, split=split)


def dense_model(preset: Bilevel, classes: int, *, seed: int) -> nn.Module:
    """The stored network where there is one for these pictures, else one with fresh weights."""
    torch.manual_seed(seed)
    if preset.pretrain is None:
        return zoo.load(preset.model)
    return MODELS[preset.model](classes) if preset.model in MODELS else zoo.build(preset.model, classes=classes)


def _planned(
    preset: Bilevel, model: nn.Module, groups: Groups, task: Task, config: TrainConfig, store: Store, workers: int
) -> tuple[nn.Module, PruningPlan, dict[str, Any]]:
    """The network to prune, the plan, and what the search took. eagleeye and l1 train as long, unmasked, first."""
    folder, loader = store.folder, image_loader(task.train, preset.search.batch, workers=workers)
    common = {"loss_fn": task.loss, "checkpoint": folder / "search"}
    sought = {"macs_ratio": preset.macs_ratio, "limits": preset.limits()}
    if preset.method == "bilevel":
        found = bilevel.learn_plan(model, groups, loader, config, masks=preset.masks, **sought, **common)
        print(found, flush=True)
        plan = store.once("plan.json", found.plan.to_json, PruningPlan.from_json)
        store.once("history.json", lambda: json.dumps({"columns": COLUMNS, **asdict(found.history)}), json.loads)
        search = {"search_steps": found.steps, "search_seconds": found.seconds, "search_peak_bytes": found.peak_bytes}
        search |= {"macs_before_closing": found.closing.before, "moved_in_closing": found.closing.moved}
        search["held_open"] = found.held_open
        search["returned"] = sum(len(units) for units in found.history.returned().values())
        return found.model, plan, store.once("search.json", lambda: json.dumps(search), json.loads)
    peak = watch_peak(own_device())
    with Clock(folder / "searching.json") as clock:
        if preset.method == "regrow":
            explorer = regrow.Explorer(groups, slimming.score, steps=config.steps, seed=config.seed, **sought)
            decided, model = regrow.learn_plan(model, explorer, loader, config, **common)
            plan = store.once("plan.json", decided.to_json, PruningPlan.from_json)
        else:
            model = finetune(model, loader, config, **common).model
            ranked = partial(_ranked, preset, model, groups, task, loader, sought, config.seed)
            plan = store.once("plan.json", lambda: ranked().to_json(), PruningPlan.from_json)
        search = {"search_steps": config.steps, "search_seconds": clock.total(), "search_peak_bytes": peak()}
        return model, plan, store.once("search.json", lambda: json.dumps(search), json.loads)


def _ranked(
    preset: Bilevel,
    model: nn.Module,
    groups: Groups,
    task: Task,
    loader: DataLoader[Any],
    sought: dict[str, Any],
    seed: int,
) -> PruningPlan:
    """What eagleeye or l1 makes of a trained network."""
    scores = l1.score(model, groups)
    if preset.method == "l1":
        return budget_plan(groups, scores, how="uniform", **sought)
    held = Subset(task.train, range(min(50, len(task.train) // 2)))  # type: ignore[arg-type]
    return eagleeye.search_plan(
        model,
        groups,
        scores,
        [batch for batch, _ in zip(loader, range(4), strict=False)],
        measure=lambda small: evaluate(small, DataLoader(held, 10), len(task.classes)).miou,
        **sought,
        candidates=preset.candidates,
        seed=seed,
    )


def _record(preset: Bilevel, metrics: dict[str, Any], *, scale: Scale, seed: int, seconds: float) -> None:
    method = preset.method if preset.method != "bilevel" or preset.masks.implicit else "bilevel, no implicit gradient"
    print(f"{method}: mIoU {metrics['miou_dense']:.3f} -> {metrics['miou_cut']:.3f} (cut) -> {metrics['miou']:.3f}")
    settings = {
        "dataset": preset.dataset,
        "model": preset.model,
        "image": list(preset.size),
        "macs_ratio": round(preset.macs_ratio, 6),
        "round_to": preset.round_to,
        "min_keep": preset.min_keep,
        "steps": [preset.search.steps, preset.tune.steps],
        **({"masks": asdict(preset.masks)} if preset.method == "bilevel" else {}),
        **({"candidates": preset.candidates} if preset.method == "eagleeye" else {}),
    }
    ledger.record(CLAIM, method=method, seed=seed, scale=scale, settings=settings, metrics=metrics, seconds=seconds)
