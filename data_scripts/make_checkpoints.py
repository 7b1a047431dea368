"""Train the mini networks that come with the package, and write each with its card.

    python data_scripts/make_checkpoints.py              # all of them, about 10 minutes on 2 cores
    python data_scripts/make_checkpoints.py deeplabv3_mini --out /tmp/check

A seed gives the same weights on the same machine and torch version; the card says which ones made the stored files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from prunekit.course.setup import device_name, pick_device, versions
from prunekit.course.tasks import load_task
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.train import TrainConfig, finetune


@dataclass(frozen=True)
class Recipe:
    """How a mini network is trained. images: training scenes. lr: peak of a cosine after `warmup` steps, AdamW."""

    images: int = 3000
    steps: int = 2000
    batch: int = 16
    lr: float = 0.003
    weight_decay: float = 0.01
    warmup: int = 50
    seed: int = 0


RECIPES = {"deeplabv3_mini": Recipe()}


def train(name: str, recipe: Recipe, out: Path) -> None:
    """Train one network (resumable: the run's checkpoint lies in `out` until it is done) and write the two files."""
    start = time.perf_counter()
    task = load_task("scenes", train_count=recipe.images)
    torch.manual_seed(recipe.seed)
    config = TrainConfig(
        steps=recipe.steps,
        lr=recipe.lr,
        optimizer="adamw",
        weight_decay=recipe.weight_decay,
        schedule="cosine",
        warmup=recipe.warmup,
        seed=recipe.seed,
    )
    loader = task.train_loader(recipe.batch)
    model = finetune(zoo.build(name), loader, config, loss_fn=task.loss, checkpoint=out / f"{name}.run").model
    result = evaluate(model, task.test_loader(), len(task.classes))
    raw = save({key: tensor.contiguous() for key, tensor in model.cpu().state_dict().items()})
    card = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": f"synthetic scenes, day: {recipe.images} for training (seed 0), {len(task.test)} for testing (seed 1)",  # type: ignore[arg-type]
        "recipe": asdict(recipe),
        "test_miou": round(result.miou, 4),
        "test_iou": {name: round(iou, 4) for name, iou in zip(task.classes, result.iou)},
        "seconds": round(time.perf_counter() - start),
        "device": device_name(pick_device()),
        "versions": versions(),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    write(out / f"{name}.safetensors", raw)
    write(out / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())
    print(f"{name}: mIoU {result.miou:.3f} on {len(task.test)} test scenes, {len(raw) / 1e6:.1f} MB in {out}")  # type: ignore[arg-type]


def write(path: Path, raw: bytes) -> None:
    """In one step: a reader sees the old file or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(raw)
    part.replace(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="which networks (default: all)")
    parser.add_argument("--out", type=Path, default=zoo.FOLDER, help="folder (default: inside the package)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or RECIPES:
        train(name, RECIPES[name], args.out)


if __name__ == "__main__":
    main()
