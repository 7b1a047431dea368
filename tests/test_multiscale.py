"""Multi-scale testing against the mean written out, and what it must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from prunekit.errors import InputError
from prunekit.metrics import evaluate
from prunekit.multiscale import MultiScale


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)).eval()


def test_equals_the_mean_written_out() -> None:
    model, x = network(), torch.randn(2, 3, 12, 20)
    looks = []
    for size in ((6, 10), (12, 20), (18, 30)):
        for turn in (lambda t: t, lambda t: torch.flip(t, (3,))):
            small = turn(interpolate(x, size, mode="bilinear", align_corners=False))
            p = turn(model(small)).softmax(1)
            looks.append(interpolate(p, (12, 20), mode="bilinear", align_corners=False))
    torch.testing.assert_close(MultiScale(model, (0.5, 1.0, 1.5))(x), torch.stack(looks).mean(0))


def test_one_look_is_the_plain_network_and_mirrors_commute() -> None:
    model, x = network(), torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(MultiScale(model, (1.0,), flip=False)(x), model(x).softmax(1))
    both = MultiScale(model, (0.75, 1.0))
    torch.testing.assert_close(both(x.flip(3)), both(x).flip(3))
    assert not torch.allclose(MultiScale(model, (0.75, 1.0), flip=False)(x.flip(3)), both(x).flip(3))


def test_evaluate_takes_it_and_leaves_the_model_as_it_was() -> None:
    class Dictionary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network().train()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.body(x)}

    model = Dictionary()
    loader = [(torch.randn(2, 3, 8, 8), torch.randint(0, 4, (2, 16, 16)))]
    found = evaluate(MultiScale(model), loader, 4)
    assert 0 <= found.miou <= 1 and model.training and model.body.training
    for scales in ((), (0.0, 1.0)):
        with pytest.raises(InputError, match="give at least one factor"):
            MultiScale(model, scales)
