"""Layers that least squares could not solve well, gathered and said in one warning each way."""

from __future__ import annotations

import warnings

SINGULAR = 1e15  # condition numbers that float64 cannot tell from infinity


class Doubts:
    """add(...) a layer after the other, then warn()."""

    def __init__(self) -> None:
        self.few: dict[str, str] = {}
        self.singular: dict[str, str] = {}

    def add(self, name: str, *, samples: int, unknowns: int, dead: int, condition: float) -> None:
        """samples: rows that were seen, for so many unknowns. dead: inputs that are always 0. condition: of the Gram
        matrix alone, see reconstruct.solvable.
        """
        if samples < unknowns:
            self.few[name] = f"'{name}' ({samples} samples, {unknowns} unknowns)"
        elif condition > SINGULAR:
            self.singular[name] = f"'{name}'" + (f" ({dead} of {unknowns} inputs are always 0)" if dead else "")

    def warn(self, stacklevel: int = 3) -> None:
        """In the name of the function that called the caller."""
        few, singular = (some(list(texts.values())) for texts in (self.few, self.singular))
        if few:
            warn(
                f"fewer samples than unknowns in {few}: give more images or samples. A ridge is used meanwhile",
                stacklevel + 1,
            )
        if singular:
            warn(f"the Gram matrix of {singular} is singular to rounding; a ridge is used there", stacklevel + 1)


def some(names: list[str]) -> str:
    """The first three, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def warn(text: str, stacklevel: int = 3) -> None:
    """A RuntimeWarning of the method."""
    warnings.warn(f"eapruning: {text}.", RuntimeWarning, stacklevel=stacklevel)
