"""DynaSegFormer from data to a gated network: teacher, additive decoder, gates, two-stage distillation, measurements.

    prunekit run dynasegformer                                                      # scenes, on a laptop
    prunekit run dynasegformer --gate static                                        # the comparator, as many steps
    prunekit run dynasegformer --scale full --dataset ade20k-b2 --root data/ADEChallengeData2016 --weights FILE

Stop it and start it again with the same arguments: it goes on where it was.

    folder/run.json settings.json   what was started; anything else is refused
           dense/ features/ logits/  checkpoints        dense.json gated.json  metrics        student.safetensors
           seconds.json                  of all starts
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_model
from torch import nn
from torch.utils.data import Subset

from prunekit.course import ledger
from prunekit.course.dynasegformer.preset import MODELS, STAGES, Dyna
from prunekit.course.experiments import Clock, image_loader, own_device, pictures, same_run, segmentation
from prunekit.course.presets import Scale
from prunekit.course.tasks import Task, weighted_loss
from prunekit.data.scenes import CLASSES, DOMAINS, PALETTE, SceneDataset
from prunekit.errors import InputError
from prunekit.methods import dynasegformer as dyna
from prunekit.models import zoo
from prunekit.models.segformer import SegFormer, from_original, from_transformers
from prunekit.progressive.store import Store, identity
from prunekit.train import distill, finetune
from prunekit.train.config import Precision

CLAIM = "dynasegformer"


@dataclass(frozen=True)
class Outcome:
    """model: the student. dense: the teacher. metrics: what the ledger got."""

    model: nn.Module
    dense: nn.Module
    metrics: dict[str, Any]


def run(
    preset: Dyna,
    *,
    scale: Scale,
    root: Path | None,
    out: Path,
    seed: int = 0,
    precision: Precision = "no",
    workers: int = 0,
    weights: Path | None = None,
) -> Outcome:
    """All of it, with every file in out/GATE-DATASET-MODEL-SPARSITY-SEED and the result in the ledger.

    weights: of the dense network: the authors' .pth, or a folder of transformers. Raises InputError where a network has
    neither weights nor a training, and the errors of `distill` and of the readers.
    """
    folder = out / f"{preset.gate}-{preset.dataset}-{preset.model}-{preset.sparsity:g}-{seed}"
    with Clock(folder / "seconds.json") as clock:
        task = task_of(preset, root)
        teacher = dense_model(preset, len(task.classes), seed=seed, weights=weights).to(own_device())
        student = gated(teacher, preset, seed=seed)
        config = preset.train.config(seed=seed, precision=precision)
        store = Store(folder, config)
        store.refuse_another(identity(teacher, distill, [preset.sparsity], [config]))
        same_run(folder, config, preset, root)
        if preset.pretrain is not None and weights is None:
            loader = image_loader(task.train, preset.pretrain.batch, workers=workers)
            settings = preset.pretrain.config(seed=seed, precision=precision)
            done = finetune(teacher, loader, settings, loss_fn=task.loss, checkpoint=folder / "dense")
            teacher = cast(SegFormer, done.model)
            student = gated(teacher, preset, seed=seed)
        look = partial(segmentation, test=task.test, classes=len(task.classes), workers=workers)
        dense = store.once("dense.json", lambda: json.dumps(look(teacher)), json.loads)
        student = train(student, teacher, task, preset, seed=seed, precision=precision, workers=workers, folder=folder)
        gated_metrics = store.once("gated.json", lambda: json.dumps(look(student)), json.loads)
        metrics = {**gated_metrics, "miou_dense": dense["miou"], **costs(teacher, student, preset)}
        made = {"gate": preset.gate, "sparsity": preset.sparsity, "gain": preset.gain, "reduction": preset.reduction}
        notes = {name: str(value) for name, value in made.items()}  # what to build before the weights can be loaded
        store.by_one(lambda: save_model(student, str(folder / "student.safetensors"), notes))
        store.by_one(lambda: _record(preset, metrics, scale=scale, seed=seed, seconds=clock.total()))
        return Outcome(student, teacher, metrics)


def task_of(preset: Dyna, root: Path | None) -> Task:
    """The preset's data. InputError for more domains than there are, DataError for a folder that is something else."""
    if preset.domains == 1:
        return pictures(preset.dataset, root, size=preset.size, short_side=preset.short_side)
    if preset.dataset != "scenes" or not 1 <= preset.domains <= len(DOMAINS):
        raise InputError(f"domains is {preset.domains}; scenes have {len(DOMAINS)}, other sets have one.")
    train, test = (
        SceneDataset(count, seed=seed, size=preset.size, domain=DOMAINS[: preset.domains])
        for count, seed in ((1000, 0), (200, 1))
    )
    return Task("scenes", train, test, CLASSES, PALETTE, weighted_loss(train, len(CLASSES)))


