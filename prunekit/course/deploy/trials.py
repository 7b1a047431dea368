"""The runs behind EAPruning's claim of speed, E6, on one CPU thread.

    prunekit run claims E6 --record

The paper's three networks at its MACs, with random weights: time does not look at them. Time looks at widths, and the
paper's come from a search over counts of channels, heads and neurons. A seed here draws one candidate of such a search:
every group gets a level of its own, and all shrink until the MACs are met (embeddings of DeiT stay whole, as there).
Once the widths are multiples of 8, once they are as they come. In turns with them run the dense network, and the dense
network again under its own name, which has to come out at 1 and shows the noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from prunekit.core import Groups, Scores
from prunekit.course.experiments import Row, carry_out
from prunekit.errors import InputError
from prunekit.export import export_onnx
from prunekit.latency import bench_files
from prunekit.plan import Limits, budget_plan
from prunekit.surgery import find_groups, prune

ROUNDINGS = {"": 8, ", any width": 1}  # what a method's name says about the widths -> their multiple


@dataclass(frozen=True)
class Network:
    """One of the paper's networks. ratio: fraction of the MACs that the paper removes."""

    name: str
    build: Callable[[], nn.Module]
    ratio: float

    def pruned(self, rounding: str) -> str:
        """The ledger's name of the small one."""
        return f"{self.name} −{self.ratio:.0%}".replace("%", " %") + rounding


@dataclass(frozen=True)
class Settings:
    """How times are taken. size: of a square picture, pixels; repeats: passes of each file."""

    size: int = 224
    batch: int = 1
    repeats: int = 11


NETWORKS = (
    Network("ResNet50", lambda: timm.create_model("resnet50"), 0.5),
    Network("MobileNetV1", lambda: timm.create_model("mobilenetv1_100"), 0.5),
    Network("DeiT-Base", lambda: timm.create_model("deit_base_patch16_224"), 0.4),
)


def run(
    claims: Iterable[str],
    *,
    seeds: int,
    out: Path,
    networks: Iterable[Network] = NETWORKS,
    how: Settings = Settings(),
) -> None:
    """Do what the ledger does not hold yet, one record a file. Raises InputError for another claim than E6."""
    if set(claims) != {"E6"} or seeds < 1:
        raise InputError(f"runs for E6 with seeds from 1 on are here, not for {', '.join(claims)}, seeds {seeds}.")
    same = {
        "image": [how.size, how.size],
        "batch": how.batch,
        "runtime": "ort",
        "threads": 1,
        "repeats": how.repeats,
        "time": "cpu",
    }
    todo = {
        (seed, network): [Row("E6", method, seed, same) for method in methods(network)]
        for seed in range(seeds)
        for network in networks
    }
    out.mkdir(parents=True, exist_ok=True)
    carry_out(todo, lambda each: measure(each[1], each[0], how, out), of=lambda row, found: found[row.method])


def methods(network: Network) -> list[str]:
    """The names of a network's files in the ledger."""
    return [network.name, *(network.pruned(rounding) for rounding in ROUNDINGS)]


def measure(network: Network, seed: int, how: Settings, out: Path) -> dict[str, dict[str, Any]]:
    """Method -> what it takes, relative to the dense network, in turns. The dense file stays in `out` for all seeds."""
    torch.manual_seed(0)
    dense, x = network.build().eval(), torch.randn(how.batch, 3, how.size, how.size)
    groups = find_groups(dense, x)
    scores, whole = candidate(groups, seed), out / f"{network.name}-{how.batch}-{how.size}.onnx"
    if not whole.exists():
        export_onnx(dense, x, whole)
    with tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        files = {"dense": whole, network.name: whole}
        for rounding, step in ROUNDINGS.items():
            limits = Limits(round_to=step, max_ratio=0.9)
            plan = budget_plan(groups, scores, macs_ratio=network.ratio, normalize="none", limits=limits)
            small = prune(dense, groups, plan)
            files[network.pruned(rounding)] = export_onnx(small, x, Path(folder) / f"{step}.onnx").path
        return timed(files, how)


def candidate(groups: Groups, seed: int) -> Scores:
    """Random scores whose level differs from group to group, so that a threshold leaves every group its own share."""
    dice = torch.Generator().manual_seed(seed)
    levels = {name: 0.6 * torch.rand(1, generator=dice) for name in groups}
    whole = any(group.kind == "head" for group in groups.values())  # a transformer's embedding is not searched
    return {
        name: torch.rand(group.size, generator=dice) + levels[name]
        for name, group in groups.items()
        if not (whole and group.kind == "channel")
    }


def timed(files: Mapping[str, Path], how: Settings) -> dict[str, dict[str, Any]]:
    """Every file but the first against the first, by CPU time on one thread of onnxruntime."""
    rows, missed = bench_files(files, ["ort"], repeats=how.repeats, warmup=2)
    if missed:
        raise InputError(missed[0].why)
    return {
        row.model: {
            "speedup": row.cpu_speedup,
            "speedup_wall": row.speedup,
            "macs_share": 1 / row.macs_ratio,
            "pictures_per_second": 1000 * how.batch / row.cpu_ms,
        }
        for row in rows[1:]
    }
