"""MTP from data to a small network: sparse training of two tasks in turn, a cut at two thresholds, both tasks again.

    prunekit run mtp                                                                  # scenes, on a laptop
    prunekit run mtp --scale full --dataset voc --root VOC2012 --objects imagenet --percentage 0.25
    accelerate launch -m prunekit.cli run mtp --scale full ...                        # many GPUs: the same steps

The sparse training begins with one backbone, the classifier's, in both networks; of the dense segmenter it takes the
decoder. Stop it and start it again with the same arguments: it goes on where it was. Another
--percentage, --how or --round-to goes on from the same sparse networks. Files in out/mtp-DATASET-MODEL-SEED:

    pretrain/ dense/ sparse/    checkpoints; sparse-all/ with --no-inner

and of each cut, in PERCENTAGE-HOW-ROUND there (-all with --no-inner):

    tuned/   checkpoints    plan.json   who stays    small/   the result, for `load_pruned`    report.txt   with losses
    seconds.json   of all starts for this cut
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunekit.core import Groups, PruningPlan
from prunekit.course import experiments as shared
from prunekit.course import ledger
from prunekit.course.experiments import Stretch
from prunekit.course.mtp import data
from prunekit.course.mtp.networks import backbone_path, check, classifier_of, segmenter_of
from prunekit.course.mtp.preset import Mtp
from prunekit.course.presets import Scale
from prunekit.methods import mtp
from prunekit.metrics import top1
from prunekit.multiscale import MultiScale
from prunekit.plan import Limits
from prunekit.progressive import Training
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune, save_pruned
from prunekit.train import classification_loss, finetune
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


def line(one: mtp.Round) -> str:
    """What is printed after each round."""
    losses = f"classification {one.classify:.4f}, segmentation {one.segment:.4f}"
    return f"round {one.number}: losses {losses}; ||W1 - W3|| / ||W1|| {one.relative:.2e}, mu {one.mu:.3g}"


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
    check(preset)
    folder, every = out / f"mtp-{preset.dataset}-{preset.model}-{seed}", "" if preset.inner else "-all"
    own = folder / f"{preset.percentage:g}-{preset.how}-{preset.round_to}{every}"
    with shared.Clock(own / "seconds.json") as clock:
        first = shared.first_process()
        pictures, things = data.scenes(preset, roots[0]), data.objects(preset, roots[1], classification_loss)
        learn = partial(training, seed=seed, precision=precision, workers=workers)
        segmenter = segmenter_of(preset, pictures.classes, seed=seed)
        path, x = backbone_path(segmenter), torch.randn(1, 3, *preset.size, generator=torch.Generator().manual_seed(0))
        groups = find_groups(segmenter, x)
        parts = mtp.split(segmenter, groups, path, inner=preset.inner)
        classifier: nn.Module = classifier_of(preset, segmenter, things.classes, seed=seed)
        config = preset.segment.config(seed=seed, precision=precision)
        shared.same_run(folder, config, preset, *roots, but=("percentage", "how", "round_to", "inner"))
        if first:
            own.mkdir(parents=True, exist_ok=True)  # from here on seconds are kept
        classifier, segmenter = _dense(preset, classifier, segmenter, learn, (pictures, things), folder, path)
        sparse = mtp.alternate(
            classifier,
            mtp.with_backbone(segmenter, classifier, path),
            parts,
            learn(preset.classify, things),
            learn(preset.segment, pictures),
            preset.settings,
            checkpoint=folder / f"sparse{every}",
            on_round=lambda one, *_: print(line(one), flush=True) if first else None,
        )
        small, plan, certificate = _small(preset, sparse, groups, parts, x, learn, (pictures, things), own / "tuned")
        metrics: dict[str, Any] = {}
        if first:
            plan.save(own / "plan.json")
            save_pruned(own / "small", small[1], plan)
            measure = partial(measured, preset=preset, pictures=pictures, things=things, workers=workers)
            dense = {f"{name}_dense": v for name, v in measure(classifier, segmenter).items() if name != "iou"}
            metrics = {**measure(*small), **dense, **shared.costs(groups, plan), **_curves(sparse.history)}
        done = Outcome(*small, plan, certificate, sparse.history, metrics)
        if first:
            _report(done, preset, own, scale=scale, seed=seed, seconds=clock.total())
        return done


def _dense(
    preset: Mtp,
    classifier: nn.Module,
    segmenter: nn.Module,
    learn: Callable[[Stretch, data.Source], Training],
    sources: tuple[data.Source, data.Source],
    folder: Path,
    path: str,
) -> tuple[nn.Module, nn.Module]:
    """Both networks trained as far as the preset asks: the classifier, then the segmenter on its backbone."""
    pictures, things = sources
    if preset.pretrain.steps:
        classifier = trained(classifier, learn(preset.pretrain, things), folder / "pretrain")
    if preset.dense.steps:
        segmenter = mtp.with_backbone(segmenter, classifier, path)
        segmenter = trained(segmenter, learn(preset.dense, pictures), folder / "dense")
    return classifier, segmenter


def _small(
    preset: Mtp,
    sparse: mtp.Sparse,
    groups: Groups,
    parts: mtp.Parts,
    x: Tensor,
    learn: Callable[[Stretch, data.Source], Training],
    sources: tuple[data.Source, data.Source],
    folder: Path,
) -> tuple[tuple[nn.Module, nn.Module], PruningPlan, Certificate]:
    """Both networks, cut by one plan and trained again; and the certificate of the segmenter's cut."""
    scores = mtp.score(sparse.segmenter, parts, classifier=sparse.classifier)
    plan = mtp.plan(parts, scores, preset.percentage, how=preset.how, limits=Limits(round_to=preset.round_to))
    segmenter = prune(sparse.segmenter, groups, plan)
    certificate = check_equivalence(sparse.segmenter, segmenter, groups, plan, x)
    theirs = find_groups(sparse.classifier, x[..., : preset.side, : preset.side])
    classifier = prune(sparse.classifier, theirs, mtp.classifier_plan(plan, parts))
    again = learn(preset.tune_classify, sources[1]), learn(preset.tune_segment, sources[0])
    small = mtp.retrain(classifier, segmenter, *again, path=parts.path, folder=folder)
    return small, plan, certificate


