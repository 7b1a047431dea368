"""torch.export archives (.pt2): the network with its weights but without its code, which PyTorch runs or compiles.

A .pt2 file is read by torch.export.load, which unpickles: open only files that you trust.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.export.package import Exported, beside, keep, prepare, quiet
from prunekit.export.proof import prove


def export_program(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    meta: Mapping[str, Any] | None = None,
    tolerance: float = 10.0,
) -> Exported:
    """Write `model` as one .pt2 file, run again in another process; arguments as for `export_onnx`.

    meta is in the file too: torch.export.load(path, extra_files={"prunekit.plan": ""}) fills the texts in.
    """
    job = prepare(model, x, meta, dynamic_batch, dynamic_size)
    with beside(path, [".pt2"]) as (target, folder):
        draft = folder / "model.pt2"
        program = job.program()
        with quiet():
            torch.export.save(program, draft, extra_files=dict(job.texts))
        result, version = prove(job, "eager", draft, target, tolerance)
        return keep(job, {target: draft}, result, runtime="eager", version=version)
