"""The references of exercises about cost, structure and redundancy, against the library."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.ao.quantization.observer import MinMaxObserver

import prunekit as pk
from prunekit.course.exercises import (
    clique_05,
    front_08,
    lesson_01,
    lesson_02,
    lesson_04,
    lesson_05,
    lesson_07,
    lesson_08,
    lesson_09,
    thresholds_04,
    training_07,
    widths_09,
)
from prunekit.export.proof import FLOOR, relative_error
from prunekit.methods import eapruning, mtp
from prunekit.methods.dynasegformer import GateTraining, MagnitudeGate, kept_at
from prunekit.methods.dynasegformer.gather import columns, rows
from prunekit.methods.eapruning.leading import solver
from prunekit.methods.mtp.coupling import soft_threshold_
from prunekit.methods.sirfp.clique import ehgp, unit_scores
from prunekit.methods.sirfp.jensen_shannon import best_spacing, error_bound, exact
from prunekit.profiling import count_macs
from prunekit.train import soft_cross_entropy


def conv3(c_in: int, c_out: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups, bias=False)


@pytest.mark.parametrize("r", [0.25, 0.5, 0.75])
def test_what_remains_of_a_layer_in_the_middle(r: float):
    x, keep = torch.zeros(1, 64, 8, 8), int(64 * (1 - r))
    dense, small = conv3(64, 64), conv3(keep, keep)
    macs, params, written = lesson_01.remains(r)
    assert macs == count_macs(small, x[:, :keep]) / count_macs(dense, x)
    assert params == small.weight.numel() / dense.weight.numel()
    assert written == small(x[:, :keep]).numel() / dense(x).numel()


@pytest.mark.parametrize(("c", "k"), [(8, 3), (16, 5)])
def test_the_separable_ratio(c: int, k: int):
    x = torch.zeros(1, c, 8, 8)
    depthwise = nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
    both = nn.Sequential(depthwise, nn.Conv2d(c, c, 1, bias=False))
    dense = nn.Conv2d(c, c, k, padding=k // 2, bias=False)
    assert lesson_01.separable_ratio(c, k) == pytest.approx(count_macs(both, x) / count_macs(dense, x))


class Puzzle(nn.Module):
    """As in lesson 02."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = conv3(3, 8), nn.Conv2d(8, 8, 1)
        self.narrow, self.widen = conv3(8, 4), conv3(4, 8)
        self.depthwise, self.head = conv3(8, 8, groups=8), conv3(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        y = self.narrow(x).relu()
        x = self.depthwise(x + self.widen(y))
        return self.head(torch.cat([y, x], 1))


def test_what_is_tied_to_the_stem_and_which_column_the_head_loses():
    group = pk.find_groups(Puzzle(), torch.zeros(1, 3, 8, 8))["stem"]
    assert {m.tensor.split(".")[0] for m in group.members if m.role != "consumer"} == lesson_02.tied_to_stem()
    (head,) = [m for m in group.members if m.tensor == "head.weight"]
    assert head.index[5].tolist() == [9] and "column 9" in lesson_02.PUZZLE.note


@pytest.mark.parametrize(("stem", "wide"), [(4, 6), (2, 3), (1, 5)])
def test_macs_of_four_layers(stem: int, wide: int):
    layers = {
        "stem": conv3(3, stem),
        "wide": conv3(stem, wide),
        "back": conv3(wide, stem),
        "head": conv3(stem + wide, 2),
    }
    total = sum(count_macs(layer, torch.zeros(1, layer.in_channels, 16, 16)) for layer in layers.values())
    assert lesson_02.macs_left(stem, wide) == total


@pytest.mark.parametrize("pixels", [1, 4])
def test_the_rule_of_flatten(pixels: int):
    channels = torch.tensor([7, 8, 9]).view(1, 3, 1).expand(1, 3, pixels)
    assert lesson_02.flatten_rule([7, 8, 9], pixels) == channels.flatten(1)[0].tolist()


@pytest.fixture
def p_UP() -> torch.Tensor:
    return (2 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).double()).softmax(1)


