"""Where an alternation stands: both runs, the coupling, the rounds that are over; a step, a round, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunekit.errors import CheckpointError, InputError, TrainingError
from prunekit.methods.mtp.coupling import Coupling, soft_threshold_
from prunekit.methods.mtp.parts import Parts, backbone_of, submodule
from prunekit.progressive import Training
from prunekit.train import Step, lr_at
from prunekit.train import checkpoint as store
from prunekit.train.batches import Batch
from prunekit.train.step import Run, take_step


@dataclass(frozen=True)
class Settings:
    """rounds: how often E and mu are updated. alpha1, alpha2: L1 on the scales of the classifier, of the segmenter.
    weight: lambda, of the segmentation loss. mu, rho: the penalty's weight in the first round, and its growth.
    """

    rounds: int = 10
    alpha1: float = 0.001
    alpha2: float = 0.001
    weight: float = 1.0
    mu: float = 0.01
    rho: float = 1.5

    def __post_init__(self) -> None:
        if type(self.rounds) is not int or self.rounds < 1:
            raise InputError(f"rounds is {self.rounds!r}; give a whole number from 1 on.")
        for name in ("alpha1", "alpha2", "weight"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value!r}; give a finite number from 0 on.")
        Coupling({}, {}, mu=self.mu, rho=self.rho)  # its complaints about mu and rho


@dataclass(frozen=True)
class Round:
    """One round: its number, from 1; mean losses of its steps (segment: times lambda), ||W1 - W3||, that / ||W1||, mu
    before Eq. 10.
    """

    number: int
    classify: float
    segment: float
    residual: float
    relative: float
    mu: float


class State:
    """first, second: the classifier's and the segmenter's run; their histories say how far a round has come. folder: of
    the checkpoints.
    """

    def __init__(self, first: Run, second: Run, parts: Parts, settings: Settings, folder: Path | None = None) -> None:
        self.folder, self.first, self.second, self.settings = folder, first, second, settings
        self.rounds: list[Round] = []
        scales = parts.scales(second.bare)
        self.decoder = [p for name, p in learning(second.bare).items() if name in scales["decoder"]]
        self.scales = frozenset(name.removeprefix(f"{parts.path}.") for name in scales["backbone"])
        own, third = learning(backbone_of(first.bare)), learning(submodule(second.bare, parts.path))
        self.coupling = Coupling(own, third, mu=settings.mu, rho=settings.rho)

    def due(self, run: Run) -> bool:
        """Has this run steps left in this round?"""
        return len(run.history) < self.steps(run) * (len(self.rounds) + 1)

    def steps(self, run: Run) -> int:
        """Steps a round."""
        return run.config.steps // self.settings.rounds

    def step(self, run: Run, task: Training, micro: list[Batch]) -> None:
        """SGD on the task's loss, then what is left of its Lagrangian, in closed form.

        After the last step of a round all of the network must be finite, so that no other network is pulled to one that
        is not, and no round or checkpoint holds it: TrainingError.
        """
        number, weight = len(run.history), 1.0 if run is self.first else self.settings.weight

        def loss_fn(output: Any, target: Any) -> Tensor:
            return weight * task.loss_fn(output, target)

        try:
            loss = take_step(run, number, micro, loss_fn, None, task.count)
        except TrainingError as err:
            raise TrainingError(self._where(run, str(err))) from err
        size = lr_at(run.config, number) / (1 - run.config.momentum)
        if run is self.first:
            self.coupling.pull_first(size, self.settings.alpha1, self.scales)
        else:
            self.coupling.pull_third(size, self.settings.alpha2, self.scales)
            for gamma in self.decoder:
                soft_threshold_(gamma, size * self.settings.alpha2)
        run.history.append(Step(number, loss, lr_at(run.config, number)))
        if not self.due(run):
            self._need_finite(run)

    def _where(self, run: Run, what: str) -> str:
        task = "classification" if run is self.first else "segmentation"
        kept = f" {self.folder} keeps the rounds before." if self.folder and self.rounds else ""
        return f"round {len(self.rounds) + 1}, {task}: {what}{kept}"

    def _need_finite(self, run: Run) -> None:
        """Weights and statistics; a loss can be finite where its gradient, or the step along it, is not."""
        bad = not_finite(run.bare.state_dict())
        if bad is not None:
            what = f"'{bad}' is not finite after step {len(run.history) - 1}, though the loss was."
            raise TrainingError(self._where(run, f"{what} Lower lr, or add warmup or clip_norm."))

    def end_round(self) -> Round:
        """Eq. 10, and how it went. TrainingError where E overflows."""
        means = [
            math.fsum(step.loss for step in run.history[-self.steps(run) :]) / self.steps(run)
            for run in (self.first, self.second)
        ]
        residual, size = self.coupling.residual(), self.coupling.size()
        relative = residual / size if size else math.inf
        ended = Round(len(self.rounds) + 1, *means, residual=residual, relative=relative, mu=self.coupling.mu)
        self.coupling.update()
        bad = not_finite(self.coupling.multipliers)
        if bad is not None:
            raise TrainingError(f"round {ended.number}: E of '{bad}' is not finite, mu is {ended.mu:g}: lower mu, rho.")
        self.rounds.append(ended)
        return ended

    def save(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint; the first process does. TrainingError, and nothing written, for what is not finite."""
        for run in self.runs().values():
            self._need_finite(run)
        if not self.first.accelerator.is_main_process:
            return
        tensors = {"model": self.networks().state_dict(), "multipliers": self.coupling.multipliers}
        for name, run in self.runs().items():
            tensors[f"optimizer_{name}"] = store.optimizer_tensors(run.optimizer.optimizer)
        history = {name: [step.loss for step in run.history] for name, run in self.runs().items()}
        rounds = [asdict(one) for one in self.rounds]
        number = sum(map(len, history.values())) + len(rounds)  # after Eq. 10 it is another state than before
        store.save(folder, number, tensors, {**identity, "history": history, "rounds": rounds, "mu": self.coupling.mu})

    def resume(self, folder: Path, identity: dict[str, Any]) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        saved = store.load_latest(folder)
        if saved is None:
            return
        store.check_same_run(saved, identity, self.networks())
        try:
            self.networks().load_state_dict(saved.tensors["model"])
            for name, e in self.coupling.multipliers.items():
                e.copy_(saved.tensors["multipliers"][name])
            for name, run in self.runs().items():
                store.restore_optimizer(run.optimizer.optimizer, saved.tensors[f"optimizer_{name}"])
                losses = saved.state["history"][name]
                run.history.extend(Step(n, loss, lr_at(run.config, n)) for n, loss in enumerate(losses))
            self.rounds.extend(Round(**one) for one in saved.state["rounds"])
            self.coupling.mu = saved.state["mu"]
        except (KeyError, ValueError, TypeError, RuntimeError) as err:
            raise CheckpointError(f"{saved.folder} is not whole ({type(err).__name__}: {err}); delete it.") from err

    def runs(self) -> dict[str, Run]:
        return {"classify": self.first, "segment": self.second}

    def networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({"classifier": self.first.bare, "segmenter": self.second.bare})


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first that holds inf or nan."""
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def learning(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained; those of the two backbones must agree."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
