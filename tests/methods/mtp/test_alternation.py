"""The alternation on small networks: agreement, sparsity, interrupted runs, and each mistake by name."""

from __future__ import annotations

import copy
import json
import re
import signal
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from prunekit.errors import CheckpointError, DataError, InputError, TrainingError
from prunekit.methods import mtp
from prunekit.progressive import Training
from prunekit.surgery import check_equivalence, find_groups, prune
from prunekit.train import TrainConfig, classification_loss, segmentation_loss

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QUIET = mtp.Settings(rounds=3, alpha1=0.0, alpha2=0.0, mu=1.0, rho=2.0)


def body(width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3, padding=1),
    )


class Labeller(nn.Module):
    def __init__(self, classes: int = 2, width: int = 12) -> None:
        super().__init__()
        self.backbone, self.head = body(width), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).relu().mean((2, 3)))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = body()
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.backbone(x).relu())


def networks() -> tuple[Labeller, Segmenter, mtp.Parts]:
    torch.manual_seed(0)
    labeller, segmenter = Labeller(), Segmenter()
    segmenter.backbone.load_state_dict(labeller.backbone.state_dict())
    return labeller, segmenter, mtp.split(segmenter.eval(), find_groups(segmenter, X), inner=False)


def trainings(steps: int, lr: float = 0.05, schedule: str = "constant") -> tuple[Training, Training]:
    """Bright pictures against dark ones, bright pixels against dark ones."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 8, 8, generator=draw) + torch.randn(32, 1, 1, 1, generator=draw)
    label, mask = (x.mean((1, 2, 3)) > 0).long(), (x.mean(1) > 0).long()
    config = TrainConfig(steps, lr, schedule=schedule, weight_decay=0.0, device="cpu", quiet=True)  # type: ignore[arg-type]
    loaders = [DataLoader(TensorDataset(x, target), 8, shuffle=True) for target in (label, mask)]
    return Training(config, loaders[0], classification_loss), Training(config, loaders[1], segmentation_loss)


class Jittered(TensorDataset):
    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, target = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), target


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_with_a_large_mu_both_backbones_are_one() -> None:
    labeller, segmenter, parts = networks()
    before = copy.deepcopy((labeller.state_dict(), segmenter.state_dict()))
    settings = mtp.Settings(rounds=8, alpha1=0.0, alpha2=0.0, mu=10.0, rho=4.0)
    sparse = mtp.alternate(labeller, segmenter, parts, *trainings(48, schedule="linear"), settings)
    first, third = sparse.classifier.backbone, sparse.segmenter.backbone
    for (name, w1), w3 in zip(first.named_parameters(), third.parameters(), strict=True):
        assert ((w1 - w3).norm() / w1.norm().clamp_min(1e-3)).item() < 1e-4, name
    assert sparse.history[-1].relative < 1e-4
    assert not equal(first, labeller.backbone)  # and they have learned
    after = labeller.state_dict(), segmenter.state_dict()
    assert all(torch.equal(t, old[n]) for new, old in zip(after, before, strict=True) for n, t in new.items())
    loose = mtp.alternate(labeller, segmenter, parts, *trainings(48), replace(settings, mu=1e-6, rho=1.01))
    assert loose.history[-1].relative > 1e-2  # negative control


def test_l1_separates_the_scales_and_zeros_are_free_to_go() -> None:
    labeller, segmenter, parts = networks()
    plain, sparse = (
        mtp.alternate(labeller, segmenter, parts, *trainings(90), mtp.Settings(3, alpha, alpha, mu=0.1, rho=2.0))
        for alpha in (0.0, 0.08)
    )
    gammas = [
        torch.cat(list(mtp.score(run.segmenter, parts, classifier=run.classifier).values())) for run in (plain, sparse)
    ]
    assert (gammas[0] > 0.3).all()  # one heap
    dead, alive = (gammas[1] < 0.01), (gammas[1] > 0.1)
    assert dead.sum() > 5 and alive.sum() > 2 and (dead | alive).float().mean() > 0.85  # two, and little between
    assert (gammas[1] == 0).sum() > 5  # exactly
    theirs = mtp.score(sparse.segmenter, parts, classifier=sparse.classifier)
    own = mtp.score(sparse.segmenter, parts)
    for part, gamma in {"1": theirs["backbone.0"], "2": own["decoder.0"], "3": own["backbone.0"]}.items():
        dead, alive = gamma < 0.01, gamma > 0.1
        assert (gamma == 0).sum() > 5 and alive.sum() > 1 and (dead | alive).float().mean() > 0.85, f"gamma{part}"
    scores, groups = mtp.score(sparse.segmenter, parts), find_groups(sparse.segmenter, X)
    plan = mtp.plan(parts, scores, 0.3)
    check_equivalence(sparse.segmenter, prune(sparse.segmenter, groups, plan), groups, plan, X)


def test_one_step_shrinks_all_scales_by_their_own_alpha() -> None:
    """gamma1, gamma3 and gamma2 against Eqs. 7 to 9 by hand, from gradients of our own."""
    labeller, segmenter, parts = networks()
    tasks = []
    for task in trainings(1):
        batch = next(iter(DataLoader(task.loader.dataset, 32)))  # type: ignore[attr-defined]
        tasks.append((replace(task, loader=[batch], config=replace(task.config, momentum=0.5)), batch))
    (classify, (x, label)), (segment, (_, mask)) = tasks
    alpha1, alpha2, mu, step = 0.3, 0.7, 2.0, 0.05 / (1 - 0.5)
    done = mtp.alternate(labeller, segmenter, parts, classify, segment, mtp.Settings(1, alpha1, alpha2, 1.5, mu, 2.0))

    def stepped(loss: Tensor, gamma: Tensor) -> Tensor:
        return (gamma - 0.05 * torch.autograd.grad(loss, gamma, retain_graph=True)[0]).detach()

    one, two = copy.deepcopy(labeller).train(), copy.deepcopy(segmenter).train()
    first, third, second = one.backbone[1].weight, two.backbone[1].weight, two.decoder[1].weight
    start, loss = third.detach().clone(), 1.5 * segmentation_loss(two(x), mask)
    v1, v2, v3 = stepped(classification_loss(one(x), label), first), stepped(loss, second), stepped(loss, third)
    gamma1 = F.softshrink(v1 + step * mu * start, step * alpha1) / (1 + step * mu)
    gamma3 = F.softshrink(v3 + step * mu * gamma1, step * alpha2) / (1 + step * mu)
    gamma2 = F.softshrink(v2, step * alpha2)
    found = done.classifier.backbone[1], done.segmenter.backbone[1], done.segmenter.decoder[1]
    for norm, gamma in zip(found, (gamma1, gamma3, gamma2), strict=True):
        torch.testing.assert_close(norm.weight.detach(), gamma, rtol=0, atol=1e-6)


def test_scales_that_do_not_learn_are_left_alone() -> None:
    labeller, segmenter, parts = networks()
    for norm in (labeller.backbone[1], segmenter.backbone[1], segmenter.decoder[1]):
        norm.weight.requires_grad_(False)
    done = mtp.alternate(labeller, segmenter, parts, *trainings(3), replace(QUIET, alpha1=0.5, alpha2=0.5))
    for norm in (done.classifier.backbone[1], done.segmenter.backbone[1], done.segmenter.decoder[1]):
        assert (norm.weight == 1).all()


def test_a_run_that_is_stopped_in_the_middle_of_a_round_ends_the_same(tmp_path: Path) -> None:
    """Also with dropout, and pictures that are never the same twice."""
    labeller, segmenter, parts = networks()
    segmenter.decoder[2] = nn.Sequential(nn.ReLU(), nn.Dropout(0.3))
    settings = mtp.Settings(rounds=3, alpha1=0.01, alpha2=0.01, mu=0.5, rho=1.5)
    classify, segment = (
        replace(task, loader=DataLoader(Jittered(*task.loader.dataset.tensors), 8, shuffle=True))  # type: ignore[attr-defined]
        for task in trainings(9)
    )
    whole = mtp.alternate(labeller, segmenter, parts, classify, segment, settings)
    for stop_at, task in ((5, classify), (2, segment)):
        calls = 0

        def loss(output: Tensor, target: Tensor, task: Training = task, stop_at: int = stop_at) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                signal.raise_signal(signal.SIGINT)
            return task.loss_fn(output, target)

        pair = [replace(task, loss_fn=loss) if one is task else one for one in (classify, segment)]
        folder = tmp_path / str(stop_at)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                mtp.alternate(labeller, segmenter, parts, *pair, settings, checkpoint=folder)
        finally:
            signal.signal(signal.SIGINT, before)
        assert len(list(folder.glob("step-*"))) == 1
        again = mtp.alternate(labeller, segmenter, parts, classify, segment, settings, checkpoint=folder)
        assert equal(again.classifier, whole.classifier) and equal(again.segmenter, whole.segmenter)
        assert again.history == whole.history
        done = mtp.alternate(labeller, segmenter, parts, classify, segment, settings, checkpoint=folder)
        assert equal(done.segmenter, whole.segmenter)
        with pytest.raises(CheckpointError, match=r"rho=1.5, now rho=1.6"):
            mtp.alternate(labeller, segmenter, parts, classify, segment, replace(settings, rho=1.6), checkpoint=folder)


def test_a_loss_that_is_not_finite_stops_at_its_step_and_the_last_round_stays(tmp_path: Path) -> None:
    labeller, segmenter, parts = networks()
    classify, segment = trainings(9)
    calls = 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return segmentation_loss(output, target) * (float("nan") if calls == 5 else 1.0)

    with pytest.raises(TrainingError, match=r"round 2, segmentation: the loss is nan at step 4 .*rounds before"):
        mtp.alternate(labeller, segmenter, parts, classify, replace(segment, loss_fn=loss), QUIET, checkpoint=tmp_path)
    again = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET, checkpoint=tmp_path)
    whole = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET)
    assert equal(again.segmenter, whole.segmenter)


def finite(folder: Path) -> bool:
    """Is all that the one checkpoint there holds finite?"""
    (step,) = folder.glob("step-*")
    return all(bool(t.isfinite().all()) for file in step.glob("*.safetensors") for t in load_file(file).values())


class Counting(Segmenter):
    """With a statistic that overflows in the fourth step, where no loss sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen *= 1e10
        return super().forward(x)


