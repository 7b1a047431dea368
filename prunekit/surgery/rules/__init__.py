"""One small function per op. An op that is not in RULES freezes what touches it, with the reason; nothing is guessed.

To teach the engine an op, add it to the family it belongs to, or write a rule: it reads the op's input Values, tells
`walk.labels` what must be equal or must stay, and returns the output's Value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from prunekit.surgery.rules import attention, contract, pointwise, rearrange, shape
from prunekit.surgery.rules.contract import unknown
from prunekit.surgery.rules.walk import Walk, module_path, op_name, where

__all__ = ["RULES", "Walk", "module_path", "op_name", "unknown", "where"]

_UNARY = """relu relu6 hardtanh silu gelu sigmoid hardsigmoid hardswish tanh leaky_relu elu selu celu mish softplus
    softsign log_sigmoid exp log sqrt rsqrt abs neg reciprocal square sin cos erf clamp clamp_min clamp_max dropout
    feature_dropout alpha_dropout feature_alpha_dropout clone contiguous to _to_copy detach detach_ alias type_as
    lift_fresh_copy bernoulli round floor ceil sign nan_to_num bitwise_not logical_not float double half"""
_BINARY = (
    "add sub mul div rsub maximum minimum pow where masked_fill atan2 true_divide addcmul lerp copy eq ne lt gt le ge"
)
_SPATIAL = """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_linear1d upsample_bicubic2d
    upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    reflection_pad2d replication_pad2d"""
_REDUCE = "mean sum amax amin max min var std linalg_vector_norm norm argmax logsumexp prod any all var_mean"
_CONSTANT = """arange zeros ones full empty zeros_like ones_like full_like empty_like scalar_tensor linspace eye
    new_zeros new_ones new_full new_empty rand rand_like randn randn_like tensor"""
_VIEW = "view reshape flatten unflatten _unsafe_view squeeze unsqueeze view_as reshape_as"

RULES: dict[str, Callable[[Walk, Node], Any]] = {
    **dict.fromkeys(_UNARY.split(), pointwise.unary),
    **dict.fromkeys(_BINARY.split(), pointwise.elementwise),
    **dict.fromkeys(_SPATIAL.split(), pointwise.spatial),
    **dict.fromkeys(_REDUCE.split(), pointwise.reduction),
    **dict.fromkeys(_CONSTANT.split(), pointwise.constant),
    **dict.fromkeys(_VIEW.split(), shape.view),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], contract.conv),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], contract.conv_transpose),
    "linear": contract.linear,
    **dict.fromkeys(["matmul", "bmm", "mm"], attention.matmul),
    "scaled_dot_product_attention": attention.attention,
    "einsum": attention.einsum,
    "batch_norm": pointwise.batch_norm,
    "instance_norm": pointwise.batch_norm,
    "layer_norm": pointwise.layer_norm,
    "rms_norm": pointwise.layer_norm,
    "group_norm": pointwise.group_norm,
    "prelu": pointwise.prelu,
    "softmax": pointwise.softmax,
    "log_softmax": pointwise.softmax,
    **dict.fromkeys(["permute", "transpose", "t"], shape.permute),
    **dict.fromkeys(["expand", "expand_as"], shape.expand),
    "cat": shape.cat,
    "concat": shape.cat,
    "stack": shape.stack,
    "slice": shape.slice_,
    "select": shape.select,
    "index": shape.index,
    **dict.fromkeys(["split", "split_with_sizes", "chunk", "unbind", "tensor_split"], shape.split),
    "getitem": shape.getitem,
    "pad": rearrange.pad,
    "constant_pad_nd": rearrange.pad,
    **{
        name: getattr(rearrange, name)
        for name in """repeat repeat_interleave roll flip glu pixel_shuffle pixel_unshuffle channel_shuffle im2col
        col2im grid_sampler""".split()
    },
}
