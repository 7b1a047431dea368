"""Training: the loop against a loop written by hand, the order of batches, and what happens when a run dies."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from prunekit.errors import CheckpointError, DataError, InputError, TrainingError
from prunekit.train import TrainConfig, class_weights, finetune, lr_at, segmentation_loss, valid_labels
from prunekit.train.batches import Share, batches, dice
from prunekit.train.config import make_optimizer

K = 4


class Noisy(Dataset):
    """20 images whose pixels are disturbed on every read by all three kinds of dice; pixels ignored unevenly."""

    def __init__(self, noise: float = 0.1, n: int = 20) -> None:
        g = torch.Generator().manual_seed(7)
        self.x = torch.randn(n, 3, 6, 6, generator=g)
        self.y = (self.x[:, 0] > 0).long() + 2 * (self.x[:, 1] > 0).long()
        for i in range(n):
            self.y[i, : i % 5] = 255
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        jitter = torch.randn(3, 1, 1) + random.random() + float(np.random.rand())  # noqa: NPY002
        return self.x[i] + self.noise * jitter, self.y[i]


def _net(norm: bool = True, dropout: float = 0.2, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.BatchNorm2d(8)] if norm else []
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(8, K, 1))


def _plain() -> nn.Sequential:
    return _net(norm=False, dropout=0.0)


def _loader(noise: float = 0.1, batch_size: int = 6, **kwargs) -> DataLoader:
    return DataLoader(Noisy(noise), batch_size=batch_size, shuffle=kwargs.pop("shuffle", True), **kwargs)


def _config(steps: int = 8, **kwargs) -> TrainConfig:
    return TrainConfig(steps, **{"lr": 0.1, "quiet": True, "device": "cpu", **kwargs})


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def _gap(a: nn.Module, b: nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


# --- settings and schedules


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("steps", 1.5), ("steps", True), ("lr", 0.0), ("lr", float("nan")), ("lr", "fast"),
        ("optimizer", "adam"), ("schedule", "step"), ("mixed_precision", "fp8"), ("device", "tpu"),
        ("momentum", 1.0), ("weight_decay", -1e-4), ("warmup", 10), ("warmup", -1), ("accumulate", 0),
        ("clip_norm", 0.0), ("ema", 1.0), ("save_every", 0), ("seed", -1),
    ],
)  # fmt: skip
def test_config_refuses_and_names_the_field(field, value):
    with pytest.raises(InputError, match=rf"TrainConfig\.{field} is"):
        TrainConfig(**{"steps": 10, field: value})


def test_schedules_are_the_published_formulas():
    poly, cosine = TrainConfig(100, 0.2, schedule="poly"), TrainConfig(100, 0.2, schedule="cosine")
    assert [lr_at(poly, s) for s in (0, 50, 99)] == pytest.approx([0.2, 0.2 * 0.5**0.9, 0.2 * 0.01**0.9])
    assert [lr_at(cosine, s) for s in (0, 25, 50)] == pytest.approx([0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1])
    assert {lr_at(TrainConfig(100, 0.2, schedule="constant"), s) for s in range(100)} == {0.2}
    assert lr_at(TrainConfig(100, 0.2, schedule="linear"), 75) == pytest.approx(0.05)


def test_warmup_rises_to_lr_then_the_schedule_starts():
    config = TrainConfig(30, 0.4, schedule="cosine", warmup=4)
    assert [lr_at(config, s) for s in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert lr_at(config, 17) == pytest.approx(0.2)  # half of the 26 steps that remain


def test_norms_and_biases_can_be_spared_from_decay():
    model = _net()
    (everything,) = make_optimizer(model, _config(weight_decay=0.3)).param_groups
    assert everything["weight_decay"] == 0.3 and len(everything["params"]) == 6
    decayed, spared = make_optimizer(model, _config(weight_decay=0.3, decay_norm=False)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 4] and decayed["weight_decay"] == 0.3
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1] and spared["weight_decay"] == 0.0
    with pytest.raises(InputError, match="requires_grad_"):
        make_optimizer(model.requires_grad_(False), _config())


# --- the loss


def test_segmentation_loss_equals_cross_entropy():
    x, y = torch.randn(2, K, 5, 5), torch.randint(0, K, (2, 5, 5))
    y[0, :2] = 255
    plain = F.cross_entropy(x, y, ignore_index=255)
    torch.testing.assert_close(segmentation_loss(x, y), plain)
    aux = torch.randn(2, K, 5, 5)
    both = plain + 0.25 * F.cross_entropy(aux, y, ignore_index=255)
    torch.testing.assert_close(segmentation_loss({"out": x, "aux": aux}, y, aux_weight=0.25), both)
    torch.testing.assert_close(segmentation_loss({"out": x}, y.to(torch.uint8)), plain)
    torch.testing.assert_close(segmentation_loss(x, y.masked_fill(y == 255, 9), ignore=9), plain)


def test_every_auxiliary_output_counts():
    """BiSeNet's loss is the plain sum over its three heads; one that is left out would never learn."""
    y = torch.randint(0, K, (2, 8, 8))
    y[0, :4] = 255
    maps = {name: torch.randn(2, K, 8 // n, 8 // n) for name, n in (("out", 1), ("aux", 1), ("aux_deep", 2))}
    up = [F.interpolate(x, (8, 8), mode="bilinear") for x in maps.values()]
    expected = sum(F.cross_entropy(x, y, ignore_index=255) for x in up)
    torch.testing.assert_close(segmentation_loss(maps, y, aux_weight=1.0), expected)
    maps["aux_deep"].requires_grad_()
    segmentation_loss(maps, y).backward()
    assert maps["aux_deep"].grad is not None and maps["aux_deep"].grad.abs().sum() > 0
    torch.testing.assert_close(segmentation_loss(maps, y, aux_weight=0.0), segmentation_loss(maps["out"], y))


@pytest.mark.parametrize(
    "other", [torch.randn(2, 7, 4, 4), torch.randn(2, K), ["names"]], ids=["features", "labels", "list"]
)
def test_an_output_that_is_no_logits_is_not_summed(other):
    with pytest.raises(DataError, match="output 'extra' is .* pass your own loss_fn"):
        segmentation_loss({"out": torch.randn(2, K, 4, 4), "extra": other}, torch.zeros(2, 4, 4, dtype=torch.long))


def test_segmentation_loss_upsamples_low_resolution():
    x, y = torch.randn(1, K, 4, 4), torch.randint(0, K, (1, 8, 8))
    up = F.interpolate(x, (8, 8), mode="bilinear")
    torch.testing.assert_close(segmentation_loss(x, y), F.cross_entropy(up, y))


def test_class_weights_make_rare_classes_count():
    x, y = torch.randn(2, K, 5, 5), torch.randint(0, K - 1, (2, 5, 5))
    y[0, :2] = 255
    pixels_K = torch.bincount(y[y != 255], minlength=K)
    weight_K = class_weights(pixels_K)
    share_K = pixels_K / pixels_K.sum()
    assert (weight_K * share_K).sum() == pytest.approx(1) and weight_K[K - 1] == 0
    torch.testing.assert_close(weight_K[1] / weight_K[0], (share_K[0] / share_K[1]).sqrt())
    each = F.cross_entropy(x, y, reduction="none", ignore_index=255)
    expected = (each * weight_K[y.clamp(max=K - 1)])[y != 255].mean()
    torch.testing.assert_close(segmentation_loss(x, y, class_weight=weight_K), expected)
    with pytest.raises(InputError, match="one factor for each"):
        segmentation_loss(x, y, class_weight=weight_K[:2])


def test_a_batch_without_labels_gives_zero_and_no_nan():
    x = torch.randn(2, K, 3, 3, requires_grad=True)
    loss = segmentation_loss({"out": x, "aux": x}, torch.full((2, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))
    assert F.cross_entropy(x, torch.full((2, 3, 3), 255), ignore_index=255).isnan()  # what it would have been


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(1, K, 3, 3), torch.full((1, 3, 3), K), f"label {K} .*outside 0..{K - 1}.*ignore={K}"),
        (torch.zeros(1, K, 3, 3), torch.full((1, 3, 3), -1), "label -1"),
        (torch.zeros(1, K, 3, 3), torch.zeros(1, 3, 3), r"class numbers \(B, H, W\)"),
        (torch.zeros(1, K, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.long), r"class numbers \(B, H, W\)"),
        (torch.zeros(2, K, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long), "do not fit"),
    ],
)
def test_masks_that_do_not_fit(logits, target, message):
    with pytest.raises(DataError, match=message):
        segmentation_loss(logits, target)


