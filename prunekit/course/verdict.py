"""Is one method better than another, or is it the seeds? A rule, and the tables made with it.

    two means differ  when  |mean_a - mean_b| > 3 s sqrt(1/n_a + 1/n_b)

Symbols: n = seeds of a method; s = spread (sample standard deviation) over seeds, pooled over all methods of the
comparison, or over the two alone where that is larger. Three standard errors, not two, because a table of ten methods
holds ten chances to be fooled: with equally good methods and three seeds, three tables in a hundred name a difference.
Fewer than three seeds: open. What the rule cannot see: all runs start from one trained network on one set of images.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from prunekit.course.ledger import ENOUGH_SEEDS, Record

ERRORS = 3.0  # standard errors between two means that count as different
Word = Literal["better", "worse", "within noise", "open", "-"]


@dataclass(frozen=True)
class Standing:
    """One method in one comparison. miou: mean over seeds; spread: over seeds, nan with one; before: mIoU without
    fine-tuning; thin: mean IoU of thin classes; gap, margin: difference to the baseline, and the one that would count.
    """

    method: str
    seeds: int
    miou: float
    spread: float
    before: float
    thin: float
    macs: float
    gap: float
    margin: float
    word: Word


def judge(runs: Mapping[str, Sequence[float]], baseline: str) -> dict[str, tuple[float, float, Word]]:
    """method -> (difference to the baseline's mean, difference that counts, verdict); runs: method -> one value a seed.

    Without the baseline nothing is compared, and with too few seeds all is open.
    """
    if baseline not in runs:
        return dict.fromkeys(runs, (math.nan, math.nan, "open"))
    found: dict[str, tuple[float, float, Word]] = {baseline: (0.0, math.nan, "-")}
    base = runs[baseline]
    for name, values in runs.items():
        if name == baseline:
            continue
        gap = mean(values) - mean(base)
        if min(len(values), len(base)) < ENOUGH_SEEDS:
            found[name] = (gap, math.nan, "open")
            continue
        spread = max(pooled_spread(runs.values()), pooled_spread([values, base]))
        margin = ERRORS * spread * math.sqrt(1 / len(values) + 1 / len(base))
        found[name] = (gap, margin, "within noise" if abs(gap) <= margin else "better" if gap > 0 else "worse")
    return found


def pooled_spread(samples: Iterable[Sequence[float]]) -> float:
    """The standard deviation within samples that share one; nan when no sample has two values."""
    several = [values for values in samples if len(values) > 1]
    degrees = sum(len(values) - 1 for values in several)
    squares = sum((len(values) - 1) * stdev(values) ** 2 for values in several)
    return math.sqrt(squares / degrees) if degrees else math.nan


def comparisons(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Runs that may be compared: the same scale and settings, under a key that sorts by them."""
    found: dict[str, list[Record]] = {}
    for entry in records:
        key = json.dumps([entry.scale, entry.settings], sort_keys=True)
        found.setdefault(key, []).append(entry)
    return dict(sorted(found.items()))


def standings(records: Iterable[Record], *, baseline: str = "random") -> list[Standing]:
    """One comparison's methods, the best first."""
    runs: dict[str, dict[int, Record]] = {}
    for entry in records:
        runs.setdefault(entry.method, {})[entry.seed] = entry
    values = {name: [e.metrics["miou"] for e in by_seed.values()] for name, by_seed in runs.items()}
    verdicts = judge(values, baseline)
    rows = []
    for name, by_seed in runs.items():
        before, thin, macs = (_mean(by_seed.values(), metric) for metric in ("miou_before_tuning", "iou_thin", "macs"))
        spread = stdev(values[name]) if len(by_seed) > 1 else math.nan
        rows.append(Standing(name, len(by_seed), mean(values[name]), spread, before, thin, macs, *verdicts[name]))
    return sorted(rows, key=lambda row: -row.miou)


def table(rows: Iterable[Standing]) -> str:
    """The standings for a terminal or a phone, 44 letters wide."""
    lines = [f"{'':15}{'mIoU':>6}{'±':>6}{'seeds':>6}  against random"]
    for row in rows:
        spread = "" if math.isnan(row.spread) else f"{row.spread:.3f}"
        gap = "" if row.word == "-" else f"{row.gap:+.3f} {row.word}"
        lines.append(f"{row.method:15}{row.miou:6.3f}{spread:>6}{row.seeds:6}  {gap}".rstrip())
    return "\n".join(lines)


def _mean(records: Iterable[Record], metric: str) -> float:
    numbers = [e.metrics[metric] for e in records if e.metrics.get(metric) is not None]
    return mean(numbers) if numbers else math.nan
