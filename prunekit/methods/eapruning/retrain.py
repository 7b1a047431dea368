"""The chosen structure with fresh weights, to be trained from scratch; `train.finetune` trains both it and the rebuilt.

Convolutions: normal, variance 2 / fan out (He et al., 2015). Linear layers, embeddings and tokens: normal, 0.02, cut at
two units, as in DeiT. Biases 0, norms 1 and 0, running statistics as new.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def from_scratch(small: nn.Module, like: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of `small` with new weights. like: the dense model, which knows the layer that each parameter belongs to,
    even where `small` is a traced graph.
    """
    fresh = copy.deepcopy(small)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, tensor in fresh.named_parameters():
            path, _, kind = name.rpartition(".")
            tensor.copy_(_drawn(tensor.cpu(), like.get_submodule(path), kind))
        for name, tensor in fresh.named_buffers():
            if name.endswith("running_var"):
                tensor.fill_(1)
            elif name.endswith(("running_mean", "num_batches_tracked")):
                tensor.zero_()
    return fresh


def _drawn(tensor: Tensor, owner: nn.Module, kind: str) -> Tensor:
    new = torch.empty_like(tensor)
    if isinstance(owner, _NORMS):
        return new.fill_(float(kind == "weight"))
    if kind.endswith("bias"):
        return new.zero_()
    if isinstance(owner, _ConvNd):
        fan_out = tensor.numel() // tensor.shape[1]
        return new.normal_(0, (2 / fan_out) ** 0.5)
    return nn.init.trunc_normal_(new, std=0.02)
