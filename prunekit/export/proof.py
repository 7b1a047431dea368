"""The proof of an exported file: its runtime against the model in float64, on given input and on noise.

A float32 file cannot be exact, so it is measured against what float32 costs the model itself:

    error(y) = max |y - y64| / max |y64|      kept if  error(file) <= tolerance * error(eager float32) + 1e-6

and if its argmax over classes agrees with float64 about as often as eager float32 does. A fixed tolerance would be
wrong: one network is 1e-7 away from float64, the next 4e-3, both through no fault of the file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from prunekit.errors import ExportError, RuntimeFailure
from prunekit.export.package import Exported, Job, outputs_of
from prunekit.metrics import evaluating
from prunekit.profiling import run
from prunekit.runtimes import Runtime

FLOOR = 1e-6  # relative error that is always allowed: a few units in the last place of float32
AGREEMENT = 1e-3  # fraction of argmax decisions that may differ beyond those that eager float32 gets wrong


def prove(job: Job, runtime: str, draft: Path, path: Path, tolerance: float) -> tuple[Exported, str]:
    """Run the file in its runtime, in a process of its own; the result, and the runtime's version, or ExportError."""
    try:
        with Runtime(runtime) as process:
            process.load("file", draft)

            def execute(x: Tensor) -> list[Tensor]:
                return [torch.from_numpy(y) for y in process.run("file", x.numpy())]

            worst, eager, agreement = compare(job, execute, tolerance)
            version = process.version
    except RuntimeFailure as err:
        raise ExportError(f"the exported file is refused by its runtime. {err} Nothing was kept.") from err
    return Exported(path, worst, eager, agreement, draft.stat().st_size), version


def compare(job: Job, execute: Callable[[Tensor], list[Tensor]], tolerance: float) -> tuple[float, float, float]:
    """(error of the file, of eager float32, agreement), the worst of all inputs; ExportError above what is allowed."""
    exact = copy.deepcopy(job.model).double()
    worst, eager_worst, agreement = 0.0, 0.0, 1.0
    for given in job.inputs():
        with evaluating(job.model), evaluating(exact):
            truth = outputs_of(run(exact, given.double()))
            eager = outputs_of(run(job.model, given))
        found = execute(given)
        error, eager_error = relative_error(found, truth), relative_error(eager, truth)
        same, eager_same = agree(found, truth), agree(eager, truth)
        allowed = tolerance * eager_error + FLOOR
        where = f"on a batch of {tuple(given.shape)}"
        if not error <= allowed:  # nan is a failure too
            raise ExportError(
                f"the exported file is off by {error:.2e} of the largest output {where}, {allowed:.2e} is allowed "
                f"(eager float32: {eager_error:.2e}). Nothing was kept. Raise tolerance only if you know the reason."
            )
        if same < eager_same - AGREEMENT:
            raise ExportError(f"the exported file chooses another class for {1 - same:.2%} of outputs {where}.")
        worst, eager_worst, agreement = max(worst, error), max(eager_worst, eager_error), min(agreement, same)
    return worst, eager_worst, agreement


def relative_error(found: list[Tensor], truth: list[Tensor]) -> float:
    """Largest difference relative to the largest true output; infinite where shapes differ."""
    if [y.shape for y in found] != [t.shape for t in truth]:
        return float("inf")
    scale = max(t.abs().max().item() for t in truth)
    return max((y.double() - t).abs().max().item() for y, t in zip(found, truth, strict=True)) / (scale or 1.0)


def agree(found: list[Tensor], truth: list[Tensor]) -> float:
    """Fraction of equal argmax decisions over the first output: class scores (B, K, ...)."""
    if truth[0].ndim < 2 or found[0].shape != truth[0].shape:
        return 1.0
    return (found[0].argmax(1) == truth[0].argmax(1)).double().mean().item()
