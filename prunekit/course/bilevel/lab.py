"""One seed's runs from the stored network to a tuned small one, every training kept in a folder and made once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from prunekit.core import Groups, PruningPlan
from prunekit.course.experiments import Clock, adamw, costs, image_loader, own_device, segmentation
from prunekit.course.tasks import Task
from prunekit.methods import bilevel, eagleeye, l1, regrow, slimming
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.plan import Limits, budget_plan
from prunekit.profiling import latency_ms
from prunekit.progressive.store import Store
from prunekit.surgery import find_groups, prune
from prunekit.train import TrainConfig, finetune

EXACT = Limits(round_to=1)  # the masks have any width, so have their rivals
Method = Literal["bilevel", "regrow", "eagleeye", "l1", "dense"]
COUNTS = ("macs", "direct", "regulariser", "implicit")  # columns of a search's history that are kept


@dataclass(frozen=True)
class Budget:
    """Steps, pictures a step and rates of every run. candidates, held: EagleEye's strategies, and the training pictures
    that it measures one on. image, passes: (height, width) that networks are timed at, and how often.
    """

    search: int
    tune: int
    batch: int
    lr: float
    mask_lr: float
    candidates: int = 10
    held: int = 24
    image: tuple[int, int] = (128, 256)
    passes: int = 100


@dataclass(frozen=True)
class Way:
    """One run but for its seed. network: of the zoo. ratio: share of the MACs to remove. beta, lam, implicit: of the
    masks. speed: time the network instead of tuning it.
    """

    method: Method
    network: str = "topformer_mini"
    ratio: float = 0.5
    beta: float = bilevel.MaskConfig.beta
    lam: float = bilevel.MaskConfig.lam
    implicit: bool = True
    speed: bool = False

    def folder(self) -> str:
        """Where its files go; equal runs share them."""
        masks = f"-{self.beta:g}-{self.lam:g}-{self.implicit:d}" if self.method == "bilevel" else ""
        return f"{self.method}-{self.ratio:g}{masks}"


@dataclass(frozen=True)
class Lab:
    """One seed's data and trainings of one network of the zoo. folder: their checkpoints."""

    network: str
    task: Task
    budget: Budget
    seed: int
    folder: Path

    @cached_property
    def dense(self) -> nn.Module:
        return zoo.load(self.network).to(own_device())

    @cached_property
    def groups(self) -> Groups:
        return find_groups(self.dense, self.task.examples(1)[0].to(own_device()))

    def config(self, steps: int) -> TrainConfig:
        return adamw(steps, self.budget.batch, self.budget.lr).config(seed=self.seed)

    def loader(self) -> DataLoader[Any]:
        return image_loader(self.task.train, self.budget.batch)

    def measure(self, way: Way) -> dict[str, Any]:
        """All of a run: mIoU after the cut and after fine-tuning, what is left, what the search took."""
        store = Store(self.folder / way.folder(), self.config(self.budget.tune))
        return store.once("found.json", lambda: json.dumps(self._measured(way)), json.loads)

    def speeds(self, ways: Mapping[str, Way]) -> dict[str, dict[str, Any]]:
        """Every way's network against the dense one, by medians over passes in turn, in CPU time: what other
        programs take is not in it. Weights do not matter here.
        """
        plans = {name: self.chosen(way)[0] for name, way in ways.items()}
        dense = self.dense.cpu()
        models = {"dense": dense, **{name: prune(dense, self.groups, plan) for name, plan in plans.items()}}
        x = torch.zeros(1, 3, *self.budget.image)
        store = Store(self.folder / "speeds", self.config(self.budget.tune))
        measured = partial(latency_ms, models, x, repeats=self.budget.passes, warmup=3, threads=1, clock="cpu")
        times = store.once("cpu_times.json", lambda: json.dumps(measured()), json.loads)
        return {
            name: {"speedup": times["dense"] / times[name], "ms": times[name], **costs(self.groups, plans[name])}
            for name in plans
        }

    def chosen(self, way: Way) -> tuple[PruningPlan, nn.Module, dict[str, Any]]:
        """Who stays, the network to prune with the weights it has by then, and what the search took."""
        if way.method == "dense":
            return PruningPlan({}, {}), self.plain()[0], {}
        learns = way.method in ("bilevel", "regrow")
        trained, before = (self.dense, 0.0) if learns else self.plain()
        store = Store(self.folder / way.folder(), self.config(self.budget.search))
        with Clock(store.folder / "search_cpu.json", time.process_time) as clock:
            if learns:
                plan, model, facts = self.learned(way)
            else:
                model, facts = trained, {"search_steps": self.budget.search}
                plan = store.once("plan.json", lambda: self._ranked(way, model).to_json(), PruningPlan.from_json)
            cpu = before + clock.total()
        seen = store.once("search.json", lambda: json.dumps({**facts, "search_cpu_seconds": cpu}), json.loads)
        return plan, model, seen

    def learned(self, way: Way) -> tuple[PruningPlan, nn.Module, dict[str, Any]]:
        """Weights and gates train together."""
        config, folder = self.config(self.budget.search), self.folder / way.folder() / "search"
        same = {"loss_fn": self.task.loss, "checkpoint": folder}
        if way.method == "regrow":
            explorer = regrow.Explorer(
                self.groups, slimming.score, way.ratio, config.steps, limits=EXACT, seed=self.seed
            )
            plan, model = regrow.learn_plan(self.dense, explorer, self.loader(), config, **same)
            return plan, model, {"search_steps": config.steps, "returned": explorer.returned}
        masks = bilevel.MaskConfig(lr=self.budget.mask_lr, beta=way.beta, lam=way.lam, implicit=way.implicit)
        found = bilevel.learn_plan(
            self.dense, self.groups, self.loader(), config, macs_ratio=way.ratio, masks=masks, **same
        )
        history = {name: [round(v, 6) for v in found.history.column(name)] for name in COUNTS}
        back = sum(len(units) for units in found.history.returned().values())
        facts = {"search_steps": found.steps, "search_seconds": found.seconds}
        facts |= {"macs_before_closing": found.closing.before, "moved": found.closing.moved, "returned": back}
        return found.plan, found.model, {**facts, "flips": len(found.history.flips), "history": history}

    def plain(self) -> tuple[nn.Module, float]:
        """The network after as many steps without gates, and the CPU seconds they took, over all starts."""
        config, folder = self.config(self.budget.search), self.folder / "plain"
        with Clock(self.folder / "plain_cpu.json", time.process_time) as clock:
            model = finetune(self.dense, self.loader(), config, loss_fn=self.task.loss, checkpoint=folder).model
            return model, clock.total()

    def look(self, model: nn.Module) -> dict[str, Any]:
        """mIoU and each class's IoU on the test pictures."""
        return segmentation(model, self.task.test, len(self.task.classes))

    def _measured(self, way: Way) -> dict[str, Any]:
        plan, model, facts = self.chosen(way)
        small = prune(model, self.groups, plan) if way.method != "dense" else model
        before = self.look(small)["miou"]
        config, folder = self.config(self.budget.tune), self.folder / way.folder() / "tuned"
        tuned = finetune(small, self.loader(), config, loss_fn=self.task.loss, checkpoint=folder).model
        widths = {name: len(kept) for name, kept in plan.keep.items()}
        return {**self.look(tuned), "miou_before_tuning": before, **costs(self.groups, plan), **facts, "widths": widths}

    def _ranked(self, way: Way, model: nn.Module) -> PruningPlan:
        scores = l1.score(model, self.groups)
        if way.method == "l1":
            return budget_plan(self.groups, scores, macs_ratio=way.ratio, how="uniform", limits=EXACT)
        dice, train = torch.Generator().manual_seed(self.seed), self.task.train
        held = Subset(train, torch.randperm(len(train), generator=dice)[: self.budget.held].tolist())  # type: ignore[arg-type]
        few = [batch for batch, _ in zip(self.loader(), range(2), strict=False)]
        return eagleeye.search_plan(
            model,
            self.groups,
            scores,
            few,
            measure=lambda small: evaluate(small, DataLoader(held, 8), len(self.task.classes)).miou,
            macs_ratio=way.ratio,
            limits=EXACT,
            candidates=self.budget.candidates,
            seed=self.seed,
        )
