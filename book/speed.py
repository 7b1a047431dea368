"""What makes a pruned network fast: round widths, and 8-bit integers on top. Measured here, kept in results/speed.

    python book/speed.py          # measures on onnxruntime at one thread, some minutes, and writes the file

Ratios of medians, the networks in turns. CPU time counts, since other programs may run on the same machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import prunekit as pk
from prunekit.course import ledger
from prunekit.export import export_int8, export_onnx
from prunekit.latency import bench_files
from prunekit.latency.table import device_name
from prunekit.methods import l1

FILE = Path(__file__).parent / "results" / "speed" / "widths.json"
DEVICES = "device"  # ledger records of devices that readers have measured
MULTIPLES = (1, 4, 8, 16)


def measure() -> dict[str, Any]:
    """MobileNetV1 with half of its MACs, widths rounded in several ways, and in int8; times against the dense one."""
    torch.manual_seed(0)
    model, x = timm.create_model("mobilenetv1_100").eval(), torch.randn(1, 3, 224, 224)
    groups = pk.find_groups(model, x)
    scores = l1.score(model, groups)
    models = {"dense": model}
    for step in MULTIPLES:
        limits = pk.Limits(round_to=step)
        plan = pk.budget_plan(groups, scores, macs_ratio=0.5, how="uniform", limits=limits)
        models[f"multiples of {step}" if step > 1 else "as they come"] = pk.prune(model, groups, plan)
    batches = [torch.randn(1, 3, 224, 224) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, network in models.items():
            files[name] = export_onnx(network, x, Path(folder) / f"{len(files)}.onnx").path
        for name in ("dense", "multiples of 8"):  # random weights: only the time is of interest
            files[f"{name}, int8"] = Path(folder) / f"{len(files)}.onnx"
            export_int8(models[name], x, files[f"{name}, int8"], batches, min_agreement=0)
        rows, _ = bench_files(files, ["ort"], repeats=30)
    table = [{"network": r.model, "macs_ratio": r.macs_ratio, "speedup": r.cpu_speedup} for r in rows]
    return {"rows": table, "where": f"{device_name()}, onnxruntime {rows[0].version}, one thread"}


def widths(found: dict[str, Any] | None) -> str:
    """The table of what was measured."""
    if found is None:
        return "Not measured yet: `python book/speed.py`.\n"
    lines = ["| MobileNetV1 | MACs, times fewer | time, times less |", "| --- | --- | --- |"]
    lines += [f"| {row['network']} | {row['macs_ratio']:.2f} | {row['speedup']:.2f} |" for row in found["rows"]]
    return "\n".join([*lines, "", f"Measured on {found['where']}.", ""])


def devices(records: Iterable[ledger.Record]) -> str:
    """What readers measured on their devices; nothing is claimed that nobody measured."""
    rows = [r for r in records if r.claim == DEVICES]
    if not rows:
        return "Nobody has sent a measurement yet.\n"
    lines = ["| device | runtime | network | speed-up | of |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        about: Sequence[Any] = (row.settings.get("device"), row.settings.get("runtime"), row.method)
        lines.append(
            f"| {' | '.join(map(str, about))} | {row.metrics['speedup']:.2f} | {row.metrics['macs_ratio']:.2f} |"
        )
    return "\n".join([*lines, ""])


def load() -> dict[str, Any] | None:
    """What `main` stored; None when it has not run."""
    return json.loads(FILE.read_text()) if FILE.is_file() else None


def main() -> None:
    """Measure, and replace the stored file in one step."""
    found = measure()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    part = FILE.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(part, FILE)
    print(widths(found))


if __name__ == "__main__":
    main()
