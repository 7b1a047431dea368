"""make bench-zoo: every model, ours and Torch-Pruning, at 25, 50 and 75 %, into book/results/zoo/zoo.json.

    PYTHONPATH=tests/benchmarks python -m zoo.run [--only NAME ...] [--tools ours,torch-pruning] [--jobs 1] [--fresh]

Each model and tool gets a process of its own, with a time and a memory limit. Results are written as they come in, in
one step, and what is there already is skipped, so a run that was stopped goes on. Ratios that a process did not reach
are "timeout" or "crash".
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from zoo.models import cases
from zoo.worker import RATIOS, TOOLS, work

from prunekit.course.setup import commit, device_name, pick_device

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "book/results/zoo/zoo.json"
PACKAGES = "prunekit torch timm torchvision torch-pruning segmentation-models-pytorch transformers".split()
Row = dict[str, Any]


def main() -> int:
    """Run what is asked for and not done yet; 1 when one of ours is wrong, or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="models, or parts of their names")
    parser.add_argument("--tools", default=",".join(TOOLS), help="ours, torch-pruning or both")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one model and tool")
    parser.add_argument("--fresh", action="store_true", help="also what is done already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no thread pool
    store = Store(asked.out)
    names = [c.name for c in cases() if not asked.only or any(part in c.name for part in asked.only)]
    jobs = [(n, t) for n in names for t in asked.tools.split(",") if asked.fresh or not store.has(n, t)]
    with ThreadPoolExecutor(asked.jobs) as pool:
        for number, rows in enumerate(pool.map(lambda job: one(*job, asked.limit), jobs), 1):
            store.put(rows)
            said = " ".join(row["verdict"] for row in rows)
            print(f"{number}/{len(jobs)} {rows[0]['model']} {rows[0]['tool']}: {said}", flush=True)
    mine = Counter(row["verdict"] for row in store.rows if row["tool"] == "ours")
    print("ours:", dict(mine))
    return 1 if mine["wrong"] + mine["crash"] else 0


def one(model: str, tool: str, limit_s: float) -> list[Row]:
    """The rows of one model and tool, from a process that may die. It is forked: torch and timm are imported once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows"
        child = multiprocessing.get_context("fork").Process(target=_child, args=(model, tool, out), daemon=True)
        child.start()
        child.join(limit_s)
        verdict, detail = "crash", f"the process ended with {child.exitcode}"
        if child.is_alive():
            verdict, detail = "timeout", f"more than {limit_s:.0f} s"
            child.kill()
            child.join()
        rows = [json.loads(line) for line in out.read_text().splitlines() if line.endswith("}")] if out.exists() else []
    reached = {row["ratio"] for row in rows}
    missed = {"model": model, "tool": tool, "verdict": verdict, "detail": detail}
    return rows + [{**missed, "ratio": ratio} for ratio in RATIOS if ratio not in reached]


def _child(model: str, tool: str, out: Path) -> None:
    """Silent but for its rows."""
    with open(os.devnull, "w") as nothing, out.open("w") as lines:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        work(model, tool, lines)


class Store:
    """The results file: where it was made, and one row for each model, tool and ratio, in the order of the models."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = json.loads(path.read_text())["rows"] if path.is_file() else []
        self.commit = commit()
        self.lock = threading.Lock()

    def has(self, model: str, tool: str) -> bool:
        return any(row["model"] == model and row["tool"] == tool for row in self.rows)

    def put(self, rows: list[Row]) -> None:
        """Replace the rows of this model and tool; a reader sees the old file or the new one."""
        place = {c.name: i for i, c in enumerate(cases())}
        with self.lock:
            new = {(row["model"], row["tool"]) for row in rows}
            old = [row for row in self.rows if (row["model"], row["tool"]) not in new and row["model"] in place]
            self.rows = [*old, *({**row, "commit": self.commit} for row in rows)]
            self.rows.sort(key=lambda row: (place[row["model"]], row["tool"], row["ratio"]))
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = {"device": device_name(pick_device()), "versions": {p: metadata.version(p) for p in PACKAGES}}
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(head)[:-1] + f', "rows": [\n{lines}\n]}}\n')
        part.replace(self.path)


if __name__ == "__main__":
    sys.exit(main())
