"""The rule for noise: planted differences are found, planted noise is not, and too few seeds stay open."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from prunekit.course import verdict
from prunekit.course.ledger import Record

NOISE = 0.01


def record(method: str, seed: int, miou: float, **settings: object) -> Record:
    metrics = {"miou": miou, "miou_before_tuning": miou / 2, "iou_thin": miou / 3, "macs": 100}
    return Record("bench", "mini", method, seed, {"macs_ratio": 0.5, **settings}, metrics, 1.0, "cpu", {}, "none")


def tables(gap: float, count: int, *, methods: int = 10, seeds: int = 3) -> list[dict]:
    """Benches drawn from one distribution, but for one method that is better by `gap`."""
    dice = np.random.default_rng(0)
    return [
        verdict.judge(
            {
                name: (0.6 + gap * (name == "m0") + NOISE * dice.standard_normal(seeds)).tolist()
                for name in ["random", *(f"m{i}" for i in range(methods))]
            },
            "random",
        )
        for _ in range(count)
    ]


def test_noise_alone_seldom_makes_a_winner() -> None:
    found = [table.values() for table in tables(0.0, 400)]
    three = mean(any(word in ("better", "worse") for *_, word in table) for table in found)
    two = mean(any(abs(gap) > margin * 2 / 3 for gap, margin, _ in table) for table in found)
    assert three < 0.06  # of all tables
    assert two > 0.1, "two standard errors would have fooled more readers"


def test_a_difference_far_above_the_noise_is_found() -> None:
    words = [table["m0"][2] for table in tables(5 * NOISE, 200)]
    assert words.count("better") > 190
    assert [t["m0"][2] for t in tables(-5 * NOISE, 100)].count("worse") > 95


def test_the_margin_is_the_formula() -> None:
    runs = {"random": [0.50, 0.52, 0.54], "a": [0.60, 0.61, 0.62], "b": [0.51, 0.52, 0.56, 0.57]}
    found = verdict.judge(runs, "random")
    pooled = math.sqrt((2 * stdev(runs["random"]) ** 2 + 2 * stdev(runs["a"]) ** 2 + 3 * stdev(runs["b"]) ** 2) / 7)
    two = math.sqrt((2 * stdev(runs["random"]) ** 2 + 3 * stdev(runs["b"]) ** 2) / 5)
    assert two > pooled  # so the pair's own spread counts for b, everybody's for a
    assert found["a"][:2] == pytest.approx((0.09, 3 * pooled * math.sqrt(2 / 3)))
    assert found["b"][:2] == pytest.approx((0.02, 3 * two * math.sqrt(1 / 3 + 1 / 4)))
    assert [found[name][2] for name in runs] == ["-", "better", "within noise"]


def test_two_seeds_or_no_baseline_stay_open() -> None:
    assert verdict.judge({"random": [0.5, 0.5, 0.5], "a": [0.9, 0.9]}, "random")["a"][2] == "open"
    assert verdict.judge({"random": [0.5, 0.5], "a": [0.9, 0.9, 0.9]}, "random")["a"][2] == "open"
    assert {word for *_, word in verdict.judge({"a": [0.5] * 3, "b": [0.9] * 3}, "random").values()} == {"open"}


def test_standings_are_sorted_and_count_a_seed_once() -> None:
    records = [record("random", s, 0.50 + s / 100) for s in range(3)] + [record("l1", s, 0.6) for s in (0, 1, 1)]
    rows = verdict.standings(records)
    assert [(row.method, row.seeds, row.word) for row in rows] == [("l1", 2, "open"), ("random", 3, "-")]
    assert (rows[0].before, rows[0].thin, rows[0].macs) == pytest.approx((0.3, 0.2, 100))
    text = verdict.table(rows)
    assert "+0.090 open" in text and max(map(len, text.splitlines())) <= 60


def test_only_runs_with_the_same_settings_are_compared() -> None:
    records = [record("l1", 0, 0.5), record("l1", 1, 0.5), record("l1", 0, 0.9, tune_steps=9)]
    assert sorted(map(len, verdict.comparisons(records).values())) == [1, 2]
