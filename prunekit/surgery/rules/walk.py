"""The state of one walk over the traced graph, and how a rule reads an op's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from prunekit.core import Heads, Role
from prunekit.surgery.labels import Ints, Labels
from prunekit.surgery.values import Value, axis_labels


@dataclass
class Walk:
    """What the rules read and write.

    values: graph node -> its Value (or list of Values). roles: (parameter, axis) -> what that axis does to channels.
    positions: weight -> multiplications per element. products: MACs of products between activations, and the labels of
    the units that share them equally. grids: labels that span several axes, and where that was asked for. order:
    parameters in the order the graph reads them. heads: whether attention loses whole heads, or positions of all heads.
    """

    labels: Labels = field(default_factory=Labels)
    values: dict[Node, Any] = field(default_factory=dict)
    roles: dict[tuple[str, int], Role] = field(default_factory=dict)
    positions: dict[str, float] = field(default_factory=dict)
    products: list[tuple[float, Ints]] = field(default_factory=list)
    grids: list[tuple[Ints, str]] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)
    picked: dict[str, list[Ints]] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    node: Node | None = None
    heads: Heads = "number"

    def args(self, node: Node) -> SimpleNamespace:
        """The op's arguments by their schema names, graph nodes replaced by Values."""
        out: dict[str, Any] = {}
        for i, spec in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
            raw = node.args[i] if i < len(node.args) else node.kwargs.get(spec.name, spec.default_value)
            out[spec.name] = pytree.tree_map(lambda a: self.values.get(a) if isinstance(a, Node) else a, raw)
        return SimpleNamespace(**out)

    def line(self, value: Value, axis: int, node: Node) -> Ints:
        """One label per position of an axis, (n,)."""
        return axis_labels(self.labels, value, axis % len(value.shape), where(node))

    def reach(self, value: Value) -> None:
        """An op reads this tensor. Its axes are followers until a rule says that one makes or reads channels."""
        if value.param is not None and value.param not in self.order:
            self.order[value.param] = len(self.order)
            for axis in range(len(value.shape)):
                self.roles.setdefault((value.param, axis), "follower")

    def role(self, value: Value, axis: int, role: Role) -> None:
        """Note that an axis of a parameter makes or reads channels; a weight that is computed stays as it is."""
        if value.param is not None:
            self.roles[value.param, axis] = role
        elif self.node is not None:
            why = f"the weight of {where(self.node)} is computed, not a parameter"
            self.computed.setdefault(module_path(self.node) or where(self.node), why)
            for factor in value.factors:
                self.labels.freeze(factor, why)

    def inputs(self, node: Node) -> Iterator[Value]:
        """Every tensor the op reads."""
        for source in node.all_input_nodes:
            for value in pytree.tree_leaves(self.values.get(source)):
                if isinstance(value, Value):
                    yield value


def where(node: Node) -> str:
    """The op and the module it runs in: 'torch.roll at encoder.3'."""
    return f"{op_name(node)} at {module_path(node) or 'the top of forward'}"


def op_name(node: Node) -> str:
    """'conv2d' for aten.conv2d.default; the in-place underscore goes."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    short = name.split("::")[-1]
    return short.rstrip("_") if short.endswith("_") and not short.startswith("_") else short


def module_path(node: Node) -> str:
    """Dotted path of the innermost module the op was traced in."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((str(path) for path, _ in reversed(list(stack.values()))), "")


def result(node: Node, factors: tuple[Ints, ...] = ()) -> Value | list[Value]:
    """The op's output with these factors; for an op with several outputs each gets them."""
    out = node.meta["val"]
    if isinstance(out, torch.Tensor):
        return Value(tuple(out.shape), factors)
    if not isinstance(out, (tuple, list)):
        return Value(())  # a number
    return [Value(tuple(o.shape), factors) if isinstance(o, torch.Tensor) else Value(()) for o in out]
