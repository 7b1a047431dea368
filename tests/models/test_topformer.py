"""TopFormer: published sizes, the equations written out over the authors' names, checkpoints, and pruning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunekit.core import PruningPlan
from prunekit.errors import CheckpointError, InputError
from prunekit.models.topformer import (
    VARIANTS,
    TopFormerSizes,
    from_original,
    load_backbone,
    load_weights,
    topformer,
    topformer_mini,
)
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune

IMAGE = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))


def test_logits_come_at_the_size_of_the_image() -> None:
    model = topformer_mini(5).eval()
    with torch.no_grad():
        assert model(IMAGE[..., :65, :94]).shape == (2, 5, 65, 94)
        assert model.logits(IMAGE).shape == (2, 5, 48, 64)
        assert [s.shape[-1] for s in model.scales(IMAGE)] == [64, 64, 32, 16]
        big = topformer(3, variant="tiny").eval()
        assert big.logits(IMAGE).shape == (2, 3, 12, 16)
        assert [s.shape[1:] for s in big.scales(IMAGE)] == [(16, 24, 32), (32, 12, 16), (64, 6, 8), (96, 3, 4)]


def test_attention_starts_as_nothing_and_learns() -> None:
    """As in the authors' code; a mini network without it learns much more slowly."""
    torch.manual_seed(0)
    model = topformer_mini(5).train()
    block = model.transformer[0]
    tokens = torch.randn(2, 192, 4, 8)
    assert torch.equal(block.attention(tokens), torch.zeros_like(tokens))  # type: ignore[operator]
    model(torch.randn(2, 3, 64, 128)).square().mean().backward()
    assert block.attention.project[1].weight.grad.abs().sum() > 0  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("variant", "params_m", "macs_g"), [("base", 5.063, 1.8), ("small", 3.035, 1.2), ("tiny", 1.390, 0.6)]
)
def test_published_sizes_at_512(variant: str, params_m: float, macs_g: float) -> None:
    """Parameters to the last printed digit. The printed MACs also hold batch norms and resizing, 4 to 8 %."""
    with torch.device("meta"):
        model = topformer(150, variant=variant).eval()
        macs = count_macs(model, torch.empty(1, 3, 512, 512))
    assert round(count_params(model) / 1e6, 3) == params_m
    assert round((macs + others(model)) / 1e9, 1) == macs_g


def others(model: nn.Module) -> int:
    """Two operations a value of each batch norm, four a value that resizing makes, at 512 x 512."""
    found = [0]

    def norm(_module: nn.Module, _args: tuple, out: Tensor) -> None:
        found[0] += 2 * out.numel()

    hooks = [m.register_forward_hook(norm) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.device("meta"), torch.no_grad():
        model.logits(torch.empty(1, 3, 512, 512))
    for hook in hooks:
        hook.remove()
    width = model.classifier.in_channels
    grids = [64 * 64, 32 * 32, 16 * 16]
    return found[0] + 4 * width * (2 * sum(grids) + 2 * grids[0])


def test_the_mini_network_is_small() -> None:
    with torch.device("meta"):
        assert 0.6e6 < count_params(topformer_mini()) < 0.8e6


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(InputError, match="no TopFormer 'huge'; there are: base, small, tiny"):
        topformer(3, variant="huge")


def test_drop_path_only_works_in_training() -> None:
    torch.manual_seed(0)
    model = topformer(3, variant="tiny", drop_path=0.5)
    drops = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.transformer]
    assert drops == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    assert torch.equal(model.eval()(IMAGE), model(IMAGE))


# -------------------------------------------------------------------------------------------------- the authors' layout


