"""SegFormer: published sizes, outputs equal to two peers', checkpoints of three layouts, and what pruning may touch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunekit.core import PruningPlan
from prunekit.errors import CheckpointError, InputError
from prunekit.models.segformer import (
    MiT,
    MixTransformer,
    SegFormer,
    from_original,
    from_transformers,
    load_encoder,
    load_weights,
    segformer,
    segformer_mini,
)
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune

IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
SHALLOW = MiT(depths=(1, 2, 1, 1))


def shallow(classes: int = 7) -> SegFormer:
    return SegFormer(MixTransformer(SHALLOW), classes)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def shake(model: nn.Module) -> nn.Module:
    """Random values everywhere: fresh norms and biases are ones and zeros, and a swap among them would go unseen."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draw)
                tensor.copy_(noise + 0.5 if name.endswith("running_var") else tensor + 0.3 * noise - 0.15)
    return model.eval()


# ----------------------------------------------------------------------------------------------------- shapes and sizes


@pytest.mark.parametrize("options", [{}, {"fuse": "sum"}, {"fuse": "sum", "fuse_layer": False}])
def test_logits_come_at_the_size_of_the_image(options: dict) -> None:
    model = segformer_mini(5, **options).eval()
    with torch.no_grad():
        assert model(IMAGE[..., :65, :94]).shape == (2, 5, 64, 94)
        assert model.logits(IMAGE).shape == (2, 5, 32, 48)
        assert [m.shape[-1] for m in model.encoder(IMAGE)] == [48, 24, 12, 6]


def test_odd_image_sizes_keep_their_size() -> None:
    with torch.no_grad():
        assert segformer(3).eval()(torch.randn(1, 3, 71, 53)).shape == (1, 3, 71, 53)


@pytest.mark.parametrize(
    ("variant", "options", "params_m", "macs_g"),
    [
        ("b0", {}, 3.8, 8.4),  # the paper's Table 1
        ("b1", {}, 13.7, 15.9),
        ("b2", {}, 27.5, 62.4),
        ("b3", {}, 47.3, 79.0),
        ("b4", {}, 64.1, 95.7),
        ("b5", {}, 84.7, None),  # printed at 640 x 640 only
        ("b0", {"fuse": "sum"}, 3.56, 5.17),
        ("b0", {"fuse": "sum", "fuse_layer": False}, 3.49, 4.09),
    ],
)
def test_published_sizes_at_512(variant: str, options: dict, params_m: float, macs_g: float | None) -> None:
    with torch.device("meta"):
        model = segformer(150, variant=variant, **options)
        macs = count_macs(model, torch.empty(1, 3, 512, 512)) if macs_g else 0
    assert count_params(model) / 1e6 == pytest.approx(params_m, rel=0.015)
    assert macs / 1e9 == pytest.approx(macs_g or 0, rel=0.003)


def test_the_mini_network_is_small() -> None:
    with torch.device("meta"):
        assert 0.6e6 < count_params(segformer_mini()) < 0.8e6


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="no SegFormer 'b9'; there are: b0"):
        segformer(3, variant="b9")
    with pytest.raises(InputError, match="choose 'concat'"):
        segformer_mini(3, fuse_layer=False)
    with pytest.raises(InputError, match="cannot be split into 3 heads"):
        MixTransformer(MiT(heads=(3, 2, 5, 8)))


def test_drop_path_grows_with_depth_and_only_in_training() -> None:
    torch.manual_seed(0)
    model = segformer(3, drop_path=0.5)
    drops = [getattr(b.drop_path, "drop_prob", 0.0) for s in model.encoder.stages for b in s.blocks]
    assert drops == pytest.approx([0.5 * i / 7 for i in range(8)])
    features = model.train().encoder(IMAGE)[-1]
    assert not torch.equal(features, model.encoder(IMAGE)[-1])
    assert torch.equal(model.eval().encoder(IMAGE)[-1], model.encoder(IMAGE)[-1])


# -------------------------------------------------------------------------------------- parity with other people's code


