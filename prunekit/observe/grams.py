"""Gram matrices: the second moments of what a layer reads, all that least squares needs to know about the data.

    G = sum over sampled outputs of x x^T,   x = the D inputs one output is computed from, and a one for the bias

A layer's output is W x, so for any other weights W': sum ||W x - W' x||^2 = tr (W - W') G (W - W')^T.
The matrix takes 8 D^2 bytes: 170 MB for 512 channels read by a 3x3, 2.7 GB for 2048. Beside it only ROWS samples of a
layer are held: they are gathered over batches and added at once, since a product of few rows is spent on reading the
matrix.
Legend: C input channels, P = kernel positions, D = C P + 1 (channel by channel, the one last), S sampled outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.core import Groups
from prunekit.errors import InputError, ScoreError
from prunekit.observe.maps import layer_of
from prunekit.observe.passes import Batches, pairs, still
from prunekit.observe.units import known_state

ROWS = 1024  # samples of a layer that wait to be added


def grams(
    model: nn.Module,
    groups: Groups,
    layers: Iterable[str],
    batches: Batches | None,
    *,
    method: str,
    samples: int = 64,
    first: int = 0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The Gram matrix of each named weight's layer: weight name -> (D, D) float64, on the CPU.

    samples: outputs (pixels, tokens) of each image, at places drawn at random once for each batch and layer: images of
    one batch share them, so many small batches see more places than a large one. first: so many of them are a linear
    layer's first tokens, in every image (1: a transformer's class token). Raises ScoreError, in the name of `method`,
    without data, for layers that `readable` refuses, and for inputs that are not finite, InputError for samples or
    first that are no counts.
    """
    check_samples(samples, first)
    known_state(model, groups, groups)
    sums: dict[str, _Sum] = {}
    draw = torch.Generator().manual_seed(seed)
    handles, wanted = [], list(layers)
    try:
        for name in wanted:
            layer = layer_of(model, name)
            if not readable(layer):
                raise ScoreError(f"'{name}' is no plain convolution or linear layer; leave out the groups it reads.")
            assert layer is not None
            handles.append(layer.register_forward_pre_hook(_add_to(sums, name, samples, first, draw)))
        with still(model, groups, wanted), torch.no_grad():
            for x, _ in pairs(batches, model, method):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor] = {}
    for name in wanted:
        if name not in sums:
            raise ScoreError(f"'{name}' did not run on this data; leave out the groups it reads: groups.only([...]).")
        found[name] = sums.pop(name).total()
        if not torch.isfinite(found[name]).all():
            raise ScoreError(f"what '{name}' reads holds nan or inf: are there such inputs or weights?")
    return found


def check_samples(samples: int, first: int = 0) -> None:
    """InputError unless they are whole numbers, samples from 1 on and first from 0 on."""
    if type(samples) is not int or type(first) is not int or samples < 1 or first < 0:
        raise InputError(f"samples and first are whole numbers from 1 and 0 on, got {samples!r} and {first!r}.")


def readable(layer: nn.Module | None) -> bool:
    """Whether the layer's output is W x for one small matrix: linear, or a 2-D convolution that is not grouped."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


class _Sum:
    """x^T x of rows that come a few at a time, float64, where the rows are."""

    def __init__(self) -> None:
        self.gram_DD: Tensor | None = None
        self.waiting: list[Tensor] = []

    def add(self, x_SD: Tensor) -> None:
        self.waiting.append(x_SD)
        if sum(map(len, self.waiting)) >= ROWS:
            self.settle()

    def settle(self) -> None:
        x_SD = F.pad(torch.cat(self.waiting).double(), (0, 1), value=1.0)
        self.waiting = []
        if self.gram_DD is None:
            self.gram_DD = x_SD.T @ x_SD
        else:
            self.gram_DD.addmm_(x_SD.T, x_SD)

    def total(self) -> Tensor:
        if self.waiting:
            self.settle()
        assert self.gram_DD is not None
        return self.gram_DD.cpu()


def _add_to(sums: dict[str, _Sum], name: str, samples: int, first: int, draw: torch.Generator) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
        sums.setdefault(name, _Sum()).add(patches(layer, args[0], samples, draw, first=first))

    return hook


def patches(layer: nn.Module, x: Tensor, samples: int, draw: torch.Generator, *, first: int = 0) -> Tensor:
    """(S, C P): what `samples` outputs of each image are computed from, at places that the images share."""
    if isinstance(layer, nn.Linear):
        tokens_BNC = x.reshape(len(x), -1, x.shape[-1]) if x.ndim > 2 else x[:, None]
        return _sampled(tokens_BNC.movedim(1, -1), samples, draw, first)
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x_BCHW = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    (high, wide), (down, right), (step_y, step_x) = layer.kernel_size, layer.stride, layer.dilation
    rows = (x_BCHW.shape[2] - step_y * (high - 1) - 1) // down + 1
    columns = (x_BCHW.shape[3] - step_x * (wide - 1) - 1) // right + 1
    b, c, h, w = x_BCHW.stride()
    view = x_BCHW.as_strided(  # no copy: which pixel each kernel position of each output meets
        (*x_BCHW.shape[:2], high, wide, rows, columns), (b, c, step_y * h, step_x * w, down * h, right * w)
    )
    return _sampled(view, samples, draw)


def _sampled(x: Tensor, samples: int, draw: torch.Generator, first: int = 0) -> Tensor:
    """(B, C, ..., places) -> (B samples, C ...); the same places in each image of the batch."""
    sizes = x.shape[-2:] if x.ndim == 6 else x.shape[-1:]
    total = sizes.numel()
    drawn = torch.randperm(total, generator=draw)
    if first:
        drawn = torch.cat([torch.arange(min(first, total)), drawn[drawn >= first]])
    chosen = drawn[:samples].to(x.device)
    picked = x[..., chosen // sizes[-1], chosen % sizes[-1]] if len(sizes) == 2 else x[..., chosen]
    return picked.movedim(-1, 1).flatten(0, 1).flatten(1)
