"""A pruned model is an ordinary model: it trains, copies, travels, compiles, exports, changes type, is pruned again.

deeplab, segformer, resnet, mobilenet and vit come back as their own class; swin and poolformer, which have sizes built
into their code, as the traced graph.
"""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch
import torch.utils._pytree as pytree
from safetensors.torch import save_file
from timm.models.metaformer import MetaFormer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import Groups, PruningPlan
from prunekit.errors import CertificateError
from prunekit.export import export_onnx
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.models.segformer import segformer_mini

MODELS: dict[str, Callable[[], nn.Module]] = {
    "deeplab": deeplabv3_mini,
    "segformer": lambda: segformer_mini(6),
    "resnet": lambda: timm.create_model("resnet10t", num_classes=10),
    "mobilenet": lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=32, depths=(2, 2), num_heads=(2, 4)
    ),
    "poolformer": lambda: MetaFormer(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48), num_classes=10),
}
EDITED = {"swin", "poolformer"}
TWICE = {"vit", "swin"}  # stored after two cuts


@dataclass(frozen=True)
class Cut:
    """model is pruned to small, in eval mode; y = small(x). Shared by the tests, so these change copies."""

    model: nn.Module
    small: nn.Module
    groups: Groups
    plan: PruningPlan
    x_BCHW: Tensor
    y: Tensor


@functools.cache
def cut(name: str) -> Cut:
    torch.manual_seed(0)
    model, x_BCHW = MODELS[name]().eval(), torch.randn(2, 3, 32, 32)
    groups = pk.find_groups(model, x_BCHW)
    plan = nets.random_plan(groups, 0.5)
    small = pk.prune(model, groups, plan)
    assert isinstance(small, torch.fx.GraphModule) == (name in EDITED)
    return Cut(model, small, groups, plan, x_BCHW, small(x_BCHW).detach())


def difference(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((got.detach().float() - wanted).abs().max() / wanted.abs().max())


def trained(case: Cut) -> tuple[nn.Module, list[float]]:
    """A copy after one step on one batch, and the loss before and after, with the same dropout."""
    small = copy.deepcopy(case.small).train()
    target = torch.randint(0, 2, case.y.argmax(1).shape, generator=torch.Generator().manual_seed(1))

    def loss() -> Tensor:
        torch.manual_seed(2)
        outputs = pytree.tree_leaves(small(case.x_BCHW))  # auxiliary heads too
        return sum(nn.functional.cross_entropy(output, target) for output in outputs)

    before = loss()
    before.backward()
    torch.optim.SGD(small.parameters(), 1e-2).step()
    return small, [before.item(), loss().item()]


@pytest.mark.parametrize("name", MODELS)
def test_one_step_lowers_the_loss_and_reaches_every_parameter(name: str) -> None:
    case = cut(name)
    small, (before, after) = trained(case)
    assert after < before
    assert [n for n, p in small.named_parameters() if p.grad is None] == []
    assert torch.equal(case.small(case.x_BCHW), case.y)  # the step changed its own copy only


@pytest.mark.parametrize("name", MODELS)
def test_train_and_eval_keep_their_meaning(name: str) -> None:
    case = cut(name)
    small = copy.deepcopy(case.small)
    norms = [m for m in small.modules() if isinstance(m, _BatchNorm)]
    means = [norm.running_mean.clone() for norm in norms]
    assert len(norms) == len([m for m in case.model.modules() if isinstance(m, _BatchNorm)])
    small(case.x_BCHW)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True))
    small.train()
    assert all(m.training for m in small.modules())
    small(case.x_BCHW)
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True))
    assert not any(m.training for m in small.eval().modules())
    one = case.small(case.x_BCHW[:1])  # in eval mode an image does not see its neighbours, whatever the batch size
    assert difference(one, case.y[:1]) < 1e-5


FRESH = """
import sys
from pathlib import Path
from safetensors.torch import load_file
sys.path.insert(0, {here!r})
import torch, test_after
import prunekit as pk
for folder in sorted(Path(sys.argv[1]).iterdir()):
    torch.manual_seed(9)
    data = load_file(folder / "outputs.safetensors")
    small = pk.load_pruned(folder, test_after.MODELS[folder.name]().eval(), data["x"])
    print(folder.name, torch.equal(small(data["x"]), data["y"]))
"""


