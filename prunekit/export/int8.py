"""Static int8 for onnxruntime: weights and activations in 8-bit integers, their ranges measured on some batches.

Pruning takes whole channels, int8 makes those that stay cheaper: the two combine. The float32 file is proved first;
the int8 file is then compared with it, since 8 bits cannot meet a float32 tolerance.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import ExportError, InputError, RuntimeFailure
from prunekit.export.onnx import ready, write
from prunekit.export.package import Exported, Job, beside, first_line, keep, need, quiet
from prunekit.export.proof import agree, prove, relative_error
from prunekit.runtimes import Runtime


@dataclass(frozen=True)
class Quantised(Exported):
    """max_error, argmax_agreement: of the int8 file against the proved float32 file on the last batch, which took no
    part in the calibration. eager_error: of eager float32 against float64. float_bytes: of the float32 file."""

    float_bytes: int


def export_int8(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    batches: Sequence[Tensor],
    *,
    meta: Mapping[str, Any] | None = None,
    min_agreement: float = 0.95,
) -> Quantised:
    """Write `model` as an int8 .onnx file with inputs of x's shape; input and outputs stay float32.

    batches: real inputs of x's shape, at least two; all but the last set the ranges (per channel for weights), the
    last is the judge: ExportError when the argmax differs from the float32 file's on more than 1 - min_agreement.
    Other arguments and errors as for `export_onnx`.
    """
    if len(batches) < 2 or any(batch.shape != x.shape for batch in batches):
        raise InputError(
            f"batches: at least two of x's shape {tuple(x.shape)}, so that one can judge; got {len(batches)}."
        )
    job = ready(model, x, meta, False, False)
    *calibration, judge = (batch.detach().cpu().float() for batch in batches)
    with beside(path, [".onnx"]) as (target, folder):
        plain, draft = folder / "float.onnx", folder / "int8.onnx"
        write(job, plain)
        proved, version = prove(job, "ort", plain, target, 10.0)
        _quantise(job, plain, draft, calibration)
        error, same = _judge(plain, draft, judge)
        if same < min_agreement:
            raise ExportError(
                f"int8 chooses another class than float32 for {1 - same:.1%} of outputs, {1 - min_agreement:.1%} is "
                "allowed. Nothing was kept. Give more batches, of the data the device will see."
            )
        sizes = draft.stat().st_size, plain.stat().st_size
        result = Quantised(target, error, proved.eager_error, same, *sizes)
        return keep(job, {target: draft}, result, runtime="ort", version=version, int8=True)  # type: ignore[return-value]


class _Reader:
    """What onnxruntime asks for its calibration batches."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {"image": batch.numpy()}


def _quantise(job: Job, plain: Path, draft: Path, calibration: Sequence[Tensor]) -> None:
    quantization = need("onnxruntime.quantization", "onnx")
    shapes = need("onnxruntime.quantization.shape_inference", "onnx")
    onnx = need("onnx", "onnx")
    prepared = plain.with_name("prepared.onnx")
    try:
        with quiet():
            shapes.quant_pre_process(os.fspath(plain), os.fspath(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(os.fspath(prepared), os.fspath(draft), _Reader(calibration), per_channel=True)
            model = onnx.load(draft)
            onnx.helper.set_model_props(model, job.texts)
            onnx.save(model, draft)
    except OSError:
        raise
    except Exception as err:  # many parts, many kinds
        raise ExportError(f"onnxruntime cannot quantise {type(job.model).__name__}: {first_line(err)}.") from err


def _judge(plain: Path, draft: Path, judge: Tensor) -> tuple[float, float]:
    """(relative error, argmax agreement) of the int8 file against the float32 file."""
    try:
        with Runtime("ort") as runtime:
            runtime.load("float", plain)
            runtime.load("int8", draft)
            truth, found = (
                [torch.from_numpy(y) for y in runtime.run(name, judge.numpy())] for name in ("float", "int8")
            )
    except RuntimeFailure as err:
        raise ExportError(f"the int8 file is refused by its runtime. {err} Nothing was kept.") from err
    return relative_error(found, truth), agree(found, truth)
