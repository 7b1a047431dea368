"""Masked and gathered compute the same, against a loop over neurons and against surgery; exported, the gathers stay."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, softmax

sys.path.insert(0, str(Path(__file__).parent))
from gated_nets import deit, images, one_stage, opinionated, tiny, vit_block

from prunekit.core import PruningPlan
from prunekit.errors import ExportError, InputError
from prunekit.export import export_onnx
from prunekit.methods.dynasegformer import Gate, cost, gates_of, make_static, masks_of, narrow, places, use_path
from prunekit.methods.dynasegformer.gather import columns, depthwise, rows
from prunekit.methods.dynasegformer.layers import GatedAttention, GatedMixFFN, GatedMlp, GatedQKV
from prunekit.profiling import count_macs
from prunekit.surgery import find_groups, prune


@pytest.mark.parametrize("build", [tiny, deit])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.75])
def test_both_paths_are_equal(build, sparsity) -> None:
    masked = opinionated(build(), sparsity)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        masked = masked.to(dtype)
        gathered = use_path(masked, "gathered")
        for batch in (1, 2, 5):
            x = images(batch, (32, 64) if build is tiny else (32, 32)).to(dtype)
            with torch.no_grad():
                wanted = masked(x)
                assert (wanted - gathered(x)).abs().max() <= bound * wanted.abs().max(), (dtype, batch)


def by_hand(layer: nn.Module, x_BNC: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The layer written out: every neuron computed, and times M once, where it is read."""

    def masks(*pairs):
        return [gate.mask(gate(tokens, weight))[:, None] for gate, tokens, weight in pairs]

    def attended(q, k, v, heads: int, scale: float) -> torch.Tensor:
        parts = [t.chunk(heads, dim=2) for t in (q, k, v)]
        return torch.cat([softmax(a @ b.mT * scale, -1) @ c for a, b, c in zip(*parts, strict=True)], 2)

    if isinstance(layer, GatedMixFFN):
        (m,) = masks((layer.gate, x_BNC, layer.fc1.weight))
        y_BUhw = layer.depthwise(layer.fc1(x_BNC).mT.unflatten(2, size))
        return (gelu(y_BUhw).flatten(2).mT * m) @ layer.fc2.weight.T + layer.fc2.bias
    if isinstance(layer, GatedAttention):
        y = x_BNC
        if layer.reduce is not None:
            y = layer.norm(layer.reduce(x_BNC.mT.unflatten(2, size)).flatten(2).mT)
        qk, v = masks((layer.qk_gate, x_BNC, layer.query.weight), (layer.value_gate, y, layer.value.weight))
        heads = layer.num_heads
        return layer.project(attended(layer.query(x_BNC) * qk, layer.key(y), layer.value(y) * v, heads, layer.scale))
    if isinstance(layer, GatedQKV):
        query, _, value = layer.qkv.weight.chunk(3)
        qk, v = masks((layer.qk_gate, x_BNC, query), (layer.value_gate, x_BNC, value))
        a, b, c = layer.qkv(x_BNC).chunk(3, dim=2)
        return layer.proj(attended(a * qk, b, c * v, layer.num_heads, layer.scale))
    (m,) = masks((layer.gate, x_BNC, layer.fc1.weight))
    return layer.fc2(gelu(layer.fc1(x_BNC)) * m)


@pytest.mark.parametrize("path", ["masked", "gathered"])
@pytest.mark.parametrize("kind", [GatedMixFFN, GatedAttention, GatedQKV, GatedMlp])
def test_a_gates_value_multiplies_once_and_where_it_should(kind, path) -> None:
    build = vit_block if kind in (GatedQKV, GatedMlp) else tiny
    dynamic = use_path(opinionated(build(), 0.5).double(), path)
    layers = [module for module in dynamic.modules() if isinstance(module, kind)]
    assert layers
    for layer in layers:
        channels = next(gate for gate in layer.modules() if isinstance(gate, Gate)).norm.normalized_shape[0]
        x_BNC = torch.randn(2, 128, channels, generator=torch.Generator().manual_seed(3)).double()
        given = (x_BNC,) if build is vit_block else (x_BNC, torch.Size((8, 16)))
        with torch.no_grad():
            wanted = by_hand(layer, x_BNC, (8, 16))
            assert (layer(*given) - wanted).abs().max() <= 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (31, 65)])
def test_both_paths_are_equal_on_odd_sizes_and_on_no_image(size) -> None:
    masked = opinionated(tiny(), 0.5)
    gathered, x = use_path(masked, "gathered"), images(2, size)
    with torch.no_grad():
        wanted = masked(x)
        assert wanted.shape[2:] == size
        assert (wanted - gathered(x)).abs().max() <= 1e-5 * wanted.abs().max()
        assert gathered(x[:0]).shape == masked(x[:0]).shape == (0, *wanted.shape[1:])


