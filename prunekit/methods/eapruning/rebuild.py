"""Candidates with rebuilt weights: a full-size network whose removed inputs are zero, or the small one.

The Gram matrices are gathered once, on the inputs of the ORIGINAL network, so that one pass serves all candidates. A
layer is asked for its own output, before batch norm, whose statistics stay right. A depth-wise kernel reads its own
channel alone, which is there or not: on the original inputs its best scale is 1, and it stays as it is. What fitting
each layer to the inputs that the cut network really has would add: asymmetric.py.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.errors import ScoreError
from prunekit.methods.eapruning.doubts import Doubts, some, warn
from prunekit.methods.eapruning.leading import Memory, Solver, solver
from prunekit.methods.eapruning.space import Counts, Space
from prunekit.observe import Batches, grams
from prunekit.observe.grams import readable
from prunekit.observe.maps import layer_of
from prunekit.reconstruct import with_bias
from prunekit.surgery import prune
from prunekit.surgery.cut import kept_positions, take

CACHE = 256 * 2**20  # bytes of fitted weights that are kept for later candidates


class Rebuilder:
    """What `rebuilder` makes. masked(counts) and small(counts) give candidates; the model it was made for is not
    changed. solvers: weight name -> its least squares, which says how well it could be solved in condition and ridge.
    """

    def __init__(self, model: nn.Module, space: Space, solvers: dict[str, Solver]) -> None:
        self.model, self.space, self.solvers = model, space, solvers
        self.memory = Memory(CACHE)
        self._work = copy.deepcopy(model).eval()
        self._tensors = {**dict(self._work.named_parameters()), **dict(self._work.named_buffers())}
        self._zeroed = _zeroed_members(space, solvers)
        self._buffers = {name: tensor.clone() for name, tensor in self._work.named_buffers()}
        self._source = {name: self._tensors[name].detach().clone() for name in self._zeroed if name not in solvers}

    def __getstate__(self) -> dict[str, Any]:
        """Without the full-size candidate: tensors that are sent to a process lie in memory that both share, and each
        must write into its own.
        """
        return {"model": self.model, "space": self.space, "solvers": self.solvers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def bytes(self) -> int:
        """Of factors and right sides; fitted weights that are kept come on top, CACHE at most."""
        return sum(each.bytes for each in self.solvers.values())

    def describe(self) -> str:
        """The same text for the same least squares: order, data, samples, ridge."""
        sha = hashlib.sha256(json.dumps(self.space.describe(), sort_keys=True).encode())
        for name, each in self.solvers.items():
            sizes = ",".join(f"{tensor.double().norm():.5e}" for tensor in each.moments)  # no more digits than agree
            sha.update(f"{name} {sizes} {each.ridge:.5e}".encode())
        return sha.hexdigest()[:16]

    def masked(self, counts: Counts, *, rebuild: bool = True) -> nn.Module:
        """The candidate at the model's full size, removed units zeroed where they are read, other weights fitted.

        It is always the same module, set anew: use it before the next call. rebuild=False: the weights as they were.
        PlanError for a foreign candidate.
        """
        self.space.check(counts)
        self._work.eval()
        with torch.no_grad():
            for name, tensor in self._work.named_buffers():  # an error may have gathered new statistics
                tensor.copy_(self._buffers[name])
        for name, weight in self.weights(counts, rebuild=rebuild).items():
            with torch.no_grad():
                own = self._tensors[name]
                own.copy_(weight[:, :-1].reshape(own.shape) if name in self.solvers else weight)
                if name in self.solvers and (bias := self._tensors.get(_bias(name))) is not None:
                    bias.copy_(weight[:, -1])
        return self._work

    def weights(self, counts: Counts, *, rebuild: bool = True) -> dict[str, Tensor]:
        """Every tensor that differs from the model's: fitted ones (O, D) with the bias last, others in their shape."""
        chosen = dict(zip(self.space.names, counts, strict=True))
        found = {}
        for name, each in self.solvers.items():
            key = (name, rebuild, *(chosen[group] for group in each.groups))
            found[name] = self.memory.get(key, lambda name=name: self._layer(name, chosen, rebuild))
        for name in self._zeroed:
            found[name] = self.zeroed(name, found[name] if name in found else self._source[name], chosen)
        return found

    def zeroed(self, name: str, tensor: Tensor, chosen: dict[str, int]) -> Tensor:
        """A copy with zeros where a mask has them; of fitted weights (O, D), whose inputs are gone, in whole rows."""
        gone = torch.zeros(tensor.shape, dtype=torch.bool)
        for dim, group, index_UK in self._zeroed.get(name, []):
            gone.index_fill_(dim, index_UK[chosen[group] :].flatten(), True)
        return tensor.masked_fill(gone.to(tensor.device), 0)

    def _layer(self, name: str, chosen: dict[str, int], rebuild: bool) -> Tensor:
        """One layer's weights (O, D), in the model's type. Where nothing is gone they are its own to the last bit."""
        each, layer = self.solvers[name], layer_of(self.model, name)
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        whole = all(chosen[group] == self.space.groups[group].size for group in each.groups)
        if rebuild and not whole:
            return each.solve(chosen).to(layer.weight)
        own_OD = with_bias(layer).to(layer.weight)
        cut_OD, keep = torch.zeros_like(own_OD), [*each.keep(chosen).tolist(), -1]
        cut_OD[:, keep] = own_OD[:, keep]
        return cut_OD

    def small(self, counts: Counts, *, rebuild: bool = True) -> nn.Module:
        """The candidate cut to size: a new model with the fitted weights."""
        return self.shrunk(self.masked(counts, rebuild=rebuild), counts)

    def shrunk(self, masked: nn.Module, counts: Counts) -> nn.Module:
        """What is left of a full-size candidate when what nobody reads is cut away: a new model."""
        plan = self.space.plan(counts)
        small, kept = prune(self.model, self.space.groups, plan), kept_positions(self.space.groups, plan)
        theirs = dict(masked.named_parameters())
        with torch.no_grad():
            for name, tensor in small.named_parameters():
                tensor.copy_(take(theirs[name], kept.get(name, {})))
        return small


