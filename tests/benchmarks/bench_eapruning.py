"""EAPruning: seconds and bytes of a ResNet-50 candidate, of gathering its Gram matrices, and of a whole mini search.

Seconds are of the CPU, of one thread: what the code costs when nothing else runs. Where two cores idle, the wall's too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import timm
import torch
from torch import Tensor, nn

from prunekit.course.eapruning import trials
from prunekit.methods import eapruning
from prunekit.methods.eapruning import Fitness, Settings
from prunekit.methods.eapruning.leading import Memory, solver
from prunekit.methods.eapruning.rebuild import CACHE
from prunekit.models.classifiers import resnet_mini
from prunekit.observe import grams
from prunekit.observe.grams import _Sum
from prunekit.observe.maps import layer_of
from prunekit.surgery import find_groups

SAMPLES = 5000  # of lstsq: more than the 4,609 unknowns of the widest layer; the paper's images give 15,000


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def resnet50() -> tuple[nn.Module, eapruning.Space]:
    torch.manual_seed(0)
    model = timm.create_model("resnet50").eval()
    return model, eapruning.space(model, find_groups(model, torch.randn(1, 3, 224, 224)))


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_resnet50_candidate(resnet50: tuple[nn.Module, eapruning.Space]) -> None:
    """All layers by leading blocks, and by least squares from features; equal layers are timed once."""
    model, space = resnet50
    reads = {m.tensor: (g.name, m.index) for g in space.groups.values() for m in g.consumers()}
    kinds: dict[tuple[int, ...], list[str]] = {}
    for name in reads:
        kinds.setdefault(tuple(model.get_parameter(name).shape), []).append(name)
    counts = dict(zip(space.names, (size // 2 for size in space.whole)))
    ours = theirs = factoring = 0.0
    held = 0
    for names in kinds.values():
        layer = layer_of(model, names[0])
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        group, index_UK = reads[names[0]]
        inputs = layer.weight[0].numel()
        x_SD = torch.randn(SAMPLES, inputs).double()
        gram_DD = torch.full((inputs + 1, inputs + 1), 0.1).double().fill_diagonal_(1.0)  # takes as long as a real one
        each = None

        def factor(layer=layer, group=group, index_UK=index_UK, gram_DD=gram_DD) -> None:
            nonlocal each
            each = solver(layer, {group: index_UK}, space.order, gram_DD)

        factoring += cpu(factor) * len(names)
        assert each is not None
        keep, found = each.keep(counts), []
        keep = keep[keep < inputs]
        times = [cpu(lambda each=each, found=found: found.append(each.solve(counts))) for _ in range(3)]
        ours += min(times) * len(names)
        y_SO = x_SD @ layer.weight.detach().flatten(1).double().T
        theirs += cpu(lambda x_SD=x_SD, keep=keep, y_SO=y_SO: lstsq(x_SD[:, keep], y_SO)) * len(names)
        held += each.bytes * len(names)
    print(
        f"{len(reads)} layers: {ours:.2f} s of triangles a candidate, lstsq from {SAMPLES} samples {theirs:.0f} s",
        end=" ",
    )
    print(f"({theirs / ours:.0f}x); factors made once in {factoring:.0f} s, held in {held / 2**30:.2f} GiB")
    assert theirs >= 20 * ours and held < 1.5 * 2**30


def test_the_users_way_to_a_resnet50_candidate(resnet50: tuple[nn.Module, eapruning.Space]) -> None:
    """masked(counts) from nothing remembered: triangles, copies, types and masks of all layers; then remembered."""
    model, space = resnet50
    solvers = {}
    for group in space.groups.values():
        for member in group.consumers():
            layer = layer_of(model, member.tensor)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            size = layer.weight[0].numel() + 1
            gram_DD = torch.full((size, size), 0.1).double().fill_diagonal_(1.0)
            solvers[member.tensor] = solver(layer, {group.name: member.index}, space.order, gram_DD)
    ready = eapruning.Rebuilder(model, space, solvers)
    half = tuple(size // 2 for size in space.whole)
    times = {"anew": [], "remembered": []}
    for _ in range(3):
        ready.memory = Memory(CACHE)
        times["anew"].append(cpu(lambda: ready.masked(half)))
        times["remembered"].append(cpu(lambda: ready.masked(half)))
    anew, remembered = (min(each) for each in times.values())
    print(f"masked: {anew:.2f} s, the same again {remembered:.2f} s; factors {ready.bytes / 2**30:.2f} GiB")
    assert anew <= 6 and remembered <= anew and 1.0 < ready.bytes / 2**30 < 1.3


def lstsq(x_Sn: Tensor, y_SO: Tensor) -> Tensor:
    """By QR, the fastest driver."""
    return torch.linalg.lstsq(x_Sn, y_SO, driver="gels").solution


def test_gathering_costs_less_than_the_forward_passes(
    resnet50: tuple[nn.Module, eapruning.Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    """112 images of 224 x 224: enough for each layer to add its samples to the matrix once in full."""
    model, space = resnet50
    layers = sorted({m.tensor for g in space.groups.values() for m in g.consumers()})
    images = [(torch.randn(8, 3, 224, 224), 0)] * 14

    def forward() -> None:
        with torch.no_grad():
            for x, _ in images:
                model(x)

    plain = cpu(forward)
    most = {"waiting": 0, "matrices": 0}
    held: dict[int, tuple[int, int]] = {}
    add = _Sum.add

    def watched(each: _Sum, x_SD: Tensor) -> None:
        rows = x_SD.nbytes + sum(part.nbytes for part in each.waiting)  # before a full one is added
        add(each, x_SD)
        held[id(each)] = (rows, 0 if each.gram_DD is None else each.gram_DD.nbytes)
        for name, total in zip(most, map(sum, zip(*held.values()))):
            most[name] = max(most[name], total)

    monkeypatch.setattr(_Sum, "add", watched)
    both = cpu(lambda: grams(model, space.groups, layers, images, method="eapruning", samples=10))
    waiting, matrices = most.values()
    print(f"forward {plain:.1f} s, with Gram matrices {both:.1f} s ({both / plain:.2f}x);", end=" ")
    print(f"matrices {matrices / 2**30:.2f} GiB, samples that wait {waiting / 2**30:.2f} GiB at most")
    assert both <= 2 * plain and matrices < 2**30 and waiting < 0.25 * 2**30  # as rebuilder's docstring says


@dataclass(frozen=True)
class Timed(Fitness):
    """Leaves the CPU seconds of its process in a file, to be read when a search is over."""

    folder: Path = Path()

    def __call__(self, counts):
        start = time.process_time()
        found = super().__call__(counts)
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(f"{time.process_time() - start}\n")
        return found


class Slowest:
    """Called after each generation, it adds up the CPU seconds of its slowest process, which the others wait for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds = folder, 0.0
        self.before: dict[str, float] = {}

    def __call__(self, found: eapruning.Found) -> None:
        now = {file.name: sum(map(float, file.read_text().split())) for file in self.folder.iterdir()}
        self.seconds += max(total - self.before.get(name, 0.0) for name, total in now.items())
        self.before = now


