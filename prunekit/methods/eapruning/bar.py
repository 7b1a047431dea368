"""The bar of a search: how many candidates are done, and the front so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prunekit.methods.eapruning.front import Candidate, front, hypervolume, sketch
from prunekit.methods.eapruning.table import Evaluations

LIVE_S = 0.5  # between two pictures of the front


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[..., None]]:
    """show(table, generations): the bar, with the front of all evaluations drawn in nine letters, as they come. Of the
    processes of a launch the first one draws it; in a notebook it is one of the page's, elsewhere a terminal's.
    """
    from tqdm.auto import tqdm

    hidden = quiet or os.environ.get("RANK", "0") != "0"
    with tqdm(total=total, desc="eapruning", unit="net", disable=True if hidden else None) as bar:
        shown, when = 0, time.monotonic()

        def show(table: Evaluations, generations: list[Any]) -> None:
            nonlocal shown, when
            if bar.disable:
                return
            done, now = sum(map(len, generations)), time.monotonic()
            bar.update(max(done, min(len(table.values), total)) - bar.n)
            if done != shown or now - when >= LIVE_S:
                shown, when = done, now
                best = front(Candidate(counts, *values) for counts, values in table.values.items())
                bar.set_postfix_str(f"front {sketch(best)} {len(best)}, hypervolume {hypervolume(best):.3f}")

        yield show
