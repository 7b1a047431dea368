"""nn.MultiheadAttention and the transformer layers of torch; heads that share keys and values; head dimensions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.errors import GroupError, PlanError
from prunekit.plan import plan_macs, plan_params
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class Attends(nn.Module):
    """nn.MultiheadAttention with all its options; asks for the weights too, and drops them."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 4, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        q = self.stem(x)
        k = x[..., :8] if self.attend.kdim == 8 else q
        return self.head(q + self.attend(q, k, k)[0])


class Encodes(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class SharedKeys(nn.Module):
    """Eight query heads, two heads of keys and values (grouped-query attention)."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.q, self.kv = how, nn.Linear(16, 32), nn.Linear(16, 16)
        self.out, self.head = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 8, 4).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, 2, 4).permute(2, 0, 3, 1, 4)
        if self.how == "repeat":
            k, v = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)
        elif self.how == "expand":
            k, v = (t[:, :, None].expand(b, 2, 4, n, 4).reshape(b, 8, n, 4) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "flag")
        return self.head(self.out(mixed.transpose(1, 2).reshape(b, n, 32)))


MODELS = {
    "plain": lambda: Attends(),
    "batch first": lambda: Attends(batch_first=True),
    "no bias": lambda: Attends(bias=False),
    "other keys": lambda: Attends(kdim=8, vdim=8),
    "bias on keys": lambda: Attends(add_bias_kv=True),
    "zero key": lambda: Attends(add_zero_attn=True),
    "encoder": lambda: Encodes(norm_first=False),
    "encoder, norm first": lambda: Encodes(norm_first=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_torch_attention_is_cut_exactly(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    groups = find_groups(model, X)
    heads = [g for g in groups.values() if g.kind == "head"]
    assert all(g.size == 4 for g in heads)
    assert len(heads) == (0 if name == "zero key" else 2 if "encoder" in name else 1)
    for seed in range(3):
        plan = nets.random_plan(groups, 0.5, seed)
        small = prune(model, groups, plan)
        assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12
        assert count_macs(small, X) == plan_macs(groups, plan)
        assert count_params(small) == plan_params(groups, plan)
    assert small(torch.randn(7, 5, 16)).shape == (7, 5, 3)  # another batch size


@pytest.mark.parametrize("how", ["repeat", "expand", "flag"])
def test_query_heads_go_with_the_key_they_share(how: str) -> None:
    torch.manual_seed(0)
    model = SharedKeys(how).eval()
    groups = find_groups(model, X)
    heads = groups["q"]
    assert (heads.kind, heads.size) == ("head", 2)
    assert [m.tensor for m in heads.producers()] == ["q.weight", "kv.weight"]
    plan = PruningPlan({"q": 2}, {"q": (1,)})
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12
    assert count_macs(small, X) == plan_macs(groups, plan)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "zero key"])
def test_all_heads_can_lose_the_same_positions_instead(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    groups = find_groups(model, X, heads="dimension")
    dims = [g for g in groups.values() if g.kind == "head_dim"]
    assert dims
    assert all(g.size == 4 for g in dims)
    assert not any(g.kind == "head" for g in groups.values())
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12
    assert count_macs(small, X) == plan_macs(groups, plan)
    assert count_params(small) == plan_params(groups, plan)
    again = find_groups(small, X, heads="dimension")
    assert sum(g.size for g in again.values() if g.kind == "head_dim") == sum(g.size for g in dims) // 2


@pytest.mark.parametrize("fused", [True, False])
def test_a_vision_transformer_keeps_its_heads_and_its_scale(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", int(fused))
    torch.manual_seed(0)
    model, x = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2).eval(), torch.randn(1, 3, 32, 32)
    groups = find_groups(model, x, heads="dimension")
    group = groups["blocks.0.attn.qkv#dim"]
    assert (group.kind, group.size) == ("head_dim", 64)
    assert group.producers()[0].index[0].tolist() == [64 * i for i in range(9)]  # q, k, v of three heads
    plan = PruningPlan({group.name: 64}, {group.name: tuple(range(0, 64, 2))})
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
    assert count_macs(small, x) == plan_macs(groups, plan) < count_macs(model, x)


@pytest.mark.parametrize("build", ["segformer", "topformer"])
def test_the_papers_transformers_lose_head_dimensions(build: str) -> None:
    from prunekit.models.segformer import segformer_mini
    from prunekit.models.topformer import topformer_mini

    torch.manual_seed(0)
    model = {"segformer": segformer_mini, "topformer": topformer_mini}[build](12).eval()
    x = torch.randn(1, 3, 128, 128)
    groups = find_groups(model, x, heads="dimension")
    plan = nets.random_plan(groups, 0.5)
    assert any(g.kind == "head_dim" for g in groups.values())
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, x).max_error < 1e-9


def test_a_plan_for_dimensions_is_not_taken_for_heads() -> None:
    model = Attends().eval()
    plan = nets.random_plan(find_groups(model, X, heads="dimension"), 0.5)
    with pytest.raises(PlanError, match="'attend.in_proj_weight#dim', which this model does not have"):
        prune(model, find_groups(model, X), plan)


def test_heads_must_be_one_of_two() -> None:
    with pytest.raises(GroupError, match="choose 'number'"):
        find_groups(SharedKeys("flag"), X, heads="both")  # type: ignore[arg-type]


def test_einsum_is_a_product() -> None:
    class Summed(SharedKeys):
        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q = self.q(x).view(b, n, 2, 16)
            k, v = self.kv(x).view(b, n, 2, 8).tile(1, 1, 1, 2), self.kv(x).view(b, n, 2, 8)
            mixed = torch.einsum("bmhd,bnhd->bhmn", q, k).softmax(-1)
            return self.head(self.out(torch.einsum("bhmn,bnhd->bmhd", mixed, v.tile(1, 1, 1, 2)).flatten(2)))

    torch.manual_seed(0)
    model = Summed("einsum").eval()
    for heads in ("number", "dimension"):
        groups = find_groups(model, X, heads=heads)
        plan = nets.random_plan(groups, 0.5)
        small = prune(model, groups, plan)
        assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12
        assert count_macs(small, X) == plan_macs(groups, plan)


def test_tables_that_are_not_saved_are_cut_too() -> None:
    """Swin v2 joins biases with a buffer of zeros that the constructor makes."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    sizes = {"img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 32, "num_heads": (2, 4)}
    model, x = timm.create_model("swinv2_tiny_window8_256", **sizes).eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    assert [g.kind for g in groups.values()].count("head") == 4
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
    assert set(small.state_dict()) == set(model.state_dict())
    attention = small.get_submodule("layers.0.blocks.0.attn")
    assert attention.k_bias.shape == attention.q_bias.shape == (16,)


def test_heads_that_fall_into_several_groups_share_the_cost() -> None:
    """CoaT gives heads windows of different sizes, so they are cut group by group."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model, x = timm.create_model("coat_lite_tiny", img_size=64).eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    assert len([n for n, g in groups.items() if g.kind == "head"]) > 4
    plan = nets.random_plan(groups, 0.5)
    assert plan_macs(groups, plan) == count_macs(prune(model, groups, plan), x)