def test_a_mini_search(tmp_path: Path) -> None:
    """300 candidates of the mini ResNet, an error on 200 images each; alone and shared by two processes. What two take:
    this process's own seconds, and in each generation those of the slower worker.
    """
    torch.manual_seed(0)
    model = resnet_mini().eval()
    images = torch.randn(200, 3, 32, 32)
    space = eapruning.space(model, find_groups(model, images[:1]))
    ready = eapruning.rebuilder(model, space, [(images, 0)], samples=8)
    error = eapruning.Misclassified(images, torch.randint(0, 5, (200,)), batch=50)
    settings = Settings(population=40, offspring=26, generations=10)
    quiet = (os.cpu_count() or 1) >= 2 and os.getloadavg()[0] < 1.5  # this process itself is one
    results, critical, wall = [], {1: [], 2: []}, {1: [], 2: []}
    warm = replace(settings, generations=1)
    eapruning.search(Fitness(ready, error), warm, quiet=True)  # imports and caches are nobody's
    for turn, processes in enumerate((1, 2) * 3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        start = time.perf_counter()
        fitness = Timed(ready, error, folder=folder)
        ready.memory = Memory(CACHE)
        slowest = Slowest(folder)
        go = partial(eapruning.search, fitness, settings, processes=processes, quiet=True, on_generation=slowest)
        own = cpu(lambda: results.append(go()))  # noqa: B023
        wall[processes].append(time.perf_counter() - start)
        critical[processes].append(own if processes == 1 else own + slowest.seconds)
    (alone, shared), (one, two) = ([median(times[n]) for n in (1, 2)] for times in (critical, wall))
    ratio = alone / shared
    print(f"{settings.budget} candidates: {alone:.0f} s alone, {shared:.0f} s on two ({ratio:.2f}x);", end=" ")
    print(f"by the wall {one:.0f} and {two:.0f} s ({one / two:.2f}x)")
    assert all(found.generations == results[0].generations for found in results)
    assert shared <= 60 and 1.6 <= ratio <= 2.1  # more than two would be a mistake of the measurement
    if quiet:
        assert one / two >= 1.4
    else:
        print("by the wall not judged: other processes have the cores")


def test_deits_search_beats_chance_again() -> None:
    """One seed of claim E2's runs made anew: 300 candidates from a start of uniform counts, and as many at random."""
    found = {}
    for how in ("nsga3", "random"):
        way = trials.Way("deit", how=how, sampling="uniform")
        lab = trials.Bench(4, Path()).lab(way)
        settings = replace(lab.preset.search, sampling=way.sampling, seed=4)
        start = time.perf_counter()
        found[how] = eapruning.search(lab.fitness, settings, how=way.how, quiet=True).hypervolumes()[-1]
        print(f"{how}: hypervolume {found[how]:.4f} in {time.perf_counter() - start:.0f} s")
    assert found["nsga3"] > found["random"] + 0.02