def test_what_is_not_finite_after_a_step_is_not_kept(tmp_path: Path) -> None:
    """An infinite gradient, or an overflowing statistic, behind a finite loss in a round's last step, or the run's."""
    labeller, segmenter, parts = networks()
    classify, segment = trainings(9)
    whole = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET)

    def steep(at: int, task: Training) -> Training:
        calls = 0

        def loss(output: Tensor, target: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            root = (output - output.detach()).abs().sum().sqrt()  # 0, and its slope is infinite
            return task.loss_fn(output, target) + (root if calls == at else 0.0)

        return replace(task, loss_fn=loss)

    for at, name in ((6, "round 2, segmentation"), (9, "round 3, segmentation")):
        folder = tmp_path / str(at)
        with pytest.raises(TrainingError, match=rf"{name}: .* step {at - 1}.*rounds before"):
            mtp.alternate(labeller, segmenter, parts, classify, steep(at, segment), QUIET, checkpoint=folder)
        assert finite(folder)
        again = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET, checkpoint=folder)
        assert equal(again.segmenter, whole.segmenter)
    with pytest.raises(TrainingError, match=r"round 1, classification: .* step 2"):
        mtp.alternate(labeller, segmenter, parts, steep(3, classify), segment, QUIET)
    counting = Counting()
    with pytest.raises(TrainingError, match=r"round 2, segmentation: 'seen' is not finite after step 5.*rounds before"):
        mtp.alternate(labeller, counting, parts, classify, segment, QUIET, checkpoint=tmp_path / "seen")
    assert finite(tmp_path / "seen")
    often = replace(segment, config=replace(segment.config, save_every=1))
    with pytest.raises(TrainingError, match=r"round 2, segmentation: 'seen' is not finite after step 3"):
        mtp.alternate(labeller, counting, parts, classify, often, QUIET, checkpoint=tmp_path / "often")
    assert finite(tmp_path / "often")


