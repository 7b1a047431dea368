"""Sizes that a model keeps in Python attributes: attention modules that store how many heads they have.

Only attributes with a known name on the module that owns the projections are set, and only when the old value is the
one the graph shows; nothing is guessed from equal numbers. What is still wrong after that fails in `prune`'s test run.
"""

from __future__ import annotations

from torch import nn

from prunekit.core import ChannelGroup, Groups, PruningPlan
from prunekit.errors import PlanError

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
HEAD_WIDTHS = ("attn_dim", "all_head_size", "inner_dim")  # heads x size of a head


def fit_heads(small: nn.Module, groups: Groups, plan: PruningPlan) -> None:
    """Set the head counts of the modules whose heads the plan removes, in the small model.

    Raises PlanError when a module says that it has another number of heads than the graph shows.
    """
    for name, keep in plan.keep.items():
        group = groups[name]
        if group.kind == "head" and len(keep) < group.size:
            _fit(small, group, len(keep))


def _fit(small: nn.Module, group: ChannelGroup, kept: int) -> None:
    for path, owner in _owners(small, group):
        counts = [a for a in HEAD_COUNTS if isinstance(vars(owner).get(a), int)]
        for attribute in counts:
            have = vars(owner)[attribute]
            if have != group.size:
                raise PlanError(
                    f"'{path}.{attribute}' is {have}, but the graph shows {group.size} units of heads in "
                    f"'{group.name}'. Freeze it: find_groups(model, x, freeze=['{group.name}'])."
                )
            setattr(owner, attribute, kept)
        for attribute in HEAD_WIDTHS if counts else ():
            width = vars(owner).get(attribute)
            if isinstance(width, int) and width % group.size == 0:
                setattr(owner, attribute, width // group.size * kept)


def _owners(small: nn.Module, group: ChannelGroup) -> list[tuple[str, nn.Module]]:
    """The modules that hold the layers which make these heads: their direct parents, each once."""
    paths = [m.tensor.rpartition(".")[0].rpartition(".")[0] for m in group.producers()]
    return [(path, small.get_submodule(path)) for path in dict.fromkeys(paths)]
