"""Who may go, two thresholds, and the plan: against sorting by hand, and each mistake by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from prunekit.core import Scores
from prunekit.errors import InputError, ScoreError
from prunekit.methods import mtp
from prunekit.models.bisenet import bisenet_mini
from prunekit.models.classifier import Classifier
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.plan import Limits
from prunekit.surgery import check_equivalence, find_groups, prune

X = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))


def randomised(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.rand(module.num_features, generator=draw) + 0.01
            module.running_var = torch.rand(module.num_features, generator=draw) + 0.5
    return model.eval()


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, object, mtp.Parts]:
    model = randomised(deeplabv3_mini())
    groups = find_groups(model, X)
    return model, groups, mtp.split(model, groups)


def test_inner_convolutions_and_the_decoder_may_go(case) -> None:
    model, groups, parts = case
    assert list(parts.backbone) == [f"backbone.body.layer{n}.0.conv1" for n in (1, 2, 3, 4)]
    assert {name.split(".")[0] for name in parts.decoder} == {"aspp", "fuse"}  # the auxiliary head stays whole
    everything = mtp.split(model, groups, inner=False)
    assert len(everything.backbone) == 11 and "backbone.body.layer4.0.conv2" in everything.backbone
    bisenet = randomised(bisenet_mini())
    groups = find_groups(bisenet, X)
    parts = mtp.split(bisenet, groups, "context.backbone")
    assert len(parts.backbone) == 4 and "spatial.0.0" in parts.decoder
    assert parts.whole == {"fusion.attention.0": "no batch norm follows it"}
    with pytest.raises(InputError, match="no 'backbone'; give the backbone's name, as it has 'context.backbone'"):
        mtp.split(bisenet, groups)


class Plain(nn.Module):
    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        middle = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), middle, nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


def test_networks_without_blocks_or_norms_are_refused() -> None:
    for norm in (False, True):
        model = Plain(norm=norm).eval()
        groups = find_groups(model, X)
        with pytest.raises(InputError, match="no residual block .*pass inner=False"):
            mtp.split(model, groups)
        if norm:
            assert list(mtp.split(model, groups, inner=False).backbone) == ["backbone.0"]
        else:
            with pytest.raises(ScoreError, match="no batch norm follows any channel of 'backbone'.*l1 or taylor"):
                mtp.split(model, groups, inner=False)


def test_what_no_batch_norm_follows_stays_whole_and_the_plan_says_so() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            norm = nn.BatchNorm2d(8)
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 6, 3))
            self.decoder = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.backbone(x))

    model = randomised(Bare())
    groups = find_groups(model, X)
    parts = mtp.split(model, groups, inner=False)
    assert list(parts.backbone) == ["backbone.0"] and not parts.decoder
    assert parts.whole == dict.fromkeys(("backbone.3", "decoder.1"), "no batch norm follows it")
    plan = mtp.plan(parts, mtp.score(model, parts), 0.5)
    assert list(plan.keep) == ["backbone.0"] and "; nothing of the decoder may go; backbone.3 stays whole" in plan.note
    assert plan.note.endswith("decoder.1 stays whole: no batch norm follows it")
    prune(model, groups, plan)


class Sum(nn.Module):
    """The decoder's channels are added to the backbone's, and a stem's are read by it: neither is one part's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
        layers = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.backbone = nn.Sequential(*layers)
        self.lateral = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(self.stem(x)) + self.lateral(x))


def test_channels_that_both_parts_share_stay_whole() -> None:
    model = randomised(Sum())
    parts = mtp.split(model, find_groups(model, X), inner=False)
    assert list(parts.backbone) == ["backbone.0"] and list(parts.decoder) == ["head.0"]
    assert len(parts.whole) == 2 and set(parts.whole.values()) == {"backbone and decoder share it"}


def test_scores_are_the_classifiers_scales_and_the_decoders(case) -> None:
    model, _, parts = case
    classifier = Classifier(copy.deepcopy(model.backbone), 5)
    with torch.no_grad():
        for n in (1, 2, 3, 4):
            norm = classifier.get_submodule(f"backbone.body.layer{n}.0.bn1").weight
            norm.copy_(-torch.arange(1.0, len(norm) + 1))
    scores = mtp.score(model, parts, classifier=classifier)
    assert scores["backbone.body.layer1.0.conv1"].tolist() == list(range(1, 25))
    own = mtp.score(model, parts)
    assert torch.equal(own["fuse.0"], scores["fuse.0"]) and torch.equal(
        own["fuse.0"], model.fuse[1].weight.detach().double()
    )
    assert torch.equal(own["backbone.body.layer1.0.conv1"], model.backbone.body.layer1[0].bn1.weight.detach().double())
    fresh = deeplabv3_mini()
    with pytest.raises(ScoreError, match=r"all scales in 'backbone.body.layer1.0.bn1.weight' are 1"):
        mtp.score(fresh, parts)


