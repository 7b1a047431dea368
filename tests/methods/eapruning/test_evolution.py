"""Evolution itself: the same seed gives the same search, and on a real network choosing is worth something."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prunekit.methods.eapruning.evolution import Evolution
from prunekit.methods.eapruning.space import Counts, Space


class Rows:
    """Twelve groups that cost alike, so that many candidates miss a window by the same."""

    names = tuple("abcdefghijkl")
    step = dict.fromkeys(names, 1)
    whole = (9,) * 12
    levels = np.full(12, 8)

    def counts(self, level: np.ndarray) -> Counts:
        return tuple(int(n) + 1 for n in np.rint(level))


def generations(window: tuple[float, float] | None, seed: int) -> Iterator[list[Counts]]:
    space: Space = Rows()  # type: ignore[assignment]
    dice = np.random.default_rng(seed)
    evolution = Evolution(
        space, [space.counts(row) for row in dice.integers(0, 9, (20, 12))], 10, window=window, seed=3
    )
    for _ in range(8):
        asked = evolution.ask()
        yield asked
        evolution.tell([(float(np.dot(each, range(12))) / 600, sum(each) / 108) for each in asked])


def test_the_same_seed_asks_for_the_same_candidates() -> None:
    for window in (None, (0.2, 0.22)):
        first, again, other = (list(generations(window, seed)) for seed in (0, 0, 1))
        assert first == again and first != other
