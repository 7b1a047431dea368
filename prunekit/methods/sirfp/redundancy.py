"""From feature maps to redundancies: how much each pair of a layer's channels says the same in the same places.

    normalize_map   "softmax": p = softmax over the pixels of the signed map; a quiet channel is nearly uniform
                    "sum":     p = |x| / sum |x|; amplitude is forgotten, so a quiet, noisy channel looks unique
    metric          "js":      r = log 2 - JS(p, q), in [0, log 2] (the paper's)
                    "kl":      r = exp(-(KL(p, q) + KL(q, p)) / 2), in [0, 1]
                    "dice":    r = 2 p.q / (p.p + q.q), in [0, 1]
                    "dot":     r = mean over pixels of x y, maps scaled to mean |x| = 1; signed
    resolution      "full" (the paper's), "quarter", "half", "twice": the sides of the map; "vector": its mean

The paper ablates kl, dice and dot (Table 9) without formulas; the ones above are our reading. A batch's maps stand side
by side as one long map; for js that is the mean over its images. Where a unit gives one number an image (resolution
"vector", a pooled branch) the batch's images take the place of the pixels.

Legend: B images, U units, K positions of a unit (a head has several: all its maps side by side), P pixels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.errors import InputError, ScoreError
from prunekit.methods.sirfp.jensen_shannon import exact, harmonics_for, spectral

Metric = Literal["js", "kl", "dice", "dot"]
Normalize = Literal["softmax", "sum"]
Resolution = Literal["vector", "quarter", "half", "full", "twice"]
SCALES: dict[str, float] = {"quarter": 0.25, "half": 0.5, "full": 1.0, "twice": 2.0}


def check_names(metric: str, normalize_map: str, resolution: str) -> None:
    """InputError with the choices there are."""
    given = (
        ("metric", metric, Metric),
        ("normalize_map", normalize_map, Normalize),
        ("resolution", resolution, Resolution),
    )
    for name, value, choices in given:
        if value not in get_args(choices):
            raise InputError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}; got {value!r}.")


def redundancy(x_BUP: Tensor, *, metric: Metric, normalize_map: Normalize, tolerance: float) -> Tensor:
    """r of all pairs of units, (U, U); the diagonal means nothing.

    tolerance: the error that js may have; 0 takes the exact way, 2e-4 a matrix product that is far faster.
    Raises InputError for another metric or normalize_map.
    """
    if metric == "dot":
        x_UP = x_BUP.movedim(0, 1).flatten(1)
        x_UP = x_UP / x_UP.abs().mean(1, keepdim=True).clamp_min(1e-30)
        return x_UP @ x_UP.T / x_UP.shape[1]
    p_UP = probabilities(x_BUP, normalize_map)
    if metric == "js":
        harmonics = harmonics_for(tolerance)
        return exact(p_UP) if harmonics is None else spectral(p_UP, harmonics)
    if metric == "kl":
        log_UP = p_UP.clamp_min(1e-30).log()
        cross_UU = p_UP @ log_UP.T
        own_U = cross_UU.diagonal()
        return torch.exp((cross_UU + cross_UU.T - own_U[:, None] - own_U) / 2)
    if metric == "dice":
        shared_UU = p_UP @ p_UP.T
        own_U = shared_UU.diagonal()
        return 2 * shared_UU / (own_U[:, None] + own_U)
    raise InputError(f"metric is 'js', 'kl', 'dice' or 'dot', got {metric!r}.")


def probabilities(x_BUP: Tensor, normalize_map: Normalize) -> Tensor:
    """Each unit's maps as one probability map over the batch, (U, B P); each image has 1 / B of it."""
    if normalize_map == "softmax":
        p_BUP = x_BUP.softmax(2)
    elif normalize_map == "sum":
        mass_BU1 = x_BUP.abs().sum(2, keepdim=True)
        p_BUP = torch.where(mass_BU1 > 0, x_BUP.abs() / mass_BU1, 1 / x_BUP.shape[2])  # an all-zero map is uniform
    else:
        raise InputError(f"normalize_map is 'softmax' or 'sum', got {normalize_map!r}.")
    return p_BUP.movedim(0, 1).flatten(1) / len(x_BUP)


def pixels(name: str, x_BUK: Tensor, resolution: Resolution) -> Tensor:
    """The maps of group `name` at a resolution, (B, U, P), P >= 2, in float32 at least.

    x_BUK: (B, U, K, ...). Raises ScoreError for maps that are not finite, for quarter, half and twice of what is no
    H x W map, and for a single image that gives one number; InputError for another resolution.
    """
    if not x_BUK.numel():
        raise ScoreError(f"'{name}' saw an empty batch, {tuple(x_BUK.shape)}: leave out batches without images.")
    if not torch.isfinite(x_BUK).all():
        raise ScoreError(f"the activations of '{name}' hold nan or inf: are there such inputs or weights?")
    x_BUK = x_BUK if x_BUK.dtype == torch.float64 else x_BUK.float()
    if resolution == "vector":
        x_BUK = x_BUK.flatten(3).mean(3) if x_BUK.ndim > 3 else x_BUK
    elif resolution not in SCALES:
        raise InputError(f"resolution is 'vector', 'quarter', 'half', 'full' or 'twice', got {resolution!r}.")
    elif resolution != "full":
        x_BUK = _resized(name, x_BUK, SCALES[resolution])
    x_BUP = x_BUK.flatten(2)
    if x_BUP.shape[2] > 1:
        return x_BUP
    if len(x_BUP) == 1:
        raise ScoreError(f"a unit of '{name}' gives one number an image: pass batches of two images or more.")
    return x_BUP.transpose(0, 2)  # one image, whose pixels are the batch's images


def _resized(name: str, x_BUK: Tensor, scale: float) -> Tensor:
    if x_BUK.ndim != 5:
        raise ScoreError(
            f"the units of '{name}' give no H x W maps; take resolution='full' or 'vector', or leave it out."
        )
    x_BCHW = x_BUK.flatten(1, 2)
    if scale > 1:
        return F.interpolate(x_BCHW, scale_factor=scale, mode="bilinear").unflatten(1, x_BUK.shape[1:3])
    height, width = (max(1, round(side * scale)) for side in x_BCHW.shape[2:])
    return F.adaptive_avg_pool2d(x_BCHW, (height, width)).unflatten(1, x_BUK.shape[1:3])
