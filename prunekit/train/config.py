"""The settings of a training run, its learning-rate schedules and its optimizer.

Schedules, with t = (step - warmup) / (steps - warmup), after a linear warm-up over the first `warmup` steps:

    poly      lr (1 - t)^0.9             (Chen et al., DeepLab, TPAMI 2018)
    linear    lr (1 - t)
    cosine    lr (1 + cos(pi t)) / 2     (Loshchilov and Hutter, SGDR, ICLR 2017)
    constant  lr
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from prunekit.errors import InputError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["poly", "linear", "cosine", "constant"]
Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """How `finetune` trains. Everything but `quiet` and `save_every` must be the same for a run to be resumed.

    steps: optimizer steps. lr: peak learning rate. momentum: of SGD only. decay_norm: False leaves biases and norms
    (every 1-D parameter) out of weight decay. warmup: steps of linear rise. accumulate: batches of the loader that
    make one step. clip_norm: largest gradient norm. ema: decay of the weight average that is returned instead of the
    last weights; it starts low, min(ema, (1 + n) / (10 + n)), so that a short run is not held at its start.
    freeze_bn: batch norms keep their running statistics (their scale and shift still learn). save_every: steps
    between checkpoints. device: "auto" takes the GPU if there is one. quiet: no progress bar (so does TQDM_DISABLE=1).
    """

    steps: int
    lr: float = 0.01
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm: bool = True
    schedule: Schedule = "poly"
    warmup: int = 0
    mixed_precision: Precision = "no"
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    freeze_bn: bool = False
    seed: int = 0
    save_every: int = 500
    device: Literal["auto", "cpu"] = "auto"
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("warmup", 0), ("accumulate", 1), ("seed", 0), ("save_every", 1)):
            _need(self, name, _is_int(getattr(self, name), low), f"a whole number of at least {low}")
        _need(self, "lr", _is_number(self.lr) and self.lr > 0, "a finite number above 0")
        _need(self, "weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "a finite number >= 0")
        _need(self, "momentum", _is_number(self.momentum) and 0 <= self.momentum < 1, "a number in [0, 1)")
        _need(self, "warmup", self.warmup < self.steps, f"smaller than steps ({self.steps})")
        if self.clip_norm is not None:
            _need(self, "clip_norm", _is_number(self.clip_norm) and self.clip_norm > 0, "above 0, or None")
        if self.ema is not None:
            _need(self, "ema", _is_number(self.ema) and 0 < self.ema < 1, "a number in (0, 1) such as 0.999, or None")
        for name, allowed in (
            ("optimizer", get_args(Optimizer)),
            ("schedule", get_args(Schedule)),
            ("mixed_precision", get_args(Precision)),
            ("device", ("auto", "cpu")),
        ):
            _need(self, name, getattr(self, name) in allowed, "one of " + ", ".join(map(repr, allowed)))


def lr_at(config: TrainConfig, step: int) -> float:
    """Learning rate of step 0 .. steps - 1: a pure function, so that a resumed run needs no scheduler state."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    t = (step - config.warmup) / (config.steps - config.warmup)
    if config.schedule == "poly":
        return config.lr * (1 - t) ** 0.9
    if config.schedule == "linear":
        return config.lr * (1 - t)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * t)) / 2
    return config.lr


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that require gradients. Raises InputError when there are none."""
    learning = [p for p in model.parameters() if p.requires_grad]
    if not learning:
        raise InputError("no parameter of the model requires a gradient; call model.requires_grad_(True) first.")
    decayed = [p for p in learning if config.decay_norm or p.ndim > 1]
    spared = [p for p in learning if not (config.decay_norm or p.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def _need(config: TrainConfig, name: str, ok: bool, wanted: str) -> None:
    if not ok:
        raise InputError(f"TrainConfig.{name} is {getattr(config, name)!r}; it must be {wanted}.")


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
