"""masked == pruned: on networks with one difficulty each, on the zoo, and against an oracle that shares no code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import Groups, PruningPlan
from prunekit.models.deeplab import deeplabv3, deeplabv3_mini, deeplabv3plus
from prunekit.surgery import check_equivalence, find_groups, prune

ZOO = [
    "resnet18", "resnet50", "resnext50_32x4d", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100",
    "mobilenetv3_large_100", "densenet121", "efficientnet_b0",
]  # fmt: skip


def hooked_outputs(model: nn.Module, groups: Groups, plan: PruningPlan, x: Tensor) -> Tensor:
    """The oracle: run the original and zero the removed channels in what each reading layer is given."""
    dead: dict[str, list[int]] = {}
    for name, keep in plan.keep.items():
        for member in groups[name].consumers():
            gone = [u for u in range(groups[name].size) if u not in keep]
            dead.setdefault(member.tensor.removesuffix(".weight"), []).extend(member.index[gone].flatten().tolist())

    def zero(channels: list[int]):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            alive = torch.ones(args[0].shape[1], dtype=args[0].dtype)
            per_group = args[0].shape[1] // getattr(module, "groups", 1)
            for i in range(0, args[0].shape[1], per_group):
                alive[[i + c for c in channels]] = 0
            return (args[0] * alive.view([-1 if d == 1 else 1 for d in range(args[0].dim())]),)

        return hook

    hooks = [model.get_submodule(n).register_forward_pre_hook(zero(c)) for n, c in dead.items()]
    out = model(x)
    for hook in hooks:
        hook.remove()
    return out


@pytest.mark.parametrize("net", nets.EXACT, ids=lambda n: n.__name__)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_small_networks_are_exact(net: type[nn.Module], ratio: float) -> None:
    torch.manual_seed(0)
    model, x = net(), torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    plan = nets.random_plan(groups, ratio)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12


@pytest.mark.parametrize("name", ZOO)
def test_zoo_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name).double().eval(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    groups = find_groups(model, x)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    certificate = check_equivalence(model, small, groups, plan, x)
    assert certificate.max_error <= 1e-9
    assert certificate.control > 1e-3
    assert certificate.inexact == ()
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters()) < 0.5 * count
    # and against hooks that know nothing of masks; the weights here are the model's own
    with torch.no_grad():
        expected, got = hooked_outputs(model, groups, plan, x), small.eval()(x)
    assert torch.allclose(expected, got, rtol=0, atol=1e-9 * float(expected.abs().max()))


SEGMENTERS = {
    "mini": lambda: deeplabv3_mini(),
    "v3 resnet50": lambda: deeplabv3(5, output_stride=16),
    "v3+ resnet50": lambda: deeplabv3plus(5),
    "v3 mobilenetv2": lambda: deeplabv3(5, backbone="mobilenetv2_100", output_stride=16),
    "v3+ mobilenetv2": lambda: deeplabv3plus(5, backbone="mobilenetv2_100"),
}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_are_exact_and_still_train(name: str) -> None:
    torch.manual_seed(0)
    model, x = SEGMENTERS[name](), torch.randn(2, 3, 64, 64)
    groups = find_groups(model, x)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error <= 1e-9
    out = small.train()(x)
    leaves = out.values() if isinstance(out, dict) else [out]
    sum(o.mean() for o in leaves).backward()  # the auxiliary head was cut to fit as well
    assert all(p.grad is not None for p in small.parameters())