def test_valid_labels_counts_what_a_mean_is_over():
    mask = torch.tensor([[[0, 255, 3, -100]]])
    assert valid_labels(mask) == 2 and valid_labels(mask.clamp(min=0).to(torch.uint8)) == 3
    assert valid_labels(torch.tensor([255, 3, -100])) == 2  # 255 is a class of ImageNet
    assert valid_labels(torch.rand(5, 7)) == 5 and valid_labels([{"boxes": 1}, {}]) == 2
    with pytest.raises(InputError, match="pass count="):
        valid_labels({"a": 1})


# --- the order of batches


def _numbers(loader, span=range(10), share=None, seed=0) -> list[list[int]]:
    return [x.tolist() for x, _ in batches(loader, seed, span, share or Share())]


def _counting(n: int = 10, batch_size: int = 4, **kwargs) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(n), torch.arange(n)), batch_size=batch_size, **kwargs)


def test_every_sample_once_an_epoch_and_every_batch_full():
    rows = _numbers(_counting(shuffle=True))
    assert all(len(row) == 4 for row in rows)
    flat = [*chain(*rows)]
    epochs = [flat[i : i + 10] for i in (0, 10, 20, 30)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4  # shuffled anew
    assert _numbers(_counting(shuffle=True)) == rows and _numbers(_counting(shuffle=True), seed=1) != rows
    assert [*chain(*_numbers(_counting()))][:20] == [*range(10), *range(10)]  # the loader's own order is kept


class Rows(IterableDataset):
    def __iter__(self):
        return ((torch.tensor(i), torch.tensor(i)) for i in torch.randperm(10).tolist())


def _weighted() -> DataLoader:
    return _counting(sampler=WeightedRandomSampler([1.0, 9.0] * 5, 10, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _counting(shuffle=True),
        lambda: _counting(n=3, shuffle=True),
        lambda: _counting(shuffle=True, generator=torch.Generator().manual_seed(1)),
        _weighted,
        lambda: [(torch.tensor([i]), torch.tensor([i])) for i in range(3)],
        lambda: DataLoader(Rows(), batch_size=4),
        lambda: DataLoader(_counting().dataset, batch_sampler=BatchSampler(RandomSampler(range(10)), 4, False)),
    ],
    ids=["shuffle", "small", "generator", "weighted", "list", "iterable", "batch_sampler"],
)
def test_any_source_can_be_resumed_and_repeated(make):
    whole = _numbers(make())
    torch.rand(3)  # the caller's dice do not matter
    assert _numbers(make(), range(6, 10)) == whole[6:]
    assert _numbers(make(), range(9, 10)) == whole[9:]


def test_the_loaders_own_generator_is_left_alone():
    g = torch.Generator().manual_seed(5)
    before = g.get_state()
    _numbers(_counting(shuffle=True, generator=g))
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("make", [lambda: _counting(shuffle=True), lambda: list(_counting(8))], ids=["samples", "list"])
def test_processes_share_the_same_batches(make):
    whole = _numbers(make())
    shares = [_numbers(make(), share=Share(r, 3)) for r in range(3)]
    for row, *parts in zip(whole, *shares, strict=True):
        assert sorted(chain(*parts)) == sorted(row) and all(parts)


def test_random_augmentation_depends_on_neither_workers_nor_processes():
    def images(share=None, **kwargs):
        torch.manual_seed(random.randrange(99))
        return [x for x, _ in batches(_loader(**kwargs), 0, range(5), share or Share())]

    alone = images()
    for a, b in zip(alone, images(num_workers=2), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(alone, images(Share(1, 2)), strict=True):
        assert torch.equal(a[1::2], b)
    assert not torch.equal(alone[0], torch.stack([Noisy(0).x[i] for i in range(6)]))
    twice = [x for x, _ in batches(DataLoader(Noisy(), batch_size=20), 0, range(2), Share())]
    assert not torch.equal(twice[0], twice[1])  # another epoch, other dice


def test_dice_give_the_callers_state_back():
    def state():
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = state()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    with dice("a", 1):
        first = state()
    assert state() == expected and first != expected
    with dice("a", 1):
        assert state() == first
    with dice("a", 2):
        assert state() != first


class Sizes(Dataset):
    """Four pictures of two sizes."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i):
        return torch.zeros(3, 8 + 4 * (i % 2), 8), torch.zeros(8 + 4 * (i % 2), 8).long()


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0)), batch_size=2), "empty"),
        ([], "empty"),
        (((torch.zeros(1, 3, 6, 6), torch.zeros(1)) for _ in range(3)), "read once only"),
        ([{"image": 1}], r"gives a dict per batch; \(input, target\)"),
        ([(1, 2, 3)], "tuple of 3"),
        (DataLoader(Sizes(), 2), r"2 sizes, \(3, 8, 8\), \(3, 12, 8\), make no batch: crop or resize"),
        (DataLoader(Sizes(), 2, num_workers=1), r"2 sizes, \(3, 8, 8\), \(3, 12, 8\), make no batch: crop or resize"),
        (DataLoader(Sizes(), batch_sampler=[[0, 1]]), "2 sizes"),
    ],
)
def test_bad_loaders(loader, message):
    with pytest.raises(DataError, match=message):
        finetune(_net(), loader, _config(), loss_fn=lambda out, y: out.sum())


def test_loaders_that_cannot_be_shared():
    sharded = _counting(sampler=DistributedSampler(range(10), num_replicas=2, rank=0))
    with pytest.raises(InputError, match="shuffle=True"):
        _numbers(sharded)
    with pytest.raises(InputError, match="batch of 4 cannot be split over 5"):
        _numbers(_counting(), share=Share(0, 5))
    with pytest.raises(DataError, match="batch of 1 cannot be split over 2"):
        _numbers([(torch.zeros(1), torch.zeros(1))], share=Share(0, 2))


# --- the loop


def test_equals_a_loop_written_by_hand():
    net, loader, config = _net(dropout=0.0), _loader(0.0, shuffle=False, batch_size=5), _config(8, weight_decay=1e-3)
    trained = finetune(net, loader, config)
    hand = _net(dropout=0.0).train()
    optimizer = torch.optim.SGD(hand.parameters(), 1.0, momentum=0.9, weight_decay=1e-3)
    losses = []
    for step, (x, y) in enumerate([*loader, *loader]):  # 20 images: an epoch is 4 steps
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 8) ** 0.9
        loss = F.cross_entropy(hand(x), y, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert _gap(trained.model, hand) < 1e-6
    torch.testing.assert_close(trained.model[1].running_var, hand[1].running_var)
    assert [s.loss for s in trained.history] == pytest.approx(losses, rel=1e-5)
    assert [s.lr for s in trained.history] == [lr_at(config, s) for s in range(8)]
    assert [s.step for s in trained.history] == list(range(8))


def test_the_users_model_is_untouched_and_the_new_one_is_ordinary():
    net = _net().train()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)  # a leftover that must not be trained on
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trained = finetune(net, _loader(), _config(mixed_precision="bf16")).model
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and not net[1].training and net[0].weight.grad is not None
    assert type(trained) is type(net) and not trained.training and "forward" not in vars(trained)
    assert trained[0].weight.grad is None and trained[0].weight.dtype == torch.float32
    assert _gap(trained, net) > 0.01
    clean = _net().train()
    clean[1].eval()
    assert _same(finetune(clean, _loader(), _config(mixed_precision="bf16")).model, trained)


def test_it_learns():
    history = finetune(_net(), _loader(), _config(60)).history
    first, last = (sum(s.loss for s in part) / 5 for part in (history[:5], history[-5:]))
    assert last < 0.7 * first


def test_repeatable_and_leaves_the_callers_dice_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    net = _net()
    torch.manual_seed(3)
    one = finetune(net, _loader(), _config())
    assert torch.equal(torch.rand(2), expected)
    two = finetune(net, _loader(), _config())
    assert _same(one.model, two.model) and one.history == two.history
    assert not _same(one.model, finetune(net, _loader(), _config(seed=1)).model)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_micro_batches_equal_one_big_batch(kind: str):
    if kind == "segmentation":
        net, data, loss_fn = _plain(), Noisy(0.0), segmentation_loss
    else:
        net, loss_fn = nn.Sequential(nn.Flatten(), _seeded(nn.Linear, 108, 3)), F.cross_entropy
        labels = torch.arange(20) % 3
        labels[[2, 3, 7]] = -100  # one micro-batch without a label
        data = TensorDataset(Noisy().x, labels)
    big = finetune(net, DataLoader(data, batch_size=8), _config(4), loss_fn=loss_fn)
    small = finetune(net, DataLoader(data, batch_size=2), _config(4, accumulate=4), loss_fn=loss_fn)
    assert _gap(big.model, small.model) < 1e-6
    assert [s.loss for s in big.history] == pytest.approx([s.loss for s in small.history], rel=1e-5)
    means = finetune(
        net,
        DataLoader(data, batch_size=2),
        _config(4, accumulate=4),
        loss_fn=loss_fn,
        count=lambda y: int(valid_labels(y) > 0),
    )
    assert _gap(big.model, means.model) > 1e-4  # the mean of means is another thing


def _seeded(make, *args) -> nn.Module:
    torch.manual_seed(0)
    return make(*args)


def test_penalty_is_added_once_a_step():
    net, config = _plain(), _config(1, momentum=0.0, weight_decay=0.0, accumulate=2)

    def penalty(model: nn.Module) -> torch.Tensor:
        return 0.5 * model[0].weight.abs().sum()

    plain = finetune(net, _loader(0.0), config)
    sparse = finetune(net, _loader(0.0), config, penalty=penalty)
    pulled = plain.model[0].weight - 0.1 * 0.5 * net[0].weight.sign()
    torch.testing.assert_close(sparse.model[0].weight, pulled)
    assert sparse.history[0].loss == pytest.approx(plain.history[0].loss + penalty(net).item(), rel=1e-5)


def test_a_penalty_of_what_the_forward_pass_made_is_that_of_one_big_batch():
    """As gates are: it has a graph of its own in every micro-batch."""
    net, made = _plain(), []

    def penalty(model: nn.Module) -> torch.Tensor:
        return 0.5 * made.pop().abs().mean()

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            y = self.net(x)
            made.append(y)
            return y

    data = Noisy(0.0)
    big = finetune(Keeps(), DataLoader(data, batch_size=8), _config(4), penalty=penalty)
    small = finetune(Keeps(), DataLoader(data, batch_size=2), _config(4, accumulate=4), penalty=penalty)
    assert made == [] and _gap(big.model, small.model) < 1e-6
    assert [s.loss for s in big.history] == pytest.approx([s.loss for s in small.history], rel=1e-5)
    assert _gap(big.model, finetune(Keeps(), DataLoader(data, batch_size=8), _config(4)).model) > 1e-4


def test_clip_norm_bounds_the_step():
    config = _config(1, momentum=0.0, weight_decay=0.0, clip_norm=0.01)
    moved = finetune(_plain(), _loader(), config).model
    pairs = zip(moved.parameters(), _plain().parameters(), strict=True)
    length = math.sqrt(sum((a - b).square().sum().item() for a, b in pairs))
    assert length == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_ema_is_the_average_of_the_visited_weights():
    visited, stats = [], []

    def look(step, model):
        visited.append(model[0].weight.detach().clone())
        stats.append(model[1].running_mean.clone())

    net = _net()
    trained = finetune(net, _loader(), _config(12, ema=0.5), on_step=look).model
    mean, mean_stats = net[0].weight.detach().clone(), net[1].running_mean.clone()
    for n, (weight, stat) in enumerate(zip(visited, stats, strict=True)):
        decay = min(0.5, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * weight
        mean_stats = decay * mean_stats + (1 - decay) * stat
    torch.testing.assert_close(trained[0].weight, mean)
    torch.testing.assert_close(trained[1].running_mean, mean_stats)
    assert trained[1].num_batches_tracked == 12
    assert not torch.allclose(mean, visited[-1])  # and it is not the last


def test_ema_returns_the_extra_state_that_training_left():
    class Counts(nn.Module):
        """How many forward passes it has seen, stored with the weights but in no tensor of the network."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.passes = _plain(), 0

        def forward(self, x):
            self.passes += 1
            return self.net(x)

        def get_extra_state(self) -> torch.Tensor:
            return torch.tensor(self.passes)

        def set_extra_state(self, state: torch.Tensor) -> None:
            self.passes = int(state)

    trained = finetune(Counts(), _loader(), _config(3, ema=0.5)).model
    assert trained.passes == 3 and not _same(trained, finetune(Counts(), _loader(), _config(3)).model)


def test_freeze_bn_keeps_statistics_but_trains_the_affine():
    net = _net()
    frozen, free = (finetune(net, _loader(), _config(freeze_bn=f)).model for f in (True, False))
    assert torch.equal(frozen[1].running_mean, net[1].running_mean) and not torch.equal(frozen[1].weight, net[1].weight)
    assert not torch.equal(free[1].running_mean, net[1].running_mean)


def test_precisions_can_follow_one_another():
    full = finetune(_net(), _loader(), _config())
    half = finetune(_net(), _loader(), _config(mixed_precision="bf16"))
    assert _same(finetune(_net(), _loader(), _config()).model, full.model)
    assert 0 < _gap(full.model, half.model) < 0.05
    with pytest.raises(InputError, match="fp16.*needs a GPU"):
        finetune(_net(), _loader(), _config(mixed_precision="fp16"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step(value: float):
    data = Noisy(0.0)
    data.x[13] = value
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 2 \(lr"):
        finetune(_plain(), DataLoader(data, batch_size=5), _config(), loss_fn=lambda o, y: (o * o).mean())


def test_errors_in_data_and_loss():
    data = Noisy()
    data.y[3, 5, 5] = 77
    with pytest.raises(DataError, match="label 77"):
        finetune(_net(), DataLoader(data, batch_size=20), _config())
    with pytest.raises(InputError, match="one number"):
        finetune(_net(), _loader(), _config(), loss_fn=partial(F.cross_entropy, reduction="none", ignore_index=255))


def test_quiet_silences_the_bar(capfd):
    finetune(_net(), _loader(), _config(2, quiet=False))
    assert "finetune" in capfd.readouterr().err
    finetune(_net(), _loader(), _config(2))
    assert capfd.readouterr().err == ""


# --- checkpoints


class Stop(Exception):
    pass


def _stop_at(step: int, error: type[BaseException] = Stop):
    def on_step(record, model):
        if record.step == step:
            raise error

    return on_step


RICH = [
    {"optimizer": "sgd", "accumulate": 2, "schedule": "cosine"},
    {"optimizer": "adamw", "lr": 0.01, "ema": 0.8, "warmup": 3, "clip_norm": 1.0, "mixed_precision": "bf16"},
]


@pytest.mark.parametrize("settings", RICH, ids=["sgd", "adamw"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, settings: dict):
    net, config = _net(), _config(12, save_every=3, **settings)
    whole = finetune(net, _loader(), config)
    with pytest.raises(Stop):
        finetune(net, _loader(), config, checkpoint=tmp_path / "run", on_step=_stop_at(7))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["step-00000006"]
    seen = []
    resumed = finetune(net, _loader(), config, checkpoint=tmp_path / "run", on_step=lambda s, m: seen.append(s.step))
    assert seen == [6, 7, 8, 9, 10, 11]
    assert _same(resumed.model, whole.model) and resumed.history == whole.history
    again = finetune(net, _loader(), config, checkpoint=tmp_path / "run", on_step=_stop_at(11))  # nothing left to do
    assert _same(again.model, whole.model) and again.history == whole.history


def test_another_save_every_is_the_same_run(tmp_path: Path):
    with pytest.raises(Stop):
        finetune(_net(), _loader(), _config(save_every=2), checkpoint=tmp_path, on_step=_stop_at(4))
    resumed = finetune(_net(), _loader(), _config(save_every=3), checkpoint=str(tmp_path))
    assert _same(resumed.model, finetune(_net(), _loader(), _config()).model)


def test_tied_weights_can_be_saved(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)
            self.b = nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight
            self.head = nn.Conv2d(3, K, 1)

        def forward(self, x):
            return self.head(self.b(self.a(x)))

    net = _seeded(Tied)
    whole = finetune(net, _loader(), _config(ema=0.9))
    with pytest.raises(Stop):
        finetune(net, _loader(), _config(ema=0.9, save_every=2), checkpoint=tmp_path, on_step=_stop_at(4))
    resumed = finetune(net, _loader(), _config(ema=0.9), checkpoint=tmp_path)
    assert _same(resumed.model, whole.model) and resumed.model.a.weight is resumed.model.b.weight


@pytest.fixture
def half_way(tmp_path: Path) -> Path:
    """A folder with a run that stopped after step 4 of 8."""
    with pytest.raises(Stop):
        finetune(_net(), _loader(), _config(save_every=4, ema=0.9), checkpoint=tmp_path / "run", on_step=_stop_at(5))
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named(half_way: Path, name: str, harm: str):
    file = half_way / "step-00000004" / name
    data = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if harm == "truncate" else b"\xff" + data[1:])
    with pytest.raises(CheckpointError, match=rf"{name} (is|has).*delete .*step-00000004 to start over"):
        finetune(_net(), _loader(), _config(ema=0.9), checkpoint=half_way)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(format="other"), "format 'other'"),
        (lambda s: s.pop("history"), "no 'history'"),
        (lambda s: s["files"].pop("optimizer.safetensors"), "not whole"),
        (lambda s: s["history"]["lr"].pop(), "not whole"),
    ],
)
def test_a_foreign_state_is_refused(half_way: Path, change, message):
    file = half_way / "step-00000004" / "state.json"
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=message):
        finetune(_net(), _loader(), _config(ema=0.9), checkpoint=half_way)


@pytest.mark.parametrize(
    ("net", "loader", "change", "message"),
    [
        (_net(norm=False), _loader(), {}, r"another model: '3\.weight' is nothing there, \(4, 8, 1, 1\) here"),
        (_net(), _loader(), {"lr": 0.2}, r"written with lr=0\.1, now lr=0\.2"),
        (_net(), _loader(), {"steps": 9}, "steps=8, now steps=9"),
        (_net(), _loader(batch_size=5), {}, "batch_size=6, now batch_size=5"),
        (_net(), DataLoader(Noisy(n=19), 6, shuffle=True), {}, "samples=20, now samples=19"),
        (_net(seed=1), _loader(), {}, "started from other weights"),
    ],
    ids=["model", "lr", "steps", "batch", "samples", "start"],
)
def test_another_run_is_refused(half_way: Path, net, loader, change, message):
    config = replace(_config(save_every=4, ema=0.9), **change)
    with pytest.raises(CheckpointError, match=message):
        finetune(net, loader, config, checkpoint=half_way)


def test_other_start_weights_can_be_allowed_as_the_message_says(half_way: Path):
    file = half_way / "step-00000004" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "start": None}))
    resumed = finetune(_net(seed=1), _loader(), _config(ema=0.9), checkpoint=half_way)
    assert _same(resumed.model, finetune(_net(), _loader(), _config(ema=0.9)).model)


