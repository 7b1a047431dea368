"""make_dynamic: which layers of a network can be gated, and the network with gates in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from prunekit.errors import GroupError, InputError
from prunekit.methods.dynasegformer.gate import Gate, MagnitudeGate, Selector, check_sparsity
from prunekit.methods.dynasegformer.layers import GatedAttention, GatedLayer, GatedMixFFN, GatedMlp, GatedQKV
from prunekit.models.segformer.encoder import Attention, MixFFN

Where = Literal["attention", "ffn"]
KINDS: tuple[Where, ...] = ("attention", "ffn")
POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Dropout, nn.Identity),
)
Maker = Callable[..., Selector]


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


def make_dynamic(
    model: nn.Module, *, sparsity: float, where: Sequence[Where] = KINDS, reduction: int = 16, gain: float = 1.0
) -> nn.Module:
    """A copy of `model` whose layers decide for each image which neurons to use.

    sparsity: fraction of each gated layer's neurons (of each head's, in attention) that an image leaves out, in [0, 1).
    where: "attention" (one gate for queries and keys, one for values), "ffn" (hidden neurons), or both. reduction:
    hidden width of a predictor is the layer's divided by it. gain: how many times as fast as the weights gates move
    under Adam; 1 for long trainings. All gates start at 1: at sparsity 0 the copy computes what
    `model` does. It takes batches of any size, and images of one size in each.

    Gated are SegFormer's blocks, timm's Attention and Mlp, and pairs of linear layers in nn.Sequential; see `places`.
    Raises InputError for a sparsity outside [0, 1) and a gate that would keep nothing, GroupError when there is no
    place for a gate, with the reasons.
    """
    if type(reduction) is not int or reduction < 1:
        raise InputError(f"reduction is {reduction!r}; give a whole number from 1 on.")
    if not (isinstance(gain, (int, float)) and 0 < gain < float("inf")):
        raise InputError(f"gain is {gain!r}; give a number above 0.")
    return _insert(model, sparsity, where, partial(_predictor, reduction=reduction, gain=gain))


def make_static(model: nn.Module, *, sparsity: float, where: Sequence[Where] = KINDS) -> nn.Module:
    """The comparator: the same neurons left out for every image, those with the smallest weights. As make_dynamic.

    A neuron's magnitude is the norm of the weights that make it times that of those that read it, in `model`.
    """
    return _insert(model, sparsity, where, _constant)


def gates_of(model: nn.Module) -> dict[str, Selector]:
    """All gates of a network by name, in the order they run; GroupError when it has none."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Selector)}
    if not found:
        raise GroupError(f"{type(model).__name__} has no gates; call make_dynamic(model, sparsity=0.5) first.")
    return found


def set_sparsity(model: nn.Module, sparsity: float) -> None:
    """Change how much the gates of `model` leave out, in place: annealing, or one network at several sparsities."""
    check_sparsity(sparsity)
    for gate in gates_of(model).values():
        gate.set_sparsity(sparsity)


def use_path(model: nn.Module, path: Literal["masked", "gathered"]) -> nn.Module:
    """A copy that computes "masked" (all neurons, times the mask) or "gathered" (only the kept ones); equal outputs."""
    if path not in ("masked", "gathered"):
        raise InputError(f"no path {path!r}; choose 'masked' (training) or 'gathered' (inference).")
    gates_of(model)
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, GatedLayer):
            module.gathered = path == "gathered"
    return other


def places(model: nn.Module) -> Places:
    """Where `make_dynamic` would put gates, and where not, with the reason."""
    found: dict[str, Where] = {}
    skipped: dict[str, str] = {}
    for name, module in model.named_modules():
        why = _obstacle(module)
        if why:
            skipped[name] = why
        elif isinstance(module, (Attention, TimmAttention)):
            found[name] = "attention"
        elif isinstance(module, (MixFFN, Mlp)) or (isinstance(module, nn.Sequential) and _pairs(module)):
            found[name] = "ffn"
    return Places(found, skipped)


def _obstacle(module: nn.Module) -> str:
    """Why a layer that looks like one of ours cannot be gated; empty when it can, or does not look so."""
    if isinstance(module, GatedLayer):
        return "it has a gate"
    if isinstance(module, nn.MultiheadAttention):
        return "nn.MultiheadAttention keeps its matrices in one parameter and computes them in C++"
    if isinstance(module, Mlp):
        if not isinstance(module.fc1, nn.Linear):
            return "its layers are convolutions"
        if not isinstance(module.norm, nn.Identity):
            return f"a {type(module.norm).__name__} mixes the neurons between its two layers"
    if isinstance(module, TimmAttention):
        mixing = [n for n in ("q_norm", "k_norm", "norm") if not isinstance(getattr(module, n), nn.Identity)]
        if mixing:
            return f"'{mixing[0]}' mixes the positions of a head"
        if module.gate is not None:
            return "its output has a gate of its own"
    return ""


