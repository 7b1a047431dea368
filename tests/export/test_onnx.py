"""Exported files against the model in float64, files that must be refused, and what is left on the disk."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import prunekit.export.onnx as writer
from prunekit.core import PruningPlan
from prunekit.errors import ExportError, InputError, MissingDependencyError
from prunekit.export import Exported, export, export_onnx

X = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A small segmentation net: batch norm with real statistics, a strided layer, upsampling; dict output if asked."""

    def __init__(self, wrap: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.drop, self.wrap = nn.Dropout(0.5), wrap
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = self.drop(self.norm(self.a(x)).relu())
        y = nn.functional.interpolate(self.b(h), x.shape[2:], mode="bilinear")
        return {"out": y, "aux": h} if self.wrap else y


def _run(path: Path, x: torch.Tensor) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, {"image": x.numpy()})


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Exported, dict]:
    """One export with everything asked for."""
    path = tmp_path_factory.mktemp("export") / "net.onnx"
    meta = {
        "plan": PruningPlan({"a": 8}, {"a": (0, 2, 5)}),
        "classes": ["road", "sky"],
        "palette": torch.tensor([[1, 2, 3]], dtype=torch.uint8),
        "licence": "CC0",
    }
    net = Net().train()
    net.norm.eval()
    result = export_onnx(net, X, path, dynamic_batch=True, meta=meta)
    assert [net.training, net.norm.training, net.drop.training] == [True, False, True]
    return path, result, meta


def test_the_file_computes_what_the_model_computes(exported):
    path, result, _ = exported
    with torch.no_grad():
        truth = Net().double().eval()(X.double())
        eager = Net().eval()(X)
    error = (torch.from_numpy(_run(path, X)[0]).double() - truth).abs().max() / truth.abs().max()
    assert error <= result.max_error < 1e-5
    assert 0 < (eager.double() - truth).abs().max() / truth.abs().max() <= result.eager_error < 1e-5
    assert result.argmax_agreement > 0.99
    assert result.bytes == path.stat().st_size and result.path == path


def test_it_is_one_whole_file_and_a_card(exported):
    path, result, _ = exported
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.onnx", "net.onnx.export.json"]
    onnx.checker.check_model(path, full_check=True)
    card = json.loads((path.parent / "net.onnx.export.json").read_text())
    assert card["max_error"] == result.max_error and card["path"] == "net.onnx" and card["outputs"] == ["logits"]
    assert card["meta"]["prunekit.licence"] == "CC0" and card["dynamic_batch"] is True


def test_metadata_travels_with_the_model(exported):
    path, _, meta = exported
    stored = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert PruningPlan.from_json(stored["prunekit.plan"]) == meta["plan"]
    assert json.loads(stored["prunekit.classes"]) == meta["classes"]
    assert json.loads(stored["prunekit.palette"]) == [[1, 2, 3]] and stored["prunekit.licence"] == "CC0"
    assert json.loads(stored["prunekit.input"]) == {"name": "image", "shape": [1, 3, 8, 12], "dtype": "float32"}
    made_by = json.loads(stored["prunekit.made_by"])
    assert made_by["model"] == "Net" and made_by["torch"] == torch.__version__
    assert made_by["macs"] == (3 * 9 + 4) * 8 * 4 * 6  # a: 8 x 27 on 4 x 6 pixels, b: 4 x 8


def test_no_paths_of_this_machine_in_the_file(exported):
    data = exported[0].read_bytes()
    assert b"site-packages" not in data and str(Path.cwd()).encode() not in data
    names = [p.key for node in onnx.load(exported[0]).graph.node for p in node.metadata_props]
    assert set(names) <= {"pkg.torch.onnx.name_scopes"}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_dynamic_batch_takes_any_size(exported, batch: int):
    x = torch.randn(batch, 3, 8, 12)
    with torch.no_grad():
        np.testing.assert_allclose(_run(exported[0], x)[0], Net().eval()(x).numpy(), atol=1e-5)


def test_a_fixed_batch_and_a_dict_of_outputs(tmp_path: Path, capfd):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"an older file")
    export_onnx(Net(wrap=True), X, str(path))
    assert capfd.readouterr() == ("", "")  # no chatter
    session = onnxruntime.InferenceSession(path)
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("out", [1, 4, 8, 12]), ("aux", [1, 8, 4, 6])]
    with torch.no_grad():
        eager = Net(wrap=True).eval()(X)
    for found, name in zip(_run(path, X), ("out", "aux"), strict=True):
        np.testing.assert_allclose(found, eager[name].numpy(), atol=1e-5)


@pytest.fixture
def tampered(monkeypatch):
    """Lets the exporter see other weights than the proof: the control that must fail."""

    def with_factor(factor: float) -> None:
        def write(job, *args):
            model = copy.deepcopy(job.model)
            model.b.weight.data.mul_(factor)
            return original(dataclasses.replace(job, model=model), *args)

        original = writer.write
        monkeypatch.setattr(writer, "write", write)

    return with_factor


