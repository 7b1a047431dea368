"""Where gates can go in a network, and where not, with the reason: the structure decides, nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from timm.layers.attention import Attention as TimmAttention
from timm.layers.mlp import Mlp
from torch import nn

from prunekit.methods.dynasegformer.layers import GatedLayer
from prunekit.models.segformer.encoder import Attention, MixFFN

Where = Literal["attention", "ffn"]
KINDS: tuple[Where, ...] = ("attention", "ffn")
POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Identity),
)


@dataclass(frozen=True)
class Places:
    """found: name of a layer that can be gated -> its kind. skipped: name -> why not."""

    found: dict[str, Where]
    skipped: dict[str, str]

    def __str__(self) -> str:
        kinds = list(self.found.values())
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)
        reasons = "; ".join(f"'{name}' ({why})" for name, why in self.skipped.items())
        return f"{len(kinds)} layers{': ' * bool(kinds)}{counts}; skipped: {reasons or 'none'}"


def places(model: nn.Module) -> Places:
    """Where `make_dynamic` would put gates, and where not, with the reason."""
    found: dict[str, Where] = {}
    skipped: dict[str, str] = {}
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module, (name, *others) in names.items():
        why, kind = _obstacle(module), _kind(module)
        if not why and kind and others:
            why = f"it is '{others[0]}' as well, and a gate decides for one place"
        if why:
            skipped[name] = why
        elif kind:
            found[name] = kind
    return Places(found, skipped)


def linear_layers(chain: nn.Sequential) -> list[str]:
    """Names, inside `chain`, of the linear layers that are gated in pairs."""
    names = list(chain._modules)
    return [names[i] for pair in pairs(chain) for i in pair]


def _kind(module: nn.Module) -> Where | None:
    """What a layer looks like."""
    if isinstance(module, (Attention, TimmAttention)):
        return "attention"
    if isinstance(module, (MixFFN, Mlp)) or (isinstance(module, nn.Sequential) and pairs(module)):
        return "ffn"
    return None


def _obstacle(module: nn.Module) -> str:
    """Why a layer that looks like one of ours cannot be gated; empty when it can, or does not look so."""
    if isinstance(module, GatedLayer):
        return "it has a gate"
    if isinstance(module, nn.MultiheadAttention):
        return "nn.MultiheadAttention keeps its matrices in one parameter and computes them in C++"
    known = next(
        (kind for kind in (Attention, TimmAttention, MixFFN, Mlp, nn.Sequential) if isinstance(module, kind)), None
    )
    if known and _kind(module) and type(module).forward is not known.forward:
        return f"its forward is its own, not {known.__name__}'s"
    if isinstance(module, Mlp):
        if not (_linear(module.fc1) and _linear(module.fc2)):
            return "its layers are no plain nn.Linear"
        if not isinstance(module.norm, nn.Identity):
            return f"a {type(module.norm).__name__} mixes the neurons between its two layers"
    if isinstance(module, TimmAttention):
        mixing = [n for n in ("q_norm", "k_norm", "norm") if not isinstance(getattr(module, n), nn.Identity)]
        if mixing:
            return f"'{mixing[0]}' mixes the channels of a head"
        if not (_linear(module.qkv) and _linear(module.proj)):
            return "its layers are no plain nn.Linear"
        if module.gate is not None:
            return "its output has a gate of its own"
    return ""


def pairs(chain: nn.Sequential) -> list[tuple[int, int]]:
    """Places of two linear layers with nothing but pointwise layers between them; each layer in one pair at most."""
    found, first = [], None
    for i, module in enumerate(chain):
        if _linear(module):
            if first is not None:
                found.append((first, i))
            first = i if first is None else None
        elif not isinstance(module, POINTWISE):
            first = None
    return found


def _linear(layer: object) -> bool:
    """With nn.Linear's own forward: one that adds something to it (an adapter) would lose that."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward
