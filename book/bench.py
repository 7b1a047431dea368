"""The page on the fair bench: a table for each comparison and a figure for each network, drawn from the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from prunekit.course import verdict
from prunekit.course.bench import CLAIM
from prunekit.course.ledger import Record
from prunekit.course.plots import pareto
from prunekit.course.verdict import Standing

HEAD = "| method | mIoU | before fine-tuning | thin things | seeds | against random |\n|" + " --- |" * 6


def page(records: Iterable[Record], folder: Path) -> str:
    """Markdown, and its figures in `folder`; a sentence when nothing is measured yet."""
    mine = [entry for entry in records if entry.claim == CLAIM]
    dense = {network(entry): entry for entry in mine if entry.method == "dense"}
    tables: dict[str, dict[str, list[Record]]] = {}
    for runs in verdict.comparisons(e for e in mine if e.method != "dense").values():
        tables.setdefault(network(runs[0]), {})[f"{runs[0].settings['macs_ratio']:.0%}, {budget(runs[0])}"] = runs
    parts = []
    for number, (name, by_title) in enumerate(tables.items()):
        parts.append(f"## {name}")
        standings = {title: verdict.standings(runs) for title, runs in by_title.items()}
        if name in dense:
            first = dense[name].metrics
            apart = [row.method for rows in standings.values() for row in rows if row.word in ("better", "worse")]
            bold = list(dict.fromkeys(["random", *apart]))[:8]
            figure = pareto(standings.values(), dense=(first["macs"], first["miou"]), bold=bold)
            figure.savefig(folder / f"bench{number}.png", dpi=120, metadata={"Software": None})
            text = f"mIoU against MACs of {name}, one line a method, from the dense network to the most pruned one."
            parts += [
                f"![{text}](/book/{folder.name}/bench{number}.png)",
                f"Dense: mIoU {first['miou']:.3f}, {first['macs'] / 1e6:.0f} million MACs. Bars are the spread over "
                "seeds; in colour: random, and what differs from it by the rule above in some table.",
            ]
        for title, rows in standings.items():
            parts += [f"### {title}", "\n".join([HEAD, *map(line, rows)]), made_on(by_title[title])]
    return "\n\n".join(parts) + "\n" if parts else "No runs are stored yet.\n"


def network(entry: Record) -> str:
    """What may share a figure: network, data and planner."""
    s = entry.settings
    return f"{s['model']} on {s['dataset']}, {s['image'][0]} × {s['image'][1]}"


def budget(entry: Record) -> str:
    """The settings that a title says."""
    s = entry.settings
    return f"{s['how']} plan, {s['tune_steps']} steps of {s['batch']} images"


def line(row: Standing) -> str:
    """One row of the table."""
    spread = "" if math.isnan(row.spread) else f" ± {row.spread:.3f}"
    against = "" if row.word == "-" else f"{row.gap:+.3f}, {row.word}"
    cells = [row.method, f"{row.miou:.3f}{spread}", f"{row.before:.3f}", f"{row.thin:.3f}", str(row.seeds), against]
    return "| " + " | ".join(cells) + " |"


def made_on(runs: Iterable[Record]) -> str:
    """Where these runs were made, and how long one took."""
    runs = list(runs)
    where = "; ".join(sorted({f"{e.device}, torch {e.versions.get('torch', '?')}" for e in runs}))
    seconds = sorted(e.seconds for e in runs)[len(runs) // 2]
    return f"{len(runs)} runs on {where}; half of them took less than {seconds:.0f} s."
