"""Rules for ops that mix channels: convolutions and linear layers.

Legend: C = input channels, O = output channels, G = convolution groups.
"""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from prunekit.surgery.labels import Ints
from prunekit.surgery.rules.walk import Walk, result, where
from prunekit.surgery.values import Value, freeze_axes, freeze_value, place, support

NOTHING: Ints = np.zeros(0, np.int64)


def _bias(w: Walk, bias: Value | None, out_O: Ints, node: Node) -> None:
    if bias is not None:
        w.labels.unite(out_O, w.line(bias, 0, node), where(node))


def _count(w: Walk, weight: Value, positions: float) -> None:
    if weight.param is not None:
        w.positions[weight.param] = w.positions.get(weight.param, 0.0) + positions
    else:
        w.products.append((positions * math.prod(weight.shape), NOTHING))


def conv(w: Walk, node: Node) -> Value | list[Value]:
    """x (B, C, ...), weight (O, C/G, ...). Depth-wise: outputs follow inputs. Grouped: every group loses the same."""
    a, why, weight = w.args(node), where(node), w.args(node).weight
    channel = 1 if len(a.input.shape) == len(weight.shape) else 0  # an unbatched input is (C, ...)
    freeze_axes(w.labels, a.input, set(range(len(a.input.shape))) - {channel}, f"pixels of {why}")
    x_C = w.line(a.input, channel, node)
    w_O, w_C = w.line(weight, 0, node), w.line(weight, 1, node)
    out = node.meta["val"]
    _count(w, weight, out.numel() / weight.shape[0])
    out_O = _tie_groups(w, x_C, w_O, w_C, a.groups, why)
    if a.groups == 1 or weight.shape[1] > 1:  # a depth-wise kernel follows
        w.role(weight, 0, "producer")
        w.role(weight, 1, "consumer")
    _bias(w, a.bias, w_O, node)
    return result(node, (place(out_O, channel, out.dim()),))


def _tie_groups(w: Walk, x_C: Ints, w_O: Ints, w_C: Ints, groups: int, why: str) -> Ints:
    if groups == 1:
        w.labels.unite(x_C, w_C, why)
    elif len(w_C) == 1:  # depth-wise, O = multiplier x C
        w.labels.unite(w_O.reshape(groups, -1), x_C[:, None], why)
    else:  # G convolutions side by side: position j goes in all of them or in none, so they stay equally wide
        w.labels.unite(x_C.reshape(groups, -1), w_C[None], why)
        o_GO = w_O.reshape(groups, -1)
        w.labels.unite(o_GO, o_GO[:1], why)
    return w_O


def conv_transpose(w: Walk, node: Node) -> Value | list[Value]:
    """x (B, C, ...), weight (C, O/G, ...). Depth-wise: outputs follow inputs. Grouped: every group loses the same."""
    a, why, weight = w.args(node), where(node), w.args(node).weight
    depthwise = a.groups > 1 and weight.shape[:2] == (a.groups, 1)
    if len(a.input.shape) != len(weight.shape) or (weight.shape[0] == a.groups > 1 and not depthwise):
        return unknown(w, node)  # a multiplier: several outputs from one input
    freeze_axes(w.labels, a.input, {0, *range(2, len(a.input.shape))}, f"pixels of {why}")
    x_C = w.line(a.input, 1, node)
    w.labels.unite(x_C, w.line(weight, 0, node), why)
    out_O = x_C if depthwise else np.tile(w.line(weight, 1, node), a.groups)
    _count(w, weight, math.prod(a.input.shape) / weight.shape[0])
    if not depthwise:
        x_GC = x_C.reshape(a.groups, -1)
        w.labels.unite(x_GC, x_GC[:1], why)
        w.role(weight, 0, "consumer")
        w.role(weight, 1, "producer")
    _bias(w, a.bias, out_O, node)
    return result(node, (place(out_O, 1, len(a.input.shape)),))


def linear(w: Walk, node: Node) -> Value | list[Value]:
    """x (..., C), weight (O, C): tokens and other leading axes pass through."""
    a, why = w.args(node), where(node)
    last = len(a.input.shape) - 1
    x_C = w.line(a.input, last, node)
    w.labels.unite(x_C, w.line(a.weight, 1, node), why)
    out_O = w.line(a.weight, 0, node)
    _bias(w, a.bias, out_O, node)
    w.role(a.weight, 0, "producer")
    w.role(a.weight, 1, "consumer")
    out = node.meta["val"]
    _count(w, a.weight, out.numel() / a.weight.shape[0])
    others = tuple(f for f in a.input.factors if last not in support(f))
    return result(node, (*others, place(out_O, last, out.dim())))


def weight_product(w: Walk, node: Node, x: Value, weight: Value) -> Value | list[Value]:
    """x (..., C) @ weight (C, O): a linear layer in other words."""
    last, out = len(x.shape) - 1, node.meta["val"]
    w.labels.unite(w.line(x, last, node), w.line(weight, 0, node), where(node))
    w.role(weight, 0, "consumer")
    w.role(weight, 1, "producer")
    _count(w, weight, out.numel() / weight.shape[1])
    others = tuple(f for f in x.factors if last not in support(f))
    return result(node, (*others, place(w.line(weight, 1, node), last, out.dim())))


def unknown(w: Walk, node: Node) -> Value | list[Value]:
    """An op without a rule, or in a form the rule does not cover: freeze what it touches, never guess."""
    for value in w.inputs(node):
        freeze_value(w.labels, value, f"no rule for {where(node)}")
    return result(node) if node.meta.get("val") is not None else Value(())
