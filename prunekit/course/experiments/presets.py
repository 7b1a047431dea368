"""A stretch of training, and what every preset's `preset_of` and `override` do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from prunekit.course.presets import Scale
from prunekit.errors import InputError
from prunekit.train import TrainConfig
from prunekit.train.config import Optimizer, Precision, Schedule

P = TypeVar("P")


@dataclass(frozen=True)
class Stretch:
    """One training. batch: images a step, over all processes. SGD has momentum 0.9. schedule None: poly for SGD, cosine
    for AdamW. steps 0: none, the network comes trained. warmup: steps, in a shorter training a tenth of it at most.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 1e-4
    optimizer: Optimizer = "sgd"
    schedule: Schedule | None = None
    warmup: int = 0
    decay_norm: bool = True

    def config(self, *, seed: int, precision: Precision = "no", quiet: bool = False) -> TrainConfig:
        """What `finetune` takes."""
        return TrainConfig(
            steps=self.steps,
            lr=self.lr,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            decay_norm=self.decay_norm,
            schedule=self.schedule or ("poly" if self.optimizer == "sgd" else "cosine"),
            warmup=min(self.warmup, self.steps // 10),
            mixed_precision=precision,
            seed=seed,
            quiet=quiet,
        )


def adamw(steps: int, batch: int, lr: float) -> Stretch:
    """A stretch of AdamW with weight decay 0.01 and a cosine."""
    return Stretch(steps, batch, lr, weight_decay=0.01, optimizer="adamw")


def choose(presets: Mapping[Scale, Mapping[str, P]], scale: Scale, name: str | None = None) -> P:
    """The scale's preset of this name, the first one without a name. InputError with the names there are."""
    there = presets[scale]
    if name is not None and name not in there:
        raise InputError(f"no preset for {name!r} at {scale} scale; there are: {', '.join(there)}.")
    return there[name or next(iter(there))]


def pick_model(name: str, *known: Iterable[str], of: str = "") -> str:
    """The name again; InputError with the names there are when it is not known. of: what they are for."""
    there = [each for names in known for each in names]
    if name not in there:
        raise InputError(f"no network {name!r}{of and f' for {of}'}; there are: {', '.join(there)}.")
    return name


def check_numbers(given: Mapping[str, Any]) -> None:
    """InputError when counts, where they are given, are below 1, or a fraction to remove is not from 0 up to 1."""
    counts = ("steps", "batch", "size", "side", "round_to", "min_keep", "candidates", "images", "plans")
    for name in (*counts, "held", "samples", "step"):
        if name in given and min(np.atleast_1d(given[name])) < 1:
            raise InputError(f"{name} is {given[name]}; give whole numbers from 1 on.")
    for name in ("macs_ratio", "percentage"):
        if name in given and not 0 <= given[name] < 1:
            raise InputError(
                f"{name} is the fraction to remove, from 0 up to but not 1; got {given[name]:g} "
                f"(--{name.replace('_', '-')})."
            )