def _pairs(chain: nn.Sequential) -> list[tuple[int, int]]:
    """Places of two linear layers with nothing but pointwise layers between them; each layer in one pair at most."""
    found, first = [], None
    for i, module in enumerate(chain):
        if isinstance(module, nn.Linear):
            if first is not None:
                found.append((first, i))
            first = i if first is None else None
        elif not isinstance(module, POINTWISE):
            first = None
    return found


def _insert(model: nn.Module, sparsity: float, where: Sequence[Where], maker: Maker) -> nn.Module:
    check_sparsity(sparsity)
    unknown = [kind for kind in where if kind not in KINDS]
    if isinstance(where, str) or unknown or not where:
        raise InputError(f"where is {where!r}; give a tuple with 'attention', 'ffn' or both.")
    there = places(model)
    names = [name for name, kind in there.found.items() if kind in where]
    if not names:
        reasons = "; ".join(f"'{name}': {why}" for name, why in list(there.skipped.items())[:3])
        raise GroupError(
            f"no layer of {type(model).__name__} can be gated ({', '.join(where)}). "
            + (reasons or "It has no attention, Mlp or nn.Sequential of linear layers that is known here.")
        )
    dynamic = copy.deepcopy(model)
    for name in names:
        layer = dynamic.get_submodule(name)
        gated = _gated(layer, name, maker).train(layer.training)
        if not name:
            dynamic = gated
        elif gated is not layer:
            parent, _, child = name.rpartition(".")
            setattr(dynamic.get_submodule(parent), child, gated)
    for gate in gates_of(dynamic).values():
        gate.set_sparsity(sparsity)
    dynamic.register_forward_pre_hook(one_batch)
    return dynamic


@torch.no_grad()
def _gated(layer: Any, name: str, maker: Maker) -> nn.Module:
    """The gated layer around the same weights."""
    if isinstance(layer, MixFFN):
        return GatedMixFFN(layer, maker(layer.fc1.in_features, _through(layer.fc1.weight, layer.fc2.weight), 1, name))
    if isinstance(layer, Attention):
        inputs, heads = layer.query.in_features, layer.num_heads
        return GatedAttention(
            layer,
            maker(inputs, _through(layer.query.weight, layer.key.weight.t()), heads, f"{name}.qk_gate"),
            maker(inputs, _through(layer.value.weight, layer.project.weight), heads, f"{name}.value_gate"),
        )
    if isinstance(layer, TimmAttention):
        inputs, heads = layer.qkv.in_features, layer.num_heads
        query_UC, key_UC, value_UC = layer.qkv.weight.chunk(3)
        return GatedQKV(
            layer,
            maker(inputs, _through(query_UC, key_UC.t()), heads, f"{name}.qk_gate"),
            maker(inputs, _through(value_UC, layer.proj.weight), heads, f"{name}.value_gate"),
        )
    if isinstance(layer, Mlp):
        fc1, fc2 = cast(nn.Linear, layer.fc1), cast(nn.Linear, layer.fc2)
        gate = maker(fc1.in_features, _through(fc1.weight, fc2.weight), 1, name)
        return GatedMlp(fc1, nn.Sequential(layer.act, layer.drop1), fc2, layer.drop2, gate)
    for first, second in _pairs(layer):
        fc1, fc2 = layer[first], layer[second]
        gate = maker(fc1.in_features, _through(fc1.weight, fc2.weight), 1, f"{name}.{first}".lstrip("."))
        layer[first] = GatedMlp(fc1, nn.Sequential(*layer[first + 1 : second]), fc2, nn.Identity(), gate)
        for i in range(first + 1, second + 1):
            layer[i] = nn.Identity()
    return layer


def _through(made_UC: Tensor, read_OU: Tensor) -> Tensor:
    """How much a neuron can carry, (U,)."""
    return made_UC.norm(dim=1) * read_OU.norm(dim=0)


def _predictor(inputs: int, magnitude_U: Tensor, heads: int, name: str, *, reduction: int, gain: float) -> Selector:
    gate = Gate(inputs, magnitude_U, heads=heads, reduction=reduction, gain=gain, name=name)
    return gate.to(device=magnitude_U.device, dtype=magnitude_U.dtype)


def _constant(inputs: int, magnitude_U: Tensor, heads: int, name: str) -> Selector:
    del inputs
    return MagnitudeGate(magnitude_U, heads=heads, name=name)


def one_batch(model: nn.Module, args: tuple[Any, ...]) -> None:
    """Before each forward pass: a batch is one tensor."""
    if args and isinstance(args[0], (list, tuple)):
        sizes = sorted({tuple(x.shape) for x in args[0] if isinstance(x, Tensor)})
        raise InputError(
            f"{type(model).__name__} was given a list of images of {len(sizes)} sizes ({', '.join(map(str, sizes))}); "
            "a batch is one tensor (B, C, H, W). Gates belong to each image, so running them one by one, or in a batch "
            "for each size, gives the same masks."
        )
