"""What a gated network costs: MACs of an image by part, and which part of a saving is due to what.

    attention, ffn     the gated layers, without their predictors
    predictor          x_hat W1 and the MLP of every gate
    decoder            SegFormer's
    other              patch embeddings, classifiers, what is not gated

Counted on the gathered path, which does no more than this work; the masked path multiplies all neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from prunekit.errors import InputError
from prunekit.methods.dynasegformer.gate import Selector
from prunekit.methods.dynasegformer.insert import use_path
from prunekit.methods.dynasegformer.layers import GatedAttention, GatedLayer, GatedQKV
from prunekit.methods.dynasegformer.places import Where, linear_layers, places
from prunekit.models.segformer.network import MLPDecoder
from prunekit.profiling import count_macs, count_macs_by_module, count_params


@dataclass(frozen=True)
class Cost:
    """MACs of one image by part; parameters of the whole network, and of its predictors among them."""

    attention: int
    ffn: int
    predictor: int
    decoder: int
    other: int
    params: int
    predictor_params: int

    @property
    def macs(self) -> int:
        """All of it."""
        return self.attention + self.ffn + self.predictor + self.decoder + self.other


@dataclass(frozen=True)
class Saving:
    """Where the MACs of an image went, in MACs. gates: net of what the predictors cost."""

    original: int
    decoder: int
    gates: int

    @property
    def left(self) -> int:
        """What is still computed."""
        return self.original - self.decoder - self.gates


def cost(model: nn.Module, x: Tensor) -> Cost:
    """The cost of an image of x's size, (1, C, H, W); for a network with or without gates. InputError for a batch."""
    if len(x) != 1:
        raise InputError(f"cost is of one image, x holds {len(x)}: pass x[:1].")
    kinds = _parts(model)
    gated = [name for name, module in model.named_modules() if isinstance(module, GatedLayer)]
    for name in gated:
        layer = model.get_submodule(name)
        kinds[name] = "attention" if isinstance(layer, (GatedAttention, GatedQKV)) else "ffn"
    gates = [name for name, module in model.named_modules() if isinstance(module, Selector)]
    decoders = [name for name, module in model.named_modules() if isinstance(module, MLPDecoder)]
    macs = count_macs_by_module(use_path(model, "gathered") if gated else model, x)
    inside = {kind: sum(macs.get(name, 0) for name in kinds if kinds[name] == kind) for kind in ("attention", "ffn")}
    predictor = dict.fromkeys(inside, 0)
    for gate in gates:
        predictor[kinds[gate.rpartition(".")[0]]] += macs.get(gate, 0)
    decoder = sum(macs.get(name, 0) for name in decoders)
    total = macs[""]
    return Cost(
        attention=inside["attention"] - predictor["attention"],
        ffn=inside["ffn"] - predictor["ffn"],
        predictor=sum(predictor.values()),
        decoder=decoder,
        other=total - sum(inside.values()) - decoder,
        params=count_params(model),
        predictor_params=sum(count_params(model.get_submodule(name)) for name in gates),
    )


def saving(original: nn.Module, dense: nn.Module, dynamic: nn.Module | Cost, x: Tensor) -> Saving:
    """How much of a saving is the decoder's and how much the gates'.

    original: as published. dense: the same with the decoder of `dynamic`, without gates. dynamic: the gated network, or
    its cost where that is known. x: one image.
    """
    before, same = count_macs(original, x), count_macs(dense, x)
    after = dynamic if isinstance(dynamic, Cost) else cost(dynamic, x)
    return Saving(before, before - same, same - after.macs)


def _parts(model: nn.Module) -> dict[str, Where]:
    """Layers that `places` would gate -> kind, none inside another; of a chain only the linear layers in pairs."""
    parts: dict[str, Where] = {}
    for name, kind in places(model).found.items():
        layer = model.get_submodule(name)
        own = linear_layers(layer) if isinstance(layer, nn.Sequential) else [""]
        parts |= {".".join(filter(None, (name, inner))): kind for inner in own}
    return {name: kind for name, kind in parts.items() if not any(name.startswith(f"{other}.") for other in parts)}