def test_redundancy_of_a_pair_and_the_graph_of_all_pairs(p_UP: torch.Tensor):
    r_UU = exact(p_UP)
    pairs = torch.stack([torch.stack([lesson_05.redundancy(p, q) for q in p_UP]) for p in p_UP])
    torch.testing.assert_close(pairs, r_UU, rtol=0, atol=1e-6)
    torch.testing.assert_close(lesson_05.edge_weights(p_UP), 1 - r_UU, rtol=0, atol=1e-6)


@pytest.mark.parametrize("harmonics", [1, 4, 8])
def test_the_matrix_product_stays_within_the_librarys_bound(p_UP: torch.Tensor, harmonics: int):
    spacing = best_spacing(harmonics)
    kappa = lesson_05._kappa(harmonics + 1, spacing).double()
    error = (lesson_05.by_product(p_UP, kappa, spacing) - exact(p_UP)).abs().max()
    assert error < error_bound(harmonics) + 1e-6


def test_the_greedy_clique_and_its_scores(p_UP: torch.Tensor):
    a_UU = lesson_05.edge_weights(p_UP).fill_diagonal_(0)
    removal = ehgp(a_UU)
    for size in range(1, 6):
        assert clique_05.clique(a_UU, size) == list(removal.keep(size))
    ours, library = clique_05.scores(list(removal.order), removal.weight.float()), unit_scores(a_UU, "sum")
    last = removal.order[-1]  # here 0; in the library as the one before
    assert abs(ours[last]) < 1e-6
    ours[last] = ours[removal.order[-2]]
    torch.testing.assert_close(ours.double(), library, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tolerance", [3.0, 10.0])
def test_error_and_limit_are_those_of_the_proof(tolerance: float):
    exact, noise = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    file, eager = exact + 0.3 * noise, exact + 0.01 * noise.flip(0)
    error, limit = lesson_09.error_and_limit(file, eager, exact, tolerance)
    assert error == pytest.approx(relative_error([file], [exact]))
    assert limit == pytest.approx(tolerance * relative_error([eager], [exact]) + FLOOR)


@pytest.mark.parametrize("values", [[-1.3, 0.2, 3.4], [2.0, 5.0], [-7.0, -0.5], [0.0, 1.0]])
def test_scale_and_zero_point_are_torchs(values: list[float]):
    observer = MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine)
    observer(torch.tensor(values))
    scale, zero = observer.calculate_qparams()
    assert lesson_09.scale_and_zero(torch.tensor(values)) == (pytest.approx(scale.item()), zero.item())


