"""What a model costs: parameters, multiply-accumulates, milliseconds, bytes.

    params      elements of all parameters, shared ones once
    macs        multiply-accumulates of convolutions and matrix products for the whole input (torch's flop counter / 2)
    latency_ms  median wall or CPU time of one forward pass, models measured in turn
    peak_bytes  most bytes of tensors alive at one moment of a forward pass, weights and input included

MACs are exact and the same everywhere; milliseconds belong to one machine at one moment. All of it in eval mode without
gradients, and the model is left as it was.
"""

from __future__ import annotations

import statistics
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunekit.core import Profile
from prunekit.errors import InputError
from prunekit.metrics import evaluating
from prunekit.surgery.trace import plain_attention


def count_params(model: nn.Module) -> int:
    """Elements of all parameters; a parameter that two layers share counts once."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of one forward pass on x, the whole batch.

    Counts convolutions and matrix products, attention included; not biases, norms, activations or resizing.
    Raises InputError when x is no Tensor, is elsewhere than the model, or the model cannot run on it.
    """
    return count_macs_by_module(model, x)[""]


def count_macs_by_module(model: nn.Module, x: Tensor) -> dict[str, int]:
    """The same for each module that computes any, with all that is inside it: module name -> MACs; "" is the whole."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # fused attention kernels would hide their products from the counter
    with plain_attention(), sdpa_kernel(SDPBackend.MATH), evaluating(model), _constants(model), counter:
        run(model, x)
    root = type(model).__name__
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    inside = {name.removeprefix(f"{root}."): macs for name, macs in counts.items() if name not in ("Global", root)}
    return {"": counter.get_total_flops() // 2, **inside}


def latency_ms(
    models: Mapping[str, nn.Module],
    x: Tensor,
    *,
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    clock: Literal["wall", "cpu"] = "wall",
) -> dict[str, float]:
    """Median milliseconds of a forward pass of each model on x.

    The models take turns, one pass each a round, so that a machine that slows down slows all of them alike. warmup:
    rounds that are not counted. threads: CPU threads while measuring (None = as they are). clock: "cpu" counts what
    this process computes, all its threads together, and not the waiting where other programs run too.
    Raises InputError for the same reasons as count_macs, when there is nothing to measure, and for the CPU's clock
    while another device does the work.
    """
    if clock not in ("wall", "cpu") or (clock == "cpu" and getattr(x, "is_cpu", True) is False):
        raise InputError(f"clock={clock!r}: give 'wall', or 'cpu' where the CPU does the work.")
    if not isinstance(models, Mapping) or not models:
        raise InputError('models must be a mapping with at least one entry, such as {"dense": model}.')
    if repeats < 1 or warmup < 0 or (threads is not None and threads < 1):
        raise InputError(f"repeats={repeats}, warmup={warmup}, threads={threads}: need >= 1, >= 0 and >= 1 or None.")
    now = time.process_time if clock == "cpu" else time.perf_counter
    times_ms: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        for model in models.values():
            stack.enter_context(evaluating(model))
            run(model, x)  # the first pass, with the checks
        for lap in range(warmup + repeats):
            for name, model in models.items():
                _wait(x)
                start = now()
                model(x)
                _wait(x)
                if lap >= warmup:
                    times_ms[name].append(1000 * (now() - start))
    return {name: statistics.median(values) for name, values in times_ms.items()}


def peak_memory(model: nn.Module, x: Tensor) -> int:
    """Most bytes alive at one moment of a forward pass: weights, buffers, x, activations.

    On CUDA: from the caching allocator, with the workspaces of kernels. Elsewhere: the storages of all tensors that
    operators return, followed from birth to release; exact and repeatable, but without the scratch memory that a
    kernel uses inside.
    """
    check_input(model, x)
    resident = {t.untyped_storage()._cdata: t for t in chain(model.parameters(), model.buffers(), [x])}
    base = sum(t.untyped_storage().nbytes() for t in resident.values())
    if x.device.type == "cuda":
        _wait(x)
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        with evaluating(model):
            run(model, x)
        _wait(x)
        return base + torch.cuda.max_memory_allocated(x.device) - before
    live = _LiveBytes(resident.values())
    with evaluating(model), live:
        run(model, x)
    return base + live.peak


def step_memory(step: Callable[[], object], resident: Iterable[Tensor]) -> int:
    """Most bytes alive at one moment of step(), say of a training step on the CPU, counted as in `peak_memory`.

    resident: tensors that are there before it: weights, moments, the batch. What else is there does not count.
    """
    there = {t.untyped_storage()._cdata: t for t in resident}
    with _LiveBytes(there.values()) as live:
        step()
    return sum(t.untyped_storage().nbytes() for t in there.values()) + live.peak


def watch_peak(device: torch.device) -> Callable[[], int | None]:
    """From now on, the most bytes held at once: call what comes back.

    Of a GPU: what torch's allocator has given out. Elsewhere nobody counts: the resident memory of this whole process
    at its highest, which may have been earlier, so an upper bound; None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return partial(torch.cuda.max_memory_allocated, device)
    return resident_peak


def resident_peak() -> int | None:
    """Largest resident memory of this process so far, bytes; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10  # macOS counts bytes, Linux KiB


def profile(model: nn.Module, x: Tensor, *, latency: bool = True) -> Profile:
    """All costs of one model at x's shape, on x's device. latency=False leaves the timing out (None)."""
    return Profile(
        params=count_params(model),
        macs=count_macs(model, x),
        peak_bytes=peak_memory(model, x),
        latency_ms=latency_ms({"model": model}, x)["model"] if latency else None,
        device=str(x.device),
        input_shape=tuple(x.shape),
    )


def check_input(model: nn.Module, x: Any) -> None:
    """Raise InputError unless x is a Tensor on the model's device."""
    if not isinstance(x, Tensor):
        raise InputError(f"x is a {type(x).__name__}; an input batch is needed, such as torch.randn(1, 3, 64, 128).")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.device != x.device:
            raise InputError(f"x is on {x.device} but '{name}' is on {tensor.device}; call x.to('{tensor.device}').")


def run(model: nn.Module, x: Tensor) -> Any:
    """model(x), with an InputError that names the shape when the model cannot take it."""
    check_input(model, x)
    try:
        return model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError) as err:
        first = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise InputError(
            f"the model does not run on x of shape {tuple(x.shape)}, {x.dtype}: {first} Give it the shape and type it "
            "was built for."
        ) from err


class _LiveBytes(TorchDispatchMode):
    """Adds up the bytes of every new storage an operator returns, and takes them off when it is released."""

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in resident}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._born(leaf.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return  # a view, or an in-place result
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._released, key, size)

    def _released(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def _constants(model: nn.Module) -> Iterator[None]:
    """The flop counter fails where a parameter that asks for gradients is passed to a module (a class token)."""
    learned = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wait(x: Tensor) -> None:
    """Until the device has done its work; the CPU always has."""
    if x.device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(x.device)
