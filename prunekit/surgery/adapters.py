"""Sizes that a model keeps in Python attributes: attention modules that store how many heads they have.

Only attributes with a known name are set, on the nearest module around the projections that has one, and only when the
old value is the one the graph shows; nothing is guessed from equal numbers. Where that does not work out, `prune` turns
to the graph itself (edit.py).
"""

from __future__ import annotations

from torch import nn

from prunekit.core import ChannelGroup, Groups, PruningPlan
from prunekit.errors import PlanError

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
HEAD_WIDTHS = ("attn_dim", "all_head_size", "inner_dim")  # heads x size of a head


def fit_heads(small: nn.Module, groups: Groups, plan: PruningPlan) -> None:
    """Set the head counts of the modules whose heads the plan removes, in the small model.

    Raises PlanError when no module around them says how many heads it has, or one says another number than the graph.
    """
    for name, keep in plan.keep.items():
        group = groups[name]
        if group.kind == "head_dim" and len(keep) < group.size:
            raise PlanError(
                f"the code around '{name}' divides by the square root of the full head size. Freeze it: "
                f"find_groups(model, x, freeze=['{name}'])."
            )
        if group.kind == "head" and len(keep) < group.size:
            for maker in group.producers():
                _fit(*_owner(small, maker.tensor, group), group, len(keep))


def _owner(small: nn.Module, tensor: str, group: ChannelGroup) -> tuple[str, nn.Module]:
    """The nearest module around a projection that keeps a head count."""
    path = tensor.rpartition(".")[0]
    while path:
        path = path.rpartition(".")[0]
        owner = small.get_submodule(path)
        if any(isinstance(vars(owner).get(name), int) for name in HEAD_COUNTS):
            return path, owner
    raise PlanError(
        f"no module around '{group.name}' says how many heads it has. Freeze it: "
        f"find_groups(model, x, freeze=['{group.name}'])."
    )


def _fit(path: str, owner: nn.Module, group: ChannelGroup, kept: int) -> None:
    for attribute in HEAD_COUNTS:
        have = vars(owner).get(attribute)
        if not isinstance(have, int) or have == kept:  # set already, for another of its projections
            continue
        if have != group.size:
            raise PlanError(
                f"'{path}.{attribute}' is {have}, but the graph shows {group.size} units of heads in '{group.name}'. "
                f"Freeze it: find_groups(model, x, freeze=['{group.name}'])."
            )
        setattr(owner, attribute, kept)
        for width in HEAD_WIDTHS:
            size = vars(owner).get(width)
            if isinstance(size, int) and size % group.size == 0:
                setattr(owner, width, size // group.size * kept)
