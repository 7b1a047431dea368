"""Prune, regrow, and prune again while training, in the manner of CHEX (Hou et al., CHannel EXploration, CVPR 2022).

    every few steps:  close the units with the lowest scores, down to the MACs target,
                      open some of the closed ones again, drawn at random, as many as delta_t of what is open;
    delta_t = delta * (1 + cos(pi t / T)) / 2,  t = steps so far, T = the last step at which units come back

Symbols: none. Needs: scores (a function of the network as it is), training data and its loss. Closed units keep their
weights and come back with them. The network is never smaller than its target while it explores, and at the end it is
cut to it. What learned masks share with it is that a decision can be taken back; what it does not have is a gradient:
who closes is decided by sorting scores, who comes back by a die.

Differs: CHEX shares out widths by batch-norm scales, ranks inside a layer by leverage scores of the weights, and draws
those that come back by how far they are from the span of the open ones. Here one ranking, an argument, does both
(slimming.score is the nearest to it), and the draw is uniform.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import CheckpointError, InputError
from prunekit.gates import Gated
from prunekit.plan import How, Limits, budget_plan
from prunekit.train import TrainConfig, finetune, segmentation_loss

Score = Callable[[nn.Module, Groups], Scores]


@dataclass(frozen=True)
class Rhythm:
    """every: steps between two rounds. delta: share of what is open that comes back in the first round. until: share of
    the training after which nothing comes back any more."""

    every: int = 5
    delta: float = 0.3
    until: float = 0.7

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise InputError(f"every is {self.every!r}; give a whole number from 1 on.")
        if not (0 <= self.delta <= 1 and 0 < self.until <= 1):
            raise InputError(f"delta {self.delta!r} and until {self.until!r} are shares: [0, 1] and (0, 1].")


class Explorer:
    """Opens and closes the gates of `gated(model)` while `finetune` trains it. macs_ratio: fraction to remove.

    Raises BudgetError with the reachable ratio at its first round, as `budget_plan` does.
    """

    def __init__(
        self,
        groups: Groups,
        score: Score,
        macs_ratio: float,
        steps: int,
        *,
        rhythm: Rhythm | None = None,
        how: How = "global",
        limits: Limits | None = None,
        seed: int = 0,
    ) -> None:
        self.groups, self.score, self.total, self.seed = groups, score, steps, seed
        self.rhythm, self.macs_ratio, self.limits = rhythm or Rhythm(), macs_ratio, limits
        self.how: How = how
        self.steps, self.returned = 0, 0

    def gated(self, model: nn.Module) -> Gated:
        """The model with all gates open. The model is used, not copied."""
        gated = Gated(model, self.groups)
        for gate in gated.gates:
            gate.requires_grad_(False)
        return gated

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Nothing is looked at in the forward pass."""
        yield

    def on_gradients(self, model: Gated) -> None:
        """Called by finetune in every step; a round every few of them."""
        self.steps += 1
        if self.steps % self.rhythm.every == 0:
            self._round(model)

    def plan(self, model: nn.Module) -> PruningPlan:
        """Who stays if it ended now."""
        scores = self.score(model, self.groups)
        return budget_plan(self.groups, scores, macs_ratio=self.macs_ratio, how=self.how, limits=self.limits)

    def share(self) -> float:
        """delta_t."""
        way = min(1.0, self.steps / (self.rhythm.until * self.total))
        return self.rhythm.delta * (1 + math.cos(math.pi * way)) / 2

    def state_dict(self) -> dict[str, Tensor]:
        """The gates themselves are in the model's checkpoint."""
        settings = torch.tensor(list(json.dumps(self._settings()).encode()), dtype=torch.uint8)
        return {"steps": torch.tensor([self.steps, self.returned]), "settings": settings}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`. Raises CheckpointError, naming what differs, for another target or other settings."""
        there, here = json.loads(bytes(state["settings"].tolist())), self._settings()
        for key in here:
            if there.get(key) != here[key]:
                raise CheckpointError(
                    f"this folder was explored with {key}={there.get(key)!r}, now {key}={here[key]!r}. Use what it was "
                    "started with, or another folder for another run."
                )
        self.steps, self.returned = state["steps"].tolist()

    def _settings(self) -> dict[str, float | str]:
        """What must not change under way; the score is a function and is not compared."""
        limits = asdict(self.limits or Limits())
        return {"macs_ratio": self.macs_ratio, "seed": self.seed, "how": self.how, **asdict(self.rhythm), **limits}

    def _round(self, model: Gated) -> None:
        plan, share = self.plan(model.model), self.share()
        dice = torch.Generator().manual_seed(1_000_003 * self.seed + self.steps)
        for gate, (name, group) in zip(model.gates, self.groups.items(), strict=True):
            kept = plan.keep.get(name, range(group.size))  # a group without scores stays whole
            open_U = torch.zeros(group.size, dtype=torch.bool)
            open_U[list(kept)] = True
            closed = (~open_U).nonzero().flatten()
            back = closed[torch.randperm(len(closed), generator=dice)[: round(share * len(kept))]]
            self.returned += len(back)
            open_U[back] = True
            gate.data.copy_(open_U)


def learn_plan(
    model: nn.Module,
    explorer: Explorer,
    loader: Iterable[Any],
    config: TrainConfig,
    *,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    checkpoint: Any = None,
) -> tuple[PruningPlan, nn.Module]:
    """Train for config.steps while units close and come back: the plan, and the network to prune, whole, eval mode.

    The arguments are those of `finetune`, and so are the errors; the model given is not changed. A folder of another
    target, rhythm or seed is a CheckpointError as well.
    """
    start = explorer.gated(model)
    gated = finetune(start, loader, config, loss_fn=loss_fn, checkpoint=checkpoint, observer=explorer).model
    assert isinstance(gated, Gated) and isinstance(gated.model, nn.Module)
    return explorer.plan(gated.model), gated.model
