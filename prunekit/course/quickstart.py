"""Lesson 00 without the notebook, at any scale and on any of its data sets, resumable, with its runs in the ledger.

prunekit run quickstart --scale small --dataset camvid --root data/camvid --out runs/camvid
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from prunekit.core import Profile, PruningPlan
from prunekit.course import ledger
from prunekit.course.presets import QUICKSTART, Quickstart, Scale
from prunekit.course.setup import pick_device
from prunekit.course.tasks import Task, load_task
from prunekit.data.real import CamVid
from prunekit.export import IMAGENET_INPUT, export_onnx
from prunekit.methods import l1, random
from prunekit.metrics import Evaluation, evaluate
from prunekit.models import zoo
from prunekit.oneshot import slim
from prunekit.plan import Limits
from prunekit.profiling import latency_ms, profile
from prunekit.train import TrainConfig, finetune
from prunekit.viz import mask_grid

CRITERIA = {"l1": l1.score, "random": random.score}


@dataclass(frozen=True)
class Measured:
    """One model's costs and its accuracy on the test images."""

    cost: Profile
    accuracy: Evaluation


def train_config(preset: Quickstart, *, seed: int, tune: bool, quiet: bool = False) -> TrainConfig:
    """AdamW with a cosine, for training from scratch or for the shorter fine-tuning."""
    steps = preset.tune_steps if tune else preset.train_steps
    warmup = min(50, steps // 10)
    return TrainConfig(
        steps=steps,
        lr=preset.lr,
        optimizer="adamw",
        weight_decay=0.01,
        schedule="cosine",
        warmup=warmup,
        seed=seed,
        quiet=quiet,
    )


def comparison(task: Task, models: Mapping[str, Measured]) -> str:
    """The table dense against pruned: costs, mIoU, and every class's IoU, one column a model."""
    rows: list[tuple[str, list[str]]] = [
        ("params (M)", [f"{m.cost.params / 1e6:.3f}" for m in models.values()]),
        ("MACs (M)", [f"{m.cost.macs / 1e6:.1f}" for m in models.values()]),
        ("latency (ms)", [f"{m.cost.latency_ms:.2f}" if m.cost.latency_ms else "-" for m in models.values()]),
        ("mIoU", [f"{m.accuracy.miou:.3f}" for m in models.values()]),
    ]
    rows += [(name, [f"{m.accuracy.iou[k]:.3f}" for m in models.values()]) for k, name in enumerate(task.classes)]
    lines = [f"{'':<15}" + "".join(f"{title:>14}" for title in models)]
    lines += [f"{label:<15}" + "".join(f"{cell:>14}" for cell in cells) for label, cells in rows]
    lines.insert(5, "IoU of each class")
    return "\n".join(lines)


def measure(models: Mapping[str, nn.Module], task: Task, x: Tensor) -> dict[str, Measured]:
    """Costs at x and accuracy on the test images, the models timed in turns."""
    times = latency_ms(models, x)
    found = {}
    for title, model in models.items():
        p = profile(model, x, latency=False)
        cost = Profile(p.params, p.macs, p.peak_bytes, times[title], p.device, p.input_shape)
        found[title] = Measured(cost, evaluate(model, task.test_loader(), len(task.classes)))
    return found


def run(*, scale: Scale, dataset: str | None, root: Path | None, out: Path, seed: int) -> None:
    """Train (or load) the dense model, prune by each criterion, fine-tune, measure; files in `out`, runs in the ledger.

    Stop it and start it again with the same arguments: it goes on where it was.
    """
    preset = QUICKSTART[scale]
    dataset = dataset or preset.dataset
    task = load_task(dataset, size=preset.size, root=root)
    start, device = time.perf_counter(), pick_device()
    dense = dense_model(preset, task, out, seed=seed).to(device)
    x = task.examples(1)[0].to(device)
    settings = {
        "dataset": dataset,
        "image": list(x.shape[-2:]),
        "macs_ratio": preset.macs_ratio,
        "round_to": preset.round_to,
        "tune_steps": preset.tune_steps,
        "lr": preset.lr,
    }
    (base,) = measure({"dense": dense}, task, x).values()
    shared = {"method": "dense", "seed": seed, "scale": scale, "settings": {**settings, "steps": preset.train_steps}}
    ledger.record("Q1", metrics=_metrics(base, base, task, dense), seconds=time.perf_counter() - start, **shared)
    for name, score in CRITERIA.items():
        print(f"pruning by {name}, then {preset.tune_steps} steps of fine-tuning ...", flush=True)
        start = time.perf_counter()
        limits = Limits(round_to=preset.round_to)
        result = slim(dense, x, macs_ratio=preset.macs_ratio, score=score, limits=limits)
        cut = evaluate(result.model, task.test_loader(), len(task.classes))
        config = train_config(preset, seed=seed, tune=True)
        loader = task.train_loader(preset.batch)
        tuned = finetune(result.model, loader, config, loss_fn=task.loss, checkpoint=out / f"tuned-{name}").model
        found = measure({"dense": dense, "pruned": tuned}, task, x)
        metrics = _metrics(found["pruned"], found["dense"], task, tuned) | {"miou_before_tuning": cut.miou}
        seconds = time.perf_counter() - start
        ledger.record("Q1", method=name, seed=seed, scale=scale, settings=settings, metrics=metrics, seconds=seconds)
        _leave_files(out / name, task, {"dense": dense, "pruned": tuned}, found, result.plan, x)


def dense_model(
    preset: Quickstart, task: Task, out: Path, *, model: str = "deeplabv3_mini", seed: int = 0
) -> nn.Module:
    """The stored mini network, or one trained for preset.train_steps with its checkpoints in out/dense."""
    if task.name == "scenes" and preset.train_steps == 0:
        return zoo.load(model)
    torch.manual_seed(seed)
    config = train_config(preset, seed=seed, tune=False)
    loader = task.train_loader(preset.batch)
    start = zoo.build(model, classes=len(task.classes))
    return finetune(start, loader, config, loss_fn=task.loss, checkpoint=out / "dense").model


def _metrics(model: Measured, dense: Measured, task: Task, network: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {
        "miou": model.accuracy.miou,
        "iou": list(model.accuracy.iou),
        "params": model.cost.params,
        "macs": model.cost.macs,
        "latency_ratio": (model.cost.latency_ms or 0) / (dense.cost.latency_ms or 1),
    }
    if isinstance(task.test, CamVid):  # the one test sequence of which no frame was trained on
        unseen = [i for i, (image, _) in enumerate(task.test.pairs) if "Seq05VD" in image.name]
        if unseen:
            part = DataLoader(Subset(task.test, unseen), 25)
            found["miou_seq05vd"] = evaluate(network, part, len(task.classes)).miou
    return found


def _leave_files(
    out: Path, task: Task, models: dict[str, nn.Module], found: dict[str, Measured], plan: PruningPlan, x: Tensor
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    table = comparison(task, found)
    print(f"\n{out.name}\n{table}", flush=True)
    (out / "report.txt").write_text(table + "\n")
    plan.save(out / "plan.json")
    meta = {"plan": plan, "classes": list(task.classes), "palette": task.palette, "preprocessing": IMAGENET_INPUT}
    export_onnx(models["pruned"], x, out / "pruned.onnx", meta=meta)
    images, truth = task.examples(3)
    with torch.no_grad():
        masks = {title: model(images.to(x.device)).argmax(1).cpu() for title, model in models.items()}
    figure = mask_grid(images, {"truth": truth, **masks}, task.palette, task.classes)
    figure.savefig(out / "before_after.png", dpi=100, bbox_inches="tight")
