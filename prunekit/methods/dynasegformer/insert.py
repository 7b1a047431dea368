"""make_dynamic: a network with gates in the layers that can be gated (places.py)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from prunekit.errors import GroupError, InputError
from prunekit.methods.dynasegformer.gate import Gate, MagnitudeGate, Selector, check_sparsity, is_number, is_whole
from prunekit.methods.dynasegformer.layers import GatedAttention, GatedLayer, GatedMixFFN, GatedMlp, GatedQKV
from prunekit.methods.dynasegformer.places import KINDS, Where, pairs, places
from prunekit.models.segformer.encoder import Attention, MixFFN

Maker = Callable[..., Selector]


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
    if not is_whole(reduction) or reduction < 1:
        raise InputError(f"reduction is {reduction!r}; give a whole number from 1 on.")
    if not is_number(gain) or gain <= 0:
        raise InputError(f"gain is {gain!r}; give a finite number above 0.")
    return _insert(model, sparsity, where, partial(_predictor, reduction=int(reduction), gain=float(gain)))


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
    gates = gates_of(model).values()
    least = min(gates, key=lambda gate: gate.size // gate.heads)
    least.kept_at(sparsity)  # if it keeps one, all do: refused before any is changed, with a limit that holds for all
    for gate in gates:
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


def _insert(model: nn.Module, sparsity: float, where: Sequence[Where], maker: Maker) -> nn.Module:
    check_sparsity(sparsity)
    kinds = where if isinstance(where, str) or not isinstance(where, Iterable) else tuple(where)
    if not isinstance(kinds, tuple) or not kinds or any(kind not in KINDS for kind in kinds):
        raise InputError(f"where is {kinds!r}; give a tuple with 'attention', 'ffn' or both.")
    there = places(model)
    names = [name for name, kind in there.found.items() if kind in kinds]
    if not names:
        reasons = "; ".join(f"'{name}': {why}" for name, why in list(there.skipped.items())[:3])
        raise GroupError(
            f"no layer of {type(model).__name__} can be gated ({', '.join(kinds)}). "
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
    set_sparsity(dynamic, sparsity)
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
    for first, second in pairs(layer):
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
    """Before each forward pass: images come as one tensor. What else a model takes is its own affair."""
    given = args[0] if args else None
    if isinstance(given, Tensor):
        if given.ndim == 3 and _reads_images(model):  # tokens (B, N, C) are for models that begin with a linear layer
            raise InputError(
                f"{type(model).__name__} was given a tensor {tuple(given.shape)}, and a batch is (B, C, H, W): for one "
                "image pass image[None]."
            )
        return
    images = given if isinstance(given, (list, tuple)) else ()
    if not images or not all(isinstance(x, Tensor) and x.ndim in (3, 4) for x in images):
        return
    sizes = sorted({tuple(x.shape) for x in images})
    said = f"{type(model).__name__} was given a list of {len(images)} images, and a batch is one tensor (B, C, H, W)"
    if len(sizes) == 1:
        raise InputError(f"{said}: put them together, torch.{'stack' if len(sizes[0]) == 3 else 'cat'}(images).")
    raise InputError(
        f"{said}; these have {len(sizes)} sizes, {', '.join(map(str, sizes))}. Gates belong to each image, so running "
        "them one by one, or in a batch for each size, gives the same masks."
    )


def _reads_images(model: nn.Module) -> bool:
    """Whether its first layer with weights is a convolution, as in a patch embedding."""
    first = next((module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))), None)
    return isinstance(first, nn.Conv2d)
