"""From maps to redundancies: every metric against its definition, every resolution, odd maps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prunekit.errors import InputError, ScoreError
from prunekit.methods.sirfp.redundancy import pixels, probabilities, redundancy

X = torch.randn(3, 6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # (B, U, P)
measure = partial(redundancy, metric="js", normalize_map="softmax", tolerance=0.0)


def kl(p: Tensor, q: Tensor) -> float:
    return float((p * (p / q).log()).sum())


def test_js_is_the_mean_over_the_images() -> None:
    each = torch.stack([measure(image[None]) for image in X])
    torch.testing.assert_close(measure(X), each.mean(0))
    p, q = X[0, 1].softmax(0), X[0, 4].softmax(0)
    by_hand = math.log(2) - (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    assert float(each[0, 1, 4]) == pytest.approx(by_hand)


def test_the_other_metrics_are_their_definitions() -> None:
    p, q = (probabilities(X, "softmax")[u] for u in (1, 4))
    assert float(measure(X, metric="kl")[1, 4]) == pytest.approx(math.exp(-(kl(p, q) + kl(q, p)) / 2))
    assert float(measure(X, metric="dice")[1, 4]) == pytest.approx(float(2 * p @ q / (p @ p + q @ q)))
    x, y = (X[:, u].flatten() for u in (1, 4))
    dot = float((x / x.abs().mean() * y / y.abs().mean()).mean())
    assert float(measure(X, metric="dot")[1, 4]) == pytest.approx(dot)
    for name in ("js", "kl", "dice"):
        r_UU = measure(X, metric=name)
        assert torch.equal(r_UU, r_UU.T) or torch.allclose(r_UU, r_UU.T, atol=1e-12)
        assert float(r_UU.min()) >= 0 and float(r_UU.diagonal().min()) == pytest.approx(float(r_UU.max()))


def test_a_matrix_product_within_the_tolerance() -> None:
    for tolerance in (1e-2, 2e-4):
        error = float((measure(X, tolerance=tolerance) - measure(X)).abs().max())
        assert 0 < error <= tolerance


def test_softmax_calls_a_quiet_channel_redundant_and_sum_calls_it_unique() -> None:
    x = X.clone()
    x[:, 2] *= 1e-3
    loudness = {}
    for way in ("softmax", "sum"):
        loudness[way] = measure(x, normalize_map=way).fill_diagonal_(0).sum(1).argsort().tolist()
    assert loudness["softmax"][-1] == 2  # repeats the others the most
    assert torch.allclose(measure(x, normalize_map="sum"), measure(X, normalize_map="sum"))  # amplitude is forgotten


@pytest.mark.parametrize("normalize_map", ["softmax", "sum"])
@pytest.mark.parametrize("metric", ["js", "kl", "dice", "dot"])
def test_all_zero_maps_are_finite_and_js_calls_them_uniform(metric: str, normalize_map: str) -> None:
    x = X.clone()
    x[:, 2:4] = 0.0
    r_UU = measure(x, metric=metric, normalize_map=normalize_map)  # type: ignore[arg-type]
    assert torch.isfinite(r_UU).all()
    if metric == "js":
        assert float(r_UU[2, 3]) == pytest.approx(math.log(2))
        assert torch.allclose(probabilities(x, normalize_map)[2], torch.full((120,), 1 / 120).double())  # type: ignore[arg-type]


def test_resolutions() -> None:
    x = torch.randn(2, 3, 1, 8, 12)
    see = partial(pixels, "a", x)
    assert torch.equal(see("full"), x.flatten(2))
    assert torch.equal(see("half"), F.avg_pool2d(x[:, :, 0], 2).flatten(2))
    assert see("quarter").shape == (2, 3, 6) and see("twice").shape == (2, 3, 16 * 24)
    assert torch.equal(see("vector"), x.mean((2, 3, 4)).T[None])  # the two images are the pixels
    tokens = torch.randn(2, 3, 4, 10)  # heads: four maps of ten tokens side by side
    assert torch.equal(pixels("a", tokens, "full"), tokens.flatten(2))
    assert pixels("a", tokens, "vector").shape == (2, 3, 4)
    assert torch.equal(pixels("a", x[:, :, :, 0, 0], "full"), x[:, :, 0, 0, 0].T[None])
    assert pixels("a", x.half(), "full").dtype == torch.float32


def test_what_cannot_be_measured_is_named() -> None:
    x = torch.randn(2, 3, 1, 8, 12)
    with pytest.raises(ScoreError, match="'a' give no H x W maps; take resolution='full'"):
        pixels("a", x.flatten(3), "half")
    with pytest.raises(ScoreError, match="'a' gives one number an image: pass batches of two"):
        pixels("a", x[:1], "vector")
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ScoreError, match="'a' hold nan or inf"):
            pixels("a", torch.full((2, 3, 1, 4), bad), "full")
    with pytest.raises(InputError, match="resolution is .*got 'eighth'"):
        pixels("a", x, "eighth")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="metric is .*got 'cosine'"):
        measure(X, metric="cosine")
    with pytest.raises(InputError, match="normalize_map is .*got 'l2'"):
        measure(X, normalize_map="l2")
