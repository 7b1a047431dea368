"""OpenVINO, ExecuTorch, torch.export and int8 files: each proved, each with its texts inside; edited graphs too."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.errors import ExportError, InputError, MissingDependencyError
from prunekit.export import IMAGENET_INPUT, card_of, export, export_int8
from prunekit.methods import l1
from prunekit.plan import plan_macs
from prunekit.runtimes import Runtime

X = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
PLAN = PruningPlan({"a": 8}, {"a": (0, 2, 5)})
META = {"plan": PLAN, "preprocessing": IMAGENET_INPUT, "classes": ["road", "sky"]}


def wants(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 3, padding=1)]
    return nn.Sequential(*layers).eval()


@wants("openvino")
def test_openvino(tmp_path: Path):
    import openvino

    result = export(net(), X, tmp_path / "net.xml", "openvino", meta=META, dynamic_batch=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.xml", "net.xml.export.json"]
    assert result.bytes == sum((tmp_path / name).stat().st_size for name in ("net.bin", "net.xml"))
    assert result.max_error < 1e-5 and result.argmax_agreement > 0.99
    x = torch.randn(3, 3, 16, 24)
    with Runtime("openvino") as runtime, torch.no_grad():
        runtime.load("net", result.path)
        np.testing.assert_allclose(runtime.run("net", x.numpy())[0], net().double()(x.double()).numpy(), atol=1e-5)
    stored = openvino.Core().read_model(result.path)
    assert PruningPlan.from_json(stored.get_rt_info(["prunekit", "plan"]).astype(str)) == PLAN
    assert json.loads(stored.get_rt_info(["prunekit", "classes"]).astype(str)) == ["road", "sky"]


@wants("executorch")
def test_executorch(tmp_path: Path):
    from executorch.runtime import Runtime as Executorch

    result = export(net(), X, tmp_path / "net.pte", "executorch", meta=META)
    program = Executorch.get().load_program(result.path)
    (found,) = program.load_method("forward").execute([X])
    np.testing.assert_allclose(found.numpy(), net()(X).detach().numpy(), atol=1e-5)
    (stored,) = program.load_method("prunekit_plan").execute([])
    assert PruningPlan.from_json(stored) == PLAN
    phone = export(net(), X, tmp_path / "phone.pte", "executorch", vulkan=True)
    assert phone.max_error != phone.max_error and json.loads(card_of(phone.path).read_text())["verified"] is False


def test_without_executorch_the_pip_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Absent here, and absent in the runtime's process."""
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "prunekit\[executorch\]"'):
        export(net(), X, tmp_path / "net.pte", "executorch")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "executorch.py").write_text("raise ImportError('as if it were missing')")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(MissingDependencyError, match=r'pip install "prunekit\[executorch\]"'), Runtime("xnnpack"):
        pass


def test_torch_archive(tmp_path: Path):
    result = export(net(), X, tmp_path / "net.pt2", "torch", meta=META, dynamic_batch=True)
    texts = {"prunekit.plan": ""}
    module, x = torch.export.load(result.path, extra_files=texts).module(), torch.randn(3, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(module(x), net()(x))
    assert PruningPlan.from_json(texts["prunekit.plan"]) == PLAN and result.max_error < 1e-5


def test_an_edited_graph_exports(tmp_path: Path):
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=16, depths=(1,), num_heads=(2,)
    ).eval()
    x = torch.randn(1, 3, 32, 32)
    groups = pk.find_groups(swin, x)
    small = pk.prune(swin, groups, pk.uniform_plan(groups, l1.score(swin, groups), 0.5))
    assert isinstance(small, torch.fx.GraphModule)
    result = export(small, x, tmp_path / "swin.onnx")
    assert result.max_error < 1e-5


def test_a_segformer_of_another_library_is_pruned_and_exports(tmp_path: Path):
    """segmentation-models-pytorch's: sizes computed in its code, heads, a mixing layer between two linear ones."""
    torch.manual_seed(0)
    peer, x = smp.Segformer("mit_b0", encoder_weights=None, classes=5).eval(), torch.randn(1, 3, 64, 64)
    groups = pk.find_groups(peer, x)
    plan = pk.budget_plan(groups, l1.score(peer, groups), macs_ratio=0.5, how="uniform")
    small = pk.prune(peer, groups, plan)
    result = export(small, x, tmp_path / "segformer.onnx", meta={"plan": plan})
    with Runtime("ort") as runtime, torch.no_grad():
        runtime.load("net", result.path)
        (found,) = runtime.run("net", x.numpy())
        truth = small.double()(x.double())
    assert np.abs(found - truth.numpy()).max() < 1e-4 * truth.abs().max() and result.argmax_agreement > 0.999
    made_by = json.loads({p.key: p.value for p in onnx.load(result.path).metadata_props}["prunekit.made_by"])
    assert made_by["macs"] == plan_macs(groups, plan) <= plan_macs(groups, PruningPlan({}, {})) / 2


def test_int8_is_smaller_and_agrees(tmp_path: Path):
    batches = [torch.randn(X.shape, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    result = export_int8(net(), X, tmp_path / "net.onnx", batches, meta=META, min_agreement=0.8)
    stored = onnx.load(result.path)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in stored.graph.node}
    assert {p.key: p.value for p in stored.metadata_props}["prunekit.plan"] == PLAN.to_json()
    with Runtime("ort") as runtime, torch.no_grad():
        runtime.load("net", result.path)
        (found,) = runtime.run("net", batches[-1].numpy())
        truth = net()(batches[-1]).numpy()
    assert (found.argmax(1) == truth.argmax(1)).mean() == pytest.approx(result.argmax_agreement, abs=0.01)
    assert 1e-4 < np.abs(found - truth).max() / np.abs(truth).max() < 0.1  # 8 bits: no better, no worse
    assert json.loads(card_of(result.path).read_text())["int8"] is True


def test_int8_that_chooses_other_classes_is_refused(tmp_path: Path):
    tiny = [1e-3 * X, 1e-3 * X, X]  # ranges measured on inputs a thousand times too small
    with pytest.raises(ExportError, match="int8 chooses another class"):
        export_int8(net(), X, tmp_path / "net.onnx", tiny)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="at least two of x's shape"):
        export_int8(net(), X, tmp_path / "net.onnx", [X])
