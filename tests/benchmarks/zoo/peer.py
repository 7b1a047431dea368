"""Torch-Pruning 1.6 as its own examples use it for timm's transformers, with every count that it needs set for it.

MetaPruner with random importance; the layers that make the output are ignored; every projection of an attention module
that says how many heads it has is entered in num_heads, whole heads are pruned, and afterwards the module's head counts
and widths are set to what is left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads", "nhead")
WIDTHS = ("attn_dim", "all_head_size", "inner_dim")
PROJECTIONS = (
    "qkv qkv_proj to_qkv q k v kv q_proj k_proj v_proj query key value wq wk wv to_q to_k to_v qk q_lin k_lin v_lin"
).split()


def torch_pruning(model: nn.Module, x: Tensor) -> Callable[[float], nn.Module]:
    """A function from ratio to a pruned copy. The graph belongs to one copy: each ratio builds its own."""

    def cut(ratio: float) -> nn.Module:
        torch.manual_seed(0)
        small = copy.deepcopy(model)
        pruner = _pruner(small, x, ratio)
        pruner.step()
        _set_heads(small, pruner.num_heads)
        return small

    return cut


def _pruner(model: nn.Module, x: Tensor, ratio: float) -> Any:
    import torch_pruning as tp

    counts = {layer: heads for _, layers, heads in attentions(model) for layer in layers}
    return tp.pruner.MetaPruner(
        model,
        x,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=ratio,
        ignored_layers=output_layers(model, x),
        num_heads=counts,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=ratio,
        head_pruning_ratio_dict={m: min(ratio, 1 - 1 / n - 1e-6) for m, n in counts.items()},  # one head stays
    )


def attentions(model: nn.Module) -> list[tuple[nn.Module, list[nn.Module], int]]:
    """Modules that keep a head count, their projections, and the count."""
    found = []
    for module in model.modules():
        heads = next((vars(module)[c] for c in COUNTS if isinstance(vars(module).get(c), int)), None)
        layers = [m for n, m in module.named_modules() if n.split(".")[-1] in PROJECTIONS and hasattr(m, "weight")]
        if heads and layers:
            found.append((module, layers, heads))
    return found


def _set_heads(model: nn.Module, num_heads: dict[nn.Module, int]) -> None:
    for module, layers, before in attentions(model):
        heads = num_heads.get(layers[0], before)
        for name in COUNTS:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, heads)
        for name in WIDTHS:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, vars(module)[name] // before * heads)


def output_layers(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """The layers that make the outputs, which must keep their size: the first with a matrix on the way back."""
    owner = {id(m.weight): m for m in model.modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))}
    out = model(x)
    leaves = pytree.tree_leaves(dict(out) if isinstance(out, Mapping) else out)
    todo = [t.grad_fn for t in leaves if isinstance(t, Tensor) and t.grad_fn is not None]
    seen, found = set(todo), []
    while todo:
        node = todo.pop()
        nearby = [f for f, _ in node.next_functions if f is not None]
        turned = [f for n in nearby if n.name() == "TBackward0" for f, _ in n.next_functions]
        layers = [owner[id(f.variable)] for f in nearby + turned if id(getattr(f, "variable", None)) in owner]
        found += layers
        if not layers:
            todo += [f for f in nearby if f not in seen]
            seen.update(nearby)
    return found