@pytest.mark.parametrize("lr", [1e3, 1e6, 1e20])
def test_a_run_that_diverges_leaves_no_checkpoint_that_is_not_finite(lr: float, tmp_path: Path) -> None:
    labeller, segmenter, parts = networks()
    settings = mtp.Settings(4, 0.0, 0.0, mu=1e-6, rho=1.1)
    try:
        done = mtp.alternate(labeller, segmenter, parts, *trainings(12, lr), settings, checkpoint=tmp_path)
    except TrainingError as err:
        assert re.match(r"round \d, (classification|segmentation): ", str(err))
    else:
        assert all(bool(t.isfinite().all()) for t in done.segmenter.state_dict().values())
    assert not list(tmp_path.glob("step-*")) or finite(tmp_path)


def test_checkpoints_in_the_middle_of_a_round_come_as_often_as_asked(tmp_path: Path) -> None:
    labeller, segmenter, parts = networks()
    classify, segment = trainings(9)
    calls = 0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError  # as sudden as a lost machine
        return segmentation_loss(output, target)

    often = replace(segment, loss_fn=loss, config=replace(segment.config, save_every=2))
    with pytest.raises(ZeroDivisionError):
        mtp.alternate(labeller, segmenter, parts, classify, often, QUIET, checkpoint=tmp_path)
    state = json.loads(next(tmp_path.glob("step-*/state.json")).read_text())
    assert {name: len(losses) for name, losses in state["history"].items()} == {"classify": 3, "segment": 2}
    whole = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET)
    with pytest.raises(CheckpointError, match=r"the part of 'decoder.0'='decoder', now the part of 'decoder.0'=None"):
        spared = replace(parts, decoder=parts.decoder.only([]))
        mtp.alternate(labeller, segmenter, spared, classify, segment, QUIET, checkpoint=tmp_path)
    again = mtp.alternate(labeller, segmenter, parts, classify, segment, QUIET, checkpoint=tmp_path)
    assert equal(again.segmenter, whole.segmenter) and equal(again.classifier, whole.classifier)


