"""RandomScale: resize image and mask by one random factor. v2 has no transform that scales relative to the own size.

In a file of its own because the class derives from torchvision's, which `import prunekit` must not load.
"""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class RandomScale(v2.Transform):
    """Resize by a factor drawn evenly from [low, high]: images bilinear, masks nearest (v2 chooses by type)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One size for everything in the sample."""
        height, width = v2.query_size(flat_inputs)
        factor = self.low + (self.high - self.low) * torch.rand(()).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one tensor."""
        return self._call_kernel(F.resize, inpt, params["size"], antialias=True)