@pytest.mark.parametrize(("widths", "budget"), [([37, 63, 5, 44], 149), ([12, 23, 31], 66), ([9, 18], 27)])
def test_round_widths_lose_least_of_all_that_fit(widths: list[int], budget: int):
    """Of all ways to give 8 back within the budget ours loses least, channels that were added not counted."""
    down = [max(8, w // 8 * 8) for w in widths]

    def lost(chosen: tuple[int, ...]) -> int:
        return sum(max(0, w - d - 8 * up) for w, d, up in zip(widths, down, chosen, strict=True))

    ways = product((0, 1), repeat=len(widths))
    best = min(lost(way) for way in ways if sum(down) + 8 * sum(way) <= budget)
    ours = widths_09.round_widths(widths, budget)
    assert all(w % 8 == 0 for w in ours) and sum(ours) <= budget
    assert lost(tuple((w - d) // 8 for w, d in zip(ours, down, strict=True))) == best


def test_least_squares_of_lesson_08():
    layer, dice = nn.Linear(8, 3, bias=False).double(), torch.Generator().manual_seed(0)
    x_SD = torch.randn(60, 8, generator=dice, dtype=torch.float64)
    gram, weight = x_SD.T @ x_SD, layer.weight.detach()
    wide = torch.zeros(9, 9, dtype=torch.float64)
    wide[:8, :8] = gram
    each = solver(layer, {"g": torch.arange(8)[:, None]}, {"g": range(8)}, wide)
    for n in (1, 5, 8):
        ours = each.solve({"g": n})[:, :n]
        torch.testing.assert_close(lesson_08.rebuild(gram, weight, n), ours)
        torch.testing.assert_close(lesson_08.leading(each.factor_DD, each.half_DO[:8], n), ours)
        torch.testing.assert_close(lesson_08.normal_equations(x_SD[:, :n], x_SD @ weight.T), ours)


def test_front_and_area_of_lesson_08():
    points = [(c, e) for c, e in torch.rand(40, 2, generator=torch.Generator().manual_seed(3)).tolist()]
    many = [eapruning.Candidate((n,), e, c) for n, (c, e) in enumerate(points)]
    best = front_08.front(points)
    assert best == [(c.cost, c.error) for c in eapruning.front(many)]
    assert front_08.area(best) == pytest.approx(eapruning.hypervolume(many))


def test_a_step_and_the_end_of_a_round_are_the_couplings():
    draw = torch.Generator().manual_seed(3)
    v, w3, e = (torch.randn(6, generator=draw) for _ in range(3))
    coupling = mtp.Coupling({"w": v.clone()}, {"w": w3.clone()}, mu=0.7, rho=1.5)
    coupling.multipliers["w"] += e
    coupling.pull_first(0.3)
    torch.testing.assert_close(coupling.first["w"], lesson_04.step_first(v, w3, e, 0.3, 0.7))
    w1 = coupling.first["w"].clone()
    coupling.update()
    expected_e, expected_mu = lesson_04.end_of_round(e, w1, w3, 0.7, 1.5)
    torch.testing.assert_close(coupling.multipliers["w"], expected_e)
    assert coupling.mu == pytest.approx(expected_mu)


def test_soft_thresholds_and_taus_and_widths_are_the_librarys():
    x = torch.linspace(-2, 2, 41)
    theirs = x.clone()
    soft_threshold_(theirs, 0.4)
    torch.testing.assert_close(lesson_04.soft(x, 0.4), theirs)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 10, 1)
    )
    net.extend([nn.BatchNorm2d(10), nn.Conv2d(10, 2, 1)])
    groups = pk.find_groups(net.eval(), torch.zeros(1, 3, 4, 4))
    one, two, three = groups
    parts = mtp.Parts(groups.only([one, two]), groups.only([three]), "")
    scores = {name: torch.rand(groups[name].size) for name in groups}
    layers = [scores[one], scores[two]]
    for p in (0.25, 0.5):
        found = mtp.thresholds(parts, scores, p)
        assert tuple(found) == pytest.approx(thresholds_04.taus(torch.cat(layers), scores[three], p))
        plan = mtp.plan(parts, scores, p, limits=pk.Limits(max_ratio=0.99, min_keep=2))
        expected = thresholds_04.widths(layers, found.backbone, 2)
        assert [len(plan.keep[one]), len(plan.keep[two])] == expected


def test_dynasegformers_references_are_the_library():
    dice = torch.Generator().manual_seed(0)
    g_BU = torch.randn(4, 12, generator=dice)
    gate = MagnitudeGate(torch.zeros(12))
    gate.set_sparsity(2 / 3)
    assert torch.equal(lesson_07.top_r(g_BU, 4), gate.mask(g_BU))
    first, second = nn.Linear(3, 12, bias=False), nn.Linear(12, 5, bias=False)
    x_BNC, chosen = torch.randn(1, 6, 3, generator=dice), gate.choose(g_BU[:1])
    wanted = columns(rows(x_BNC, first, *(chosen.index_BK, chosen.value_BK)), second, chosen.index_BK)[0]
    mine = lesson_07.gathered(x_BNC[0], first.weight, second.weight, chosen.index_BK[0], chosen.value_BK[0])
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)
    for step in (0, 10, 33, 100, 300):
        training = GateTraining(0.5, steps=100)
        training.step = step
        assert training_07.annealed(step, 100, 0.5, 64) == kept_at(training.now(), 64)
    student, teacher = torch.randn(2, 6, 5, generator=dice)
    ours = training_07.soft_cross_entropy(student, teacher)
    torch.testing.assert_close(ours, soft_cross_entropy(student, teacher), rtol=0, atol=1e-6)
