"""Criteria: seconds on the course's network, and CHIP and HRank at the papers' size against the plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prunekit.core import Groups
from prunekit.data.scenes import SceneDataset
from prunekit.methods import cap, chip, dcfp, depgraph, fpgm, hrank, l1, random, slimming, taylor, thinet
from prunekit.models.deeplab import deeplabv3
from prunekit.models.zoo import load
from prunekit.observe import see_maps
from prunekit.surgery import find_groups

IMAGES = 16
DATA = {m.__name__.split(".")[-1]: m.score for m in (taylor, hrank, chip, thinet, cap, dcfp)}
WEIGHTS = {m.__name__.split(".")[-1]: m.score for m in (random, l1, depgraph, fpgm, slimming)}


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The best of some rounds: what the code costs when nothing else runs."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture(scope="module")
def mini() -> tuple[nn.Module, Groups, list]:
    model = load("deeplabv3_mini")
    batches = list(DataLoader(SceneDataset(IMAGES), batch_size=8))
    return model, find_groups(model, torch.randn(1, 3, 64, 128)), batches


@pytest.mark.parametrize("name", [*WEIGHTS, *DATA])
def test_scoring_the_mini_deeplab(mini, name: str) -> None:
    model, groups, batches = mini
    work = partial(DATA[name], model, groups, batches) if name in DATA else partial(WEIGHTS[name], model, groups)
    took = seconds(work)
    print(f"{name}: {took:.2f} s" + (f" for {IMAGES} images" if name in DATA else ""))
    assert took <= (20 if name == "thinet" else 2)


@pytest.fixture(scope="module")
def big() -> dict[str, Tensor]:
    """What each group of a DeepLabV3 with ResNet-50 is read as, for one image of 257 x 257."""
    torch.manual_seed(0)
    model, x = deeplabv3(19).eval(), torch.randn(1, 3, 257, 257)
    maps: dict[str, Tensor] = {}
    see_maps(model, find_groups(model, x), [(x, 0)], lambda name, a: maps.__setitem__(name, a[0, :, 0]), method="bench")
    return maps


def plain_chip(rows_CN: Tensor, channels: Iterator[int]) -> Tensor:
    whole = torch.linalg.matrix_norm(rows_CN, "nuc")
    norms = []
    for channel in channels:
        without = rows_CN.clone()
        without[channel] = 0
        norms.append(whole - torch.linalg.matrix_norm(without, "nuc"))
    return torch.stack(norms)


def test_chip_against_the_loop(big: dict[str, Tensor]) -> None:
    """The loop is timed on a few channels of each width and multiplied: in full it would take hours."""
    ours = loop = 0.0
    priced: dict[tuple[int, int], tuple[float, float]] = {}
    for maps in big.values():
        rows = maps.flatten(1)
        key = (rows.shape[0], rows.shape[1])
        if key not in priced:
            few = range(1 if rows.shape[0] > 500 else 4)
            start = time.perf_counter()
            expected = plain_chip(rows, islice(few, None))  # type: ignore[arg-type]
            norms = len(few) + 1
            each = (time.perf_counter() - start) / norms
            found: list[Tensor] = []
            took = seconds(lambda rows=rows, found=found: found.append(chip.independence(rows[:, None])), rounds=1)
            torch.testing.assert_close(found[0][: len(few)].float(), expected, rtol=1e-2, atol=1e-2)
            priced[key] = each * (rows.shape[0] + 1), took
            print(f"CHIP, {key[0]} channels x {key[1]} pixels: loop {priced[key][0]:.0f} s, ours {took:.2f} s")
        loop, ours = loop + priced[key][0], ours + priced[key][1]
    print(
        f"CHIP at DeepLabV3-R50 size, one image: loop {loop:.0f} s (estimated), ours {ours:.1f} s, {loop / ours:.0f}x"
    )
    assert loop / ours > 50


def test_hrank_against_the_loop(big: dict[str, Tensor]) -> None:
    ours = loop = 0.0
    for maps in big.values():
        few = min(len(maps), 32)
        loop += (
            seconds(lambda maps=maps, few=few: [torch.linalg.matrix_rank(m) for m in maps[:few]], 1) * len(maps) / few
        )
        ours += seconds(lambda maps=maps: hrank.rank(maps[None]), 1)
    print(
        f"HRank at DeepLabV3-R50 size, one image: loop {loop:.1f} s (estimated), ours {ours:.1f} s, {loop / ours:.1f}x"
    )
    assert loop / ours > 1
