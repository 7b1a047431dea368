"""The page of sizes: its file holds what is counted now, and what the papers print is met where it should be."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("sizes", ROOT / "book" / "sizes.py")
assert SPEC and SPEC.loader
sizes = importlib.util.module_from_spec(SPEC)
sys.modules["sizes"] = sizes
SPEC.loader.exec_module(sizes)

ENTRIES = sizes.load()


def test_the_file_has_every_row_in_order():
    said = [(row.model, row.paper, list(row.size), row.params_m, row.macs_g, row.built) for row in sizes.ROWS]
    keys = ("model", "paper", "size", "paper_params_m", "paper_macs_g", "built")
    assert said == [tuple(entry[key] for key in keys) for entry in ENTRIES], "run: make sizes"


@pytest.mark.parametrize("index", range(0, len(ENTRIES), 2), ids=lambda i: f"{ENTRIES[i]['model']}-{i}")
def test_the_file_says_what_is_counted_now(index: int):
    assert sizes.measure(sizes.ROWS[index]) == ENTRIES[index], "run: make sizes"


def test_parameters_are_those_of_the_papers_but_for_one_known_reading():
    """To the papers' rounding; the SIRFP network has another ASPP than the usual one, and its own row says so."""
    apart = [e for e in ENTRIES if e["paper_params_m"] and abs(e["params"] / 1e6 / e["paper_params_m"] - 1) > 0.022]
    assert [(e["model"], e["paper"]) for e in apart] == [("DeepLabV3 R50", "SIRFP")]


def test_the_table_shows_paper_ours_and_difference():
    entry = {"model": "A", "paper": "B", "size": [3, 4], "paper_params_m": 2.0, "paper_macs_g": None, "built": "c"}
    text = sizes.published([entry | {"params": 1_900_000, "macs": 10**9}])
    assert text.splitlines()[2] == "| A<br>B, 3 × 4 | 2 → 1.90<br>-5.0 % | 1.00 | c |"
    assert len({line.count("|") for line in text.splitlines()}) == 1