@pytest.mark.parametrize("path", ["masked", "gathered"])
def test_compiled_graphs_compute_the_same(path) -> None:
    dynamic, x = use_path(opinionated(one_stage(), 0.5), path), images(2)
    with torch.no_grad():
        wanted = dynamic(x)
        found = torch.compile(dynamic, backend="eager", fullgraph=True)(x)
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_gathered_neurons_are_those_of_a_loop_over_them() -> None:
    torch.manual_seed(0)
    layer, back, conv = nn.Linear(4, 6), nn.Linear(6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    x_BNC, map_BKhw = torch.randn(2, 5, 4), torch.randn(2, 3, 4, 4)
    index_BK, value_BK = torch.tensor([[4, 0, 3], [1, 2, 5]]), torch.randn(2, 3)
    y_BNK, z_BKhw = rows(x_BNC, layer, index_BK, value_BK), depthwise(map_BKhw, conv, index_BK)
    out_BNO = columns(y_BNK, back, index_BK, value_BK)
    for b in range(2):
        total = back.bias.expand(5, -1).clone()
        for k, unit in enumerate(index_BK[b].tolist()):
            wanted = (x_BNC[b] @ layer.weight[unit] + layer.bias[unit]) * value_BK[b, k]
            assert torch.allclose(y_BNK[b, :, k], wanted, atol=1e-6)
            total += wanted[:, None] * back.weight[:, unit] * value_BK[b, k]
            alone = nn.functional.conv2d(map_BKhw[b : b + 1, k : k + 1], conv.weight[unit][None], padding=1)
            assert torch.allclose(z_BKhw[b, k], alone[0, 0] + conv.bias[unit], atol=1e-5)
        assert torch.allclose(out_BNO[b], total, atol=1e-5)


def test_a_static_mask_equals_the_network_that_surgery_narrows() -> None:
    """An oracle of another kind: find_groups and prune know nothing of gates."""
    model, x = one_stage(), images()
    static, groups = make_static(model, sparsity=0.5, where=("ffn",)), find_groups(model, x)
    masks = {name.removesuffix("gate") + "fc1": mask_BU[0] for name, mask_BU in masks_of(static, x).items()}
    keep = {name: tuple(mask_U.nonzero().flatten().tolist()) for name, mask_U in masks.items()}
    small = prune(model, groups, PruningPlan({name: groups[name].size for name in keep}, keep))
    assert len(keep) == 1
    with torch.no_grad():
        wanted = small(x)
        for same in (static, use_path(static, "gathered"), narrow(static)):
            assert (same(x) - wanted).abs().max() < 1e-4 * wanted.abs().max()
        assert (model(x) - wanted).abs().max() > 1e-2 * wanted.abs().max()


def test_a_static_mask_made_permanent_computes_the_same_with_plain_layers() -> None:
    static, x = make_static(tiny(), sparsity=0.5).double(), images().double()
    small = narrow(static)
    assert not places(static).found and len(places(small).found) == 10  # no gate is left in it
    with torch.no_grad():
        wanted = static(x)
        assert (small(x) - wanted).abs().max() < 1e-10 * wanted.abs().max()
    assert count_macs(small, x[:1].double()) == cost(static, x[:1]).macs
    with pytest.raises(InputError, match="'encoder.stages.0.blocks.0.attention' depends on the image"):
        narrow(opinionated(tiny(), 0.5))
    with pytest.raises(InputError, match="only SegFormer"):
        narrow(make_static(deit(), sparsity=0.5))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A gathered network of one block for two images, as an ONNX file."""
    dynamic = use_path(opinionated(one_stage(), 0.5), "gathered")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return dynamic, path, export_onnx(dynamic, images(2), path)


def test_onnx_holds_the_gathers_and_computes_the_same(exported) -> None:
    dynamic, path, done = exported
    assert done.argmax_agreement > 0.999 and done.max_error < 1e-4
    graph = onnx.load(path).graph
    ops = [node.op_type for node in graph.node]
    assert ops.count("TopK") == len(gates_of(dynamic)) == 3
    assert ops.count("Gather") >= 3 * 3 and "Loop" not in ops
    constants = {tensor.name for tensor in graph.initializer}
    per_image = [node for node in graph.node if node.op_type == "Conv" and node.input[1] not in constants]
    assert len(per_image) == 1  # the block's depth-wise kernels, chosen by the image


def test_what_is_exported_chooses_for_images_it_has_not_seen(exported) -> None:
    import onnxruntime

    dynamic, path, _ = exported
    session, x = onnxruntime.InferenceSession(path), images(2, seed=9).flip(0)
    found = torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
    with torch.no_grad():
        wanted = dynamic(x)
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
        assert (found - dynamic(images(2))).abs().max() > 1e-2 * wanted.abs().max()


def test_a_vit_exports_with_its_gathers(tmp_path) -> None:
    """A block of one; the whole DeiT is exported among the benchmarks."""
    dynamic = use_path(opinionated(vit_block(), 0.5), "gathered")
    done = export_onnx(
        dynamic, torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0)), tmp_path / "net.onnx"
    )
    assert done.max_error < 1e-4
    assert [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node].count("TopK") == 3


def test_export_refuses_what_it_cannot_write(tmp_path) -> None:
    dynamic, x = use_path(opinionated(one_stage(), 0.5), "gathered"), images(1)
    for opset in (9, 17, 99, "18"):
        with pytest.raises(InputError, match="18 to"):
            export_onnx(dynamic, x, tmp_path / "net.onnx", opset=opset)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="dynamic_batch"):  # the groups of the depth-wise convolution are the batch's
        export_onnx(dynamic, x, tmp_path / "net.onnx", dynamic_batch=True)
    assert list(tmp_path.iterdir()) == []