def rebuilder(
    model: nn.Module,
    space: Space,
    batches: Batches | None,
    *,
    samples: int = 10,
    first: int = 0,
    condition: float = 1e8,
    seed: int = 0,
) -> Rebuilder:
    """Gather the Gram matrices and factor them, one Cholesky a layer.

    batches: (input, target) pairs; samples, first: as in observe.grams, outputs (pixels, tokens) drawn from each image,
    the same ones within a batch, and how many of a linear layer's are its first tokens (1: the class token). condition:
    larger condition numbers get a ridge, see reconstruct.solvable. Warns, naming layers, when a Gram matrix is singular
    or has fewer samples than unknowns (the ridge keeps the solution small there), and of layers that read what may
    shrink and cannot be rebuilt. Raises ScoreError without data and for inputs that are not finite, InputError for
    samples or first that are no counts.

    Memory, for D inputs a layer: 8 D^2 bytes of its matrix while it is gathered, with at most 1,024 samples that wait;
    then as much for the factor, which takes the matrix's place, and D times the outputs for the right side. ResNet-50:
    0.9 GiB and 0.2 GiB, then 1.1 GiB in all, which stay (`bytes`).
    """
    reads = _reads(model, space)
    if not reads:
        raise ScoreError("no plain convolution or linear layer reads what may shrink, so nothing can be rebuilt.")
    moments = grams(model, space.groups, reads, batches, method="eapruning", samples=samples, first=first, seed=seed)
    readers = dict.fromkeys(member.tensor for group in space.groups.values() for member in group.consumers())
    if left := [f"'{name}'" for name in readers if name not in reads]:
        warn(
            f"no least squares for {some(left)}, left as cut: no plain convolution or linear layer that runs by itself"
        )
    solvers, doubts = {}, Doubts()
    for name, inputs in reads.items():
        layer = layer_of(model, name)
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        gram_DD = moments.pop(name)  # the factor takes its place
        solvers[name] = solver(layer, inputs, space.order, gram_DD, condition=condition, name=f"'{name}'")
        doubts.add(
            name,
            samples=round(float(gram_DD[-1, -1])),
            unknowns=len(gram_DD) - (layer.bias is None),
            dead=int((gram_DD.diagonal() == 0).sum()),
            condition=solvers[name].condition,
        )
    doubts.warn()
    return Rebuilder(model, space, solvers)


def _reads(model: nn.Module, space: Space) -> dict[str, dict[str, Tensor]]:
    """Weight -> group -> (U, K) input channels, for all layers that least squares can rebuild."""
    found: dict[str, dict[str, Tensor]] = {}
    for group in space.groups.values():
        for member in group.consumers():
            if member.dim == 1 and readable(layer_of(model, member.tensor)):
                mine = found.setdefault(member.tensor, {})
                earlier = [mine[group.name]] if group.name in mine else []
                mine[group.name] = torch.cat([*earlier, member.index], 1)
    return found


def _zeroed_members(space: Space, solvers: dict[str, Solver]) -> dict[str, list[tuple[int, str, Tensor]]]:
    """Tensor -> (axis, group, index (U, K) in order) of what a mask zeroes: see surgery.cut.removed_positions. Without
    what solvers set: inputs of their layers, and biases, which are a column of the fitted weights.
    """
    found: dict[str, list[tuple[int, str, Tensor]]] = {}
    fitted = {(name, 1) for name in solvers} | {(_bias(name), 0) for name in solvers}
    for name, group in space.groups.items():
        order = torch.tensor(space.order[name])
        for member in group.members:
            read = member.role == "consumer" or group.kind == "head_dim"
            if read and (member.tensor, member.dim) not in fitted:
                found.setdefault(member.tensor, []).append((member.dim, name, member.index[order]))
    return found


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"
