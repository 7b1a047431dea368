"""What a run borrows from the process it runs in, and gives back: Accelerate's state, random numbers, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from prunekit.errors import InputError
from prunekit.train.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def one_accelerator(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator, and no trace of it afterwards: its settings are global, the next run may want others."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, is_initialized
    from accelerate.utils import GradientAccumulationPlugin

    own = not is_initialized()
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if cpu and config.mixed_precision == "fp16":
        raise InputError("mixed_precision='fp16' needs a GPU; use 'bf16' or 'no' on the CPU.")
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=config.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # counted here, by labels
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except ValueError as err:
        raise InputError(
            f"this device and mixed_precision={config.mixed_precision!r} do not go together: {err}"
        ) from err
    try:
        yield accelerator
    finally:
        if accelerator.device.type != "cpu":
            accelerator.free_memory()  # a wrapped model is a cycle: it would hold GPU memory until a collection
        if own:
            AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def own_dice(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
        yield


@contextmanager
def interrupt_waits(wanted: bool) -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of breaking into a half-done update; a second one breaks in at once."""
    asked = threading.Event()

    def handler(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not wanted or not default or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def progress(total: int, done: int, quiet: bool) -> Any:
    """A tqdm bar on stderr."""
    from tqdm import tqdm

    bar = partial(tqdm, disable=True) if quiet else tqdm  # leaving disable out is what lets TQDM_DISABLE=1 speak
    return bar(total=total, initial=done, desc="finetune", unit="step")
