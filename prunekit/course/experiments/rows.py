"""The runs behind claims: each is made once, for all claims that ask for it, and recorded once for each of them.

    rows = {run: [Row("M1", "mtp 0.5x", seed=0, settings=same), ...], ...}
    carry_out(rows, lambda run: {"miou": ...})

What the ledger holds is not made again, so a long list can be stopped and started.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prunekit.course import ledger
from prunekit.course.presets import Scale
from prunekit.errors import InputError

Metrics = Mapping[str, Any]
Way = TypeVar("Way")
Run = TypeVar("Run", bound=Hashable)
SHOWN = ("miou", "top1", "speedup", "macs_share", "edge_weight")


@dataclass(frozen=True)
class Row:
    """One record to be. settings: what the runs of a comparison share."""

    claim: str
    method: str
    seed: int
    settings: Mapping[str, Any]


def runs_of(
    claims: Iterable[str],
    ways: Mapping[str, Mapping[str, Way]],
    *,
    seeds: int,
    settings: Callable[[str, Way], Mapping[str, Any]],
) -> dict[tuple[int, Way], list[Row]]:
    """(seed, way) -> its rows, a seed whole before the next. ways: claim -> method, as in the ledger -> how it is run;
    equal ways of several claims are one run.

    Raises InputError for a claim without runs, or fewer than one seed.
    """
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give a whole number from 1 on.")
    wanted: dict[tuple[int, Way], list[Row]] = {}
    claims = tuple(claims)
    for seed in range(seeds):
        for claim in claims:
            if claim not in ways:
                raise InputError(f"no runs for {claim!r}; there are: {', '.join(ways)}.")
            for method, way in ways[claim].items():
                wanted.setdefault((seed, way), []).append(Row(claim, method, seed, settings(claim, way)))
    return wanted


def carry_out(
    todo: Mapping[Run, Sequence[Row]],
    do: Callable[[Run], Metrics],
    *,
    of: Callable[[Row, Metrics], Metrics] = lambda row, metrics: metrics,
    scale: Scale = "mini",
) -> None:
    """Make the runs that the ledger lacks a row of, and print a line for each. of: what of its metrics a row keeps.

    What `do` gives as `earlier` is no metric: seconds of an earlier start, whose results it found in a checkpoint.
    """
    done = {_key(e.claim, e.method, e.seed, e.settings) for e in ledger.load() if e.scale == scale}
    for number, (run, rows) in enumerate(todo.items(), 1):
        missing = [row for row in rows if _key(row.claim, row.method, row.seed, row.settings) not in done]
        if not missing:
            continue
        start = time.perf_counter()
        found = dict(do(run))
        seconds = time.perf_counter() - start + found.pop("earlier", 0.0)
        for row in missing:
            ledger.record(
                row.claim,
                method=row.method,
                seed=row.seed,
                settings=row.settings,
                metrics=of(row, found),
                seconds=seconds,
                scale=scale,
            )
        names = ", ".join(f"{row.claim} {row.method}" for row in missing)
        shown = ", ".join(f"{name} {found[name]:.3f}" for name in SHOWN if name in found)
        print(f"{number}/{len(todo)} {names}, seed {missing[0].seed}: {shown}, {seconds:.0f} s", flush=True)


def _key(claim: str, method: str, seed: int, settings: Mapping[str, Any]) -> tuple[str, str, int, str]:
    """As a record names its file: the same run has the same key."""
    return claim, method, seed, json.dumps(ledger.plain(settings, claim), sort_keys=True)
