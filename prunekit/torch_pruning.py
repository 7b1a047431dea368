"""For users of Torch-Pruning (Fang et al., CVPR 2023): any of our criteria as the importance of its pruners.

    tp.pruner.BasePruner(model, x, importance=Importance(model, x, hrank_on_my_data), global_pruning=True, ...)

Torch-Pruning decides what is cut and cuts; we only tell it what each channel is worth. It asks for one of its groups
at a time; we look which of our groups makes those channels, and answer with its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import MissingDependencyError
from prunekit.surgery import find_groups


class Importance:
    """Callable as Torch-Pruning wants it: importance(group) -> (channels asked for,), or None when we keep them all.

    Scores are divided by their mean over the group, as Torch-Pruning's own are: otherwise its global pruning would
    empty the layers whose scores are small by scale.

    model: the one given to the pruner, which cuts it in place. example: an input, as for find_groups. score: function
    of (model, groups); give other arguments by functools.partial. After a cut groups and scores are found anew, once
    for each cut: with global_pruning=True all groups are scored before the first one.
    Raises MissingDependencyError without the package, later what find_groups and `score` raise.
    """

    def __init__(self, model: nn.Module, example: Any, score: Callable[[nn.Module, Groups], Scores]) -> None:
        if find_spec("torch_pruning") is None:
            raise MissingDependencyError("this needs Torch-Pruning: pip install torch-pruning")
        self.model, self.example, self.score = model, example, score
        self.shapes: dict[str, torch.Size] = {}
        self.per_channel: dict[str, Tensor] = {}

    def __call__(self, group: Any) -> Tensor | None:
        """group: a torch_pruning Group."""
        from torch_pruning.pruner import function

        makes = {function.prune_conv_out_channels, function.prune_linear_out_channels}
        self._refresh()
        names = {module: name for name, module in self.model.named_modules()}
        answer = torch.full((len(group[0].idxs),), torch.nan, dtype=torch.float64)
        for item in group:
            known = self.per_channel.get(f"{names.get(item.dep.layer)}.weight")
            if known is not None and item.dep.handler in makes:
                answer[torch.tensor(item.root_idxs)] = known[torch.tensor(item.idxs)]
        if answer.isnan().any():
            return None
        mean = answer.mean()
        return (answer / mean if mean > 0 else answer).float()

    def _refresh(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if shapes == self.shapes:
            return
        groups = find_groups(self.model, self.example)
        self.shapes, self.per_channel = shapes, {}
        for name, score_U in self.score(self.model, groups).items():
            for maker in groups[name].producers():
                line = torch.full((groups.shapes[maker.tensor][maker.dim],), torch.nan, dtype=torch.float64)
                line = self.per_channel.setdefault(maker.tensor, line)
                line[maker.index] = score_U.double()[:, None].expand(maker.index.shape)