def flat(parts: mtp.Parts, scores: Scores, part: str) -> list[float]:
    return sorted(v for name in getattr(parts, part) for v in scores[name].tolist())


def test_each_part_has_its_own_threshold_at_the_same_percentage(case) -> None:
    model, groups, parts = case
    scores = mtp.score(model, parts)
    for name in parts.decoder:
        scores[name] = scores[name] * 10  # another scale altogether
    tau = mtp.thresholds(parts, scores, 0.4)
    for part, limit in (("backbone", tau.backbone), ("decoder", tau.decoder)):
        values = flat(parts, scores, part)
        assert sum(v <= limit for v in values) == round(0.4 * len(values))
    plan = mtp.plan(parts, scores, 0.4, limits=Limits(round_to=1, max_ratio=0.99))
    for name, kept in plan.keep.items():
        limit = tau.backbone if name in parts.backbone else tau.decoder
        assert kept == tuple((scores[name] > limit).nonzero().flatten().tolist())
    one = mtp.thresholds(parts, scores, 0.4, how="unified")
    assert one.backbone == one.decoder > tau.backbone
    unified = mtp.plan(parts, scores, 0.4, how="unified")
    removed = {
        p: sum(len(scores[n]) - len(unified.keep[n]) for n in getattr(parts, p)) for p in ("backbone", "decoder")
    }
    assert removed["backbone"] > 0.6 * 232 and removed["decoder"] < 0.4 * 448  # it would cut one part to pieces
    small = prune(model, groups, plan)
    check_equivalence(model, small, groups, plan, X)
    apart = mtp.plan(parts, scores, (0.0, 0.5))
    assert all(len(apart.keep[n]) == len(scores[n]) for n in parts.backbone) and "tau1 0" in apart.note


def test_a_layer_that_would_be_empty_keeps_what_the_limits_say(case) -> None:
    _, _, parts = case
    draw, both = torch.Generator().manual_seed(3), {**parts.backbone.table, **parts.decoder.table}
    scores = {name: 1 + torch.rand(group.size, generator=draw).double() for name, group in both.items()}
    scores["fuse.0"] *= 1e-3  # all below the threshold
    plan = mtp.plan(parts, scores, 0.2, limits=Limits(round_to=1, min_keep=3, max_ratio=0.99))
    assert len(plan.keep["fuse.0"]) == 3 and "the limits kept more of fuse.0 (3, not 0)" in plan.note
    assert "limits kept more" not in mtp.plan(parts, scores, 0.05).note
    zeros = {name: torch.zeros_like(s) for name, s in scores.items()}  # ties: exactly the percentage goes all the same
    plan = mtp.plan(parts, zeros, 0.25, limits=Limits(round_to=1, max_ratio=0.999))
    assert sum(len(zeros[n]) - len(plan.keep[n]) for n in parts.backbone) <= round(0.25 * 232)


def test_scores_that_are_missing_are_named(case) -> None:
    model, _, parts = case
    scores = mtp.score(model, parts)
    del scores["fuse.0"]
    for call in (mtp.plan, mtp.thresholds):
        with pytest.raises(ScoreError, match=r"no scores of 'fuse.0', 1 missing; take mtp.score"):
            call(parts, scores, 0.5)
    with pytest.raises(ScoreError, match="'fuse.0' has 64 units but its scores are"):
        mtp.plan(parts, {**scores, "fuse.0": torch.ones(3)}, 0.5)


@pytest.mark.parametrize("wrong", [1.0, -0.1, (0.1,), "half"])
def test_percentages_that_cannot_be(case, wrong) -> None:
    _, _, parts = case
    scores = {name: torch.rand(group.size) for name, group in (*parts.backbone.items(), *parts.decoder.items())}
    with pytest.raises(InputError, match="percentage is .*give the fraction to remove"):
        mtp.plan(parts, scores, wrong)
    with pytest.raises(InputError, match="'independent' or 'unified', got 'both'"):
        mtp.thresholds(parts, scores, 0.5, how="both")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one threshold for both parts takes one percentage"):
        mtp.plan(parts, scores, (0.1, 0.2), how="unified")