def transformers_peer(classes: int = 7) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.SegformerConfig(num_labels=classes, depths=[1, 2, 1, 1])
    return shake(transformers.SegformerForSemanticSegmentation(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transformers")
    transformers_peer().save_pretrained(path)
    return path


def test_same_weights_same_logits_as_transformers(folder: Path) -> None:
    ours = from_transformers(folder)
    with torch.no_grad():
        assert difference(ours.logits(IMAGE), transformers_peer()(IMAGE).logits) < 1e-5


def test_a_folder_with_a_torch_file_loads_too(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with torch.no_grad():
        assert torch.equal(from_transformers(tmp_path)(IMAGE), from_transformers(folder)(IMAGE))


def test_same_weights_same_output_as_segmentation_models_pytorch() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    peer = shake(smp.Segformer("mit_b0", encoder_weights=None, classes=7))
    ours = segformer(7).eval()
    load_weights(ours, peer.state_dict())
    with torch.no_grad():
        # smp's head enlarges by an exact factor with align_corners=True, so the maps before it are compared
        head = peer.segmentation_head[0](peer.decoder(peer.encoder(IMAGE)))
        assert difference(ours.logits(IMAGE), head) < 1e-5


# --------------------------------------------------------------------------------------------------- checkpoint layouts


def as_original(model: SegFormer) -> dict[str, Tensor]:
    """The authors' names, written out once more by hand, for a model of ours."""
    out: dict[str, Tensor] = {}
    parts = {
        "attention.query": "attn.q",
        "attention.project": "attn.proj",
        "attention.reduce": "attn.sr",
        "attention.norm": "attn.norm",
        "mlp.depthwise": "mlp.dwconv.dwconv",
    }
    state = model.state_dict()
    for name, tensor in state.items():
        words = name.split(".")
        if words[:2] == ["encoder", "stages"]:
            number, rest = int(words[2]) + 1, ".".join(words[4:])
            if "attention.value" in name:
                continue
            if "attention.key" in name:
                tensor = torch.cat([tensor, state[name.replace("key", "value")]])
                rest = rest.replace("attention.key", "attn.kv")
            for ours, theirs in parts.items():
                rest = rest.replace(ours, theirs)
            kind = {"embed": "patch_embed", "blocks": "block", "norm": "norm"}[words[3]]
            out[f"backbone.{kind}{number}.{rest}"] = tensor
        elif words[1] == "project":
            out[f"decode_head.linear_c{int(words[2]) + 1}.proj.{words[3]}"] = tensor
        else:
            layer = {"fuse": "linear_fuse.conv", "norm": "linear_fuse.bn", "classifier": "linear_pred"}[words[1]]
            out[f"decode_head.{layer}.{words[2]}"] = tensor
    return out | {"decode_head.conv_seg.weight": torch.zeros(7, 128, 1, 1), "decode_head.conv_seg.bias": torch.zeros(7)}


def test_the_authors_checkpoint_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    model = shake(segformer(7))
    path = tmp_path / "segformer.b0.pth"
    torch.save({"meta": {"CLASSES": ["road"]}, "state_dict": as_original(model)}, path)
    again = from_original(path)
    with torch.no_grad():
        assert torch.equal(again(IMAGE), model(IMAGE))
        other = from_original(path, classes=3)
        assert other(IMAGE).shape == (2, 3, 64, 96)
        assert torch.equal(other.encoder(IMAGE)[-1], model.encoder(IMAGE)[-1])


def test_an_imagenet_encoder_fills_the_encoder_alone(tmp_path: Path) -> None:
    source, model = shake(segformer(7)), segformer(5).eval()
    decoder = model.decoder.project[0].weight.clone()
    state = {k.removeprefix("backbone."): v for k, v in as_original(source).items() if k.startswith("backbone.")}
    torch.save(state | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}, tmp_path / "b0.pth")
    load_encoder(model, tmp_path / "b0.pth")
    with torch.no_grad():
        assert torch.equal(model.encoder(IMAGE)[-1], source.encoder(IMAGE)[-1])
    assert torch.equal(model.decoder.project[0].weight, decoder)


def test_a_folder_for_another_number_of_classes_keeps_all_but_the_classifier(folder: Path) -> None:
    trained, fresh = from_transformers(folder), from_transformers(folder, classes=3)
    assert fresh.decoder.classifier.weight.shape[0] == 3
    assert torch.equal(fresh.decoder.fuse.weight, trained.decoder.fuse.weight)
    load_encoder(model := shallow(), folder)
    assert torch.equal(
        model.encoder.stages[1].blocks[1].mlp.fc2.weight, trained.encoder.stages[1].blocks[1].mlp.fc2.weight
    )


def rewritten(folder: Path, target: Path, change) -> Path:
    """A copy of the folder whose tensors went through `change`."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    change(state)
    target.mkdir()
    save_file(state, target / "model.safetensors")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def test_wrong_checkpoints_name_the_first_weight_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    query = "segformer.encoder.block.1.1.attention.self.query.weight"
    with pytest.raises(CheckpointError, match=r"nothing for 'encoder\.stages\.1\.blocks\.1\.attention\.query\.weight'"):
        from_transformers(rewritten(folder, tmp_path / "missing", lambda s: s.pop(query)))
    with pytest.raises(CheckpointError, match=r"'segformer\.extra\.weight' in .* has no place"):
        from_transformers(rewritten(folder, tmp_path / "extra", lambda s: s.update({"segformer.extra.weight": IMAGE})))
    with pytest.raises(CheckpointError, match=r"query\.weight' in .* is \(3, 3\), this model's .* is \(64, 64\)"):
        from_transformers(rewritten(folder, tmp_path / "shape", lambda s: s.update({query: torch.zeros(3, 3)})))
    model = shallow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="has no place|nothing for"):
        load_weights(model, as_original(segformer(7)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_damaged_and_foreign_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        from_transformers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="'vit' model; expected 'segformer'"):
        from_transformers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    with pytest.raises(CheckpointError, match="holds neither model.safetensors"):
        from_transformers(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="lacks 'hidden_sizes'"):
        from_transformers(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot read"):
        from_transformers(tmp_path)
    for text, why in ((b"not a checkpoint", "cannot read"), (b"hello\n", "no checkpoint .KeyError"), (b"", "EOFError")):
        (tmp_path / "cut.pth").write_bytes(text)  # torch.load fails at each in another way
        with pytest.raises(CheckpointError, match=f"{why}.*download it again"):
            from_original(tmp_path / "cut.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="encoder alone"):
        from_original(tmp_path / "other.pth")


def test_a_name_of_the_hub_or_the_wrong_loader_is_told_where_to_go(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"snapshot_download\('nvidia/segformer-b0'\)"):
        from_transformers("nvidia/segformer-b0")
    with pytest.raises(CheckpointError, match="give the folder that holds it"):
        from_transformers(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="use from_transformers"):
        from_original(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        from_original(folder)
    with pytest.raises(CheckpointError, match="is not here"):
        from_original(folder / "segformer.b0.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"Python objects \((builtins\.)?print\) .* If you trust"):
        from_original(tmp_path / "evil.pth")
    assert "code ran" not in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------------- pruning


def half(size: int) -> tuple[int, ...]:
    return tuple(range(0, size, 2))


def test_half_of_the_ffn_neurons_and_of_the_decoder_go_exactly() -> None:
    torch.manual_seed(0)
    model, x = segformer_mini(5).eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    hidden = {n: g for n, g in groups.items() if n.endswith("mlp.fc1")}
    assert len(hidden) == 8
    assert all(g.exact and g.size == 4 * 32 for n, g in hidden.items() if "stages.0" in n)
    chosen = {**hidden, "decoder.fuse": groups["decoder.fuse"]}
    plan = PruningPlan({n: g.size for n, g in chosen.items()}, {n: half(g.size) for n, g in chosen.items()})
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3
    assert small.encoder.stages[3].blocks[0].mlp.depthwise.weight.shape == (176, 1, 3, 3)


def test_half_of_the_heads_go_exactly() -> None:
    torch.manual_seed(0)
    model, x = segformer_mini(5).eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    heads = {n: g for n, g in groups.items() if g.kind == "head"}
    assert [g.size for g in heads.values()] == [2, 2, 2, 2, 4, 4, 4, 4]
    plan = PruningPlan({n: g.size for n, g in heads.items()}, {n: half(g.size) for n, g in heads.items()})
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3
    attention = small.encoder.stages[2].blocks[1].attention
    assert attention.query.weight.shape == (32, 64)
    assert attention.project.weight.shape == (64, 32)


def test_the_residual_stream_is_one_group_and_known_to_change_the_norms() -> None:
    groups = find_groups(segformer_mini(5).eval(), torch.randn(1, 3, 64, 64))
    stream = groups["encoder.stages.1.embed.proj"]
    assert stream.size == 48 and not stream.exact
    readers = {m.tensor for m in stream.consumers()}
    assert {"encoder.stages.1.blocks.0.attention.query.weight", "decoder.project.1.weight"} <= readers


def test_fewer_heads_run_when_only_num_heads_changes() -> None:
    """What head pruning relies on: nothing but `num_heads` says how many there are, and the scale stays."""
    model = segformer_mini(5).eval()
    attention = model.encoder.stages[2].blocks[0].attention
    x_BNC, size = torch.randn(1, 6, 64), torch.Size((2, 3))
    with torch.no_grad():
        attention.project.weight[:, 16:32] = 0  # nobody reads the second head
        expected = attention(x_BNC, size)
        keep = torch.tensor([i for i in range(64) if not 16 <= i < 32])
        for layer in (attention.query, attention.key, attention.value):
            layer.weight, layer.bias = nn.Parameter(layer.weight[keep]), nn.Parameter(layer.bias[keep])
        attention.project.weight = nn.Parameter(attention.project.weight[:, keep])
        attention.num_heads = 3
        assert torch.allclose(attention(x_BNC, size), expected, atol=1e-6)


def test_it_exports_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = torch.export.export(segformer_mini(5).eval(), (IMAGE,))
    assert program.module()(IMAGE).shape == (2, 5, 64, 96)
