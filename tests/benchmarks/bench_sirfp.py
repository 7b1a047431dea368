"""SIRFP: seconds and bytes of the redundancies, the clique and the observer, at the sizes of the paper's networks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prunekit.methods import sirfp
from prunekit.methods.sirfp.clique import clique_weight, ehgp
from prunekit.methods.sirfp.jensen_shannon import exact, spectral
from prunekit.methods.sirfp.solvers import brute_force, milp, tabu
from prunekit.models.deeplab import deeplabv3
from prunekit.profiling import _LiveBytes
from prunekit.surgery import find_groups


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The best of some rounds, in seconds of this one thread: what the code costs when nothing else runs."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def maps(units: int, pixels: int) -> Tensor:
    return torch.randn(units, pixels, generator=torch.Generator().manual_seed(0)).softmax(1)


def plain_loop(p_UP: Tensor, side: int = 16) -> Tensor:
    """JS as it is written, over all blocks of 16 x 16 pairs."""
    r_UU = torch.empty(len(p_UP), len(p_UP))
    for i in range(0, len(p_UP), side):
        for j in range(0, len(p_UP), side):
            p, q = p_UP[i : i + side, None], p_UP[None, j : j + side]
            mean = (p + q) / 2
            js = ((p * (p / mean).log()).sum(2) + (q * (q / mean).log()).sum(2)) / 2
            r_UU[i : i + side, j : j + side] = torch.log(torch.tensor(2.0)) - js
    return r_UU


def test_pairs_of_512_maps_of_2048_pixels() -> None:
    p_UP = maps(512, 2048)
    found: dict[str, Tensor] = {}
    times = {
        name: seconds(lambda name=name, way=way: found.__setitem__(name, way(p_UP)))
        for name, way in (("loop", plain_loop), ("exact", exact), ("spectral", spectral))
    }
    errors = {name: float((r_UU - found["loop"]).abs().max()) for name, r_UU in found.items()}
    print({name: f"{t:.2f} s, error {errors[name]:.1e}" for name, t in times.items()})
    print(f"exact {times['loop'] / times['exact']:.1f}x, spectral {times['loop'] / times['spectral']:.1f}x the loop")
    assert times["exact"] <= 0.5 * times["loop"] and errors["exact"] < 1e-5
    assert times["spectral"] <= 0.1 * times["loop"] and errors["spectral"] <= 2e-4
    # the exact way is the fast one of its kind: one logarithm a pair and pixel, against 17 multiplications here
    assert times["spectral"] <= 0.5 * times["exact"]


def test_pairs_of_2048_maps_of_8192_pixels_within_4_gb() -> None:
    p_UP = maps(2048, 8192)
    with _LiveBytes([p_UP]) as live:
        took = seconds(lambda: spectral(p_UP), rounds=1)
    print(
        f"spectral, C 2048, HW 8192: {took:.1f} s, {live.peak / 1e6:.0f} MB beside the maps' {p_UP.nbytes / 1e6:.0f} MB"
    )
    assert live.peak + p_UP.nbytes <= 4e9


def weights(channels: int) -> Tensor:
    return 1 - spectral(maps(channels, 64), 3)


def test_ehgp_of_2048_channels() -> None:
    a_CC = weights(2048)
    took = seconds(lambda: ehgp(a_CC))
    print(f"EHGP, 2048 channels down to one: {took:.3f} s")
    assert took <= 0.2


def test_solvers_on_a_small_graph() -> None:
    """The paper's Table 6: greedy, heuristic, exact. Maps of few pixels, so that channels differ."""
    a_CC = 1 - exact((3 * torch.randn(18, 20, generator=torch.Generator().manual_seed(0))).softmax(1))
    ways = {"ehgp": lambda a, n: ehgp(a).keep(n), "tabu": tabu, "milp": milp, "brute force": brute_force}
    reached, times = {}, {}
    for name, solve in ways.items():
        start = time.process_time()
        reached[name] = clique_weight(a_CC, solve(a_CC, 9))
        times[name] = time.process_time() - start
    best = reached["brute force"]
    print({name: f"{1e3 * times[name]:.1f} ms, {reached[name] / best:.4%}" for name in ways})
    assert (
        reached["milp"] == pytest.approx(best) and reached["ehgp"] >= 0.97 * best and reached["tabu"] >= reached["ehgp"]
    )
    assert times["ehgp"] < min(times["milp"], times["brute force"]) / 10


def test_the_whole_solve_of_a_deeplabv3_resnet50() -> None:
    """The paper needs 285 s."""
    groups = find_groups(deeplabv3(19).eval(), torch.randn(1, 3, 65, 65))
    observer = sirfp.Observer(groups)
    for name, group in groups.items():
        observer.edges[name] = weights(group.size)
    took = seconds(lambda: observer.scores(groups), rounds=1)
    print(f"EHGP for all {len(groups)} groups of DeepLabV3-R50: {took:.2f} s")
    assert took <= 3


@pytest.mark.parametrize("every", [1, 10])
def test_overhead_of_observing_a_deeplabv3_resnet50(every: int) -> None:
    """Forward and backward of two images at 512 x 512 on a GPU, at 128 x 128 without one."""
    cuda = torch.cuda.is_available()
    device, side = ("cuda", 512) if cuda else ("cpu", 128)
    model, x = deeplabv3(19).to(device).train(), torch.randn(2, 3, side, side, device=device)
    groups = find_groups(model, x)
    observer = sirfp.Observer(groups, every=every)

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            sum(out.mean() for out in model(x).values()).backward()
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    steps(1)
    plain = steps(2)
    with observer.watching(model):
        watched = steps(every)
    print(f"{device}, {side} x {side}, every={every}: {plain:.2f} s a step, observed {watched:.2f} s")
    assert watched < (6 if every == 1 else 2.5) * plain
