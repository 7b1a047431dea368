"""ONNX files: for onnxruntime, and for all that reads ONNX (OpenVINO, TensorRT, Core ML, ncnn through converters)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import ExportError, InputError
from prunekit.export.package import Exported, Job, beside, culprit, first_line, keep, need, prepare, quiet
from prunekit.export.proof import prove

LIMIT_BYTES = 2 * 10**9  # of one ONNX file
OLDEST_OPSET = 18  # below, torch converts downwards and may give up without a word


def export_onnx(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    meta: Mapping[str, Any] | None = None,
    tolerance: float = 10.0,
    opset: int | None = None,
) -> Exported:
    """Write `model` as one .onnx file for inputs of x's shape, proved, and <file>.export.json with the proof beside it.

    x: example input (B, ...), float, on the model's device. The file's input is "image", its outputs are "logits" or
    the keys of the model's dict. dynamic_batch, dynamic_size: any batch size, any height and width (proved at a second
    one). meta: what to store with the model (plan, classes, palette, preprocessing, where it comes from): texts,
    anything JSON can hold, tensors, or objects with to_json; read back with `onnx.load(path).metadata_props`, keys
    "prunekit.<key>". tolerance: see `proof`. opset: of the file (None: torch's choice).

    Raises MissingDependencyError (onnx, onnxruntime, onnxscript), InputError (x, path, opset), ExportError (the
    exporter gives up, or the file fails its proof). The model is left as it was, and a file that was there stays.
    """
    job = ready(model, x, meta, dynamic_batch, dynamic_size, opset)
    with beside(path, [".onnx"]) as (target, folder):
        draft = folder / "model.onnx"
        write(job, draft, opset)
        result, version = prove(job, "ort", draft, target, tolerance)
        return keep(job, {target: draft}, result, runtime="ort", version=version)


def ready(
    model: nn.Module, x: Tensor, meta: Mapping[str, Any] | None, batch: bool, size: bool, opset: int | None = None
) -> Job:
    """`prepare`, after the checks that belong to ONNX."""
    onnx = need("onnx", "onnx")
    need("onnxruntime", "onnx")
    need("onnxscript", "onnx")
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and (type(opset) is not int or not OLDEST_OPSET <= opset <= newest):
        raise InputError(f"opset is {opset!r}; {OLDEST_OPSET} to {newest} can be written here.")
    job = prepare(model, x, meta, batch, size)
    if sum(t.numel() * t.element_size() for t in job.model.state_dict().values()) >= LIMIT_BYTES:
        raise InputError("the model's weights exceed 2 GB, the most that one ONNX file can hold.")
    return job


def write(job: Job, draft: Path, opset: int | None = None) -> None:
    """The file, without the paths and source lines that the exporter notes on each node, and checked by onnx."""
    program = job.program()
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(
                program, verbose=False, input_names=["image"], output_names=job.names, opset_version=opset
            )
            assert made is not None
            made.model.metadata_props.update(job.texts)
            made.model.graph.metadata_props.clear()
            for node in made.model.graph:
                scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
                node.metadata_props.clear()
                if scopes is not None:
                    node.metadata_props["pkg.torch.onnx.name_scopes"] = scopes
            made.save(draft, external_data=False)
    except OSError:
        raise
    except Exception as err:  # the exporter raises whatever its many parts raise
        cause = first_line(err.__cause__ or err)
        raise ExportError(
            f"{type(job.model).__name__} cannot be written as ONNX: {cause}.{culprit(program, err)}"
        ) from err
    _check(draft, opset)


def _check(draft: Path, opset: int | None) -> None:
    onnx = need("onnx", "onnx")
    try:
        onnx.checker.check_model(os.fspath(draft), full_check=True)
    except Exception as err:
        raise ExportError(f"the exported file is refused by onnx's checker: {first_line(err)}") from err
    got = onnx.load(draft, load_external_data=False).opset_import[0].version
    if opset is not None and got != opset:
        raise ExportError(f"opset {opset} was asked for, torch wrote {got}; leave opset out, or ask for {got}.")
