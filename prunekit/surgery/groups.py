"""find_groups: which axes of which tensors must shrink together.

Export the model, give every axis of every parameter its own labels, walk the graph once with the rules, and read the
answer off the connected components: a component is one unit, and units that live on the same axes form a group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from prunekit.core import Groups, Heads
from prunekit.errors import GroupError, InputError, TraceError
from prunekit.surgery.labels import Labels
from prunekit.surgery.rules import RULES, Walk, op_name, unknown
from prunekit.surgery.trace import check_inputs, export, first_names, tensors_of
from prunekit.surgery.units import assemble, line_of, module_of, positional_groups, product_macs
from prunekit.surgery.values import Value, collapse, freeze_value, place, support


def find_groups(model: nn.Module, example: Any, *, freeze: Iterable[str] = (), heads: Heads = "number") -> Groups:
    """The channel groups of a model, and why the rest must stay.

    example: a tensor, a tuple of arguments or a dict of keyword arguments, e.g. an image batch (B, 3, H, W). freeze:
    modules or parameters whose outputs must keep their size, by dotted name. heads: what attention loses, whole heads
    ("number") or the same positions of every head ("dimension"). The model is not changed.
    Raises InputError (the example does not fit the model), TraceError (torch.export cannot follow the code) and
    GroupError (a name in `freeze` is unknown).
    """
    if heads not in get_args(Heads):
        raise GroupError(f"heads is {heads!r}; choose 'number' (whole heads) or 'dimension' (positions of all heads).")
    walk = Walk(heads=heads)
    check_inputs(model, example)
    params = label_parameters(walk, model)
    aliases = first_names(model)
    walk_graph(walk, export(model, example), params, aliases)
    # A head that only works in training (an auxiliary classifier) reads channels too: follow that mode as well.
    notes: dict[str, str] = {}
    unreached = [name for name, _ in model.named_parameters() if name not in walk.order]
    if unreached:
        macs = dict(walk.positions), list(walk.products)
        try:
            walk_graph(walk, export(model, example, training=True), params, aliases)
        except (TraceError, InputError) as err:  # an auxiliary head may want a larger image than the rest
            notes = {module_of(name): f"only training could reach it: {err}" for name in unreached}
        walk.positions, walk.products = macs
    _freeze_named(walk, params, freeze)
    _freeze_ragged(walk)
    table, frozen = assemble(walk, params)
    shapes = {name: tuple(t.shape) for name, t in tensors_of(model).items()}
    example = pytree.tree_map_only(torch.Tensor, lambda t: torch.empty_like(t, device="meta"), example)
    names = tuple(name for name, t in tensors_of(model).items() if isinstance(t, nn.Parameter))
    frozen = {**walk.computed, **frozen, **notes}
    unit_macs, other_macs = product_macs(walk, table, params)
    positional = positional_groups(walk, table, params)
    return Groups(table, frozen, shapes, names, dict(walk.positions), unit_macs, other_macs, example, positional, heads)


def label_parameters(walk: Walk, model: nn.Module) -> dict[str, Value]:
    """Every parameter and buffer with fresh labels on all its axes; the same model gives the same labels."""
    return {name: _labelled(walk.labels, name, tensor) for name, tensor in tensors_of(model).items()}


def _labelled(labels: Labels, name: str, tensor: torch.Tensor) -> Value:
    lines = [place(labels.fresh(size), axis, tensor.dim()) for axis, size in enumerate(tensor.shape)]
    return Value(tuple(tensor.shape), tuple(f for f in lines if f.any()), name)


def walk_graph(
    walk: Walk, program: torch.export.ExportedProgram, params: dict[str, Value], aliases: dict[str, str]
) -> None:
    """Apply the rules from inputs to outputs. aliases: any name of a tensor -> the name it has in `params`."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            param = params.get(aliases.get(names.get(node.name, ""), ""))
            walk.values[node] = param if param is not None else _neutral(node.meta.get("val"))
        elif node.op == "call_function" and _only_counts(node):
            walk.values[node] = Value(())
        elif node.op == "call_function":
            for value in walk.inputs(node):
                walk.reach(value)
            walk.node = node
            walk.values[node] = _apply(walk, node)
        elif node.op == "output":
            for value in walk.inputs(node):
                freeze_value(walk.labels, value, "the model returns it")


def _only_counts(node: torch.fx.Node) -> bool:
    """Arithmetic on sizes: asking for a length reads no channel."""
    return op_name(node).startswith("sym_") or (
        not isinstance(node.target, torch._ops.OpOverload)
        and isinstance(node.meta.get("val"), (int, float, torch.SymInt))
    )


def _apply(walk: Walk, node: Node) -> Any:
    """The rule of this op; where sizes are not known before the run, no rule can tell."""
    outputs = [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]
    fixed = all(type(size) is int for out in outputs for size in out.shape)
    return (RULES.get(op_name(node), unknown) if fixed else unknown)(walk, node)


def _neutral(val: Any) -> Any:
    return pytree.tree_map(lambda v: Value(tuple(v.shape)) if isinstance(v, torch.Tensor) else v, val)


def _freeze_named(walk: Walk, params: dict[str, Value], names: Iterable[str]) -> None:
    names = (names,) if isinstance(names, (str, nn.Module)) else tuple(names)
    for given in names:
        if not isinstance(given, str):
            raise GroupError(f"freeze holds a {type(given).__name__}; give names, as in model.named_modules().")
        wanted = given.partition("#")[0]  # a group's name will do
        axes = [
            (param, dim)
            for (param, dim), role in walk.roles.items()
            if role == "producer" and (param == wanted or param.startswith(f"{wanted}."))
        ]
        if not axes:
            known = sorted({module_of(p) for (p, _), role in walk.roles.items() if role == "producer"})
            raise GroupError(f"freeze names '{given}', but no layer there makes channels. Layers that do: {known[:8]}.")
        for param, dim in axes:
            walk.labels.freeze(line_of(params[param], dim), f"asked to stay ('{given}')")


def _freeze_ragged(walk: Walk) -> None:
    """After `view(B, N, 3, heads, d)` a unit may go only as a whole slice of one axis: anything else leaves no grid."""
    if walk.heads == "dimension":  # q, k and v made by one layer: position d of all three is one unit
        dimensions = walk.labels.solve()
        for factor, why in walk.grids:
            if dimensions.marked["dimension"].intersection(dimensions.root[factor].ravel().tolist()):
                last = max(support(factor))
                collapse(walk.labels, factor, support(factor) - {last}, why)
    root = walk.labels.solve().root
    for factor, why in walk.grids:
        owner = root[factor]
        if not any(_sliced(owner, axis) for axis in support(factor)):
            walk.labels.freeze(factor, f"its positions do not form a grid in {why}")


def _sliced(owner: np.ndarray, axis: int) -> bool:
    """Does each slice across `axis` belong to one unit?"""
    flat = np.moveaxis(owner, axis, 0).reshape(owner.shape[axis], -1)
    return bool((flat == flat[:, :1]).all())
