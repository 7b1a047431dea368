"""SIRFP from data to a small network: watched pre-training, cuts in portions, fine-tuning by GSRL on balanced crops.

    prunekit run sirfp                                                          # scenes, on a laptop
    prunekit run sirfp --scale full --dataset cityscapes --root data/cityscapes --macs-ratio 0.7
    accelerate launch -m prunekit.cli run sirfp --scale full ...                # many GPUs: the same steps

Stop it and start it again with the same arguments: it goes on where it was.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunekit.course import ledger
from prunekit.course.presets import Scale
from prunekit.course.sirfp.data import READERS, Sources, sources
from prunekit.course.sirfp.preset import MODELS, Sirfp, Stretch
from prunekit.errors import DownloadError
from prunekit.methods import sirfp
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.plan import Limits, budget_plan
from prunekit.progressive import Cut, Metrics, Progress, Training, progressive
from prunekit.train import TrainConfig, gsrl_loss
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
    start, first = time.perf_counter(), int(os.environ.get("RANK", "0")) == 0  # set by accelerate launch and torchrun
    pictures = sources(preset, root)
    device = own_device()
    model = dense_model(preset, pictures.classes, seed=seed).to(device)
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, *preset.size, generator=dice).to(device)
    config = partial(train_config, seed=seed, precision=precision)
    load = partial(_loader, workers=workers)
    loss = partial(gsrl_loss, window=preset.window, aux_weight=preset.aux_weight)
    cuts = [
        Cut(target, Training(config(stretch), load(pictures.balanced, stretch.batch), loss, images_of))
        for target, stretch in zip(preset.targets, preset.tune, strict=True)
    ]
    pretrain = Training(config(preset.pretrain), load(pictures.train, preset.pretrain.batch), pictures.loss)
    limits = Limits(max_ratio=preset.max_ratio, round_to=preset.round_to)
    folder = out / f"sirfp-{preset.dataset}-{preset.model}-{preset.macs_ratio:g}-{seed}"
    done = progressive(
        model,
        x,
        cuts,
        folder,
        observe=partial(sirfp.Observer, decay=preset.decay, every=preset.every),
        pretrain=pretrain,
        plan=partial(budget_plan, how="global", limits=limits),
        measure=partial(measured, preset=preset, pictures=pictures, workers=workers),
    )
    if first:
        _report(done, preset, folder, scale=scale, seed=seed, seconds=time.perf_counter() - start)
    return done


def own_device() -> torch.device:
    """This process's GPU, else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def dense_model(preset: Sirfp, classes: int, *, seed: int) -> nn.Module:
    """The stored network for the scenes, the paper's for the full scale, else a mini one with random weights.

    Raises DownloadError when ImageNet weights are asked for and cannot be had.
    """
    torch.manual_seed(seed)
    if preset.model not in MODELS:
        return zoo.load(preset.model) if preset.dataset == "scenes" else zoo.build(preset.model, classes=classes)
    try:
        return MODELS[preset.model](classes, pretrained=preset.pretrained)
    except OSError as err:
        raise DownloadError(
            f"timm cannot fetch the backbone's ImageNet weights ({str(err).splitlines()[0]}). Run once with a network, "
            "they are kept; or pass --no-pretrained, which costs much accuracy."
        ) from err


def train_config(stretch: Stretch, *, seed: int, precision: Precision) -> TrainConfig:
    """What `finetune` takes."""
    return TrainConfig(
        steps=stretch.steps,
        lr=stretch.lr,
        optimizer=stretch.optimizer,
        weight_decay=stretch.weight_decay,
        schedule="poly" if stretch.optimizer == "sgd" else "cosine",
        mixed_precision=precision,
        seed=seed,
    )


def measured(model: nn.Module, *, preset: Sirfp, pictures: Sources, workers: int) -> Metrics:
    """mIoU, pixel accuracy and each class's IoU (None: the class does not occur) on the test pictures."""
    batch = 1 if preset.dataset in READERS else 25  # real sets have pictures of many sizes
    found = evaluate(model, DataLoader(pictures.test, batch, num_workers=workers), pictures.classes)
    iou = [None if value != value else value for value in found.iou]
    return {"miou": found.miou, "pixel_accuracy": found.pixel_accuracy, "iou": iou}


def _loader(dataset: Any, batch: int, *, workers: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch, shuffle=True, num_workers=workers, pin_memory=torch.cuda.is_available())


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