class Original:
    """A state dict in the authors' names with random values, and the network's equations over those names."""

    def __init__(self, sizes: TopFormerSizes, classes: int) -> None:
        self.sizes, self.classes, self.state = sizes, classes, {}
        self.draw = torch.Generator().manual_seed(3)
        self.filling = True
        self.forward(IMAGE)
        self.filling = False

    def tensor(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, made on first use."""
        if self.filling:
            noise = torch.rand(shape, generator=self.draw)
            weight = name.endswith("weight") and len(shape) > 1
            fan = max(1, noise[0].numel())
            self.state[name] = (noise - 0.5) * (12 / fan) ** 0.5 if weight else noise + 0.5
        return self.state[name]

    def unit(self, x: Tensor, name: str, out: int, kernel=1, stride=1, groups=1, conv="c") -> Tensor:
        weight = self.tensor(f"{name}.{conv}.weight", out, x.shape[1] // groups, kernel, kernel)
        mean, var, scale, shift = (
            self.tensor(f"{name}.bn.{part}", out) for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = F.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
        return F.batch_norm(y, mean, var, scale, shift)

    def residual(self, x: Tensor, number: int, kernel: int, expansion: int, out: int, stride: int) -> Tensor:
        name, hidden, y, place = f"backbone.tpm.layer{number}.conv", x.shape[1] * expansion, x, 0
        if expansion != 1:
            y, place = F.relu(self.unit(y, f"{name}.0", hidden)), 2
        y = F.relu(self.unit(y, f"{name}.{place}", hidden, kernel, stride, hidden))
        y = self.unit(y, f"{name}.{place + 2}", out)
        return x + y if y.shape == x.shape else y

    def block(self, x: Tensor, number: int) -> Tensor:
        name, (b, c, h, w), heads = f"backbone.trans.transformer_blocks.{number}", x.shape, self.sizes.heads
        q = self.unit(x, f"{name}.attn.to_q", heads * 16).reshape(b, heads, 16, h * w)
        k = self.unit(x, f"{name}.attn.to_k", heads * 16).reshape(b, heads, 16, h * w)
        v = self.unit(x, f"{name}.attn.to_v", heads * 32).reshape(b, heads, 32, h * w)
        mixed = torch.einsum("bnij,bndj->bndi", torch.einsum("bndi,bndj->bnij", q, k).softmax(-1), v)
        x = x + self.unit(F.relu6(mixed.reshape(b, heads * 32, h, w)), f"{name}.attn.proj.1", c)
        y = self.unit(x, f"{name}.mlp.fc1", 2 * c)
        y = F.conv2d(
            y,
            self.tensor(f"{name}.mlp.dwconv.weight", 2 * c, 1, 3, 3),
            self.tensor(f"{name}.mlp.dwconv.bias", 2 * c),
            padding=1,
            groups=2 * c,
        )
        return x + self.unit(F.relu6(y), f"{name}.mlp.fc2", c)

    def forward(self, image: Tensor) -> Tensor:
        x, maps = F.relu(self.unit(image, "backbone.tpm.stem.0", 16, 3, 2)), []
        for number, (kernel, expansion, out, stride) in enumerate(self.sizes.blocks, start=1):
            x = self.residual(x, number, kernel, expansion, out, stride)
            if number - 1 in self.sizes.taps:
                maps.append(x)
        grid = [-(-side // 2) for side in x.shape[-2:]]
        tokens = torch.cat([F.adaptive_avg_pool2d(m, grid) for m in maps], 1)
        for number in range(4):
            tokens = self.block(tokens, number)
        start, total = maps[0].shape[1], torch.zeros(())
        for i, fine in enumerate(maps[1:], start=1):
            coarse, start = tokens[:, start : start + fine.shape[1]], start + fine.shape[1]
            name, width = f"backbone.SIM.{i}", self.sizes.width
            gate = F.hardsigmoid(self.unit(coarse, f"{name}.global_act", width, conv="conv"))
            offset = self.unit(coarse, f"{name}.global_embedding", width, conv="conv")
            local = self.unit(fine, f"{name}.local_embedding", width, conv="conv")
            injected = local * self.up(gate, fine) + self.up(offset, fine)
            total = total + self.up(injected, maps[1])
        groups = self.sizes.width if self.sizes.depthwise_head else 1
        total = F.relu(self.unit(total, "decode_head.linear_fuse", self.sizes.width, groups=groups, conv="conv"))
        weight = self.tensor("decode_head.conv_seg.weight", self.classes, self.sizes.width, 1, 1)
        return F.conv2d(total, weight, self.tensor("decode_head.conv_seg.bias", self.classes))

    @staticmethod
    def up(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_authors_weights_give_the_outputs_of_the_equations(variant: str, tmp_path: Path) -> None:
    original = Original(VARIANTS[variant], 7)
    counted = {f"{n[:-12]}num_batches_tracked": torch.tensor(9) for n in original.state if n.endswith("running_mean")}
    torch.save({"meta": {"epoch": 1}, "state_dict": original.state | counted}, tmp_path / "topformer.pth")
    model = from_original(tmp_path / "topformer.pth")
    expected = original.forward(IMAGE)
    with torch.no_grad():
        error = (model.logits(IMAGE) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    assert expected.std() > 1e-3


def test_another_number_of_classes_keeps_all_but_the_classifier(tmp_path: Path) -> None:
    original = Original(VARIANTS["tiny"], 7)
    torch.save({"state_dict": original.state}, tmp_path / "tiny.pth")
    model = from_original(tmp_path / "tiny.pth", classes=3)
    assert model.classifier.weight.shape[0] == 3
    assert torch.equal(model.fuse[0][0].weight, original.state["decode_head.linear_fuse.conv.weight"])


def test_an_imagenet_backbone_fills_pyramid_and_transformer_alone(tmp_path: Path) -> None:
    original, model = Original(VARIANTS["tiny"], 7), topformer(4, variant="tiny")
    local = model.inject[0].local[0].weight.clone()
    backbone = {n.removeprefix("backbone."): t for n, t in original.state.items() if ".tpm." in n or ".trans." in n}
    torch.save({"state_dict_ema": backbone | {"head.l.weight": torch.zeros(1000, 208)}}, tmp_path / "imagenet.pth")
    load_backbone(model, tmp_path / "imagenet.pth")
    assert torch.equal(model.pyramid[3].expand[0][0].weight, backbone["tpm.layer4.conv.0.c.weight"])
    assert torch.equal(
        model.transformer[3].mlp.fc2[1].running_var, backbone["trans.transformer_blocks.3.mlp.fc2.bn.running_var"]
    )
    assert torch.equal(model.inject[0].local[0].weight, local)


def test_wrong_checkpoints_name_the_first_weight_that_does_not_fit(tmp_path: Path) -> None:
    state = Original(VARIANTS["tiny"], 7).state
    model = topformer(7, variant="tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    query = "backbone.trans.transformer_blocks.2.attn.to_q.c.weight"
    with pytest.raises(CheckpointError, match=r"nothing for 'transformer\.2\.attention\.query\.0\.weight'"):
        load_weights(model, {n: t for n, t in state.items() if n != query})
    with pytest.raises(CheckpointError, match=r"'backbone\.SIM\.1\.extra\.weight' in .* has no place"):
        load_weights(model, state | {"backbone.SIM.1.extra.weight": IMAGE})
    with pytest.raises(CheckpointError, match=r"to_q\.c\.weight' in .* is \(3, 3\), this model's"):
        load_weights(model, state | {query: torch.zeros(3, 3)})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="a backbone alone"):
        from_original(tmp_path / "other.pth")
    bad = {"decode_head.conv_seg.weight": torch.zeros(7, 9, 1, 1), "decode_head.linear_fuse.bn.weight": torch.zeros(9)}
    torch.save(bad, tmp_path / "width.pth")
    with pytest.raises(CheckpointError, match="width 9: none of base"):
        from_original(tmp_path / "width.pth")


# -------------------------------------------------------------------------------------------------------------- pruning


@pytest.fixture(scope="module")
def traced():
    torch.manual_seed(0)
    model, x = topformer_mini(5).eval(), torch.randn(1, 3, 64, 64)
    return model, x, find_groups(model, x)


def halve(groups, names: list[str]) -> PruningPlan:
    return PruningPlan(
        {n: groups[n].size for n in names}, {n: tuple(range(0, groups[n].size, 2)) for n in names}, "every other"
    )


def test_half_of_the_neurons_and_channels_go_exactly(traced) -> None:
    """Batch norm instead of layer norm: every group of this network is exact, the residual streams too."""
    model, x, groups = traced
    assert all(g.exact for g in groups.values())
    names = [n for n, g in groups.items() if g.kind != "head"]
    assert {"transformer.0.mlp.fc1.0", "pyramid.3.expand.0.0", "stem.0.0", "fuse.0.0"} <= set(names)
    plan = halve(groups, names)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3
    assert count_params(small) < 0.4 * count_params(model)


def test_half_of_the_heads_go_exactly(traced) -> None:
    model, x, groups = traced
    names = [n for n, g in groups.items() if g.kind == "head"]
    assert [groups[n].size for n in names] == [4, 4]
    plan = halve(groups, names)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3
    attention = small.transformer[1].attention
    assert (attention.query[0].out_channels, attention.value[0].out_channels) == (32, 64)


def test_fewer_heads_run_when_only_num_heads_changes(traced) -> None:
    """What head pruning relies on: nothing but `num_heads` says how many there are."""
    model, x, groups = traced
    names = [n for n, g in groups.items() if g.kind == "head"]
    plan = halve(groups, names)
    small = prune(model, groups, plan)
    for block in small.transformer:
        block.attention.num_heads = 2
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3


def test_scales_that_share_the_token_axis_stay_apart(traced) -> None:
    """The concatenated tokens are cut again by scale: pruning one scale's stream leaves the others' widths alone."""
    model, x, groups = traced
    name = next(n for n, g in groups.items() if any(m.tensor == "inject.1.local.0.weight" for m in g.consumers()))
    assert groups[name].size == 56
    plan = halve(groups, [name])
    small = prune(model, groups, plan)
    check_equivalence(model, small, groups, plan, x)
    assert [s.shape[1] for s in small.scales(x)] == [24, 40, 28, 72]
