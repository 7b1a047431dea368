"""Small networks, each with one difficulty, and helpers shared by the surgery tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan


def random_plan(groups: Groups, ratio: float, seed: int = 0) -> PruningPlan:
    """Keep a random share of every group."""
    draw = torch.Generator().manual_seed(seed)
    keep = {}
    for name, group in groups.items():
        count = max(1, round(group.size * (1 - ratio)))
        keep[name] = tuple(sorted(torch.randperm(group.size, generator=draw)[:count].tolist()))
    return PruningPlan({name: group.size for name, group in groups.items()}, keep)


def conv(i: int, o: int, k: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)  # type: ignore[arg-type]


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sigmoid(self.bn(self.a(x))))  # sigmoid(0) is 1/2: masking the maker would leak


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.back, self.head = conv(3, 8), conv(8, 6), conv(6, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.back(self.inner(x).relu())).relu())


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.head = conv(3, 6), conv(3, 4), nn.BatchNorm2d(10), conv(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu())


class Chunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = conv(3, 12), conv(6, 2), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).relu().chunk(2, 1)
        return self.left(first) - self.right(second)


class DepthwiseFlatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw, self.fc = conv(3, 6), conv(6, 12, groups=6), nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.dw(self.a(x)).relu(), 4).flatten(1))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.b = conv(3, 12), conv(12, 8, groups=4), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.g(self.a(x).relu()).relu())


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up, self.b = conv(3, 8), conv(8, 4, 1), conv(4, 8, 1), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.b(x * gate)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.t, self.b = conv(3, 8), nn.ConvTranspose2d(8, 6, 2, stride=2), conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.t(self.a(x).relu()).relu())


class Scaled(nn.Module):
    """A bare parameter that multiplies channels, as layer scale does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gamma = conv(3, 8), conv(8, 2), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.gamma)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.b(self.a(x).relu())
        return {"features": features, "out": self.c(features)}


class Auxiliary(nn.Module):
    """A head that works in training only, yet reads channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux, self.unused = conv(3, 8), conv(8, 2), conv(8, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(x).relu()
        return (self.b(x), self.aux(x)) if self.training else self.b(x)


class Rolled(nn.Module):
    """torch.roll over channels has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = conv(3, 8), conv(8, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.roll(self.mix(self.a(x).relu()), 1, 1))


class BuiltInSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y.reshape(y.shape[0], 2, 4, *y.shape[2:]).flatten(1, 2))


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y) if y.mean() > 0 else self.b(-y)


EXACT = [
    Chain, Residual, Concat, Chunk, DepthwiseFlatten, Grouped, SqueezeExcite, Transposed, Scaled, TwoOutputs, Auxiliary,
    Rolled,
]  # fmt: skip
