"""The masks of a network while it trains: the second level of the search, as an observer of `finetune`.

Every `inner_steps`-th step the pass that moves the weights also moves the masks: its gradients are taken at the weights
that have followed the masks so far. So a search costs the passes of plain training and no more; the price is that one
weight step in `inner_steps` is computed with the masks before their move. In the other steps the masks are constants.

Legend: U = units of a group.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor, nn

from prunekit.core import Groups
from prunekit.errors import CheckpointError, InputError, TrainingError
from prunekit.gates import Gated
from prunekit.methods.bilevel.config import MaskConfig
from prunekit.methods.bilevel.cost import Macs, check_groups, check_reachable, macs_term
from prunekit.methods.bilevel.history import History
from prunekit.methods.bilevel.hypergradient import Balance, Terms, mean_over_processes, squared_gradients
from prunekit.methods.bilevel.mask import CEILING, limited
from prunekit.plan import Limits
from prunekit.profiling import watch_peak
from prunekit.train.checkpoint import optimizer_tensors, restore_optimizer


class Masks:
    """Who moves the masks of `gated(model)` while `finetune` moves its weights.

    macs_ratio: fraction of the MACs to remove. steps: of the whole search. limits: what each group keeps at least,
    whatever its s; without them the plan has the widths that the masks end with, for a device give Limits(). Raises
    BudgetError with the reachable range, GroupError for units that no layer reads, and InputError.
    """

    def __init__(
        self, groups: Groups, macs_ratio: float, steps: int, config: MaskConfig, *, limits: Limits | None = None
    ) -> None:
        if not isinstance(config, MaskConfig):
            raise InputError(f"masks is a {type(config).__name__}; give a MaskConfig, or nothing for the usual one.")
        if config.inner_steps > steps:
            raise InputError(f"inner_steps is {config.inner_steps}, the search has {steps} steps: no mask would move.")
        check_groups(groups)
        self.groups, self.config = groups, config
        self.limits = Limits(round_to=1) if limits is None else limits
        self.macs = Macs(groups)
        check_reachable(groups, self.macs, macs_ratio, self.limits)
        floor = replace(self.limits, round_to=1)  # multiples are the closing step's business
        self.mask = partial(limited, threshold=config.threshold, limits=floor)
        self.macs_ratio, self.total = macs_ratio, steps
        self.history = History({name: group.size for name, group in groups.items()})
        self.balance, self.steps, self.seconds = Balance(), 0, 0.0
        self.peak_bytes: int | None = None
        self.optimizer: torch.optim.Adam | None = None
        self._adam: dict[str, Tensor] = {}  # moments of a checkpoint, until there is an optimizer
        self._since: float | None = None
        self._peak: Callable[[], int | None] = lambda: None

    def gated(self, model: nn.Module) -> Gated:
        """The model with all its masks open, s = START. The model is used, not copied. PlanError for another model."""
        gated = Gated(model, self.groups, shape=self.mask)
        for gate in gated.gates:
            gate.requires_grad_(False)  # not the weights' optimizer's
        return gated

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile the masks of `model`, made by `gated`, learn."""
        if not isinstance(model, Gated):
            raise InputError(f"masks move the gates of gated(model), not of a {type(model).__name__}.")
        self.optimizer = torch.optim.Adam(list(model.gates), lr=self.config.lr)
        restore_optimizer(self.optimizer, self._adam)
        self._since, self._peak = time.perf_counter(), watch_peak(model.gates[0].device)
        self._prepare(model)
        try:
            yield
        finally:
            for gate in model.gates:
                gate.requires_grad_(False)
                gate.grad = None
            self.seconds, self._since = self._seconds(), None
            self.peak_bytes = self._highest()

    def on_gradients(self, model: Gated) -> None:
        """Called by finetune between a step's gradients and its update; moves the masks when it is their turn."""
        self.steps += 1
        if self.steps % self.config.inner_steps == 0:
            self._update(model)
        self._prepare(model)

    def target(self) -> float:
        """The MACs that the masks are drawn to at this step."""
        way = min(1.0, self.steps / (self.config.ramp * self.total)) if self.config.ramp else 1.0
        return (1 - way * self.macs_ratio) * self.macs.dense

    def terms(self, model: Gated) -> Terms:
        """The hypergradient from the gradients that the model holds. Raises TrainingError if it is not finite."""
        c, gates = self.config, list(model.gates)
        direct = mean_over_processes([torch.zeros_like(g) if g.grad is None else g.grad.detach() for g in gates])
        with torch.enable_grad():
            leaves = [gate.detach().requires_grad_() for gate in gates]
            masks = [self.mask(s_U) for s_U in leaves]
            distance = macs_term(self.macs, masks, self.target())
            macs = torch.autograd.grad(distance, leaves)
        squares = [torch.zeros_like(part) for part in direct]
        if c.implicit:
            weights = dict(model.model.named_parameters(remove_duplicate=False))
            squares = squared_gradients(self.groups, {n: w.grad for n, w in weights.items()}, masks)
        found = tuple(d + q for d, q in zip(direct, squares, strict=True))
        self._check_finite(found, "Lower lr, or look for nan in the weights")
        beta, lam = c.beta, c.lam
        if c.relative:
            self.balance.see(direct, squares)
            beta, lam = self.balance.beta(beta, float(distance.detach()), macs), self.balance.lam(lam)
        macs, implicit = [beta * part for part in macs], [-lam * part for part in squares]
        terms = Terms(tuple(direct), tuple(macs), tuple(implicit))
        self._check_finite(terms.total(), f"Lower beta, {c.beta:g}, or lam, {c.lam:g}")
        return terms

    def _check_finite(self, parts: Sequence[Tensor], advice: str) -> None:
        for name, part_U in zip(self.groups, parts, strict=True):
            if not torch.isfinite(part_U).all():
                raise TrainingError(
                    f"the gradient of the mask of '{name}' is not finite at step {self.steps}; masks and weights were "
                    f"not updated. {advice}."
                )

    def masks(self, model: Gated) -> list[Tensor]:
        """Which units are open, bool (U,) for each group, on the CPU."""
        return [self.mask(s_U.detach()).bool().cpu() for s_U in model.gates]

    def held_open(self, model: Gated) -> dict[str, int]:
        """Group -> units that stay only because of the limits: their s is not above the threshold."""
        found = {}
        for name, s_U, open_U in zip(self.groups, model.gates, self.masks(model), strict=True):
            count = int((open_U & (s_U.detach().cpu() <= self.config.threshold)).sum())
            found |= {name: count} if count else {}
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """All but s itself, which is in the model's checkpoint."""
        adam = self._adam if self.optimizer is None else optimizer_tensors(self.optimizer)
        scalars = [self.balance.direct, self.balance.squares, float(self.balance.updates), self._seconds()]
        return {
            **{f"adam.{name}": tensor for name, tensor in adam.items()},
            **{f"history.{name}": tensor for name, tensor in self.history.state_dict().items()},
            "scalars": torch.tensor(scalars, dtype=torch.float64),
            "steps": torch.tensor(self.steps),
            "peak_bytes": torch.tensor(self._highest() or 0),
            "settings": torch.tensor(list(json.dumps(self._settings()).encode()), dtype=torch.uint8),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`. Raises CheckpointError, naming what differs, for another target or other settings."""
        there, here = json.loads(bytes(state["settings"].tolist())), self._settings()
        for key in here:
            if there.get(key) != here[key]:
                raise CheckpointError(
                    f"these masks were searched with {key}={there.get(key)!r}, now {key}={here[key]!r}. Use what the "
                    "search was started with, or another folder for another search."
                )
        self.history.load_state_dict({n: state[f"history.{n}"] for n in ("lines", "flips")})
        self.balance.direct, self.balance.squares, updates, self.seconds = state["scalars"].tolist()
        self.balance.updates, self.steps = int(updates), int(state["steps"])
        self.peak_bytes = int(state.get("peak_bytes", 0)) or None  # one without it was written before there was any
        if self._since is not None:  # processes share what they have seen: the seconds until now are in the state
            self._since = time.perf_counter()
        self._adam = {n.removeprefix("adam."): t for n, t in state.items() if n.startswith("adam.")}

    def _update(self, model: Gated) -> None:
        assert self.optimizer is not None  # inside watching
        terms, before = self.terms(model), torch.cat(self.masks(model))
        for gate, total_U in zip(model.gates, terms.total(), strict=True):
            gate.grad = total_U
        self.optimizer.step()
        with torch.no_grad():
            for gate in model.gates:
                gate.clamp_(0.0, CEILING)
        after = self.masks(model)
        macs = float(self.macs(torch.stack([open_U.sum() for open_U in after]))) / self.macs.dense
        self.history.add(before, torch.cat(after), macs, terms.sizes())

    def _prepare(self, model: Gated) -> None:
        """Ask for the masks' gradients if the next step moves them."""
        turn = (self.steps + 1) % self.config.inner_steps == 0
        for gate in model.gates:
            gate.grad = None
            gate.requires_grad_(turn)

    def _seconds(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _highest(self) -> int | None:
        return max((peak for peak in (self.peak_bytes, self._peak()) if peak), default=None)

    def _settings(self) -> dict[str, object]:
        return {
            "macs_ratio": self.macs_ratio,
            "steps": self.total,
            **asdict(self.config),
            **asdict(self.limits),
            "units": self.history.sizes,
        }
