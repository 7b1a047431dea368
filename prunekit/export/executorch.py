"""ExecuTorch programs (.pte) for phones and small boards, lowered to XNNPACK, or to Vulkan without a proof.

What a backend does not take runs in ExecuTorch's portable kernels, which are slow: adaptive pooling to more than one
cell (avg_pool2d is taken), argmax (export logits), fused attention.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunekit.errors import ExportError
from prunekit.export.package import Exported, beside, culprit, first_line, keep, need, prepare, quiet
from prunekit.export.proof import prove
from prunekit.surgery.trace import plain_attention


def export_executorch(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    meta: Mapping[str, Any] | None = None,
    tolerance: float = 10.0,
    vulkan: bool = False,
) -> Exported:
    """Write `model` as one .pte file for inputs of exactly x's shape, proved in ExecuTorch's own runtime on this CPU.

    Arguments as for `export_onnx`; the texts of `meta` are methods of the program without arguments, named
    "prunekit_<key>". vulkan: lower to a phone's GPU instead. No such device is here to run it, so that file is **not
    verified**: its errors are nan, and its export.json says "verified": false.
    """
    exir = need("executorch.exir", "executorch")
    job = prepare(model, x, meta)
    with beside(path, [".pte"]) as (target, folder):
        draft = folder / "model.pte"
        with plain_attention(), sdpa_kernel(SDPBackend.MATH):
            program = job.program()
        texts = {key.replace(".", "_"): text for key, text in job.texts.items()}
        try:
            with quiet():
                lowered = exir.to_edge_transform_and_lower(
                    program, partitioner=[_partitioner(vulkan)], constant_methods=texts
                )
                draft.write_bytes(lowered.to_executorch().buffer)
        except OSError:
            raise
        except Exception as err:
            raise ExportError(
                f"{type(job.model).__name__} cannot be lowered: {first_line(err)}.{culprit(program, err)}"
            ) from err
        if vulkan:
            nan = float("nan")
            result, version = Exported(target, nan, nan, nan, draft.stat().st_size), None
        else:
            result, version = prove(job, "xnnpack", draft, target, tolerance)
        backend = "vulkan" if vulkan else "xnnpack"
        return keep(job, {target: draft}, result, runtime=backend, version=version, verified=not vulkan)


def _partitioner(vulkan: bool) -> Any:
    if vulkan:
        module = need("executorch.backends.vulkan.partitioner.vulkan_partitioner", "executorch")
        return module.VulkanPartitioner()
    module = need("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    return module.XnnpackPartitioner()
