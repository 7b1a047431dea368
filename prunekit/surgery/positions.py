"""Does the smaller model's Python code still read the right channels?

`x[:, :4]`, `x.view(B, 2, C // 2, H, W)` or `split(4)` count positions. When channels before them go, the code runs on
and may read others. Both models are traced and walked with the same labels, each position of the small model under the
label it had in the original; then every op must pick the survivors of what it picked, and unite only what was united.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from prunekit.core import Groups, PruningPlan
from prunekit.errors import PlanError
from prunekit.surgery.groups import label_parameters, walk_graph
from prunekit.surgery.labels import Ints, Labels
from prunekit.surgery.rules import RULES, Walk, op_name, where
from prunekit.surgery.rules.pointwise import elementwise
from prunekit.surgery.trace import export, first_names
from prunekit.surgery.values import Value, place


def check_positions(
    model: nn.Module,
    small: nn.Module,
    groups: Groups,
    plan: PruningPlan,
    kept: dict[str, dict[int, Tensor]],
    example: Any,
) -> None:
    """Raise PlanError when the code of `small` reads other channels than the plan keeps.

    kept: tensor -> axis -> positions that stay. example: an input of the groups' shapes, on the model's device. Nothing
    happens, and nothing is traced, unless the plan cuts channels that the code counts.
    """
    cut = [name for name, stays in plan.keep.items() if len(stays) < groups[name].size]
    if not groups.positional.intersection(cut):
        return
    before, after = Walk(heads=groups.heads), Walk(heads=groups.heads)
    params = label_parameters(before, model)
    nodes = _walk(before, model, params, example)
    shrunk = {name: _kept(value, kept.get(name, {})) for name, value in params.items()}
    after.labels.count = before.labels.count
    single = any(len(line) == 1 for axes in kept.values() for line in axes.values())
    single |= any(groups[name].kind == "head" and len(plan.keep[name]) == 1 for name in cut)
    others = _walk(after, small, shrunk, example)
    place_of = _difference(before, after, nodes, others, shrunk, single)
    if place_of is not None:
        raise PlanError(
            f"the pruned {type(small).__name__} would read other channels than the plan keeps, {place_of}: its Python "
            "code counts positions. Freeze the layers involved: find_groups(model, x, freeze=[...])."
        )


def _walk(walk: Walk, model: nn.Module, params: dict[str, Value], example: Any) -> list[Node]:
    program = export(model, example)
    walk_graph(walk, program, params, first_names(model))
    return [node for node in program.graph.nodes if node.op == "call_function"]


def _kept(value: Value, axes: dict[int, Tensor]) -> Value:
    """The tensor after the cut; its positions keep the labels that they had."""
    shape, factors = list(value.shape), []
    for factor in value.factors:
        (axis,) = (a for a, size in enumerate(factor.shape) if size > 1)
        line = factor.ravel()
        if axis in axes:
            line = line[axes[axis].numpy()]
            shape[axis] = len(line)
        factors.append(place(line, axis, len(shape)))
    return Value(tuple(shape), tuple(factors), value.param)


def _difference(
    before: Walk, after: Walk, nodes: list[Node], others: list[Node], shrunk: dict[str, Value], single: bool
) -> str | None:
    """Where the two walks part, in words; None when they do not.

    single: some axis is left with one position. That carries no labels any more, nor does a piece of one; then only
    what is picked can be compared.
    """
    if [op_name(n) for n in nodes] != [op_name(n) for n in others]:
        return "along another path of its code"
    root, frozen = _roots(before.labels)
    alive = np.zeros(before.labels.count, bool)
    for value in shrunk.values():
        for factor in value.factors:
            alive[factor] = True
    for node, other in zip(nodes, others, strict=True):
        if _numbers(node) != _numbers(other):
            return f"by a number computed from a size in {where(node)}"
        was, now = before.picked.get(node.name, []), after.picked.get(other.name, [])
        if len(was) != len(now) and not single:
            return f"in {where(node)}"
        for old, new in zip(was, now, strict=False):
            if not np.array_equal(root[old[alive[old]]], root[new]) and not (single and len(was) != len(now)):
                return f"in {where(node)}"
    if single or any(len(piece) == 1 for pieces in after.picked.values() for piece in pieces):
        return None
    left, right, stays = after.labels.facts()
    if (root[left] != root[right]).any():
        return "where two of them meet"
    return next((f"in {why}" for labels, why in stays if not frozen[root[labels]].all()), None)


def _roots(labels: Labels) -> tuple[Ints, np.ndarray]:
    solution = labels.solve()
    frozen = np.zeros(labels.count, bool)
    frozen[list(solution.reason)] = True
    return solution.root, frozen


def _numbers(node: Node) -> list[float]:
    kinds = (int, float) if RULES.get(op_name(node)) is elementwise else float
    return [a for a in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(a, kinds)]