def test_each_mistake_is_named() -> None:
    labeller, segmenter, parts = networks()
    pair = trainings(9)
    with pytest.raises(InputError, match=r"'0.weight' is \(10, 3, 3, 3\) in the classifier, \(12, 3, 3, 3\) in the"):
        mtp.alternate(Labeller(width=10), segmenter, parts, *pair, QUIET)
    frozen = copy.deepcopy(labeller)
    frozen.backbone[0].weight.requires_grad_(False)
    with pytest.raises(InputError, match="differ in what requires a gradient"):
        mtp.alternate(frozen, segmenter, parts, *pair, QUIET)
    with pytest.raises(DataError, match=r"target holds the label 1 .* outside 0..0"):
        mtp.alternate(Labeller(classes=1), segmenter, parts, *pair, QUIET)
    once, three = pair[1], copy.deepcopy(labeller)
    three.head = nn.Linear(8, 3)  # one class more than there are labels is no mistake
    mtp.alternate(three, segmenter, parts, *pair, QUIET)
    masks = [(x, target + 1) for x, target in once.loader]
    with pytest.raises(DataError, match=r"target holds the label 2 .* outside 0..1"):
        mtp.alternate(labeller, segmenter, parts, pair[0], replace(once, loader=masks), QUIET)
    for config, message in (
        (replace(pair[0].config, optimizer="adamw"), "classify.config needs optimizer='sgd'"),
        (replace(pair[0].config, steps=10), "classify.config.steps is 10, no multiple of 3 rounds"),
        (replace(pair[0].config, mixed_precision="bf16"), "differ in mixed_precision"),
    ):
        with pytest.raises(InputError, match=message):
            mtp.alternate(labeller, segmenter, parts, replace(pair[0], config=config), pair[1], QUIET)
    half = [replace(task, config=replace(task.config, mixed_precision="fp16")) for task in pair]
    with pytest.raises(InputError, match="mixed_precision='fp16' leaves out steps .* use 'bf16' or 'no'"):
        mtp.alternate(labeller, segmenter, parts, *half, QUIET)
    nameless = nn.Sequential(OrderedDict(body=body(), head=nn.Linear(8, 2)))
    with pytest.raises(
        InputError, match=r"the classifier \(Sequential\) has no 'backbone'; name it so, .* 'body', 'he"
    ):
        mtp.alternate(nameless, segmenter, parts, *pair, QUIET)
    with pytest.raises(InputError, match=r"'0.weight' is torch.float64 in the classifier, torch.float32 in the segm"):
        mtp.alternate(copy.deepcopy(labeller).double(), segmenter, parts, *pair, QUIET)
    with pytest.raises(InputError, match="the backbones differ: '0.weight'"):
        mtp.score(segmenter, parts, classifier=Labeller(width=10))
    for name, value in (
        ("rho", 1.0),
        ("rho", float("nan")),
        ("rho", "1.5"),
        ("mu", 0.0),
        ("mu", None),
        ("mu", 1e31),
        ("alpha1", -1.0),
        ("rounds", 0),
    ):
        with pytest.raises(InputError, match=re.escape(f"{name} is {value!r}")):
            mtp.Settings(**{name: value})  # type: ignore[arg-type]


