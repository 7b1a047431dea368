"""Train the mini networks that come with the package, and write each with its card.

    python data_scripts/make_checkpoints.py              # all of them, about an hour on 2 cores
    python data_scripts/make_checkpoints.py deeplabv3_mini --out /tmp/check

A seed gives the same weights on the same machine and torch version; the card says which ones made the stored files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prunekit.course.setup import device_name, pick_device, versions
from prunekit.course.tasks import load_task
from prunekit.data.scenes import CLASSES, SceneBoxes, SceneCrops, stack_images
from prunekit.metrics import average_precision, evaluate, evaluating, top1
from prunekit.models import zoo
from prunekit.models.ssd import SSD, default_boxes, detect, ssd_loss
from prunekit.train import TrainConfig, classification_loss, finetune


@dataclass(frozen=True)
class Recipe:
    """How a mini network is trained. images: training scenes. lr: peak of a cosine after `warmup` steps, AdamW.

    half: stored in float16, in half the bytes; the card's mIoU is that of the stored weights.
    """

    images: int = 3000
    steps: int = 2000
    batch: int = 16
    lr: float = 0.003
    weight_decay: float = 0.01
    warmup: int = 50
    seed: int = 0
    half: bool = True


TEST = 200  # scenes
RECIPES = {
    "deeplabv3_mini": Recipe(half=False),
    "deeplabv3plus_mini": Recipe(steps=350, lr=0.005),
    "pspnet_mini": Recipe(steps=1200),
    "bisenet_mini": Recipe(steps=1500),
    "unet_mini": Recipe(steps=800),
    "segformer_mini": Recipe(steps=1500, lr=0.002, warmup=100),
    "topformer_mini": Recipe(steps=600, lr=0.006, warmup=50),
    "ssd_mini": Recipe(steps=1200),
    "resnet_mini": Recipe(images=1500, steps=300, batch=64, weight_decay=0.02),
    "mobilenet_mini": Recipe(images=1500, steps=400, batch=64, lr=0.004, weight_decay=0.02),
    "deit_mini": Recipe(images=1500, steps=600, batch=64, lr=0.002, weight_decay=0.02),
}


@dataclass(frozen=True)
class Work:
    """What a network learns: batches, a loss, and how its result is measured (entries for the card)."""

    loader: DataLoader[Any]
    loss: Callable[[Any, Any], Tensor]
    measure: Callable[[nn.Module], dict[str, Any]]


def segmentation(recipe: Recipe) -> Work:
    """Class of each pixel; mIoU."""
    task = load_task("scenes", train_count=recipe.images, test_count=TEST)

    def measure(model: nn.Module) -> dict[str, Any]:
        result = evaluate(model, task.test_loader(), len(task.classes))
        return {"test_miou": round(result.miou, 4), "test_iou": _by_class(result.iou)}

    return Work(task.train_loader(recipe.batch), task.loss, measure)


def detection(recipe: Recipe, model: SSD) -> Work:
    """Boxes around objects; average precision at an overlap of 0.5."""
    train, test = SceneBoxes(recipe.images, seed=0), SceneBoxes(TEST, seed=1)
    size = tuple(train[0][0].shape[1:])
    defaults = default_boxes(model, size)  # type: ignore[arg-type]

    def measure(model: nn.Module) -> dict[str, Any]:
        images, targets = stack_images([test[i] for i in range(TEST)])
        with evaluating(model):
            found = [f for x in images.split(25) for f in detect(model(x), defaults, size)]  # type: ignore[arg-type]
        precision = average_precision(found, targets, len(CLASSES))
        seen = [p for p in precision if p == p]
        return {"test_ap50": round(sum(seen) / len(seen), 4), "test_ap": _by_class(precision)}

    loader = DataLoader(train, recipe.batch, shuffle=True, drop_last=True, collate_fn=stack_images)
    return Work(loader, partial(ssd_loss, defaults_N4=defaults.to(pick_device())), measure)


def classification(recipe: Recipe) -> Work:
    """The kind of thing on a crop; top-1."""
    train, test = crops(recipe.images, seed=0), crops(TEST, seed=1)

    def measure(model: nn.Module) -> dict[str, Any]:
        return {"test_top1": round(top1(model, DataLoader(test, 500)), 4)}

    loader = DataLoader(train, recipe.batch, shuffle=True, drop_last=True)
    return Work(loader, classification_loss, measure)


@lru_cache(maxsize=2)
def crops(count: int, *, seed: int) -> Dataset[Any]:
    """Things of `count` scenes, made once for all networks."""
    return SceneCrops(count, seed=seed, size=32)


def _by_class(values: tuple[float, ...]) -> dict[str, float]:
    """Four digits for each class that occurs."""
    return {name: round(value, 4) for name, value in zip(CLASSES, values) if value == value}


def train(name: str, recipe: Recipe, out: Path) -> None:
    """Train one network (resumable: the run's checkpoint lies in `out` until it is done) and write the two files."""
    start = time.perf_counter()
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
    fresh = zoo.build(name)
    if isinstance(fresh, SSD):
        work = detection(recipe, fresh)
    else:
        work = classification(recipe) if name in zoo.CLASSIFIERS else segmentation(recipe)
    model = finetune(fresh, work.loader, config, loss_fn=work.loss, checkpoint=out / f"{name}.run").model.cpu()
    state = stored(model, half=recipe.half)
    model.load_state_dict(state)
    raw = save(state)
    card = {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": f"synthetic scenes, day: {recipe.images} for training (seed 0), {TEST} for testing (seed 1)",
        "recipe": asdict(recipe),
        **work.measure(model),
        "seconds": round(time.perf_counter() - start),
        "device": device_name(pick_device()),
        "versions": versions(),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    write(out / f"{name}.safetensors", raw)
    write(out / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())
    (result,) = (card[key] for key in ("test_miou", "test_ap50", "test_top1") if key in card)
    print(f"{name}: {result:.3f}, {len(raw) / 1e6:.1f} MB in {out}")


def stored(model: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """The model's tensors as they go into the file."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return {name: t.half() if half and t.is_floating_point() else t for name, t in tensors.items()}


def write(path: Path, raw: bytes) -> None:
    """In one step: a reader sees the old file or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(raw)
    part.replace(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    known = [*zoo.BUILDERS, *zoo.CLASSIFIERS]
    parser.add_argument("names", nargs="*", choices=[*known, []], help="which networks (default: all)")
    parser.add_argument("--out", type=Path, default=zoo.FOLDER, help="folder (default: inside the package)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        train(name, RECIPES[name], args.out)


if __name__ == "__main__":
    main()
