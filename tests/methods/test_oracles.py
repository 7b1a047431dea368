"""Each criterion against somebody else's code, or against its definition written out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_pruning.pruner import importance as theirs

from prunekit.core import Scores
from prunekit.errors import InputError, ScoreError
from prunekit.gates import Gated
from prunekit.methods import cap, chip, dcfp, depgraph, fpgm, hrank, l1, slimming, taylor, thinet
from prunekit.plan import uniform_plan
from prunekit.surgery import find_groups, mask

X = torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (4, 12, 16), generator=torch.Generator().manual_seed(1))
BATCHES = [(X[:2], Y[:2]), (X[2:], Y[2:])]


class Net(nn.Module):
    """Two plain layers and one that two convolutions make together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.Conv2d(3, 6, 1)
        self.norm_b, self.norm_c, self.d = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        for norm in (self.bn, self.norm_b, self.norm_c):
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.uniform_(norm.bias, -0.2, 0.8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.d((self.norm_b(self.b(self.bn(self.a(x)).relu())) + self.norm_c(self.c(x))).relu())


@pytest.fixture
def net() -> Net:
    return Net()


def peer(net: Net, importance: tp.importance.Importance) -> Tensor:
    """What Torch-Pruning thinks of the channels of `a`, which no other layer makes."""
    graph = tp.DependencyGraph().build_dependency(net, X[:1])
    return importance(graph.get_pruning_group(net.a, tp.prune_conv_out_channels, list(range(8))))


def scored(score: object, net: nn.Module) -> Scores:
    return score(net, find_groups(net, X[:1]))  # type: ignore[operator]


MAGNITUDE = partial(theirs.GroupMagnitudeImportance, group_reduction="first", normalizer=None)


def test_l1_and_l2_equal_torch_pruning(net: Net) -> None:
    torch.testing.assert_close(scored(l1.score, net)["a"].float(), peer(net, MAGNITUDE(p=1)))
    torch.testing.assert_close(scored(partial(l1.score, p=2), net)["a"].float(), peer(net, MAGNITUDE(p=2)).sqrt())
    with pytest.raises(InputError, match="p > 0"):
        scored(partial(l1.score, p=0), net)


def test_the_group_norm_equals_torch_pruning(net: Net) -> None:
    ours, other = scored(depgraph.score, net)["a"].float(), peer(net, theirs.GroupMagnitudeImportance(p=2))
    torch.testing.assert_close(ours, other)
    assert not torch.allclose(ours, peer(net, theirs.GroupMagnitudeImportance(p=1)))  # the comparison can fail


def test_the_group_norm_of_coupled_layers_written_out(net: Net) -> None:
    rows = [net.b.weight.flatten(1), net.c.weight.flatten(1), net.d.weight.transpose(0, 1).flatten(1)]
    square = torch.stack([w.square().sum(1) for w in rows]).sum(0) + net.norm_b.weight**2 + net.norm_c.weight**2
    torch.testing.assert_close(scored(depgraph.score, net)["b"].float(), square / square.mean())


def test_fpgm_equals_torch_pruning_where_that_follows_the_paper(net: Net) -> None:
    distances = theirs.FPGMImportance(p=1, group_reduction="first", normalizer=None)
    assert not torch.allclose(scored(fpgm.score, net)["a"].float(), peer(net, distances))  # it drops the signs
    with torch.no_grad():
        net.a.weight.abs_()
    torch.testing.assert_close(scored(fpgm.score, net)["a"].float(), peer(net, distances))


def test_fpgm_drops_what_the_others_can_stand_in_for(net: Net) -> None:
    with torch.no_grad():
        net.a.weight[4] = net.a.weight[[0, 1, 2, 3, 5, 6, 7]].mean(0)
        net.a.weight[6] = 5 * net.a.weight[6]
    score_U = scored(fpgm.score, net)["a"]
    assert (int(score_U.argmin()), int(score_U.argmax())) == (4, 6)


def test_slimming_equals_torch_pruning_and_averages_coupled_norms(net: Net) -> None:
    scores = scored(slimming.score, net)
    torch.testing.assert_close(scores["a"].float(), peer(net, theirs.BNScaleImportance("first", None)))
    torch.testing.assert_close(scores["b"].float(), (net.norm_b.weight.abs() + net.norm_c.weight.abs()) / 2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_slimming_refuses_scales_that_were_never_trained(net: Net, value: float) -> None:
    nn.init.constant_(net.bn.weight, value)
    with pytest.raises(ScoreError, match=f"all scales in 'bn.weight' are {value:g}, as initialised"):
        scored(slimming.score, net)
    nn.init.constant_(net.norm_b.weight, value)
    net.bn.weight.data[0] = 0.3
    assert scored(slimming.score, net)["b"].unique().numel() == 6  # its partner still tells the channels apart


def test_slimmings_penalty_is_the_l1_norm_of_the_scales(net: Net) -> None:
    groups = find_groups(net, X[:1])
    slimming.penalty(net, groups.only(["b"]), strength=0.5).backward()
    torch.testing.assert_close(net.norm_b.weight.grad, 0.5 * net.norm_b.weight.sign())
    assert net.norm_c.weight.grad is not None and net.bn.weight.grad is None
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    with pytest.raises(ScoreError, match="no batch norm"):
        slimming.penalty(plain, find_groups(plain, X[:1]))


def test_taylor_on_weights_equals_torch_pruning(net: Net) -> None:
    score = partial(taylor.score, batches=[(X, Y)], loss_fn=cross_entropy, on="weights")
    ours = scored(score, net)["a"].sqrt().float()
    cross_entropy(net(X), Y).backward()
    importance = partial(theirs.GroupTaylorImportance, group_reduction="first", normalizer=None)
    torch.testing.assert_close(ours, peer(net, importance(multivariable=True)))
    assert not torch.allclose(ours, peer(net, importance(multivariable=False)))


@pytest.mark.parametrize("group", ["a", "b"])
def test_taylor_on_gates_is_the_slope_of_the_loss(net: Net, group: str) -> None:
    net = net.double()
    batches = [(x.double(), y) for x, y in BATCHES]
    groups = find_groups(net, X[:1].double())
    score_U = taylor.score(net, groups, batches, loss_fn=cross_entropy)[group]
    gated, number, step = Gated(net, groups), list(groups).index(group), 1e-5
    squares = torch.zeros(len(score_U), dtype=torch.float64)
    for x, y in batches:
        for unit in range(len(score_U)):
            loss = []
            for gate in (1 + step, 1 - step):
                with torch.no_grad():
                    gated.gates[number].fill_(1.0)[unit] = gate
                    loss.append(cross_entropy(gated(x), y))
            squares[unit] += ((loss[0] - loss[1]) / (2 * step)) ** 2 / len(batches)
            gated.gates[number].data.fill_(1.0)
    torch.testing.assert_close(score_U, squares, rtol=1e-6, atol=1e-12)


def test_taylor_tells_the_truth_about_small_losses_of_a_channel(net: Net) -> None:
    """For a channel that is nearly off, the slope predicts the change of the loss when it goes."""
    net = net.double()
    with torch.no_grad():
        net.d.weight[:, 2] *= 1e-4
    groups = find_groups(net, X[:1].double())
    score_U = taylor.score(net, groups, [(X.double(), Y)], loss_fn=cross_entropy)["b"]
    plan = uniform_plan(groups.only(["b"]), {"b": torch.arange(6) != 2}, 1 / 6)
    with torch.no_grad():
        change = cross_entropy(mask(net, groups, plan)(X.double()), Y) - cross_entropy(net(X.double()), Y)
    assert plan.keep["b"] == (0, 1, 3, 4, 5)
    assert score_U[2].sqrt().item() == pytest.approx(abs(change.item()), rel=1e-3)


def test_taylor_names_its_choices(net: Net) -> None:
    with pytest.raises(InputError, match="'gates' or 'weights'"):
        scored(partial(taylor.score, batches=BATCHES, on="biases"), net)


def read(net: Net) -> Tensor:
    """What d reads, (B, 6, H, W)."""
    with torch.no_grad():
        return (net.norm_b(net.b(net.bn(net.a(X)).relu())) + net.norm_c(net.c(X))).relu()


def test_hrank_is_torchs_matrix_rank_and_energy_breaks_ties(net: Net) -> None:
    score_U = scored(partial(hrank.score, batches=BATCHES), net)["b"]
    ranks = torch.stack([torch.stack([torch.linalg.matrix_rank(channel) for channel in image]) for image in read(net)])
    assert torch.equal((score_U * 4).floor() / 4, ranks.double().mean(0))
    tied = ranks.sum(0) == ranks.sum(0).mode().values
    assert tied.sum() > 1
    energy = read(net).square().mean((0, 2, 3))
    assert torch.equal(score_U[tied].argsort(), energy[tied].argsort())


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (6, 6), (4, 1), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_ranks_of_matrices_that_lack_some(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(shape[0], r) @ torch.randn(r, shape[1]) * scale for r in range(min(shape) + 1)]
    found = hrank.rank(torch.stack(maps)[None])[0]
    assert found.tolist() == [int(torch.linalg.matrix_rank(m)) for m in maps] == list(range(min(shape) + 1))


def lost_nuclear_norm(rows_UKN: Tensor) -> Tensor:
    def norm(x: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(x.flatten(0, 1).double(), "nuc")

    zeroed = [rows_UKN * (torch.arange(len(rows_UKN)) != u)[:, None, None] for u in range(len(rows_UKN))]
    return torch.stack([norm(rows_UKN) - norm(z) for z in zeroed])


@pytest.mark.parametrize("shape", [(12, 1, 40), (40, 1, 12), (9, 1, 9), (4, 5, 60), (4, 5, 11), (1, 1, 7)])
def test_chip_equals_the_nuclear_norms_of_torch(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    rows = torch.randn(shape).relu()
    if shape[0] > 3:
        rows[1], rows[2] = rows[0], 0.0
        rows[3] *= 1e-3
    largest = torch.linalg.matrix_norm(rows.flatten(0, 1).double(), 2)
    torch.testing.assert_close(chip.independence(rows), lost_nuclear_norm(rows), rtol=0, atol=1e-7 * float(largest))


def test_chip_of_a_network(net: Net) -> None:
    expected = torch.stack([lost_nuclear_norm(image.flatten(1)[:, None]) for image in read(net)]).mean(0)
    torch.testing.assert_close(scored(partial(chip.score, batches=BATCHES), net)["b"], expected, rtol=1e-5, atol=1e-6)


def test_thinet_loses_what_it_says_and_goes_greedily(net: Net) -> None:
    """Brute force: zero channels, run, look at the next layer's output."""
    x = read(net).double()

    def loss(removed: tuple[int, ...]) -> float:
        weight = net.d.weight.detach()[:, removed].double()
        return float(nn.functional.conv2d(x[:, removed], weight).square().sum())

    removed: tuple[int, ...] = ()
    steps = torch.zeros(6, dtype=torch.float64)
    for step in range(6):
        best = min(set(range(6)) - set(removed), key=lambda j: loss((*removed, j)))
        removed, steps[best] = (*removed, best), step
    assert torch.equal(scored(partial(thinet.score, batches=BATCHES, samples=10**6), net)["b"], steps)


def test_thinets_matrix_is_the_loss_of_every_set(net: Net) -> None:
    from itertools import combinations

    from prunekit.observe import grams

    groups = find_groups(net, X[:1])
    member = groups["a"].consumers()[0]
    gram = grams(net, groups, [member.tensor], BATCHES, method="test", samples=10**6)[member.tensor]
    shared = thinet.shared_output(net.b.weight, gram, member)
    with torch.no_grad():
        x = net.bn(net.a(X)).relu().double()
        whole = nn.functional.conv2d(x, net.b.weight.double(), padding=1).square().sum()
        for size in (1, 2, 5):
            for chosen in list(combinations(range(8), size))[:10]:
                output = nn.functional.conv2d(x[:, chosen], net.b.weight[:, chosen].double(), padding=1)
                assert float(shared[list(chosen)][:, list(chosen)].sum()) == pytest.approx(
                    float(output.square().sum() / whole), rel=1e-6
                )


def test_thinets_plan_removes_the_first(net: Net) -> None:
    groups = find_groups(net, X[:1])
    plan = thinet.search_plan(net, groups, BATCHES, ratio=0.5)
    order = thinet.score(net, groups, BATCHES)
    assert plan.keep["b"] == tuple(sorted(order["b"].topk(3).indices.tolist())) and plan.note.startswith("thinet")


def test_dcfp_is_the_running_mean_of_what_counts(net: Net) -> None:
    score_U = scored(partial(dcfp.score, batches=BATCHES, loss_fn=cross_entropy, decay=0.9), net)["a"]
    expected: list[float] = [0.0] * 8
    for x, y in BATCHES:
        (gradient,) = torch.autograd.grad(cross_entropy(net(x), y), net.bn.weight)
        for i, (g, gamma) in enumerate(zip(gradient.tolist(), net.bn.weight.tolist(), strict=True)):
            if g * gamma > 0:
                expected[i] = 0.9 * expected[i] + 0.1 * abs(g) if expected[i] else abs(g)
    assert score_U.tolist() == pytest.approx(expected, rel=1e-5)
    assert 0.0 in expected and max(expected) > 0
    with pytest.raises(InputError, match="decay"):
        scored(partial(dcfp.score, batches=BATCHES, decay=1.0), net)


def test_cap_spares_channels_that_others_lean_on(net: Net) -> None:
    groups = find_groups(net, X[:1])
    share = cap.context(net, groups, BATCHES)
    assert all(s.max() == 1 and (s > 0).all() for s in share.values())
    torch.testing.assert_close(cap.score(net, groups, BATCHES)["a"], share["a"] * net.bn.weight.abs().double())
    cap.penalty(net, groups, share, strength=2.0).backward()
    torch.testing.assert_close(net.bn.weight.grad, 2 * (1 - share["a"].float()) * net.bn.weight.sign())
    with torch.no_grad():  # seven channels alike, the last one different: nobody leans on it
        net.a.weight[:7], net.a.bias[:7], net.bn.weight[:7], net.bn.bias[:7] = net.a.weight[0], 0.0, 1.0, 0.5
        net.a.weight[7], net.bn.weight[7] = -net.a.weight[0], 1.0
        net.bn.running_mean.zero_()
    assert int(cap.context(net, groups, BATCHES, pool=6)["a"].argmin()) == 7
