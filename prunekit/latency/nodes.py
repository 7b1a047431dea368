"""What layers cost inside a network: read from onnxruntime's own account of its steps.

A layer alone in a file is framed by copies into and out of the blocks that onnxruntime computes in. In a network most
of these do not happen, and on large maps with few channels they would be most of the time. So the table of this runtime
counts the layer's own step. The network's other steps (resizing, sums, products, copies) cost in proportion to the
channels they work on: those of a layer whose output has the same shape. What fits no layer stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from prunekit.latency.layers import Layer, write_onnx
from prunekit.runtimes import Node, Runtime

COPIES = ("ReorderInput", "ReorderOutput")
PRODUCTS = ("MatMul", "FusedMatMul")  # of a weight, or of attention
NOBODY = ""
LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm")


def layer_steps(process: Runtime, layers: Iterable[Layer], folder: Path, repeats: int) -> dict[str, float]:
    """Layer key -> milliseconds of the layer's own step, the fastest of `repeats` passes."""
    found, file = {}, folder / "layer.onnx"
    for layer in layers:
        write_onnx(layer, os.fspath(file))
        nodes = process.nodes(file, np.ones(layer.input_shape(), np.float32), repeats=repeats)
        found[layer.key()] = sum(node.ms for node in nodes if node.op not in COPIES)
    return found


def followers(nodes: Iterable[Node], layers: Sequence[Layer]) -> dict[str, float]:
    """Weight -> milliseconds of the steps that work on its layer's channels, but are no layer themselves; NOBODY's are
    those that no width changes."""
    found: dict[str, float] = {}
    for node in nodes:
        owners = {layer.tensor for layer in layers if layer.makes(node.shape)}
        if node.op in LAYERS or (node.op in PRODUCTS and owners):
            continue
        for owner in owners or {NOBODY}:
            found[owner] = found.get(owner, 0.0) + node.ms / max(1, len(owners))
    return found
