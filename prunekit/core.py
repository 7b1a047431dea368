"""The values that pass between the modules: Member, ChannelGroup, Groups, PruningPlan, Profile.

Legend: U = units of a group (what is kept or removed as one), K = positions on one tensor axis that one unit owns.
Everything is frozen. A plan is free of any model: it can be stored as JSON, read by a person and compared by diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from prunekit.errors import GroupError, InputError, PlanError

Role = Literal["producer", "consumer", "follower"]
Kind = Literal["channel", "head", "head_dim", "neuron"]
Heads = Literal["number", "dimension"]  # what attention loses: whole heads, or the same positions of every head
Scores = dict[str, Tensor]  # group name -> (U,), higher = keep


@dataclass(frozen=True)
class Member:
    """One axis of one parameter or buffer, and which positions on it each unit owns.

    tensor: name in `model.state_dict()`. dim: the axis. index: long (U, K), positions on that axis.
    role: a *producer* makes the channel (a convolution's output axis), a *consumer* reads it (an input axis), a
    *follower* rides along (batch norm, bias, depth-wise kernel).
    """

    tensor: str
    dim: int
    index: Tensor
    role: Role

    def __repr__(self) -> str:
        return f"Member({self.tensor}, axis {self.dim}, {self.role}, index {tuple(self.index.shape)})"


@dataclass(frozen=True)
class ChannelGroup:
    """Axes that must shrink together. `exact`: masking a unit equals removing it, to rounding."""

    name: str
    size: int
    kind: Kind
    members: tuple[Member, ...]
    exact: bool = True

    def producers(self) -> tuple[Member, ...]:
        """The members that make these channels; what weight criteria look at."""
        return tuple(m for m in self.members if m.role == "producer")

    def consumers(self) -> tuple[Member, ...]:
        """The members that read these channels; what the certificate zeroes."""
        return tuple(m for m in self.members if m.role == "consumer")

    def channels(self) -> int:
        """How many channels one unit is wide where it is narrowest: 1 of a channel, a head's size of a head."""
        return min((m.index.shape[1] for m in self.producers()), default=1)

    def __repr__(self) -> str:
        counts = f"{len(self.producers())} make, {len(self.consumers())} read"
        return f"ChannelGroup({self.name}: {self.size} x {self.kind}, {counts}{'' if self.exact else ', not exact'})"


@dataclass(frozen=True)
class Groups(Mapping[str, ChannelGroup]):
    """What `find_groups` returns: group name -> ChannelGroup, plus what must stay and why.

    frozen: layer -> reason. shapes: every parameter and buffer the model had, so that a plan or a model from
    elsewhere is refused; a tensor with several names is listed once. parameters: those of them that are trained.
    positions: weight -> how many times each of its elements is multiplied for the example input, so the MACs of any
    plan are sums of products, no model needed. unit_macs: group -> MACs of attention products that each of its heads
    brings. other_macs: MACs that nothing above accounts for. example: the example input's shapes, as meta tensors.
    positional: groups that the model's code slices or splits by numbers. heads: what find_groups was asked for.
    """

    table: Mapping[str, ChannelGroup]
    frozen: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    positions: Mapping[str, float] = field(default_factory=dict)
    unit_macs: Mapping[str, float] = field(default_factory=dict)
    other_macs: float = 0.0
    example: Any = None
    positional: frozenset[str] = frozenset()
    heads: Heads = "number"

    def __getitem__(self, name: str) -> ChannelGroup:
        if name in self.table:
            return self.table[name]
        if name in self.frozen:
            raise GroupError(f"'{name}' must keep its size: {self.frozen[name]}. Groups: {self._some()}.")
        raise GroupError(f"no group '{name}'. This model has {len(self.table)} groups: {self._some()}.")

    def __contains__(self, name: object) -> bool:
        return name in self.table

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def only(self, names: Iterable[str]) -> Groups:
        """The same model with just these groups; the others stay whole. For criteria that are not defined for all.

        Raises InputError for a single text, GroupError for a name that is no group's.
        """
        if isinstance(names, str):
            raise InputError(f"only() takes a list of names, got the text {names!r}; write only([{names!r}]).")
        table = {name: self[name] for name in names}
        left = {name: group.size for name, group in self.table.items() if name not in table}
        return replace(
            self,
            table=table,
            frozen={**self.frozen, **dict.fromkeys(left, "left out by only()")},
            unit_macs={name: macs for name, macs in self.unit_macs.items() if name in table},
            other_macs=self.other_macs + sum(self.unit_macs.get(name, 0.0) * size for name, size in left.items()),
            positional=self.positional.intersection(table),
        )

    def __repr__(self) -> str:
        units = sum(group.size for group in self.values())
        return f"Groups({len(self)} groups with {units} units, frozen layers: {len(self.frozen)})"

    def __str__(self) -> str:
        """A table: one line a group, then what is frozen and why."""
        rows = [("group", "units", "kind", "makers", "readers")]
        rows += [
            (g.name, str(g.size), g.kind + ("" if g.exact else " *"), str(len(g.producers())), str(len(g.consumers())))
            for g in self.values()
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += (
            ["* not exact: removing one changes a norm's statistics"] if any(not g.exact for g in self.values()) else []
        )
        return "\n".join([*lines, *(f"frozen: {name} ({why})" for name, why in self.frozen.items())])

    def _some(self) -> str:
        names = list(self.table)
        return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"


@dataclass(frozen=True)
class PruningPlan:
    """How wide each group was, and which units stay. No model inside; `sizes` is what lets it refuse a stale one.

    sizes: group -> units the model had when the plan was made. keep: group -> kept unit numbers, ascending.
    Groups that are not named keep all their units.
    """

    sizes: dict[str, int]
    keep: dict[str, tuple[int, ...]]
    note: str = ""

    def __post_init__(self) -> None:
        for name, kept in self.keep.items():
            size = self.sizes.get(name)
            if size is None:
                raise PlanError(f"plan keeps units of '{name}' but does not say how many there were; add it to sizes.")
            listed = isinstance(kept, (tuple, list))
            bad = [unit for unit in (size, *kept) if type(unit) is not int] if listed else [kept]
            if bad:
                raise PlanError(
                    f"plan for '{name}' has {bad[0]!r:.40} ({type(bad[0]).__name__}) where whole numbers belong; keep "
                    "is a tuple of unit numbers such as (0, 2, 5)."
                )
            if not kept:
                raise PlanError(f"plan removes all {size} units of '{name}'; keep at least one.")
            if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= size:
                raise PlanError(f"plan for '{name}' must list distinct units in ascending order, from 0 to {size - 1}.")

    def check(self, groups: Groups) -> None:
        """Raise PlanError unless every group of the plan exists in `groups` with the size the plan was made for."""
        for name, size in self.sizes.items():
            if name not in groups:
                why = groups.frozen.get(name)
                tail = f" It is frozen: {why}." if why else ""
                raise PlanError(
                    f"plan names the group '{name}', which this model does not have.{tail} "
                    "Was the plan made for another model?"
                )
            have = groups[name].size
            if have != size:
                raise PlanError(
                    f"plan wants {size} units in '{name}', the model has {have}: already pruned? "
                    "Call find_groups again and make a new plan."
                )

    def ratio(self, name: str) -> float:
        """Fraction of the group's units that the plan removes."""
        return 1 - len(self.keep[name]) / self.sizes[name] if name in self.keep else 0.0

    def to_json(self) -> str:
        """One group a line, so that two plans compare well by diff."""
        rows = [f"    {json.dumps(n)}: {json.dumps(list(k), separators=(',', ':'))}" for n, k in self.keep.items()]
        sep = ",\n"
        widths = [f"    {json.dumps(n)}: {s}" for n, s in self.sizes.items()]
        return (
            f'{{\n  "format": "prunekit-plan-1",\n  "note": {json.dumps(self.note)},\n'
            f'  "sizes": {{\n{sep.join(widths)}\n  }},\n  "keep": {{\n{sep.join(rows)}\n  }}\n}}\n'
        )

    @staticmethod
    def from_json(text: str) -> PruningPlan:
        """Read what `to_json` wrote; PlanError when it is something else."""
        try:
            raw = json.loads(text)
            if raw["format"] != "prunekit-plan-1":
                raise PlanError(f"plan format is {raw['format']!r}, this version reads 'prunekit-plan-1'.")
            keep = {str(n): tuple(int(i) for i in k) for n, k in raw["keep"].items()}
            return PruningPlan({str(n): int(s) for n, s in raw["sizes"].items()}, keep, str(raw["note"]))
        except PlanError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise PlanError(f"not a pruning plan ({type(err).__name__}: {err}); expected what to_json wrote.") from err

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write plan.json in one step: a reader sees the old file or the new one, never half."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        part.write_text(self.to_json())
        part.replace(target)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> PruningPlan:
        """Read a plan.json."""
        return PruningPlan.from_json(Path(path).read_text())


@dataclass(frozen=True)
class Profile:
    """What a model costs at one input shape. macs: multiply-accumulates for the whole batch of `input_shape`."""

    params: int
    macs: int
    peak_bytes: int | None
    latency_ms: float | None
    device: str
    input_shape: tuple[int, ...]
