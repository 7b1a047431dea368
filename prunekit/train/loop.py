"""`finetune`: the training loop, on Accelerate. What one step is: step.py."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunekit.errors import CheckpointError
from prunekit.train import checkpoint as store
from prunekit.train.batches import describe
from prunekit.train.config import TrainConfig, lr_at
from prunekit.train.loss import segmentation_loss, valid_labels
from prunekit.train.observer import Observer, share
from prunekit.train.runtime import interrupt_waits, one_accelerator, own_dice, progress
from prunekit.train.step import Run, Step, batches_to_come, start, take_step


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
    penalty(model): is added (sparse training), once a step: the mean of what it is after each micro-batch's forward
    pass. on_step(step, model): called after each step with the model in training. observer: looks on at the forward
    passes; what it gathered is stored and taken up with the checkpoints, the mean over all processes. checkpoint: a
    folder, written every save_every steps and at the end; if it holds a checkpoint of this very run, the run goes on
    from there and ends with the same weights, bit for bit, as an unbroken one. Ctrl-C then waits for the step to end,
    saves and stops. Several processes: `accelerate launch` or `torchrun`.

    Raises DataError (empty loader, labels out of range), CheckpointError (damaged, or of another run), InputError, and
    TrainingError when the loss or a gradient is not finite, before the weights are touched.
    """
    identity = {"config": _lasting(config), "data": describe(loader), "start": store.weights_hash(model)}
    folder = Path(checkpoint) if checkpoint is not None else None
    with one_accelerator(config) as accelerator, own_dice(accelerator.device):
        run = start(model, config, accelerator, observer)
        if folder is not None:
            _resume(run, folder, identity)
        with (
            interrupt_waits(folder is not None) as interrupted,
            observer.watching(run.bare) if observer is not None else nullcontext(),
            closing(batches_to_come(run, loader)) as source,
            progress(config.steps, len(run.history), config.quiet or not accelerator.is_main_process) as bar,
        ):
            for number in range(len(run.history), config.steps):
                micro = [next(source) for _ in range(config.accumulate)]
                loss = take_step(run, number, micro, loss_fn, penalty, count)
                run.history.append(Step(number, loss, lr_at(config, number)))
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update()
                _after_step(run, folder, identity, on_step, interrupted)
        trained = copy.deepcopy(model)  # and not the copy that trained: Accelerate has wrapped its forward
        trained.load_state_dict(_result(run))
        trained.zero_grad()
        return Trained(trained.eval(), tuple(run.history))


def _result(run: Run) -> dict[str, Any]:
    """The state of what is returned. Modules' extra state has no mean: that is what the training left."""
    if run.ema is None:
        return run.bare.state_dict()
    mean = {name: value for name, value in run.ema.state_dict().items() if not name.endswith("_extra_state")}
    return {**run.bare.state_dict(), **mean}


def _after_step(
    run: Run,
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


def _save(run: Run, folder: Path, identity: dict[str, Any]) -> None:
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


def _resume(run: Run, folder: Path, identity: dict[str, Any]) -> None:
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
    except CheckpointError:
        raise  # an observer's own: it says what to do, and the folder is whole
    except (KeyError, ValueError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"{saved.folder} is not whole ({type(err).__name__}: {err}); delete it.") from err


def _lasting(config: TrainConfig) -> dict[str, Any]:
    return {key: value for key, value in asdict(config).items() if key not in ("quiet", "save_every")}
