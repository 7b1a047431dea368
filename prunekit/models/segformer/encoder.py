"""MiT, SegFormer's encoder (Xie et al., arXiv 2105.15203): four stages of efficient attention, each on a smaller map.

A stage is an overlapping patch embedding, blocks of attention and Mix-FFN, and a norm. Keys and values come from a map
that a strided convolution made `reduction` times smaller; a depth-wise 3x3 inside the FFN takes the place of positional
embeddings.

Attention is written as two plain matrix products and a softmax, not scaled_dot_product_attention: its map is then a
tensor like any other, counted in MACs, exported as three standard ops, and never larger than tokens x reduced tokens.
Heads are read from `num_heads` alone and the softmax scale is fixed when a layer is built, so removing whole heads or
positions inside heads leaves the function of the rest unchanged.

Legend: B = images, C = channels, N = tokens = h w, M = tokens after reduction, n = heads, d = positions in a head,
H W = image or the map before, h w = a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from prunekit.errors import InputError


@dataclass(frozen=True)
class MiT:
    """The sizes of an encoder, one number a stage. norm_eps: of the norms in and after the blocks."""

    widths: tuple[int, ...] = (32, 64, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    patches: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    norm_eps: float = 1e-6


def to_tokens(x_BChw: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, N, C)"""
    return x_BChw.flatten(2).transpose(1, 2)


def to_map(x_BNC: Tensor, size: torch.Size) -> Tensor:
    """(B, N, C) -> (B, C, h, w); size = (h, w)"""
    return x_BNC.transpose(1, 2).unflatten(2, size)


class PatchEmbedding(nn.Module):
    """A strided convolution with overlapping windows, and a norm over each token."""

    def __init__(self, inputs: int, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, patch, stride, patch // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, torch.Size]:
        x_BChw = self.proj(x_BCHW)
        return self.norm(to_tokens(x_BChw)), x_BChw.shape[-2:]


class Attention(nn.Module):
    """Efficient self-attention: queries from all tokens, keys and values from a reduced map."""

    def __init__(self, width: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        if width % num_heads:
            raise InputError(f"a width of {width} cannot be split into {num_heads} heads; choose a multiple.")
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x_BNC: Tensor, size: torch.Size) -> Tensor:
        y_BMC = x_BNC
        if self.reduce is not None and self.norm is not None:
            y_BMC = self.norm(to_tokens(self.reduce(to_map(x_BNC, size))))
        q_BhNd, k_BhMd, v_BhMd = (
            self.heads(self.query(x_BNC)),
            self.heads(self.key(y_BMC)),
            self.heads(self.value(y_BMC)),
        )
        map_BhNM = (q_BhNd @ k_BhMd.transpose(-2, -1) * self.scale).softmax(-1)
        return self.project((map_BhNM @ v_BhMd).transpose(1, 2).flatten(2))

    def heads(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, n, N, d)"""
        return x_BNC.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Linear, depth-wise 3x3, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor, size: torch.Size) -> Tensor:
        return self.fc2(self.act(to_tokens(self.depthwise(to_map(self.fc1(x_BNC), size)))))


class Block(nn.Module):
    """Attention and Mix-FFN, each behind a norm and beside a shortcut."""

    def __init__(
        self, width: int, num_heads: int, reduction: int, hidden: int, drop_path: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, num_heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MixFFN(width, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x_BNC: Tensor, size: torch.Size) -> Tensor:
        x_BNC = x_BNC + self.drop_path(self.attention(self.norm1(x_BNC), size))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC), size))


class Stage(nn.Module):
    """From the map before to a smaller one."""

    def __init__(self, sizes: MiT, number: int, drop_paths: list[float]) -> None:
        super().__init__()
        inputs, width = (3, *sizes.widths)[number], sizes.widths[number]
        hidden = int(width * sizes.mlp_ratios[number])
        heads, reduction, eps = sizes.heads[number], sizes.reductions[number], sizes.norm_eps
        self.embed = PatchEmbedding(inputs, width, sizes.patches[number], sizes.strides[number])
        self.blocks = nn.ModuleList([Block(width, heads, reduction, hidden, drop, eps) for drop in drop_paths])
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC, size = self.embed(x_BCHW)
        for block in self.blocks:
            x_BNC = block(x_BNC, size)
        return to_map(self.norm(x_BNC), size)


class MixTransformer(nn.Module):
    """MiT. forward: (B, 3, H, W) -> one map a stage, fine to coarse. drop_path grows from 0 to its value with depth."""

    def __init__(self, sizes: MiT, *, drop_path: float = 0.1) -> None:
        super().__init__()
        self.channels = sizes.widths
        drops = iter(torch.linspace(0, drop_path, sum(sizes.depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            [Stage(sizes, i, [next(drops) for _ in range(depth)]) for i, depth in enumerate(sizes.depths)]
        )

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            maps.append(x_BCHW)
        return maps
