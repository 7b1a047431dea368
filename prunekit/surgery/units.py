"""From solved labels to groups: a component is one unit, and units that live on the same axes form a group.

Also what belongs to the groups: their share of attention products, and whether code counts their positions.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from prunekit.core import ChannelGroup, Kind, Member, Role
from prunekit.surgery.labels import Solution
from prunekit.surgery.rules import Walk
from prunekit.surgery.values import Value


def assemble(walk: Walk, params: dict[str, Value]) -> tuple[dict[str, ChannelGroup], dict[str, str]]:
    """Components -> units -> groups. Two units are in one group when they own equally much of the same axes."""
    solution = walk.labels.solve()
    axes = sorted(walk.roles.items(), key=lambda item: (walk.order[item[0][0]], item[0][1]))
    rows = [_owned(solution, line_of(params[param], dim), i) for i, ((param, dim), _) in enumerate(axes)]
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
    name = module_of(maker)
    if "consumer" not in roles and int(units[0][0, 0]) not in solution.marked["dimension"]:
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
    kind = _kind(solution, params, roots, members)
    # a plan made for heads must not be taken for one made for their positions: the layer is the same
    name = _fresh_name(groups, f"{name}#dim" if kind == "head_dim" else name)
    groups[name] = ChannelGroup(
        name=name,
        size=len(units),
        kind=kind,
        members=tuple(members),
        exact=not roots & solution.marked["inexact"],
    )


def _fresh_name(groups: dict[str, ChannelGroup], name: str) -> str:
    taken = [n for n in groups if n == name or n.startswith(f"{name}#")]
    return f"{name}#{len(taken) + 1}" if taken else name


def _kind(solution: Solution, params: dict[str, Value], roots: set[int], members: list[Member]) -> Kind:
    if roots & solution.marked["head"]:
        return "head"
    if roots & solution.marked["dimension"]:
        return "head_dim"
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
        roots = solution.root[line_of(params[param], dim)].tolist()
        if all(r == 0 or r in solution.reason for r in roots):
            reasons = [solution.reason[r] for r in roots if r in solution.reason]
            frozen.setdefault(module_of(param), reasons[0] if reasons else "it has a single output")
    return frozen


def product_macs(
    walk: Walk, table: dict[str, ChannelGroup], params: dict[str, Value]
) -> tuple[dict[str, float], float]:
    """MACs of products between activations per unit of the groups that share them, and those that nobody owns."""
    root = walk.labels.solve().root
    owner: dict[int, str] = {}
    for name, group in table.items():
        maker = group.producers()[0]
        owner.update(
            dict.fromkeys(root[line_of(params[maker.tensor], maker.dim)[maker.index[:, 0].numpy()]].tolist(), name)
        )
    per_unit: dict[str, float] = {}
    other = 0.0
    for macs, labels in walk.products:
        roots = np.unique(root[labels]).tolist()
        shares = Counter(owner.get(r, "") for r in roots)
        if roots and all(name and count == table[name].size for name, count in shares.items()):
            for name in shares:
                per_unit[name] = per_unit.get(name, 0.0) + macs / len(roots)
        else:
            other += macs
    return per_unit, other


def positional_groups(walk: Walk, table: dict[str, ChannelGroup], params: dict[str, Value]) -> frozenset[str]:
    """Groups on an axis that the code slices or splits by numbers."""
    solution = walk.labels.solve()
    makers = {name: group.producers()[0] for name, group in table.items()}
    lines = {name: line_of(params[m.tensor], m.dim)[m.index.numpy()].ravel() for name, m in makers.items()}
    return frozenset(
        n for n, line in lines.items() if solution.marked["positional"].intersection(solution.root[line].tolist())
    )


def line_of(value: Value, dim: int) -> np.ndarray:
    factor = value.factor_on(dim)
    return np.zeros(value.shape[dim], np.int64) if factor is None else factor.ravel()


def module_of(param: str) -> str:
    return param.removesuffix(".weight")