def test_mu_that_grows_in_every_round_stays_within_32_bits() -> None:
    labeller, segmenter, parts = networks()
    done = mtp.alternate(labeller, segmenter, parts, *trainings(70), mtp.Settings(70, 0.0, 0.0, mu=0.1, rho=4.0))
    assert done.history[-1].mu == 1e30 and done.history[-1].relative < 1e-6
    assert all(bool(t.isfinite().all()) for t in done.segmenter.state_dict().values())


def test_two_networks_of_which_one_is_cut_are_refused_before_anything_is_trained() -> None:
    labeller, segmenter, parts = networks()
    draw = torch.Generator().manual_seed(3)
    scores = {name: torch.rand(size, generator=draw) for name, size in (("backbone.0", 12), ("decoder.0", 16))}
    cut = prune(segmenter, find_groups(segmenter, X), mtp.plan(parts, scores, 0.5))
    classify, segment = trainings(3)

    def never(output: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("trained")

    message = r"'0.weight' is \(12, 3, 3, 3\) in the classifier, \(6, 3, 3, 3\) in the segmenter's .*classifier_plan"
    with pytest.raises(InputError, match=message):
        mtp.retrain(labeller, cut, replace(classify, loss_fn=never), segment)
    with pytest.raises(InputError, match=message):
        mtp.with_backbone(cut, labeller)


def test_the_small_classifier_teaches_the_small_segmenter(tmp_path: Path) -> None:
    labeller, segmenter, parts = networks()
    groups = find_groups(segmenter, X)
    for norm in (segmenter.backbone[1], segmenter.decoder[1], labeller.backbone[1]):
        norm.weight.data = torch.rand(norm.num_features, generator=torch.Generator().manual_seed(2)) + 0.1
    plan = mtp.plan(parts, mtp.score(segmenter, parts, classifier=labeller), 0.5)
    own = mtp.classifier_plan(plan, parts)
    small = prune(labeller.eval(), find_groups(labeller, X), own)
    cut = prune(segmenter, groups, plan)
    pair = trainings(3)
    tuned, whole = mtp.retrain(small, cut, *pair, folder=tmp_path)
    moved = mtp.with_backbone(cut, tuned)
    assert equal(moved.backbone, tuned.backbone) and not equal(cut.backbone, tuned.backbone)
    assert equal(moved.decoder, cut.decoder)
    from prunekit.train import finetune

    alone = finetune(moved, pair[1].loader, pair[1].config, loss_fn=segmentation_loss).model
    assert equal(whole, alone) and F.cross_entropy(whole(X), torch.zeros(1, 8, 8).long()).isfinite()