def test_a_fresh_process_rebuilds_what_was_trained(tmp_path: Path) -> None:
    for name in MODELS:
        case = cut(name)
        small, plans = trained(case)[0].eval(), [case.plan]
        if name in TWICE:
            groups = pk.find_groups(small, case.x_BCHW)
            plans.append(nets.random_plan(groups, 0.3, seed=1))
            small = pk.prune(small, groups, plans[-1])
        folder = pk.save_pruned(tmp_path / name, small, plans)
        save_file({"x": case.x_BCHW, "y": small(case.x_BCHW).detach().contiguous()}, folder / "outputs.safetensors")
    code = FRESH.format(here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:-1] == [f"{name} True" for name in sorted(MODELS)], done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    case = cut(name)
    for twin in (copy.deepcopy(case.small), pickle.loads(pickle.dumps(case.small))):
        assert torch.equal(twin(case.x_BCHW), case.y)
        assert set(case.small.state_dict()) <= set(twin.state_dict())  # fx pickles a graph's constants as buffers
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in case.small.parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_pruned_again(name: str) -> None:
    case = cut(name)
    groups = pk.find_groups(case.small, case.x_BCHW)
    for group in set(groups) & set(case.groups):  # one head alone is no group
        assert groups[group].size == len(case.plan.keep[group])
    plan, wrong = (nets.random_plan(groups, 0.3, seed) for seed in (1, 2))
    again = pk.prune(case.small, groups, plan)
    assert pk.check_equivalence(case.small, again, groups, plan, case.x_BCHW).max_error < 1e-9
    assert sum(p.numel() for p in again.parameters()) < 0.8 * sum(p.numel() for p in case.small.parameters())
    with pytest.raises(CertificateError):
        pk.check_equivalence(case.small, again, groups, wrong, case.x_BCHW)


@pytest.mark.parametrize("name", MODELS)
def test_other_number_types(name: str) -> None:
    case = cut(name)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = case.small(case.x_BCHW)
    assert mixed.dtype == torch.bfloat16 and difference(mixed, case.y) < 0.05
    for dtype, limit in ((torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float64, 1e-5)):
        small = copy.deepcopy(case.small).to(dtype)
        y = small(case.x_BCHW.to(dtype))
        assert y.dtype == dtype and difference(y, case.y) < limit


@pytest.mark.parametrize("name", ["deeplab", "vit", "swin"])
def test_it_compiles(name: str) -> None:
    case = cut(name)
    compiled = torch.compile(copy.deepcopy(case.small), backend="aot_eager", fullgraph=True)
    assert difference(compiled(case.x_BCHW), case.y) < 1e-5
    torch._dynamo.reset()


def test_it_compiles_to_machine_code() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as err:
        pytest.skip(f"no C++ compiler: {err}")
    case = cut("vit")
    assert difference(torch.compile(copy.deepcopy(case.small))(case.x_BCHW), case.y) < 1e-4
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["mobilenet", "segformer", "swin"])
def test_it_is_exported(name: str, tmp_path: Path) -> None:
    case = cut(name)
    export_onnx(case.small, case.x_BCHW[:1], tmp_path / "small.onnx", dynamic_batch=True)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: case.x_BCHW.numpy()})
    assert difference(torch.from_numpy(y), case.y) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_cuda(name: str) -> None:
    case = cut(name)
    x_BCHW, model = case.x_BCHW.cuda(), copy.deepcopy(case.model).cuda()
    assert difference(copy.deepcopy(case.small).cuda()(x_BCHW).cpu(), case.y) < 1e-2
    groups = pk.find_groups(model, x_BCHW)
    small = pk.prune(model, groups, case.plan)
    assert all(t.is_cuda for t in small.state_dict().values())
    assert pk.check_equivalence(model, small, groups, case.plan, x_BCHW).max_error < 1e-9
