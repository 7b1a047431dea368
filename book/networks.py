"""The page on the benchmark over many networks: tables drawn from book/results/zoo/zoo.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RATIOS = (0.25, 0.5, 0.75)
TOOLS = {"ours": "prunekit", "torch-pruning": "Torch-Pruning"}
VERDICTS = ("correct", "refused", "wrong", "crash", "timeout", "unverified")
SIGNS = {"correct": "✓", "refused": "–", "wrong": "**✗**", "crash": "!", "timeout": "t", "unverified": "?"}


def page(path: Path) -> str:
    """Summary, models, what did not work and why; a sentence when nothing is measured yet."""
    if not path.is_file():
        return "Nothing is measured yet.\n"
    stored = json.loads(path.read_text(encoding="utf-8"))
    rows: list[Row] = stored["rows"]
    parts = ["## In short", summary(rows), "## Every network", LEGEND, models(rows)]
    for tool, title in TOOLS.items():
        text = failures([r for r in rows if r["tool"] == tool])
        parts += [f"## {title}: what did not work", text or "Nothing."] if any(r["tool"] == tool for r in rows) else []
    versions = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
    commits = ", ".join(sorted({r["commit"] for r in rows}))
    return "\n\n".join([*parts, f"Made on: {stored['device']}; {versions}; commit {commits}."]) + "\n"


LEGEND = (
    "✓ correct, – refused, **✗** wrong, ! crash, t out of time, ? not decided; at 25, 50 and 75 %. The numbers are for "
    "50 %. *left*: parameters and MACs that are left, percent. *fixed*: percent of the parameters in tensors which "
    "kept their shape. *s*: seconds from model to pruned model, one thread. g: the pruned model is a traced graph, "
    "because the class's own code has its sizes built in."
)


def summary(rows: list[Row]) -> str:
    """Verdicts counted, one line for each tool and ratio."""
    met = {row["verdict"] for row in rows}
    seen = [v for v in VERDICTS if v in met or v in ("correct", "refused", "wrong", "crash")]
    lines = [["tool", "removed", "networks", *seen]]
    for tool, title in TOOLS.items():
        for ratio in RATIOS:
            found = Counter(r["verdict"] for r in rows if r["tool"] == tool and r["ratio"] == ratio)
            if found:
                share = f"{found['correct']} ({found['correct'] / found.total():.0%})"
                counts = [share if v == "correct" else str(found[v]) for v in seen]
                lines.append([title, f"{ratio:.0%}", str(found.total()), *counts])
    return table(lines)


def models(rows: list[Row]) -> str:
    """One line for each network and tool."""
    lines = [["network", "tool", "25 50 75", "params left", "MACs left", "fixed", "s"]]
    runs: dict[tuple[str, str], dict[float, Row]] = {}
    for row in rows:
        runs.setdefault((row["model"], row["tool"]), {})[row["ratio"]] = row
    for (model, tool), by_ratio in runs.items():
        half = by_ratio.get(0.5, {})
        signs = " ".join(SIGNS[by_ratio[r]["verdict"]] if r in by_ratio else "·" for r in RATIOS)
        signs += " g" if half.get("edited") and tool == "ours" else ""
        shares = [percent(half.get(key)) for key in ("params_left", "macs_left", "frozen")]
        took = f"{half['find_s'] + half['prune_s']:.1f}" if "prune_s" in half else ""
        lines.append([short(model), TOOLS[tool], signs, *shares, took])
    return table(lines)


def failures(rows: list[Row]) -> str:
    """What is not correct, the same reason of several ratios once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["verdict"] != "correct":
            why = row["detail"] + (f" ({row['cause']})" if row.get("cause") else "")
            key = (row["model"], row["verdict"], why)
            found.setdefault(key, []).append(f"{row['ratio']:.0%}")
    lines = [["network", "removed", "verdict", "why"]]
    lines += [[short(model), ", ".join(ratios), verdict, code(why)] for (model, verdict, why), ratios in found.items()]
    return table(lines) if found else ""


def table(lines: Iterable[list[str]]) -> str:
    """A Markdown table, the first line its head."""
    head, *body = lines
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def code(text: str) -> str:
    """An error message as it is, safe in a table's cell."""
    return "`" + text.replace("|", "/").replace("`", "'") + "`" if text else ""


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"


def short(model: str) -> str:
    """Underscores let a phone break the line."""
    return model.replace("_", "_<wbr>")
