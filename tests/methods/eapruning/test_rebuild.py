"""Rebuilt weights against torch.linalg.lstsq for every number of units, and the controls that must fail."""

from __future__ import annotations

import copy
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchmetrics import JaccardIndex

sys.path.insert(0, str(Path(__file__).parent))
from candidates import BATCHES, IMAGES, cnn, groups_of, leaky, ready, vit

from prunekit.core import PruningPlan
from prunekit.errors import InputError, PlanError, ScoreError
from prunekit.methods import eapruning
from prunekit.methods.eapruning import leading
from prunekit.methods.eapruning.asymmetric import _Rows as asymmetric_rows
from prunekit.models.topformer.network import Attention
from prunekit.observe import grams
from prunekit.observe.grams import patches
from prunekit.reconstruct import reconstruct, solvable
from prunekit.surgery import find_groups, prune
from prunekit.surgery.cut import mask


def rows(model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """All a layer reads, with a one, and what it answers: (S, D), (S, O) float64."""
    layer, seen = model.get_submodule(name), []
    draw = torch.Generator().manual_seed(0)
    hook = layer.register_forward_pre_hook(lambda m, a: seen.append(patches(m, a[0], 10**6, draw).double()))
    with torch.no_grad():
        for x, _ in BATCHES:
            model(x)
    hook.remove()
    x_SD = torch.cat(seen)
    weight_OD = layer.weight.detach().double().flatten(1)
    y_SO = x_SD @ weight_OD.T
    if layer.bias is None:
        return x_SD, y_SO
    return torch.cat([x_SD, torch.ones(len(x_SD), 1).double()], 1), y_SO + layer.bias.detach().double()


@pytest.mark.parametrize("make", [cnn, vit])
def test_every_subset_size_is_the_least_squares_solution(make) -> None:
    model = make()
    ours = ready(model)
    checked = 0
    for name, each in ours.solvers.items():
        if each.condition > 1e8:  # the head sees means over 24 images that are much alike
            continue
        x_SD, y_SO = rows(model, name.removesuffix(".weight"))
        group = each.groups[-1]
        for units in range(1, ours.space.groups[group].size + 1):
            chosen = dict(zip(ours.space.names, ours.space.whole)) | {group: units}
            keep = each.keep(chosen)
            wanted = torch.linalg.lstsq(x_SD[:, keep], y_SO, driver="gelsd").solution.T
            found = each.solve(chosen)
            assert (found[:, keep] - wanted).abs().max() < 1e-6 * wanted.abs().max(), (name, units)
            gone = torch.ones(found.shape[1], dtype=torch.bool)
            gone[keep] = False
            assert not found[:, gone].any()
            checked += 1
    assert checked >= 40


def test_a_wrong_block_is_not_the_solution() -> None:
    """Control: the trailing block, or another order's leading one, misses by much more than the bound."""
    model = cnn()
    ours, other = ready(model), ready(model, seed=1)
    chosen = dict(zip(ours.space.names, ours.space.whole)) | {"inner": 4}
    right, wrong = (r.solvers["back.weight"].solve(chosen) for r in (ours, other))
    assert ours.space.order["inner"][:4] != other.space.order["inner"][:4]
    assert (right - wrong).abs().max() > 1e-2 * right.abs().max()


@pytest.mark.parametrize("make", [cnn, vit])
def test_masked_and_rebuilt_is_pruned_and_rebuilt(make) -> None:
    """Two ways that meet at the Gram matrices only: zeros in a full-size net, reconstruct on the small one."""
    model = make()
    ours = ready(model)
    state = copy.deepcopy(model.state_dict())
    for counts in ours.space.draw(3, seed=5):
        plan = ours.space.plan(counts)
        cut = prune(model, ours.space.groups, plan)
        library = reconstruct(model, cut, ours.space.groups, plan, BATCHES, samples=10**6, ridge=0.0)
        with torch.no_grad():
            masked, small = ours.masked(counts)(IMAGES), ours.small(counts)(IMAGES)
            torch.testing.assert_close(masked, small, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(library(IMAGES), small, rtol=1e-3, atol=1e-4)
            assert (cut(IMAGES) - small).abs().max() > 1e-2  # without rebuilding it is another network
            plain = ours.masked(counts, rebuild=False)(IMAGES)
            torch.testing.assert_close(plain, mask(model, ours.space.groups, plan)(IMAGES), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(ours.masked(ours.space.whole)(IMAGES), model(IMAGES))


def grouped() -> nn.Module:
    """Convolutions in groups, kernels that are not square, stride, dilation, padding by reflection."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, (3, 1), padding=(1, 0)),
        nn.LeakyReLU(0.3),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4, padding_mode="reflect"),
        nn.LeakyReLU(0.3),
        nn.Conv2d(16, 12, (1, 5), stride=2),
        nn.LeakyReLU(0.3),
        nn.Conv2d(12, 3, 1),
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_and_odd_kernels(dtype: torch.dtype) -> None:
    model = grouped().to(dtype)
    x = IMAGES.to(dtype)
    with pytest.warns(RuntimeWarning, match=r"no least squares for '2.weight', left as cut"):
        ours = eapruning.rebuilder(model, eapruning.space(model, find_groups(model, x[:1])), [(x, 0)], samples=40)
    for counts in ours.space.draw(4, seed=0):
        with torch.no_grad():
            masked, small = ours.masked(counts)(x), ours.small(counts)(x)
        assert small.dtype == dtype
        torch.testing.assert_close(masked, small, rtol=1e-3 if dtype == torch.float32 else 0.1, atol=2e-2)


class Unnormed(nn.Module):
    """Attention without a LayerNorm: queries, keys and values read channels that can be cut exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 48)
        self.proj, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x_BNC = leaky(self.stem(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x_BNC).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        y_BnNd = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head((x_BNC + self.proj(y_BnNd.transpose(1, 2).flatten(2))).mean(1))


def unnormed() -> nn.Module:
    torch.manual_seed(0)
    model = Unnormed().eval()
    with torch.no_grad():
        for tensor in model.qkv.parameters():
            tensor.normal_(0, 0.6)
    return model


def normed() -> nn.Module:
    """Attention whose queries and keys pass a batch norm: its statistics have the positions of a head too."""
    torch.manual_seed(0)
    attention = Attention(12, num_heads=3, key_dim=4, value_ratio=2)
    layers = [nn.Conv2d(3, 12, 4, stride=4), nn.LeakyReLU(0.3), attention, nn.LeakyReLU(0.3), nn.Conv2d(12, 3, 1)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.05, 0.15)
            elif name.endswith(("1.weight", "1.bias")):
                tensor.uniform_(0.3, 1.0)
    return model


@pytest.mark.parametrize("make", [vit, unnormed, normed])
def test_size_of_heads_too(make) -> None:
    model = make()
    groups = groups_of(model, heads="dimension")
    space = eapruning.space(model, groups)
    assert "head_dim" in {group.kind for group in space.groups.values()}
    ours = eapruning.rebuilder(model, space, BATCHES, samples=100)
    for counts in (tuple(max(1, size // 2) for size in space.whole), *space.draw(1, seed=1)):
        with torch.no_grad():
            masked, plain = ours.masked(counts)(IMAGES), mask(model, groups, space.plan(counts))(IMAGES)
            torch.testing.assert_close(masked, ours.small(counts)(IMAGES), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours.masked(counts, rebuild=False)(IMAGES), plain, rtol=1e-4, atol=1e-5)
            assert (masked - plain).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(ours.masked(space.whole)(IMAGES), model(IMAGES))


def test_asymmetric_sees_heads_of_fewer_dimensions() -> None:
    """The last layer is fitted to what it reads in the small network, without those dimensions: no slope is left."""
    model = unnormed()
    space = eapruning.space(model, groups_of(model, heads="dimension"))
    ours, counts = eapruning.rebuilder(model, space, BATCHES, samples=100), tuple(size // 2 for size in space.whole)
    slopes = []
    for small in (ours.small(counts), eapruning.asymmetric(ours, counts, BATCHES, samples=100)):
        loss = (small(IMAGES) - model(IMAGES).detach()).square().sum()
        slopes.append(float(torch.autograd.grad(loss, dict(small.named_parameters())["head.weight"])[0].norm()))
    assert slopes[1] < 1e-3 * slopes[0]


def test_what_cannot_be_rebuilt_is_said() -> None:
    """torch's own attention computes with its last layer's weights and never calls that layer."""
    model = torchvision.models.VisionTransformer(16, 4, 1, 4, 24, 48, num_classes=3).eval()
    space = eapruning.space(model, groups_of(model))
    assert {group.kind for group in space.groups.values()} == {"head", "neuron"}
    with pytest.warns(RuntimeWarning, match=r"for 'encoder\S*self_attention.out_proj.weight', left as cut: no plain"):
        ours = eapruning.rebuilder(model, space, BATCHES, samples=17)
    assert [name.split(".")[-2] for name in ours.solvers] == ["3"]  # the MLP's second layer


def test_depthwise_kernels_stay_and_asymmetric_scales_them() -> None:
    """On the original inputs a kept channel's kernel is best as it is; on the cut network's it gets a factor."""
    model = cnn()
    ours = ready(model)
    counts = ours.space.draw(1, seed=3)[0]
    small = ours.small(counts)
    kept = list(ours.space.plan(counts).keep["stem"])
    assert "deep.weight" not in ours.solvers and torch.equal(small.deep.weight, model.deep.weight[kept])
    other = eapruning.asymmetric(ours, counts, BATCHES, samples=10**6)
    seen: dict[str, Tensor] = {}
    for name, each in (("whole", model), ("cut", other)):
        each.deep.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].detach()}))
        each(IMAGES)
    plain = [
        nn.functional.conv2d(seen[n], w, padding=1, groups=len(w)).detach().double()
        for n, w in (("whole", model.deep.weight), ("cut", small.deep.weight))
    ]
    y_CS, hat_CS = plain[0][:, kept].transpose(0, 1).flatten(1), plain[1].transpose(0, 1).flatten(1)
    best_C = torch.linalg.lstsq(hat_CS[..., None], y_CS[..., None]).solution.flatten()
    factor_C = (other.deep.weight / small.deep.weight).detach().double().mean((1, 2, 3))
    torch.testing.assert_close(factor_C, best_C, rtol=1e-3, atol=1e-3)
    assert float((factor_C - 1).abs().max()) > 1e-3


def test_an_error_that_gathers_statistics_leaves_none_behind() -> None:
    """The full-size candidate is one module for all; batch norm's buffers are the model's again each time."""
    ours = ready(cnn())
    first, second = ours.space.draw(2, seed=0)
    before = ours.masked(first)(IMAGES)
    ours.masked(second).train()(IMAGES * 5)
    again = ours.masked(first)
    assert not again.training and torch.equal(again(IMAGES), before)


def test_asymmetric_fits_what_the_cut_network_sees() -> None:
    model = cnn()
    ours = ready(model)
    better = 0
    for counts in ours.space.draw(6, seed=2):
        one, other = ours.small(counts), eapruning.asymmetric(ours, counts, BATCHES, samples=10**6)
        with torch.no_grad():
            gaps = [float((m(IMAGES) - model(IMAGES)).square().mean()) for m in (one, other)]
        better += gaps[1] < gaps[0]
    assert better >= 5
    # the last layer's own fit: nothing on these inputs comes nearer to the original's answers
    seen: list[Tensor] = []
    other.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        answer = other(IMAGES).double()
        rows_SD = torch.cat([seen[0], torch.ones(len(IMAGES), 1)], 1).double()
        best = torch.linalg.lstsq(rows_SD, model(IMAGES).double()).solution
        torch.testing.assert_close(answer, rows_SD @ best, rtol=1e-3, atol=1e-4)


def test_asymmetric_on_a_transformer() -> None:
    model = vit()
    ours = eapruning.rebuilder(model, eapruning.space(model, groups_of(model)), BATCHES, samples=100)
    for counts in ours.space.draw(3, seed=4):
        gaps = []
        for other in (ours.small(counts), eapruning.asymmetric(ours, counts, BATCHES, samples=10**6)):
            with torch.no_grad():
                gaps.append(float((other(IMAGES) - model(IMAGES)).square().mean()))
        assert gaps[1] < gaps[0]


def test_a_segmenters_error_is_one_minus_its_miou() -> None:
    """Rebuilding lowers it; labels of 255 do not count; the same data has the same name."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.LeakyReLU(0.3), nn.Conv2d(12, 12, 3, padding=1), nn.LeakyReLU(0.3)]
    model = nn.Sequential(*layers, nn.Conv2d(12, 3, 1)).eval()
    with torch.no_grad():
        model[4].bias -= model(IMAGES).mean((0, 2, 3))
        masks = model(IMAGES).argmax(1)
    masks[:, :2] = 255
    wrong = eapruning.MissedIoU(IMAGES, masks, 3, batch=7)
    assert wrong(model) == pytest.approx(0.0)
    assert wrong.describe() == eapruning.MissedIoU(IMAGES, masks, 3).describe()
    assert wrong.describe() != eapruning.MissedIoU(IMAGES, masks.clamp(max=1), 3).describe()
    ours = eapruning.rebuilder(model, eapruning.space(model, groups_of(model)), BATCHES, samples=200)
    fitness = eapruning.Fitness(ours, wrong)
    drawn = ours.space.draw(8, seed=0)
    gains = [eapruning.Fitness(ours, wrong, rebuild=False)(c)[0] - fitness(c)[0] for c in drawn]
    assert sum(gains) / len(gains) > 0.05
    with torch.no_grad():
        best = ours.small(drawn[0])
        confusion = JaccardIndex("multiclass", num_classes=3, ignore_index=255)(best(IMAGES), masks)
    assert fitness(drawn[0])[0] == pytest.approx(1 - float(confusion), abs=1e-6)


def test_ridge_by_condition_number() -> None:
    dice = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(20, 20, generator=dice, dtype=torch.float64))
    for low, wanted in ((1e-3, False), (1e-12, True)):
        values = torch.logspace(0, torch.tensor(low).log10().item(), 20, dtype=torch.float64)
        gram = (q * values) @ q.T
        factor, ridge, condition = solvable(gram, condition=1e8)
        assert (ridge > 0) == wanted
        assert condition == pytest.approx(1 / low, rel=0.05)
        left = torch.linalg.cond(factor @ factor.T)
        assert left <= 1.05e8
        for n in (3, 11):  # every leading block is conditioned at least as well
            assert torch.linalg.cond((factor @ factor.T)[:n, :n]) <= left * (1 + 1e-6)
    for wrong in (1, 1e17):
        with pytest.raises(InputError, match="condition is 1"):
            solvable(torch.eye(3).double(), condition=wrong)
    rows = torch.randn(2, 30, generator=dice, dtype=torch.float64)
    factor, ridge, _ = solvable(rows.T @ rows * 1e8, condition=1e14)  # far too few samples, hardly a ridge
    assert torch.isfinite(factor).all() and ridge > 0
    with pytest.raises(ScoreError, match="what 'fc' reads cannot be factored with any ridge"):
        solvable(torch.full((3, 3), torch.nan).double(), name="'fc'")


def test_singular_and_too_few_samples_are_said_and_survived() -> None:
    model = cnn()
    with torch.no_grad():
        model.inner.weight[4], model.inner.bias[4] = 0, 0  # a dead channel
    with pytest.warns(RuntimeWarning, match=r"'back.weight' \(1 of 10 inputs are always 0\) is singular"):
        ours = ready(model)
    space = ours.space
    with torch.no_grad():
        assert torch.isfinite(ours.masked(space.draw(1, seed=0)[0])(IMAGES)).all()
    with pytest.warns(
        RuntimeWarning, match=r"fewer samples than unknowns in .*'inner.weight' \(24 samples, 73 unknowns"
    ):
        few = eapruning.rebuilder(cnn(), space, BATCHES, samples=1)
    with torch.no_grad():
        assert torch.isfinite(few.masked(space.draw(1, seed=0)[0])(IMAGES)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(cnn())
    nowhere = torch.full((11, 11), torch.nan).double()
    with pytest.raises(ScoreError, match="what 'back.weight' reads cannot be factored"):
        reads = {"inner": torch.arange(10)[:, None]}
        leading.solver(model.back, reads, space.order, nowhere, name="'back.weight'")


def test_asymmetric_says_so_too() -> None:
    model = cnn()
    ours = ready(model)
    halves = tuple(-(-size // 2) for size in ours.space.whole)
    with pytest.warns(RuntimeWarning, match=r"fewer samples .*'inner.weight' \(24 samples, 37 unknowns"):
        few = eapruning.asymmetric(ours, halves, BATCHES, samples=1)
    assert torch.isfinite(few(IMAGES)).all()
    gone = ours.space.order["inner"][0]  # it stays longest, and says nothing
    with torch.no_grad():
        model.inner.weight[gone], model.inner.bias[gone] = 0, 0
    with pytest.warns(RuntimeWarning, match="is singular"):
        dead = ready(model)
    with pytest.warns(RuntimeWarning, match=r"Gram matrix of 'back.weight' \(1 of 5 inputs are always 0\) is singular"):
        eapruning.asymmetric(dead, halves, BATCHES, samples=10**6)


def test_memory_forgets_what_was_asked_for_longest_ago() -> None:
    made: list[str] = []

    def make(name: str) -> Tensor:
        made.append(name)
        return torch.zeros(10)  # 40 bytes

    memory = leading.Memory(100)
    for name in "abacab":  # c pushes b out, since a was asked for again
        memory.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"] and list(memory.found) == ["a", "b"] and memory.used == 80
    memory.get("large", lambda: torch.zeros(100))
    assert list(memory.found) == ["large"] and memory.used == 400, "one is kept, whatever its size"


def test_bad_input() -> None:
    model = cnn()
    ours = ready(model)
    with pytest.raises(PlanError, match="a candidate has 5 counts"):
        ours.masked((1, 2))
    with pytest.raises(PlanError, match="'inner' has 10 units; it cannot keep 11"):
        ours.masked(tuple(11 if n == "inner" else 1 for n in ours.space.names))
    with pytest.raises(PlanError, match="'stem' has 8 units; it cannot keep 8.0"):
        ours.masked(tuple(map(float, ours.space.whole)))  # type: ignore[arg-type]
    with pytest.raises(ScoreError, match="eapruning looks at data"):
        eapruning.rebuilder(model, ours.space, None)
    with pytest.raises(ScoreError, match="nan or inf"):
        eapruning.rebuilder(model, ours.space, [(IMAGES * torch.nan, 0)])
    with pytest.raises(InputError, match="choose is 'random' or 'l1'"):
        eapruning.space(model, ours.space.groups, choose="best")  # type: ignore[arg-type]
    for wrong in ({"samples": 0}, {"samples": -1}, {"samples": 2.5}, {"first": -1}):
        with pytest.raises(InputError, match="samples and first are whole numbers from 1 and 0 on, got"):
            eapruning.rebuilder(model, ours.space, BATCHES, **wrong)
    with pytest.raises(InputError, match="samples and first"):
        eapruning.asymmetric(ours, ours.space.whole, BATCHES, samples=0)
    with pytest.raises(InputError, match="step is a whole number"):
        eapruning.space(model, ours.space.groups, step=0)
    whole = groups_of(vit())
    with pytest.raises(InputError, match="nothing to search"):
        eapruning.space(vit(), whole.only([n for n, g in whole.items() if not g.exact]))


def test_data_of_an_error_that_does_not_fit() -> None:
    labels, masks = torch.zeros(24).long(), torch.zeros(24, 16, 16).long()
    for images, targets in ((IMAGES, labels[:, None]), (IMAGES, labels[:5]), (IMAGES[:0], labels[:0]), (IMAGES, [0])):
        with pytest.raises(InputError, match=r"images and targets are .* one class number an image"):
            eapruning.Misclassified(images, targets)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"images and targets are .* one mask an image"):
        eapruning.MissedIoU(IMAGES, masks[:, None], 3)
    for make in (
        lambda n: eapruning.Misclassified(IMAGES, labels, n),
        lambda n: eapruning.MissedIoU(IMAGES, masks, 3, n),
    ):
        for batch in (0, -1, 2.5):
            with pytest.raises(InputError, match="batch is the number of images"):
                make(batch)


def test_the_space() -> None:
    model = vit()
    groups = groups_of(model)
    space = eapruning.space(model, groups, step=16, max_ratio=0.8)
    assert [groups[n].kind for n in space.names] == ["head", "neuron"] * 2  # the embedding stays as it is
    assert space.whole == (4, 96, 4, 96) and space.counts(0 * space.levels) == (1, 32, 1, 32)
    assert space.counts(space.levels) == space.whole and space.macs(space.whole) > space.macs((1, 32, 1, 32))
    for how in ("uniform", "spread"):
        drawn = space.draw(50, seed=0, how=how)
        assert len(set(drawn)) == 50 and drawn == space.draw(50, seed=0, how=how)
        assert all(
            count in range(low, size + 1) for c in drawn for count, low, size in zip(c, (1, 32) * 2, space.whole)
        )
    assert len(eapruning.space(model, groups.only(space.names[:1])).draw(50, seed=0)) == 4
    norms = eapruning.space(model, groups, choose="l1").order["blocks.0.mlp.fc1"]
    weights = model.blocks[0].mlp.fc1.weight.abs().sum(1)
    assert norms[0] == int(weights.argmax()) and norms[-1] == int(weights.argmin())
    plan = space.plan((2, 48, 4, 96))
    assert isinstance(plan, PruningPlan) and len(plan.keep["blocks.0.attn.qkv"]) == 2


def test_class_tokens_are_always_among_the_samples() -> None:
    """With one sample an image and first=1 the Gram matrix is that of the class tokens alone."""
    model = vit()
    groups = groups_of(model)
    seen: list[Tensor] = []
    model.blocks[1].mlp.fc2.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 0].double()))
    gram = grams(model, groups, ["blocks.1.mlp.fc2.weight"], BATCHES, method="test", samples=1, first=1)
    tokens = torch.cat(seen).detach()
    torch.testing.assert_close(gram["blocks.1.mlp.fc2.weight"][:-1, :-1], tokens.T @ tokens)
    settings, error = eapruning.Settings(4, 2, 1), eapruning.Misclassified(IMAGES, torch.zeros(24).long())
    quick = {"settings": settings, "samples": 5, "quiet": True}
    without, given = (eapruning.search_plan(model, groups, BATCHES, error, first=n, **quick) for n in (0, 1))
    assert without.fitness.rebuilder.describe() != given.fitness.rebuilder.describe()
    rows, read = asymmetric_rows("blocks.1.mlp.fc2", (model, model), (1, 1), 0), []
    rows.each(BATCHES, lambda x_SD, hat_SD: read.append(x_SD))
    torch.testing.assert_close(torch.cat(read), tokens[: len(IMAGES)])
    more = grams(model, groups, ["blocks.1.mlp.fc2.weight"], BATCHES, method="test", samples=5, first=1)
    assert round(float(more["blocks.1.mlp.fc2.weight"][-1, -1])) == 5 * len(IMAGES)
