"""GSRL against the formula pixel by pixel, and its pieces."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from prunekit.data.crops import BalancedCrops
from prunekit.data.scenes import SceneDataset
from prunekit.errors import DataError, InputError
from prunekit.methods import dcfp
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.surgery import find_groups
from prunekit.train import TrainConfig, finetune, gsrl_loss
from prunekit.train.gsrl import class_weights_of_crops

K = 4


def batch() -> tuple[Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (2, 6, 7), generator=draw)
    mask[0, 2:4, 1:3], mask[:, 0, :3], mask[1, 5, 5] = 3, 255, 3
    return torch.randn(2, K, 6, 7, generator=draw), {"mask": mask, "drawn": torch.tensor([3, 1])}


def by_hand(logits: Tensor, target: dict[str, Tensor], window: int) -> float:
    images = []
    for z_KHW, mask, drawn in zip(logits.double(), target["mask"].tolist(), target["drawn"].tolist(), strict=True):
        height, width, reach = len(mask), len(mask[0]), window // 2
        count = {k: sum(row.count(k) for row in mask) for k in range(K)}
        mass = {k: 1 - 0.9999**n for k, n in count.items()}
        share = [[0.0 if k == 255 else min(1.0, mass[drawn] / mass[k]) for k in row] for row in mask]
        top = bottom = 0.0
        for y in range(height):
            for x in range(width):
                if mask[y][x] == 255:
                    continue
                p = z_KHW[:, y, x].softmax(0)
                first, second = p.sort(descending=True).values[:2].tolist()
                around = [
                    share[v][u]
                    for v in range(max(0, y - reach), min(height, y + reach + 1))
                    for u in range(max(0, x - reach), min(width, x + reach + 1))
                ]
                weight = max(around) * (1 + 9 * (1 - (first - second)))
                top += weight * -math.log(float(p[mask[y][x]]))
                bottom += weight
        images.append(top / (bottom + 1e-8))
    return sum(images) / len(images)


@pytest.mark.parametrize("window", [1, 3, 9])
def test_the_formula_written_out(window: int) -> None:
    logits, target = batch()
    assert gsrl_loss(logits, target, window=window).item() == pytest.approx(by_hand(logits, target, window), rel=1e-5)


def test_windows_differ_and_the_weights_carry_no_gradient() -> None:
    logits, target = batch()
    assert gsrl_loss(logits, target, window=1).item() != pytest.approx(gsrl_loss(logits, target).item(), rel=1e-4)
    logits.requires_grad_()
    gsrl_loss(logits, target, window=1).backward()
    weight = class_weights_of_crops(target["mask"], target["drawn"], K)
    best = logits.detach().softmax(1).topk(2, dim=1).values
    weight = weight * (1 + 9 * (1 - best[:, 0] + best[:, 1]))
    truth = torch.nn.functional.one_hot(target["mask"].clamp(max=K - 1), K).movedim(-1, 1)
    slope = (logits.detach().softmax(1) - truth) * (weight / (weight.sum((1, 2), keepdim=True) + 1e-8))[:, None] / 2
    torch.testing.assert_close(logits.grad, slope)


def test_frequent_classes_weigh_less_and_rarer_ones_are_clipped() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.long)
    mask[0, :10], mask[0, 10, :5], mask[0, 11] = 1, 2, 255
    weight = class_weights_of_crops(mask, torch.tensor([1]), K)[0]
    assert weight[0, 0] == weight[10, 0] == 1 and weight[11, 0] == 0  # drawn for, rarer, ignored
    assert weight[50, 50].item() == pytest.approx((1 - 0.9999**1000) / (1 - 0.9999**8895), rel=1e-6)


def test_the_auxiliary_head_shares_the_weights() -> None:
    logits, target = batch()
    half = torch.nn.functional.avg_pool2d(logits, 2, ceil_mode=True)
    whole = gsrl_loss({"out": logits, "aux": logits}, target, aux_weight=0.4)
    assert whole.item() == pytest.approx(1.4 * gsrl_loss(logits, target).item(), rel=1e-6)
    assert gsrl_loss({"out": logits, "aux": half}, target).isfinite()


def test_images_without_labels_give_nothing() -> None:
    logits, target = batch()
    logits.requires_grad_()
    loss = gsrl_loss(logits, {**target, "mask": torch.full_like(target["mask"], 255)})
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_bad_targets() -> None:
    logits, target = batch()
    with pytest.raises(DataError, match="BalancedCrops"):
        gsrl_loss(logits, target["mask"])
    with pytest.raises(InputError, match="window is 4; it must be odd"):
        gsrl_loss(logits, target, window=4)
    with pytest.raises(DataError, match="label 9"):
        gsrl_loss(logits, {**target, "mask": target["mask"].masked_fill(target["mask"] == 2, 9)})


def test_crops_train_and_score() -> None:
    crops = BalancedCrops(SceneDataset(3), (32, 48))
    loader = DataLoader(crops, batch_size=2, shuffle=True)
    torch.manual_seed(0)
    model = deeplabv3_mini()
    before = copy.deepcopy(model.state_dict())
    trained = finetune(model, loader, TrainConfig(2, quiet=True), loss_fn=gsrl_loss)
    assert all(math.isfinite(step.loss) for step in trained.history)
    groups = find_groups(model, torch.randn(1, 3, 64, 64))
    score = dcfp.score(trained.model, groups, list(loader)[:2], loss_fn=gsrl_loss)
    assert all(s.isfinite().all() for s in score.values())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
