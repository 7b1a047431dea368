"""What the masks did: every flip, and one line an update. Small enough to keep whole, however long the search.

Legend: T updates, E flips, U = units of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

COLUMNS = ("macs", "direct", "regulariser", "implicit", "flips", "returned")


@dataclass
class History:
    """sizes: group -> U. lines: one an update, see COLUMNS: MACs after it (share of the dense ones), root mean square
    of the three terms, how many units flipped, how many of them opened again. flips: (update, unit), units counted
    through all groups. Every mask starts open.
    """

    sizes: Mapping[str, int]
    lines: list[tuple[float, ...]] = field(default_factory=list)
    flips: list[tuple[int, int]] = field(default_factory=list)

    def add(self, before: Tensor, after: Tensor, macs: float, terms: tuple[float, float, float]) -> None:
        """One update. before, after: masks of all groups in a row, bool."""
        changed = (before != after).nonzero().flatten().tolist()
        self.flips += [(len(self.lines), unit) for unit in changed]
        self.lines.append((macs, *terms, float(len(changed)), float(sum(after[changed].tolist()))))

    def column(self, name: str) -> list[float]:
        """One number an update; name: of COLUMNS."""
        return [line[COLUMNS.index(name)] for line in self.lines]

    def masks(self, group: str) -> Tensor:
        """A group's mask at the start and after each update, bool (T + 1, U)."""
        names = list(self.sizes)
        first = sum(self.sizes[name] for name in names[: names.index(group)])
        flipped_TU = torch.zeros(len(self.lines) + 1, self.sizes[group], dtype=torch.long)
        for update, unit in self.flips:
            if first <= unit < first + self.sizes[group]:
                flipped_TU[update + 1, unit - first] += 1
        return flipped_TU.cumsum(0) % 2 == 0

    def returned(self) -> dict[str, tuple[int, ...]]:
        """Group -> the units that were closed once and are open now."""
        found = {}
        for name in self.sizes:
            masks_TU = self.masks(name)
            back_U = masks_TU[-1] & ~masks_TU.all(0)
            found[name] = tuple(back_U.nonzero().flatten().tolist())
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """As tensors, for a checkpoint."""
        return {
            "lines": torch.tensor(self.lines, dtype=torch.float64).reshape(-1, len(COLUMNS)),
            "flips": torch.tensor(self.flips, dtype=torch.long).reshape(-1, 2),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Undo `state_dict`."""
        self.lines = [tuple(line) for line in state["lines"].tolist()]
        self.flips = [(update, unit) for update, unit in state["flips"].tolist()]
