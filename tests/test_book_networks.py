"""The page on many networks: counts, signs and reasons come from the rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "book" / "networks.py"
spec = importlib.util.spec_from_file_location("book_networks", PATH)
assert spec and spec.loader
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)


def row(model: str, ratio: float, verdict: str, tool: str = "ours", **more: Any) -> dict[str, Any]:
    return {"model": model, "tool": tool, "ratio": ratio, "verdict": verdict, "detail": "", "commit": "abc", **more}


ROWS = [
    row("timm/a_b", 0.25, "correct"),
    row("timm/a_b", 0.5, "correct", find_s=1.25, prune_s=0.5, params_left=0.254, macs_left=0.5, frozen=0, edited=True),
    row("timm/a_b", 0.75, "refused", detail="'x|y' stays: `roll`", cause="RuntimeError: 3"),
    row("timm/c", 0.5, "correct"),
    row("timm/a_b", 0.25, "wrong", "torch-pruning", detail="proj reads removed channels"),
    row("timm/a_b", 0.5, "wrong", "torch-pruning", detail="proj reads removed channels"),
]


def test_nothing_measured_is_said(tmp_path: Path):
    assert "Nothing is measured yet" in networks.page(tmp_path / "none.json")


def test_verdicts_are_counted_for_each_tool_and_ratio():
    text = networks.summary(ROWS)
    assert "| prunekit | 50% | 2 | 2 (100%) | 0 | 0 | 0 |" in text
    assert "| prunekit | 75% | 1 | 0 (0%) | 1 | 0 | 0 |" in text
    assert "| Torch-Pruning | 25% | 1 | 0 (0%) | 0 | 1 | 0 |" in text
    assert "timeout" not in text


def test_a_network_has_one_line_for_each_tool():
    lines = networks.models(ROWS).splitlines()
    assert lines[2] == "| timm/a_<wbr>b | prunekit | ✓ ✓ – g | 25 | 50 | 0 | 1.8 |"
    assert lines[3].startswith("| timm/c | prunekit | · ✓ · |")
    assert "**✗** **✗** ·" in lines[4]


def test_reasons_are_grouped_and_safe_in_a_table(tmp_path: Path):
    theirs = networks.failures([r for r in ROWS if r["tool"] == "torch-pruning"])
    assert theirs.splitlines()[2:] == ["| timm/a_<wbr>b | 25%, 50% | wrong | `proj reads removed channels` |"]
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps({"device": "cpu", "versions": {"torch": "2"}, "rows": ROWS}))
    text = networks.page(path)
    assert "`'x/y' stays: 'roll' (RuntimeError: 3)`" in text
    assert "torch 2; commit abc" in text
