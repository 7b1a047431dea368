"""MTP from data to a small network: sparse training of two tasks in turn, a cut at two thresholds, both tasks again.

    prunekit run mtp                                                                  # scenes, on a laptop
    prunekit run mtp --scale full --dataset voc --root VOC2012 --objects imagenet --percentage 0.25
    accelerate launch -m prunekit.cli run mtp --scale full ...                        # many GPUs: the same steps

Stop it and start it again with the same arguments: it goes on where it was. Files in out/mtp-DATASET-MODEL-P-SEED:

    pretrain/ dense/ sparse/ tuned/   checkpoints     plan.json   who stays     small/   the result, for `load_pruned`
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from prunekit.core import PruningPlan
from prunekit.course import ledger
from prunekit.course.mtp import data
from prunekit.course.mtp.networks import backbone_path, classifier_of, segmenter_of
from prunekit.course.mtp.preset import Mtp, Stretch
from prunekit.course.presets import Scale
from prunekit.methods import mtp
from prunekit.metrics import evaluate, top1
from prunekit.multiscale import MultiScale
from prunekit.plan import plan_macs, plan_params
from prunekit.progressive import Training
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune, save_pruned
from prunekit.train import TrainConfig, classification_loss, finetune
from prunekit.train.config import Precision

CLAIM = "mtp"


@dataclass(frozen=True)
class Outcome:
    """What `run` returns. classifier, segmenter: small and fine-tuned. rounds: of the alternation. metrics: as in the
    ledger.
    """

    classifier: nn.Module
    segmenter: nn.Module
    plan: PruningPlan
    certificate: Certificate
    rounds: tuple[mtp.Round, ...]
    metrics: dict[str, Any]

    def __str__(self) -> str:
        m = self.metrics
        lines = [f"{'':8}{'MACs':>8}{'params':>8}{'mIoU':>8}{'top-1':>8}"]
        lines.append(f"{'dense':8}{1:>8.2f}{1:>8.2f}{m['miou_dense']:>8.3f}{m['top1_dense']:>8.3f}")
        shares = 1 - m["macs_removed"], 1 - m["params_removed"]
        lines.append(f"{'small':8}{shares[0]:>8.2f}{shares[1]:>8.2f}{m['miou']:>8.3f}{m['top1']:>8.3f}")
        return "\n".join([*lines, self.plan.note, str(self.certificate)])


def run(
    preset: Mtp,
    *,
    scale: Scale,
    roots: tuple[Path | None, Path | None],
    out: Path,
    seed: int = 0,
    precision: Precision = "no",
    workers: int = 0,
) -> Outcome:
    """All of it, with the result in the ledger. roots: folders of the segmentation and of the classification set.

    Raises the errors of the readers, of finetune and of mtp.alternate.
    """
    begun, first = time.perf_counter(), int(os.environ.get("RANK", "0")) == 0  # set by accelerate launch and torchrun
    pictures, things = data.scenes(preset, roots[0]), data.objects(preset, roots[1], classification_loss)
    folder = out / f"mtp-{preset.dataset}-{preset.model}-{preset.percentage:g}-{seed}"
    learn = partial(training, seed=seed, precision=precision, workers=workers)
    segmenter = segmenter_of(preset, pictures.classes, seed=seed)
    path = backbone_path(segmenter)
    classifier: nn.Module = classifier_of(preset, segmenter, things.classes, seed=seed)
    if preset.pretrain.steps:
        classifier = trained(classifier, learn(preset.pretrain, things), folder / "pretrain")
    if preset.dense.steps:
        segmenter = mtp.with_backbone(segmenter, classifier, path)
        segmenter = trained(segmenter, learn(preset.dense, pictures), folder / "dense")
    x = torch.randn(1, 3, *preset.size, generator=torch.Generator().manual_seed(0))
    groups = find_groups(segmenter, x)
    parts = mtp.split(segmenter, groups, path)
    sparse = mtp.alternate(
        classifier,
        segmenter,
        parts,
        learn(preset.classify, things),
        learn(preset.segment, pictures),
        preset.settings,
        checkpoint=folder / "sparse",
    )
    scores = mtp.score(sparse.segmenter, parts, classifier=sparse.classifier)
    plan = mtp.plan(parts, scores, preset.percentage, how=preset.how)
    cut = prune(sparse.segmenter, groups, plan)
    certificate = check_equivalence(sparse.segmenter, cut, groups, plan, x)
    own = find_groups(sparse.classifier, x[..., : preset.side, : preset.side])
    small = mtp.retrain(
        prune(sparse.classifier, own, mtp.classifier_plan(plan, parts)),
        cut,
        learn(preset.tune_classify, things),
        learn(preset.tune_segment, pictures),
        path=path,
        folder=folder / "tuned",
    )
    measure = partial(measured, preset=preset, pictures=pictures, things=things, workers=workers)
    metrics: dict[str, Any] = {}
    if first:
        plan.save(folder / "plan.json")
        save_pruned(folder / "small", small[1], plan)
        costs = [(plan_macs(groups, p), plan_params(groups, p)) for p in (PruningPlan({}, {}), plan)]
        dense = {f"{name}_dense": v for name, v in measure(classifier, segmenter).items() if name != "iou"}
        metrics = {**measure(*small), **dense, "macs": costs[1][0], "params": costs[1][1]}
        metrics["macs_removed"] = 1 - costs[1][0] / costs[0][0]
        metrics["params_removed"] = 1 - costs[1][1] / costs[0][1]
        metrics["residual"] = [one.relative for one in sparse.history]
    done = Outcome(*small, plan, certificate, sparse.history, metrics)
    if first:
        _report(done, preset, folder, scale=scale, seed=seed, seconds=time.perf_counter() - begun)
    return done


def training(stretch: Stretch, source: data.Source, *, seed: int, precision: Precision, workers: int) -> Training:
    """What `finetune` takes."""
    config = TrainConfig(
        steps=stretch.steps,
        lr=stretch.lr,
        optimizer=stretch.optimizer,
        weight_decay=stretch.weight_decay,
        schedule=stretch.schedule,
        mixed_precision=precision,
        seed=seed,
    )
    pin = torch.cuda.is_available()
    loader = DataLoader(source.train, stretch.batch, shuffle=True, num_workers=workers, pin_memory=pin)
    return Training(config, loader, source.loss)


def trained(model: nn.Module, task: Training, folder: Path) -> nn.Module:
    """A trained copy; what the folder holds of this training is not done again."""
    return finetune(model, task.loader, task.config, loss_fn=task.loss_fn, checkpoint=folder).model


def measured(
    classifier: nn.Module,
    segmenter: nn.Module,
    *,
    preset: Mtp,
    pictures: data.Source,
    things: data.Source,
    workers: int,
) -> dict[str, Any]:
    """mIoU, pixel accuracy, each class's IoU (None: it does not occur), top-1; with scales, multi-scale mIoU."""
    device = "cuda" if torch.cuda.is_available() else None
    batch = 1 if preset.dataset in data.READERS else 25  # real sets have pictures of many sizes
    test = DataLoader(pictures.test, batch, num_workers=workers)
    found = evaluate(segmenter, test, pictures.classes, device=device)
    iou = [None if value != value else value for value in found.iou]
    accuracy = top1(classifier, DataLoader(things.test, 100, num_workers=workers), device=device)
    several = {}
    if preset.scales:
        looks = MultiScale(segmenter, preset.scales)
        several = {"miou_multiscale": evaluate(looks, test, pictures.classes, device=device).miou}
    return {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy, "iou": iou, "top1": accuracy, **several}


def _report(done: Outcome, preset: Mtp, folder: Path, *, scale: Scale, seed: int, seconds: float) -> None:
    print(done, flush=True)
    (folder / "report.txt").write_text(f"{done}\n")
    stretches = (
        preset.pretrain,
        preset.dense,
        preset.classify,
        preset.segment,
        preset.tune_classify,
        preset.tune_segment,
    )
    settings = {
        "dataset": preset.dataset,
        "model": preset.model,
        "image": list(preset.size),
        "objects": preset.objects,
        "percentage": preset.percentage,
        "thresholds": preset.how,
        "steps": [stretch.steps for stretch in stretches],
    }
    ledger.record(CLAIM, method="mtp", seed=seed, scale=scale, settings=settings, metrics=done.metrics, seconds=seconds)
