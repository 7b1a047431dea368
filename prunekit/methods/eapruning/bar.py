"""The bar of a search: how many candidates are done, and the front so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prunekit.methods.eapruning.front import Candidate, front, hypervolume, sketch
from prunekit.methods.eapruning.table import Evaluations


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[..., None]]:
    """show(table, generations): the bar, with the front of all evaluations drawn in nine letters."""
    from tqdm import tqdm

    with tqdm(total=total, desc="eapruning", unit="net", disable=True if quiet else None) as bar:
        shown = 0

        def show(table: Evaluations, generations: list[Any]) -> None:
            nonlocal shown
            done = sum(map(len, generations))
            if bar.disable or (done == shown and len(table.values) < done):
                return
            bar.update(max(done, min(len(table.values), total)) - bar.n)
            if done != shown:
                shown = done
                best = front(Candidate(counts, *values) for counts, values in table.values.items())
                bar.set_postfix_str(f"front {sketch(best)} {len(best)}, hypervolume {hypervolume(best):.3f}")

        yield show