def _curves(rounds: Sequence[mtp.Round]) -> dict[str, list[float]]:
    """What the ledger keeps of each round."""
    named = (("residual", "relative"), ("classify_loss", "classify"), ("segment_loss", "segment"))
    return {name: [getattr(one, of) for one in rounds] for name, of in named}


def training(stretch: Stretch, source: data.Source, *, seed: int, precision: Precision, workers: int) -> Training:
    """What `finetune` takes."""
    return shared.training(stretch, source.train, source.loss, seed=seed, precision=precision, workers=workers)


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
    look = partial(shared.segmentation, test=pictures.test, classes=pictures.classes, workers=workers, device=device)
    accuracy = top1(classifier, DataLoader(things.test, 100, num_workers=workers), device=device)
    several = {"miou_multiscale": look(MultiScale(segmenter, preset.scales))["miou"]} if preset.scales else {}
    return {**look(segmenter), "top1": accuracy, **several}


def _report(done: Outcome, preset: Mtp, folder: Path, *, scale: Scale, seed: int, seconds: float) -> None:
    print(done, flush=True)
    (folder / "report.txt").write_text("\n".join([*map(line, done.rounds), f"{done}\n"]))
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
        "round_to": preset.round_to,
        "inner": preset.inner,
        "pretrained": preset.pretrained,
        **asdict(preset.settings),
        **{name: [getattr(stretch, name) for stretch in stretches] for name in ("steps", "batch", "lr")},
    }
    ledger.record(CLAIM, method="mtp", seed=seed, scale=scale, settings=settings, metrics=done.metrics, seconds=seconds)