def test_a_file_that_is_off_is_refused_and_nothing_is_left(tmp_path: Path, tampered):
    tampered(1 + 1e-4)
    kept = tmp_path / "old.onnx"
    kept.write_bytes(b"an older file")
    with pytest.raises(ExportError, match=r"off by .* on a batch of \(1, 3, 8, 12\)"):
        export_onnx(Net(), X, kept)
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"] and kept.read_bytes() == b"an older file"


def test_another_choice_of_class_is_refused_whatever_the_tolerance(tmp_path: Path, tampered):
    tampered(-1)
    with pytest.raises(ExportError, match=r"chooses another class for \d+"):
        export_onnx(Net(), X, tmp_path / "net.onnx", tolerance=1e12)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_returns_nan_is_refused(tmp_path: Path):
    net = Net()
    net.b.bias.data[0] = float("nan")
    with pytest.raises(ExportError, match="off by nan"):
        export_onnx(net, X, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_code_the_exporter_cannot_follow(tmp_path: Path):
    class Depends(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(ExportError, match="Depends cannot be exported: "):
        export_onnx(Depends(), X, tmp_path / "net.onnx")

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(1, 3, 96)

    with pytest.raises(ExportError, match="Leave dynamic_batch and dynamic_size off"):
        export_onnx(Fixed(), X, tmp_path / "net.onnx", dynamic_batch=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_pip_line(tmp_path: Path, monkeypatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)  # what an absent package looks like to import
    with pytest.raises(MissingDependencyError, match=rf'needs {package}: pip install "prunekit\[onnx\]"'):
        export_onnx(Net(), X, tmp_path / "net.onnx")


def test_paths_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot write to .*absent .*create it"):
        export_onnx(Net(), X, tmp_path / "absent" / "net.onnx")
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(Net(), X, tmp_path)
    with pytest.raises(InputError, match=r"net.pt must end in .onnx"):
        export_onnx(Net(), X, tmp_path / "net.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        export_onnx(Net(), X, tmp_path / "file" / "net.onnx")


def test_inputs_that_cannot_work(tmp_path: Path):
    path = tmp_path / "net.onnx"
    with pytest.raises(InputError, match="x is a tuple"):
        export_onnx(Net(), (X,), path)
    with pytest.raises(InputError, match="x is on meta"):
        export_onnx(Net(), X.to("meta"), path)
    with pytest.raises(InputError, match="float batch"):
        export_onnx(Net(), X.long(), path)
    with pytest.raises(InputError, match="does not run on x"):
        export_onnx(Net(), torch.zeros(1, 5, 8, 8), path)
    with pytest.raises(InputError, match=r"meta\['when'\] is of type object"):
        export_onnx(Net(), X, path, meta={"when": object()})
    with pytest.raises(InputError, match="float Tensors"):
        export_onnx(nn.Sequential(Net(), Argmax()), X, path)
    assert list(tmp_path.iterdir()) == []


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def test_any_height_and_width(tmp_path: Path):
    export(Net(), X, tmp_path / "net.onnx", dynamic_size=True)
    x = torch.randn(1, 3, 10, 30)
    with torch.no_grad():
        np.testing.assert_allclose(_run(tmp_path / "net.onnx", x)[0], Net().eval()(x).numpy(), atol=1e-5)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ExportError, match=r"cannot write .*net.onnx \(No space left on device\); free some space"):
        export_onnx(Net(), X, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_move_that_fails_brings_the_former_files_back(tmp_path: Path, monkeypatch, links: bool):
    """The card moves first: were it kept, it would describe a file that is not there."""
    path, real = tmp_path / "net.onnx", os.replace
    export_onnx(Net(), X, path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert sorted(before) == ["net.onnx", "net.onnx.export.json"]

    def full(source, target):
        if Path(target) == path and "before" not in Path(source).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    def none(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "replace", full)
    if not links:
        monkeypatch.setattr(os, "link", none)
    with pytest.raises(ExportError, match="Nothing was kept"):
        export_onnx(nn.Sequential(Net(), nn.ReLU()), X, path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    path.unlink()
    (tmp_path / "net.onnx.export.json").unlink()
    with pytest.raises(ExportError, match="Nothing was kept"):
        export_onnx(Net(), X, path)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_does_not_have_is_named_with_its_module(tmp_path: Path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(ExportError, match=r"operator is aten.special_bessel_j0.default, called in '1'"):
        export_onnx(nn.Sequential(Net(), Odd()), X, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_opset_is_written_or_refused(tmp_path: Path):
    export_onnx(Net(), X, tmp_path / "net.onnx", opset=20)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 20
    for opset in (7, 99, "18"):
        with pytest.raises(InputError, match=r"opset is .*; 18 to \d+ can be written here"):
            export_onnx(Net(), X, tmp_path / "net.onnx", opset=opset)


def test_an_unknown_target_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no target 'tflite'; there are onnx, openvino, executorch, torch"):
        export(Net(), X, tmp_path / "net.tflite", "tflite")
