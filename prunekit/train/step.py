"""One optimizer step, on Accelerate: what a loop repeats.

    loss of a step = (sum over its labels of their loss) / (number of labels in the step) + mean of penalty(model)

The sum runs over all micro-batches (`accumulate`) and all processes, so k micro-batches or W processes take the very
step one big batch would take. A mean of per-process means would not: processes hold unlike numbers of ignored pixels.
The penalty is asked after each forward pass, since it may be of what that pass made; all micro-batches count alike.
Two things still depend on the split: batch norm sees its own micro-batch (over processes on GPUs it is synchronised;
on CPUs it is not: use freeze_bn), and dropout draws its own masks.

Legend: k micro-batches a step, W processes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.errors import InputError, TrainingError
from prunekit.train.batches import Batch, Share, batches, seed_of
from prunekit.train.config import TrainConfig, lr_at, make_optimizer
from prunekit.train.observer import GradientObserver, Observer

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Step:
    """One line of the history. loss: over the whole step, all processes, penalty included."""

    step: int
    loss: float
    lr: float


@dataclass
class Run:
    """A run on its way. net: bare as Accelerate wrapped it. ema: the averaged copy. observer: who looks on."""

    config: TrainConfig
    accelerator: Accelerator
    net: nn.Module
    bare: nn.Module
    optimizer: Any
    ema: nn.Module | None
    observer: Observer | None
    history: list[Step] = field(default_factory=list)


def start(model: nn.Module, config: TrainConfig, accelerator: Accelerator, observer: Observer | None = None) -> Run:
    """A copy of the model, ready to train with an optimizer of its own."""
    bare = copy.deepcopy(model).train()
    bare.zero_grad()
    ema = copy.deepcopy(bare).to(accelerator.device) if config.ema is not None else None
    if config.freeze_bn:
        for module in bare.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    elif accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm  # torch's would drop the activation in timm's norms

        bare = convert_sync_batchnorm(bare)
    net, optimizer = accelerator.prepare(bare, make_optimizer(bare, config))
    return Run(config, accelerator, net, accelerator.unwrap_model(net), optimizer, ema, observer)


def batches_to_come(run: Run, loader: Iterable[Any]) -> Generator[Batch, None, None]:
    """This process's share of every micro-batch from the run's next step to its last."""
    config, accelerator = run.config, run.accelerator
    to_come = range(len(run.history) * config.accumulate, config.steps * config.accumulate)
    return batches(loader, config.seed, to_come, Share(accelerator.process_index, accelerator.num_processes))


def take_step(
    run: Run,
    number: int,
    micro: list[Batch],
    loss_fn: Callable[[Any, Any], Tensor],
    penalty: Callable[[nn.Module], Tensor] | None,
    count: Callable[[Any], int],
) -> float:
    """Forward and backward over the micro-batches, then one update. Returns the loss of the step."""
    from accelerate.utils import send_to_device

    config, accelerator = run.config, run.accelerator
    weights = _weights(accelerator, [target for _, target in micro], count)
    losses = []
    for i, ((x, target), weight) in enumerate(zip(micro, weights, strict=True)):
        last = i == len(micro) - 1
        _seed(seed_of("step", config.seed, number * len(micro) + i, accelerator.process_index), accelerator.device)
        x, target = send_to_device((x, target), accelerator.device, non_blocking=True)
        with nullcontext() if last else accelerator.no_sync(run.net):  # processes exchange gradients once a step
            loss = loss_fn(run.net(x), target)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise InputError(f"loss_fn must return a Tensor with one number, not {type(loss).__name__}.")
            # a part without labels counts for nothing, even where its mean is 0 / 0
            loss = loss.reshape(()) * weight if weight else loss.reshape(()).nan_to_num(0.0) * 0.0
            if penalty is not None:
                loss = loss + penalty(run.bare) / len(micro)
            accelerator.backward(loss)
        losses.append(loss.detach())
    total: Any = accelerator.reduce(torch.stack(losses).sum(), "mean")  # the mean, because the weights hold W
    value = float(total)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {number} (lr {lr_at(config, number):.3g}); the weights were not updated. "
            "Lower lr, add warmup or clip_norm, or look for nan in the inputs and for batches without a label."
        )
    _check_gradients(run, number)
    if isinstance(run.observer, GradientObserver):
        run.observer.on_gradients(run.bare)
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(config, number)
    if config.clip_norm is not None:
        accelerator.clip_grad_norm_(run.net.parameters(), config.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None and config.ema is not None:
        _average(run.ema, run.bare, min(config.ema, (1 + number) / (10 + number)))
    return value


def _seed(seed: int, device: torch.device) -> None:
    """As torch.manual_seed, which on the CPU would format the stack for a CUDA that never starts: 1 ms a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _check_gradients(run: Run, number: int) -> None:
    """TrainingError before a gradient that is not finite reaches a weight: the loss can be finite all the same, as that
    of sqrt at 0. With fp16 such gradients are everyday, and the loss scaler passes over the step.

    Only what the optimizer moves: of that all processes hold the same, so all stop at the same step.
    """
    if run.accelerator.scaler is not None:
        return
    moved = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    gradients = {
        name: p.grad
        for name, p in run.bare.named_parameters()
        if id(p) in moved and p.grad is not None and not p.grad.is_sparse
    }
    if not torch.isfinite(torch.nn.utils.get_total_norm(gradients.values(), math.inf)):
        name = next(name for name, gradient in gradients.items() if not torch.isfinite(gradient).all())
        raise TrainingError(
            f"the loss is finite at step {number}, but the gradient of '{name}' is not; the weights were not updated. "
            "Look for a square root, a norm or a logarithm at 0, or for a division by it; clip_norm does not help."
        )


def _weights(accelerator: Accelerator, targets: list[Any], count: Callable[[Any], int]) -> list[float]:
    """What each micro-batch's mean counts for: W x its labels / all labels of the step (DDP divides by W)."""
    if len(targets) == 1 and accelerator.num_processes == 1:
        return [1.0]
    mine = [count(target) for target in targets]
    everywhere: Any = accelerator.reduce(torch.tensor(sum(mine), device=accelerator.device), "sum")
    return [accelerator.num_processes * n / max(int(everywhere), 1) for n in mine]


@torch.no_grad()
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    old, new = chain(ema.parameters(), ema.buffers()), chain(model.parameters(), model.buffers())
    for mean, value in zip(old, new, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)  # counters
