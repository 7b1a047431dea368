"""`finetune`: the training loop, on Accelerate.

    loss of a step = (sum over its labels of their loss) / (number of labels in the step) + penalty(model)

The sum runs over all micro-batches (`accumulate`) and all processes, so k micro-batches or W processes take the very
step one big batch would take. A mean of per-process means would not: processes hold unlike numbers of ignored pixels.
Two things still depend on the split: batch norm sees its own micro-batch (over processes on GPUs it is synchronised;
on CPUs it is not: use freeze_bn), and dropout draws its own masks.

Legend: k micro-batches a step, W processes.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.errors import CheckpointError, InputError, TrainingError
from prunekit.train import checkpoint as store
from prunekit.train.batches import Batch, Share, batches, describe, seed_of
from prunekit.train.config import TrainConfig, lr_at, make_optimizer
from prunekit.train.loss import segmentation_loss, valid_labels
from prunekit.train.observer import Observer, share
from prunekit.train.runtime import interrupt_waits, one_accelerator, own_dice, progress

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Step:
    """One line of the history. loss: over the whole step, all processes, penalty included."""

    step: int
    loss: float
    lr: float


@dataclass(frozen=True)
class Trained:
    """The trained model (eval mode, on the input model's device; the average if ema was set) and one Step a step."""

    model: nn.Module
    history: tuple[Step, ...]


def finetune(
    model: nn.Module,
    loader: Iterable[Any],
    config: TrainConfig,
    *,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    checkpoint: str | Path | None = None,
    on_step: Callable[[Step, nn.Module], None] | None = None,
    count: Callable[[Any], int] = valid_labels,
    observer: Observer | None = None,
) -> Trained:
    """Train a copy of `model`; the model itself is not changed.

    loader: gives (input, target); its batch_size is that of all processes together; epochs follow one another until
    config.steps. loss_fn(output, target): a mean over the target's labels; F.cross_entropy works too.
    count(target): how many labels that mean is over; used with accumulate or several processes only.
    penalty(model): added once a step (sparse training). on_step(step, model): called after each step with the model
    in training. observer: looks on at the forward passes; what it gathered is stored and taken up with the checkpoints,
    the mean over all processes. checkpoint: a folder, written every save_every steps and at the end; if it holds a
    checkpoint of this very run, the run goes on from there and ends with the same weights, bit for bit, as an unbroken
    one. Ctrl-C then waits for the step to end, saves and stops. Several processes: `accelerate launch` or `torchrun`.

    Raises DataError (empty loader, labels out of range), CheckpointError (damaged, or of another run), InputError, and
    TrainingError when the loss is not finite, before the weights are touched.
    """
    identity = {"config": _lasting(config), "data": describe(loader), "start": store.weights_hash(model)}
    folder = Path(checkpoint) if checkpoint is not None else None
    with one_accelerator(config) as accelerator, own_dice(accelerator.device):
        run = _start(model, config, accelerator, observer)
        if folder is not None:
            _resume(run, folder, identity)
        with (
            interrupt_waits(folder is not None) as interrupted,
            observer.watching(run.bare) if observer is not None else nullcontext(),
            closing(_batches(run, loader)) as source,
            progress(config.steps, len(run.history), config.quiet or not accelerator.is_main_process) as bar,
        ):
            for number in range(len(run.history), config.steps):
                micro = [next(source) for _ in range(config.accumulate)]
                loss = _step(run, number, micro, loss_fn, penalty, count)
                run.history.append(Step(number, loss, lr_at(config, number)))
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
                _after_step(run, folder, identity, on_step, interrupted)
        trained = copy.deepcopy(model)  # and not the copy that trained: Accelerate has wrapped its forward
        trained.load_state_dict((run.bare if run.ema is None else run.ema).state_dict())
        trained.zero_grad()
        return Trained(trained.eval(), tuple(run.history))


@dataclass
class _Run:
    """A run on its way. net: bare as Accelerate wrapped it. ema: the averaged copy. observer: who looks on."""

    config: TrainConfig
    accelerator: Accelerator
    net: nn.Module
    bare: nn.Module
    optimizer: Any
    ema: nn.Module | None
    observer: Observer | None
    history: list[Step] = field(default_factory=list)


def _start(model: nn.Module, config: TrainConfig, accelerator: Accelerator, observer: Observer | None) -> _Run:
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
    return _Run(config, accelerator, net, accelerator.unwrap_model(net), optimizer, ema, observer)


def _batches(run: _Run, loader: Iterable[Any]) -> Generator[Batch, None, None]:
    config, accelerator = run.config, run.accelerator
    to_come = range(len(run.history) * config.accumulate, config.steps * config.accumulate)
    return batches(loader, config.seed, to_come, Share(accelerator.process_index, accelerator.num_processes))


def _step(
    run: _Run,
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
        torch.manual_seed(seed_of("step", config.seed, number * len(micro) + i, accelerator.process_index))
        x, target = send_to_device((x, target), accelerator.device, non_blocking=True)
        with nullcontext() if last else accelerator.no_sync(run.net):  # processes exchange gradients once a step
            loss = loss_fn(run.net(x), target)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise InputError(f"loss_fn must return a Tensor with one number, not {type(loss).__name__}.")
            # a part without labels counts for nothing, even where its mean is 0 / 0
            loss = loss.reshape(()) * weight if weight else loss.reshape(()).nan_to_num(0.0) * 0.0
            if last and penalty is not None:
                loss = loss + penalty(run.bare)
            accelerator.backward(loss)
        losses.append(loss.detach())
    total: Any = accelerator.reduce(torch.stack(losses).sum(), "mean")  # the mean, because the weights hold W
    value = float(total)
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {number} (lr {lr_at(config, number):.3g}); the weights were not updated. "
            "Lower lr, add warmup or clip_norm, or look for nan in the inputs and for batches without a label."
        )
    for group in run.optimizer.param_groups:
        group["lr"] = lr_at(config, number)
    if config.clip_norm is not None:
        accelerator.clip_grad_norm_(run.net.parameters(), config.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.ema is not None and config.ema is not None:
        _average(run.ema, run.bare, min(config.ema, (1 + number) / (10 + number)))
    return value


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


def _after_step(
    run: _Run,
    folder: Path | None,
    identity: dict[str, Any],
    on_step: Callable[[Step, nn.Module], None] | None,
    interrupted: threading.Event,
) -> None:
    """Tell the caller, save when it is time, stop when asked: here, between two steps, the run is whole."""
    done = len(run.history)
    try:
        if on_step is not None:
            on_step(run.history[-1], run.bare)
    except KeyboardInterrupt:
        interrupted.set()
    due = done % run.config.save_every == 0 or done == run.config.steps
    if due and run.observer is not None:
        share(run.observer, run.accelerator)
    if folder is not None and (due or interrupted.is_set()) and run.accelerator.is_main_process:
        _save(run, folder, identity)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _save(run: _Run, folder: Path, identity: dict[str, Any]) -> None:
    tensors = {
        "model": run.bare.state_dict(),
        "optimizer": store.optimizer_tensors(run.optimizer.optimizer),
        **({"ema": run.ema.state_dict()} if run.ema is not None else {}),
        **({"observer": run.observer.state_dict()} if run.observer is not None else {}),
    }
    scaler = run.accelerator.scaler
    history = {"loss": [s.loss for s in run.history], "lr": [s.lr for s in run.history]}
    state = {**identity, "scaler": scaler.state_dict() if scaler is not None else None, "history": history}
    store.save(folder, len(run.history), tensors, state)


def _resume(run: _Run, folder: Path, identity: dict[str, Any]) -> None:
    saved = store.load_latest(folder)
    if saved is None:
        return
    store.check_same_run(saved, identity, run.bare)
    try:
        run.bare.load_state_dict(saved.tensors["model"])
        if run.ema is not None:
            run.ema.load_state_dict(saved.tensors["ema"])
        if run.observer is not None:
            run.observer.load_state_dict(saved.tensors["observer"])
        store.restore_optimizer(run.optimizer.optimizer, saved.tensors["optimizer"])
        if run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(saved.state["scaler"])
        pairs = zip(saved.state["history"]["loss"], saved.state["history"]["lr"], strict=True)
        run.history.extend(Step(n, loss, lr) for n, (loss, lr) in enumerate(pairs))
    except (KeyError, ValueError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"{saved.folder} is not whole ({type(err).__name__}: {err}); delete it.") from err


def _lasting(config: TrainConfig) -> dict[str, Any]:
    return {key: value for key, value in asdict(config).items() if key not in ("quiet", "save_every")}