def test_folders_that_are_none(tmp_path: Path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        finetune(_net(), _loader(), _config(), checkpoint=file)
    with pytest.raises(CheckpointError, match=r"holds 'weights\.pt' but no checkpoint"):
        finetune(_net(), _loader(), _config(), checkpoint=tmp_path)


def test_a_full_disk_is_reported_and_the_old_checkpoint_stays(half_way: Path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*No space left"):
        finetune(_net(), _loader(), _config(ema=0.9), checkpoint=half_way)
    monkeypatch.undo()
    resumed = finetune(_net(), _loader(), _config(ema=0.9), checkpoint=half_way)
    assert _same(resumed.model, finetune(_net(), _loader(), _config(ema=0.9)).model)
    assert [p.name for p in half_way.iterdir()] == ["step-00000008"]  # no leftovers


def test_interrupt_saves_and_is_raised_again(tmp_path: Path):
    whole = finetune(_net(), _loader(), _config())
    with pytest.raises(KeyboardInterrupt):
        finetune(_net(), _loader(), _config(), checkpoint=tmp_path, on_step=_stop_at(2, KeyboardInterrupt))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]
    assert _same(finetune(_net(), _loader(), _config(), checkpoint=tmp_path).model, whole.model)


def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path: Path):
    calls = []

    def loss_fn(output, target):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)  # batch-norm statistics of this step are already counted
        return segmentation_loss(output, target)

    with pytest.raises(KeyboardInterrupt):
        finetune(_net(), _loader(), _config(), checkpoint=tmp_path, loss_fn=loss_fn)
    assert len(calls) == 4 and [p.name for p in tmp_path.iterdir()] == ["step-00000004"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = finetune(_net(), _loader(), _config(), checkpoint=tmp_path)
    assert _same(resumed.model, finetune(_net(), _loader(), _config()).model)


KILL = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_train import RICH, _config, _loader, _net
assert "accelerate" not in sys.modules  # loaded by finetune, not by importing it
from prunekit.train import finetune

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

if {where!r} == "in a step":
    on_step = lambda record, model: kill() if record.step == 7 else None
else:
    on_step, rename = None, os.rename
    os.rename = lambda a, b: rename(a, b) if "00000003" in str(a) else kill()
config = _config(12, save_every=3, quiet=False, **RICH[1])
finetune(_net(), _loader(), config, checkpoint={folder!r}, on_step=on_step)
"""
KILLED = {"in a step": 6, "while it saves": 3}  # where -> the last whole checkpoint


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, tuple[Path, subprocess.CompletedProcess]]:
    """The folders that processes left which were killed at two places; both run at once."""
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "TQDM_DISABLE": "1"}
    started = {}
    for where in KILLED:
        folder = tmp_path_factory.mktemp("killed") / "run"
        script = KILL.format(tests=str(Path(__file__).parent), where=where, folder=str(folder))
        started[where] = folder, subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, env=env)
    ended = {}
    for where, (folder, process) in started.items():
        stderr = process.communicate()[1]
        ended[where] = folder, subprocess.CompletedProcess(process.args, process.returncode, stderr=stderr)
    return ended


@pytest.mark.parametrize("where", KILLED)
def test_a_killed_process_resumes_bit_for_bit(killed, where: str):
    folder, died = killed[where]
    assert died.returncode == -signal.SIGKILL and died.stderr == b""  # TQDM_DISABLE=1 silenced the bar
    assert sorted(p.name for p in folder.glob("step-*")) == [f"step-{KILLED[where]:08d}"]
    config = _config(12, save_every=3, **RICH[1])
    resumed = finetune(_net(), _loader(), config, checkpoint=folder)
    whole = finetune(_net(), _loader(), config)
    assert _same(resumed.model, whole.model) and resumed.history == whole.history
    assert [p.name for p in folder.iterdir()] == ["step-00000012"]
