"""The gate predictor: which neurons of a layer this image needs, and how much of each.

    x_hat = LN(mean over tokens of X),   G = MLP(x_hat W1),   M = Top-r(G): the largest kept with their values, others 0

The values multiply the neurons, so the loss reaches the predictor through them. A predictor that starts at random would
wreck a trained network; the last layer starts at weight 0 and bias 1, so every gate is 1 and nothing has changed yet.
Gates are ranked after a ramp is added, from 0 for the neuron with the smallest weights to TIE for the one with the
largest: otherwise the first cut, when all are 1, would fall on whatever comes last. So the magnitude of weights decides
between equal gates, still counts between gates that are less than TIE apart, and no longer beyond that.

Legend: B = images, N = tokens, C = channels, U = neurons of the gated layer, n = heads, d = U / n, K = kept neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import TypeGuard

import torch
from torch import Tensor, layer_norm, nn
from torch.nn.functional import linear

from prunekit.errors import InputError

TIE = 1e-3  # height of the ramp


@dataclass(frozen=True)
class Choice:
    """What a gate keeps of each image. index_BK: neuron numbers, int64, head after head. value_BK: their gates."""

    index_BK: Tensor
    value_BK: Tensor


class Selector(nn.Module):
    """Top-r over gates that a subclass makes. magnitude_U: of the neurons' weights. heads: each keeps as many as the
    others, or their products would not be matrices. name: where it sits, for messages.

    How many it keeps, and a predictor's gain, are in its state dict: weights bring along what they were trained for.
    """

    rank_U: Tensor
    first_n1: Tensor
    gain: float = 1.0

    def __init__(self, magnitude_U: Tensor, *, heads: int = 1, name: str = "gate") -> None:
        super().__init__()
        size = len(magnitude_U)
        if size % heads:
            raise InputError(f"'{name}' has {size} neurons, which {heads} heads cannot share.")
        self.size, self.heads, self.name = size, heads, name
        self.register_buffer("rank_U", magnitude_U.argsort().argsort())  # integers: half precision loses none of them
        first_n1 = size // heads * torch.arange(heads, device=magnitude_U.device)[:, None]
        self.register_buffer("first_n1", first_n1, persistent=False)
        self.kept = size // heads

    def set_sparsity(self, sparsity: float) -> None:
        """From now on keep (1 - sparsity) of each head's neurons, rounded. Raises InputError where none would stay."""
        self.kept = self.kept_at(sparsity)

    def kept_at(self, sparsity: float) -> int:
        """How many neurons of each head would stay. Raises InputError where none would."""
        return kept_at(sparsity, self.size // self.heads, self.name, heads=self.heads)

    def forward(self, x_BNC: Tensor, weight_UC: Tensor) -> Tensor:
        """G, (B, U), of the layer with this weight on this input."""
        raise NotImplementedError

    def choose(self, gate_BU: Tensor) -> Choice:
        """Top-r in each head, in no order: sorting takes longer than finding."""
        wide_BU = gate_BU.detach()
        if wide_BU.dtype in (torch.float16, torch.bfloat16):
            wide_BU = wide_BU.float()
        wide_BU = torch.add(wide_BU, self.rank_U, alpha=TIE / self.size)  # the ramp
        if self.heads == 1:
            index_BK = wide_BU.topk(self.kept, sorted=False)[1]
        else:
            rank_Bnd = wide_BU.view(len(wide_BU), self.heads, self.size // self.heads)
            index_BK = rank_Bnd.topk(self.kept, sorted=False)[1].add_(self.first_n1).flatten(1)
        return Choice(index_BK, gate_BU.gather(1, index_BK))

    def mask(self, gate_BU: Tensor) -> Tensor:
        """M, (B, U): the gates of the neurons that stay, 0 for the others."""
        chosen = self.choose(gate_BU)
        return torch.zeros_like(gate_BU).scatter(1, chosen.index_BK, chosen.value_BK)

    def get_extra_state(self) -> Tensor:
        """(kept, gain), stored with the weights."""
        return torch.tensor([self.kept, self.gain], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """What another gate of these sizes had. Raises InputError where it cannot keep as many."""
        kept, gain = state.tolist()
        if not 1 <= kept <= self.size // self.heads:
            raise InputError(
                f"the weights of gate '{self.name}' keep {kept:g} neurons of a head; here each head has "
                f"{self.size // self.heads}: they are another network's."
            )
        self.kept, self.gain = int(kept), gain

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"keeps {self.kept * self.heads} of {self.size}"


class Gate(Selector):
    """The learned predictor. inputs: C. reduction: the MLP's hidden width is U / reduction, at least 2. gain: factor on
    its last layer: under Adam, how many times as fast as the weights the gates move.
    """

    def __init__(
        self,
        inputs: int,
        magnitude_U: Tensor,
        *,
        heads: int = 1,
        reduction: int = 16,
        gain: float = 1.0,
        name: str = "gate",
    ) -> None:
        super().__init__(magnitude_U, heads=heads, name=name)
        hidden = max(2, self.size // reduction)
        self.norm = nn.LayerNorm(inputs)
        self.squeeze = nn.Linear(self.size, hidden)
        self.excite = nn.Linear(hidden, self.size)
        self.gain = gain
        nn.init.zeros_(self.excite.weight)
        nn.init.constant_(self.excite.bias, 1 / gain)

    def forward(self, x_BNC: Tensor, weight_UC: Tensor) -> Tensor:
        norm, squeeze, excite = self.norm, self.squeeze, self.excite  # called as functions: at batch 1 calls cost, too
        x_hat_BC = layer_norm(x_BNC.mean(1), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        hidden_BH = linear(linear(x_hat_BC, weight_UC), squeeze.weight, squeeze.bias).relu_()
        gate_BU = linear(hidden_BH, excite.weight, excite.bias)
        return gate_BU if self.gain == 1 else self.gain * gate_BU


class MagnitudeGate(Selector):
    """The static comparator: every gate is 1 for every image, so the neurons with the largest weights stay."""

    def forward(self, x_BNC: Tensor, weight_UC: Tensor) -> Tensor:
        del weight_UC
        return x_BNC.new_ones(len(x_BNC), self.size)


def kept_at(sparsity: float, size: int, name: str = "gate", *, heads: int = 1) -> int:
    """How many of `size` neurons stay. heads: of how many heads this is one, for the message.

    Raises InputError for a sparsity outside [0, 1) and where none would stay.
    """
    check_sparsity(sparsity)
    kept = round(size * (1 - float(sparsity)))
    if kept == 0:
        among = f"{size} neurons" if heads == 1 else f"the {size} neurons of a head"
        raise InputError(
            f"at sparsity {sparsity:g} the gate '{name}' would keep nothing of {among}: lower the sparsity to "
            f"{1 - 1 / size:g}, or leave this kind of layer out (where, of make_dynamic)."
        )
    return kept


def check_sparsity(sparsity: float) -> None:
    """Raise InputError unless it is a number in [0, 1)."""
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise InputError(f"sparsity is {sparsity!r}; it is the fraction of neurons to leave out, in [0, 1).")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number, Python's or NumPy's, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, Python's or NumPy's, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)
