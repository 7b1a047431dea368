"""Networks for these tests: a tiny SegFormer with several heads, whose norms have seen data, and gates that differ."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import Block
from torch import nn

from prunekit.methods.dynasegformer import Gate, gates_of, make_dynamic
from prunekit.models.segformer import MiT, MixTransformer, SegFormer


def images(count: int = 3, size: tuple[int, int] = (32, 64), seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W)"""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * torch.arange(
        1, count + 1
    ).reshape(-1, 1, 1, 1)


def tiny(**how: bool | str) -> SegFormer:
    """(B, 3, 32, 64) -> 5 classes; eval mode."""
    torch.manual_seed(0)
    sizes = MiT((8, 16, 16, 24), (1, 2, 1, 1), heads=(1, 2, 2, 3), strides=(2, 2, 2, 2))
    model = SegFormer(MixTransformer(sizes, drop_path=0.0), 5, width=16, **how)  # type: ignore[arg-type]
    shake(model)
    return model.eval()


def one_stage() -> SegFormer:
    """One block with two heads, for what takes long: tracing, export, training. (B, 3, 32, 64) -> 5 classes."""
    torch.manual_seed(0)
    sizes = MiT((8,), (1,), heads=(2,), reductions=(2,), mlp_ratios=(4,), patches=(3,), strides=(4,))
    model = SegFormer(MixTransformer(sizes, drop_path=0.0), 5, width=16)
    shake(model)
    return model.eval()


def vit_block() -> nn.Module:
    """A ViT's block of timm's own Attention and Mlp, two heads; (B, N, 24) -> the same."""
    torch.manual_seed(0)
    model = Block(24, 2)
    shake(model, 0.05)
    return model.eval()


def deit() -> nn.Module:
    """timm's smallest DeiT, shallow; (B, 3, 32, 32) -> 7 classes."""
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=7)
    shake(model, 0.02)
    return model.eval()


def shake(model: nn.Module, size: float = 0.2) -> None:
    """Weights of ordinary size, biases that are not 0, statistics that are not (0, 1)."""
    dice = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=dice))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=dice)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2, generator=dice)  # type: ignore[union-attr]


def opinionated(model: nn.Module, sparsity: float, **how: object) -> nn.Module:
    """make_dynamic, with predictors that have learned: each image gets other gates."""
    torch.manual_seed(2)
    dynamic = make_dynamic(model, sparsity=sparsity, **{"reduction": 2, **how})  # type: ignore[arg-type]
    with torch.no_grad():
        for gate in gates_of(dynamic).values():
            assert isinstance(gate, Gate)
            gate.excite.weight.normal_(std=1.0)
    return dynamic.eval()
