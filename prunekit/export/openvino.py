"""OpenVINO files: net.xml (the graph) and net.bin (the weights), read from the ONNX file, weights left in float32."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from prunekit.export.onnx import ready, write
from prunekit.export.package import Exported, beside, keep, need
from prunekit.export.proof import prove


def export_openvino(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    meta: Mapping[str, Any] | None = None,
    tolerance: float = 10.0,
) -> Exported:
    """Write `model` as path (.xml) and its .bin, proved in OpenVINO at float32, with <file>.export.json beside them.

    Arguments as for `export_onnx`. On CPUs that have bfloat16 OpenVINO takes it unless told otherwise, with errors a
    thousand times larger: set INFERENCE_PRECISION_HINT to "f32" where you run the file, as the proof does. meta is in
    the file too: core.read_model(path).get_rt_info(["prunekit", key]).astype(str).
    """
    openvino = need("openvino", "openvino")
    job = ready(model, x, meta, dynamic_batch, dynamic_size)
    with beside(path, [".xml"]) as (target, folder):
        source, draft = folder / "model.onnx", folder / "model.xml"
        write(job, source)
        network = openvino.Core().read_model(source)
        for key, text in job.texts.items():
            network.set_rt_info(text, key.split(".", 1))
        openvino.save_model(network, draft, compress_to_fp16=False)
        weights = draft.with_suffix(".bin")
        result, version = prove(job, "openvino", draft, target, tolerance)
        result = replace(result, bytes=result.bytes + weights.stat().st_size)
        places = {target.with_suffix(".bin"): weights, target: draft}
        return keep(job, places, result, runtime="openvino", version=version)
