"""From a model to a file that a device runs, proved before it is kept.

export(model, x, "net.onnx")                        onnxruntime        prunekit[onnx]
export(model, x, "net.xml", target="openvino")      OpenVINO           prunekit[openvino]
export(model, x, "net.pte", target="executorch")    ExecuTorch         prunekit[executorch]
export(model, x, "net.pt2", target="torch")         PyTorch, compiled or not
export_int8(model, x, "net.onnx", batches)          onnxruntime, 8-bit integers
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from prunekit.errors import InputError
from prunekit.export.executorch import export_executorch
from prunekit.export.int8 import Quantised, export_int8
from prunekit.export.onnx import export_onnx
from prunekit.export.openvino import export_openvino
from prunekit.export.package import IMAGENET_INPUT, Exported, card_of
from prunekit.export.program import export_program

__all__ = [
    "IMAGENET_INPUT",
    "Exported",
    "Quantised",
    "card_of",
    "export",
    "export_executorch",
    "export_int8",
    "export_onnx",
    "export_openvino",
    "export_program",
]


def export(model: nn.Module, x: Tensor, path: str | os.PathLike[str], target: str = "onnx", **options: Any) -> Exported:
    """Write `model` for a runtime, prove the file against float64, and leave <file>.export.json beside it.

    target: "onnx", "openvino", "executorch" or "torch". options: those of export_onnx, export_openvino,
    export_executorch and export_program (meta, tolerance, dynamic_batch ...), where the rest is said.
    """
    writers = {
        "onnx": export_onnx,
        "openvino": export_openvino,
        "executorch": export_executorch,
        "torch": export_program,
    }
    if target not in writers:
        raise InputError(f"no target '{target}'; there are {', '.join(writers)}.")
    return writers[target](model, x, path, **options)
