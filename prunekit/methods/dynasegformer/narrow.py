"""A static mask made permanent: the hand-narrowed network that gathered inference is measured against.

Its layers are SegFormer's own, with fewer neurons, so it is as fast as these widths can be: no gate, no gather.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunekit.errors import InputError
from prunekit.methods.dynasegformer.gate import MagnitudeGate, Selector
from prunekit.methods.dynasegformer.insert import gates_of, one_batch
from prunekit.methods.dynasegformer.layers import GatedAttention, GatedLayer, GatedMixFFN
from prunekit.models.segformer.encoder import Attention, MixFFN


@torch.no_grad()
def narrow(static: nn.Module) -> nn.Module:
    """A copy of what make_static made of a SegFormer, with the neurons left out removed; the outputs are equal.

    Raises GroupError for a network without gates, InputError where a gate depends on the image.
    """
    gates_of(static)
    small = copy.deepcopy(static)
    for name, layer in list(small.named_modules()):
        if not isinstance(layer, GatedLayer):
            continue
        if not isinstance(layer, (GatedMixFFN, GatedAttention)):
            raise InputError(f"'{name}' is a {type(layer).__name__}; only SegFormer's layers can be narrowed here.")
        parent, _, child = name.rpartition(".")
        plain = _mix_ffn(layer, name) if isinstance(layer, GatedMixFFN) else _attention(layer, name)
        setattr(small.get_submodule(parent), child, plain.train(layer.training))
    for key, hook in list(small._forward_pre_hooks.items()):
        if hook is one_batch:
            del small._forward_pre_hooks[key]
    return small


def _mix_ffn(layer: GatedMixFFN, name: str) -> MixFFN:
    kept_K = _kept(layer.gate, name)
    ffn = MixFFN(layer.fc1.in_features, len(kept_K)).to(layer.fc1.weight)
    _copy(ffn.fc1, layer.fc1, 0, kept_K)
    _copy(ffn.depthwise, layer.depthwise, 0, kept_K)
    _copy(ffn.fc2, layer.fc2, 1, kept_K)
    return ffn


def _attention(layer: GatedAttention, name: str) -> Attention:
    qk_K, value_K = _kept(layer.qk_gate, name), _kept(layer.value_gate, name)
    attention = Attention(layer.query.in_features, layer.num_heads, 1)
    attention.scale, attention.reduce, attention.norm = layer.scale, layer.reduce, layer.norm
    for part, dim, kept_K in (("query", 0, qk_K), ("key", 0, qk_K), ("value", 0, value_K), ("project", 1, value_K)):
        old = getattr(layer, part)
        sizes = (old.in_features, len(kept_K)) if dim == 0 else (len(kept_K), old.out_features)
        new = nn.Linear(*sizes).to(old.weight)
        _copy(new, old, dim, kept_K)
        setattr(attention, part, new)
    return attention


def _copy(new: nn.Linear | nn.Conv2d, old: nn.Linear | nn.Conv2d, dim: int, kept_K: Tensor) -> None:
    """Rows (dim 0, with their biases) or columns (dim 1) of a layer."""
    new.weight.copy_(old.weight.index_select(dim, kept_K))
    if new.bias is not None and old.bias is not None:
        new.bias.copy_(old.bias[kept_K] if dim == 0 else old.bias)


def _kept(gate: Selector, name: str) -> Tensor:
    if not isinstance(gate, MagnitudeGate):
        raise InputError(f"the gate of '{name}' depends on the image: nothing can be removed for all. Use make_static.")
    return gate.choose(torch.ones(1, gate.size, device=gate.rank_U.device)).index_BK[0].sort().values