def dense_model(preset: Dyna, classes: int, *, seed: int, weights: Path | None = None) -> SegFormer:
    """The network with these weights, the stored one of the scenes, or a fresh one where the preset trains it.

    Raises InputError for weights of another network or another number of classes.
    """
    if weights is not None:
        found = from_transformers(weights, classes=None) if weights.is_dir() else from_original(weights, classes=None)
        with torch.device("meta"):
            wanted = _sizes(cast(SegFormer, MODELS[preset.model](classes)))
        if _sizes(found) != wanted:
            raise InputError(
                f"{weights} holds a SegFormer of {_sizes(found)}; {preset.model} on {preset.dataset} has {wanted}. "
                "Give other weights, or the --dataset that they are for."
            )
        return found
    if preset.pretrain is None and preset.model == "segformer_mini" and preset.dataset == "scenes":
        return cast(SegFormer, zoo.load(preset.model))
    if preset.pretrain is None:
        raise InputError(
            f"{preset.model} on {preset.dataset} starts from released SegFormer weights: give the authors' .pth file "
            "or a folder of transformers, --weights PATH."
        )
    torch.manual_seed(seed)
    return cast(SegFormer, MODELS[preset.model](classes))


def _sizes(model: SegFormer) -> str:
    """What tells variants and data sets apart."""
    blocks = tuple(len(cast(nn.ModuleList, stage.blocks)) for stage in model.encoder.stages)
    return f"widths {model.encoder.channels}, blocks {blocks}, {model.decoder.classifier.out_channels} classes"


def gated(teacher: SegFormer, preset: Dyna, *, seed: int = 0) -> nn.Module:
    """The student before it is trained: the additive decoder, and the preset's gates, whose predictors `seed` draws."""
    dense = dyna.additive_decoder(teacher, fuse_layer=preset.fuse_layer)
    if preset.gate == "dense":
        return dense
    torch.manual_seed(seed)
    if preset.gate == "static":
        return dyna.make_static(dense, sparsity=preset.sparsity)
    return dyna.make_dynamic(dense, sparsity=preset.sparsity, reduction=preset.reduction, gain=preset.gain)


def train(
    student: nn.Module,
    teacher: nn.Module,
    task: Task,
    preset: Dyna,
    *,
    seed: int,
    precision: Precision = "no",
    workers: int = 0,
    folder: Path | None = None,
    quiet: bool = False,
) -> nn.Module:
    """The student after both stages; half of the steps for each, all for the second where the first is left out."""
    steps = preset.train.steps
    first = steps // 2 if preset.features else 0
    config = preset.train.config(seed=seed, precision=precision, quiet=quiet)
    gates = None
    if preset.gate != "dense":
        anneal = max(1, steps // 2) if preset.annealing else None
        gates = dyna.GateTraining(preset.sparsity, steps=anneal, weight=preset.weight, reduction=preset.penalty)
    return distill(
        student,
        teacher,
        image_loader(task.train, preset.train.batch, workers=workers),
        (STAGES, replace(config, steps=first)) if first else None,
        replace(config, steps=steps - first),
        soft_weight=preset.soft_weight if preset.soft else 0.0,
        loss_fn=task.loss,
        penalty=gates.penalty if gates is not None and preset.gate == "dynamic" else None,
        observer=gates,
        checkpoint=folder,
    ).model


def costs(teacher: nn.Module, student: nn.Module, preset: Dyna) -> dict[str, Any]:
    """MACs by part, before and after, and what saved them; of a whole picture where the preset says how large it is."""
    x = torch.zeros(1, 3, *(preset.whole or preset.size), device=next(student.parameters()).device)
    after = dyna.cost(student, x)
    dense = dyna.additive_decoder(cast(SegFormer, teacher), fuse_layer=preset.fuse_layer)
    saved = dyna.saving(teacher, dense, after, x)
    return {
        **{f"macs_{name}": getattr(after, name) for name in ("attention", "ffn", "predictor", "decoder", "other")},
        "macs": after.macs,
        "macs_dense": saved.original,
        "saved_by_decoder": saved.decoder,
        "saved_by_gates": saved.gates,
        "params": after.params,
        "params_predictor": after.predictor_params,
    }


def statistics(student: nn.Module, task: Task, *, images: int | None = None) -> dict[str, dyna.GateCounts]:
    """How often each neuron is on over the test pictures, or the first `images` of them."""
    some = task.test if images is None else Subset(task.test, range(images))
    device = next(student.parameters()).device
    loader = image_loader(some, 25 if images is None or images >= 25 else images)
    return dyna.gate_statistics(student, (x.to(device) for x, _ in loader))


def _record(preset: Dyna, metrics: dict[str, Any], *, scale: Scale, seed: int, seconds: float) -> None:
    print(
        f"{preset.gate}, {preset.sparsity:.0%}: mIoU {metrics['miou_dense']:.3f} -> {metrics['miou']:.3f}, "
        f"{metrics['macs_dense'] / 1e6:.0f} -> {metrics['macs'] / 1e6:.0f} M MACs "
        f"({metrics['saved_by_decoder'] / 1e6:.0f} M by the decoder, {metrics['saved_by_gates'] / 1e6:.0f} M by gates)"
    )
    settings = {**asdict(preset), "train": asdict(preset.train), "pretrain": None}
    ledger.record(
        CLAIM, method=preset.gate, seed=seed, scale=scale, settings=settings, metrics=metrics, seconds=seconds
    )
