"""SIRFP from data to a small network: watched pre-training, cuts in portions, fine-tuning by GSRL on balanced crops.

    prunekit run sirfp                                                          # scenes, on a laptop
    prunekit run sirfp --scale full --dataset cityscapes --root data/cityscapes --macs-ratio 0.7
    accelerate launch -m prunekit.cli run sirfp --scale full ...                # many GPUs: the same steps

Stop it and start it again with the same arguments: it goes on where it was.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from prunekit.course import ledger
from prunekit.course.experiments import Clock, fetched, first_process, own_device, same_run, segmentation, training
from prunekit.course.presets import Scale
from prunekit.course.sirfp.data import sources
from prunekit.course.sirfp.preset import MODELS, Sirfp
from prunekit.methods import sirfp
from prunekit.models import zoo
from prunekit.plan import Limits, budget_plan
from prunekit.progressive import Cut, Progress, progressive
from prunekit.train import gsrl_loss
from prunekit.train.config import Precision

CLAIM = "sirfp"


def run(
    preset: Sirfp,
    *,
    scale: Scale,
    root: Path | None,
    out: Path,
    seed: int = 0,
    precision: Precision = "no",
    workers: int = 0,
) -> Progress:
    """All of it, with every file in out/sirfp-DATASET-MODEL-RATIO-SEED and the result in the ledger.

    precision: of the training, "bf16" or "fp16" halve its memory. workers: processes that load pictures, for each
    process that trains. Raises the errors of `progressive` and of the readers.
    """
    folder = out / f"sirfp-{preset.dataset}-{preset.model}-{preset.macs_ratio:g}-{seed}"
    with Clock(folder / "seconds.json") as clock:
        task, balanced = sources(preset, root)
        device = own_device()
        model = dense_model(preset, len(task.classes), seed=seed).to(device)
        dice = torch.Generator().manual_seed(0)
        x = torch.randn(1, 3, *preset.size, generator=dice).to(device)
        learn = partial(training, seed=seed, precision=precision, workers=workers)
        loss = partial(gsrl_loss, window=preset.window, aux_weight=preset.aux_weight)
        cuts = [
            Cut(target, learn(stretch, balanced, loss, count=images_of))
            for target, stretch in zip(preset.targets, preset.tune, strict=True)
        ]
        limits = Limits(max_ratio=preset.max_ratio, round_to=preset.round_to)
        same_run(folder, cuts[0].training.config, preset, root)
        done = progressive(
            model,
            x,
            cuts,
            folder,
            observe=partial(sirfp.Observer, decay=preset.decay, every=preset.every),
            pretrain=learn(preset.pretrain, task.train, task.loss),
            plan=partial(budget_plan, how="global", limits=limits),
            measure=partial(segmentation, test=task.test, classes=len(task.classes), workers=workers),
        )
        if first_process():
            _report(done, preset, folder, scale=scale, seed=seed, seconds=clock.total())
        return done


def dense_model(preset: Sirfp, classes: int, *, seed: int) -> nn.Module:
    """The stored network for the scenes, the paper's for the full scale, else a mini one with random weights.

    Raises DownloadError when ImageNet weights are asked for and cannot be had.
    """
    torch.manual_seed(seed)
    if preset.model not in MODELS:
        return zoo.load(preset.model) if preset.dataset == "scenes" else zoo.build(preset.model, classes=classes)
    return fetched(lambda: MODELS[preset.model](classes, pretrained=preset.pretrained))


def images_of(target: dict[str, Tensor]) -> int:
    """GSRL is a mean over images."""
    return len(target["mask"])


def _report(done: Progress, preset: Sirfp, folder: Path, *, scale: Scale, seed: int, seconds: float) -> None:
    print(done, flush=True)
    (folder / "report.txt").write_text(f"{done}\n")
    settings = {
        "dataset": preset.dataset,
        "model": preset.model,
        "image": list(preset.size),
        "macs_ratio": preset.macs_ratio,
        "steps": [preset.pretrain.steps, *(stretch.steps for stretch in preset.tune)],
    }
    last = done.stages[-1]
    metrics = {**last.tuned, "miou_dense": done.dense["miou"], "macs": last.macs, "params": last.params}
    metrics["macs_removed"] = 1 - last.macs / done.macs
    ledger.record(CLAIM, method="sirfp", seed=seed, scale=scale, settings=settings, metrics=metrics, seconds=seconds)
