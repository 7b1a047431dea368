"""find_groups: which axes of which tensors must shrink together.

Export the model, give every axis of every parameter its own labels, walk the graph once with the rules, and read the
answer off the connected components: a component is one unit, and units that live on the same axes form a group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from prunekit.core import ChannelGroup, Groups, Kind, Member, Role
from prunekit.errors import GroupError, TraceError
from prunekit.surgery.labels import Labels, Solution
from prunekit.surgery.rules import RULES, Walk, op_name, unknown
from prunekit.surgery.trace import check_inputs, export, first_names, tensors_of
from prunekit.surgery.values import Value, freeze_value, place


def find_groups(model: nn.Module, example: Any, *, freeze: Iterable[str] = ()) -> Groups:
    """The channel groups of a model, and why the rest must stay.

    example: a tensor, a tuple of arguments or a dict of keyword arguments, e.g. an image batch (B, 3, H, W). freeze:
    modules or parameters whose outputs must keep their size, by dotted name. The model is not changed.
    Raises InputError (the example does not fit the model), TraceError (torch.export cannot follow the code) and
    GroupError (a name in `freeze` is unknown).
    """
    walk = Walk()
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
        except TraceError as err:
            notes = {_module_of(name): f"only training could reach it: {err}" for name in unreached}
        walk.positions, walk.products = macs
    _freeze_named(walk, params, freeze)
    _freeze_ragged(walk)
    table, frozen = _assemble(walk, params)
    shapes = {name: tuple(t.shape) for name, t in tensors_of(model).items()}
    example = pytree.tree_map_only(torch.Tensor, lambda t: torch.empty_like(t, device="meta"), example)
    names = tuple(name for name, t in tensors_of(model).items() if isinstance(t, nn.Parameter))
    frozen = {**walk.computed, **frozen, **notes}
    unit_macs, other_macs = _product_macs(walk, table, params)
    positional = _positional(walk, table, params)
    return Groups(table, frozen, shapes, names, dict(walk.positions), unit_macs, other_macs, example, positional)


def label_parameters(walk: Walk, model: nn.Module) -> dict[str, Value]:
    """Every parameter and buffer with fresh labels on all its axes; the same model gives the same labels."""
    return {name: _labelled(walk.labels, name, tensor) for name, tensor in tensors_of(model).items()}


def _product_macs(
    walk: Walk, table: dict[str, ChannelGroup], params: dict[str, Value]
) -> tuple[dict[str, float], float]:
    """MACs of attention products per unit of the group that owns them, and those that nobody owns."""
    root = walk.labels.solve().root
    owner: dict[int, str] = {}
    for name, group in table.items():
        maker = group.producers()[0]
        owner.update(
            dict.fromkeys(root[_line(params[maker.tensor], maker.dim)[maker.index[:, 0].numpy()]].tolist(), name)
        )
    per_unit: dict[str, float] = {}
    other = 0.0
    for macs, labels in walk.products:
        roots = np.unique(root[labels]).tolist()
        names = {owner.get(r) for r in roots}
        name = names.pop() if len(names) == 1 else None
        if name is None or len(roots) != table[name].size:
            other += macs
        else:
            per_unit[name] = per_unit.get(name, 0.0) + macs / len(roots)
    return per_unit, other


def _positional(walk: Walk, table: dict[str, ChannelGroup], params: dict[str, Value]) -> frozenset[str]:
    """Groups on an axis that the code slices or splits by numbers."""
    solution = walk.labels.solve()
    makers = {name: group.producers()[0] for name, group in table.items()}
    lines = {name: _line(params[m.tensor], m.dim)[m.index.numpy()].ravel() for name, m in makers.items()}
    return frozenset(n for n, line in lines.items() if solution.positional.intersection(solution.root[line].tolist()))


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
    for wanted in (names,) if isinstance(names, str) else names:
        axes = [
            (param, dim)
            for (param, dim), role in walk.roles.items()
            if role == "producer" and (param == wanted or param.startswith(f"{wanted}."))
        ]
        if not axes:
            known = sorted({_module_of(p) for (p, _), role in walk.roles.items() if role == "producer"})
            raise GroupError(
                f"freeze names '{wanted}', but no layer there makes channels. Layers that do: {known[:8]}."
            )
        for param, dim in axes:
            walk.labels.freeze(_line(params[param], dim), f"asked to stay ('{wanted}')")


def _freeze_ragged(walk: Walk) -> None:
    """After `view(B, N, 3, heads, d)` a unit may go only as a whole slice of one axis: anything else leaves no grid."""
    root = walk.labels.solve().root
    for factor, why in walk.grids:
        owner = root[factor]
        for axis in [a for a, size in enumerate(factor.shape) if size > 1]:
            if (owner == owner.take([0], axis)).all() or _sliced(owner, axis):
                break
        else:
            walk.labels.freeze(factor, f"its positions do not form a grid in {why}")


def _sliced(owner: np.ndarray, axis: int) -> bool:
    """Does each slice across `axis` belong to one unit?"""
    flat = np.moveaxis(owner, axis, 0).reshape(owner.shape[axis], -1)
    return bool((flat == flat[:, :1]).all())


def _line(value: Value, dim: int) -> np.ndarray:
    factor = value.factor_on(dim)
    return np.zeros(value.shape[dim], np.int64) if factor is None else factor.ravel()


def _module_of(param: str) -> str:
    return param.removesuffix(".weight")


def _assemble(walk: Walk, params: dict[str, Value]) -> tuple[dict[str, ChannelGroup], dict[str, str]]:
    """Components -> units -> groups. Two units are in one group when they own equally much of the same axes."""
    solution = walk.labels.solve()
    axes = sorted(walk.roles.items(), key=lambda item: (walk.order[item[0][0]], item[0][1]))
    rows = [_owned(solution, _line(params[param], dim), i) for i, ((param, dim), _) in enumerate(axes)]
    table = np.concatenate([*rows, np.zeros((0, 3), np.int64)])
    table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]  # by component, axis, position
    starts = np.flatnonzero(np.r_[True, table[1:, 0] != table[:-1, 0]]) if len(table) else []
    families: dict[tuple[int, ...], list[np.ndarray]] = {}
    for unit in np.split(table, starts[1:]) if len(table) else []:
        families.setdefault(tuple(unit[:, 1].tolist()), []).append(unit)
    groups: dict[str, ChannelGroup] = {}
    frozen = _frozen_layers(solution, axes, params)
    for signature, units in sorted(families.items(), key=lambda item: item[0]):
        _add_group(groups, frozen, solution, params, axes, signature, units)
    return groups, frozen


def _owned(solution: Solution, line: np.ndarray, axis: int) -> np.ndarray:
    root = solution.root[line]
    free = np.array([r != 0 and r not in solution.reason for r in root.tolist()], dtype=bool)
    position = np.flatnonzero(free)
    return np.stack([root[position], np.full_like(position, axis), position], axis=1)


def _add_group(
    groups: dict[str, ChannelGroup],
    frozen: dict[str, str],
    solution: Solution,
    params: dict[str, Value],
    axes: list[tuple[tuple[str, int], Role]],
    signature: tuple[int, ...],
    units: list[np.ndarray],
) -> None:
    roles = [axes[i][1] for i in signature]
    if "producer" not in roles:
        return  # kernel axes, or a parameter that stands alone: nothing makes these positions
    first = roles.index("producer")
    (maker, _), _ = axes[signature[first]]
    name = _module_of(maker)
    if "consumer" not in roles:
        frozen.setdefault(name, "no layer reads it")
        return
    if len(units) == 1:
        frozen.setdefault(name, "it has a single unit")
        return
    units = sorted(units, key=lambda unit: unit[first, 2])
    positions = np.stack([unit[:, 2] for unit in units])  # (U, rows)
    roots = {int(unit[0, 0]) for unit in units}
    columns = np.array(signature)
    members = []
    for axis in dict.fromkeys(signature):
        (param, dim), role = axes[axis]
        members.append(Member(param, dim, torch.from_numpy(positions[:, columns == axis].copy()), role))
    name = _fresh_name(groups, name)
    groups[name] = ChannelGroup(
        name=name,
        size=len(units),
        kind=_kind(solution, params, roots, members),
        members=tuple(members),
        exact=not roots & solution.inexact,
    )


def _fresh_name(groups: dict[str, ChannelGroup], name: str) -> str:
    taken = [n for n in groups if n == name or n.startswith(f"{name}#")]
    return f"{name}#{len(taken) + 1}" if taken else name


def _kind(solution: Solution, params: dict[str, Value], roots: set[int], members: list[Member]) -> Kind:
    if roots & solution.heads:
        return "head"
    linear = all(len(params[m.tensor].shape) == 2 for m in members if m.role == "producer")
    return "neuron" if linear else "channel"


def _frozen_layers(
    solution: Solution, axes: list[tuple[tuple[str, int], Role]], params: dict[str, Value]
) -> dict[str, str]:
    """Layers none of whose outputs may go, and why."""
    frozen: dict[str, str] = {}
    for (param, dim), role in axes:
        if role != "producer":
            continue
        roots = solution.root[_line(params[param], dim)].tolist()
        if all(r == 0 or r in solution.reason for r in roots):
            reasons = [solution.reason[r] for r in roots if r in solution.reason]
            frozen.setdefault(_module_of(param), reasons[0] if reasons else "it has a single output")
    return frozen
