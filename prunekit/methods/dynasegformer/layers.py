"""Gated layers: what make_dynamic puts in the place of attention, Mix-FFN and linear pairs. Names of weights stay, but
in nn.Sequential, where the first layer of a pair `i` becomes a module that holds both (i.fc1, i.fc2).

Each computes the same function in two ways, chosen by `gathered`:

    False   all neurons, then times the mask M: for training
    True    only the kept neurons, see gather.py: for inference (no image, nothing to gather: then as False)

The gate multiplies a neuron where the next layer reads it, so 0 is the same as removed, whatever biases and
activations lie between. Queries and keys of a head share one gate, which multiplies the queries: their product needs
the same positions on both sides. The softmax scale stays that of the whole head.

Legend: B = images, N = tokens, C = channels, M = tokens after reduction, U = neurons, K = kept, n = heads.
"""

from __future__ import annotations

import torch
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from prunekit.methods.dynasegformer.gate import Selector
from prunekit.methods.dynasegformer.gather import columns, depthwise, rows
from prunekit.models.segformer.encoder import Attention, MixFFN, to_map, to_tokens


class GatedLayer(nn.Module):
    """What they share. gathered: which of the two ways."""

    gathered: bool = False


class GatedMixFFN(GatedLayer):
    """SegFormer's Mix-FFN with a gate on its hidden neurons."""

    def __init__(self, ffn: MixFFN, gate: Selector) -> None:
        super().__init__()
        self.fc1, self.depthwise, self.act, self.fc2 = ffn.fc1, ffn.depthwise, ffn.act, ffn.fc2
        self.gate = gate

    def forward(self, x_BNC: Tensor, size: torch.Size) -> Tensor:
        gate_BU = self.gate(x_BNC, self.fc1.weight)
        if self.gathered and len(x_BNC):
            kept = self.gate.choose(gate_BU)
            y_BNK = rows(x_BNC, self.fc1, kept.index_BK)
            y_BNK = to_tokens(self.act(depthwise(to_map(y_BNK, size), self.depthwise, kept.index_BK)))
            return columns(y_BNK, self.fc2, kept.index_BK, kept.value_BK)
        y_BNU = to_tokens(self.act(self.depthwise(to_map(self.fc1(x_BNC), size))))
        return self.fc2(y_BNU * self.gate.mask(gate_BU)[:, None])


class GatedAttention(GatedLayer):
    """SegFormer's attention with one gate on queries and keys, and one on values."""

    def __init__(self, attention: Attention, qk_gate: Selector, value_gate: Selector) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.project, self.reduce, self.norm = attention.project, attention.reduce, attention.norm
        self.qk_gate, self.value_gate = qk_gate, value_gate

    def forward(self, x_BNC: Tensor, size: torch.Size) -> Tensor:
        y_BMC = x_BNC
        if self.reduce is not None and self.norm is not None:
            y_BMC = self.norm(to_tokens(self.reduce(to_map(x_BNC, size))))
        qk_BU = self.qk_gate(x_BNC, self.query.weight)
        value_BU = self.value_gate(y_BMC, self.value.weight)
        if self.gathered and len(x_BNC):
            qk, value = self.qk_gate.choose(qk_BU), self.value_gate.choose(value_BU)
            q_BNK = rows(x_BNC, self.query, qk.index_BK, qk.value_BK)
            k_BMK = rows(y_BMC, self.key, qk.index_BK)
            v_BMK = rows(y_BMC, self.value, value.index_BK, value.value_BK)
            return columns(self.attend(q_BNK, k_BMK, v_BMK), self.project, value.index_BK)
        q_BNU = self.query(x_BNC) * self.qk_gate.mask(qk_BU)[:, None]
        v_BMU = self.value(y_BMC) * self.value_gate.mask(value_BU)[:, None]
        return self.project(self.attend(q_BNU, self.key(y_BMC), v_BMU))

    def attend(self, q_BNU: Tensor, k_BMU: Tensor, v_BMU: Tensor) -> Tensor:
        """Softmax attention of all heads, (B, N, U)."""
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q_BNU, k_BMU, v_BMU))
        map_BnNM = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return (map_BnNM @ v).transpose(1, 2).flatten(2)


class GatedQKV(GatedLayer):
    """A ViT's attention whose queries, keys and values come from one matrix (timm's Attention)."""

    def __init__(self, attention: TimmAttention, qk_gate: Selector, value_gate: Selector) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop
        self.qk_gate, self.value_gate = qk_gate, value_gate

    def forward(self, x_BNC: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        query_UC, _, value_UC = self.qkv.weight.chunk(3)
        size = self.qk_gate.size
        qk_BU, value_BU = self.qk_gate(x_BNC, query_UC), self.value_gate(x_BNC, value_UC)
        if self.gathered and len(x_BNC):
            qk, value = self.qk_gate.choose(qk_BU), self.value_gate.choose(value_BU)
            index_BK = torch.cat([qk.index_BK, qk.index_BK + size, value.index_BK + 2 * size], 1)
            value_BK = torch.cat([qk.value_BK, torch.ones_like(qk.value_BK), value.value_BK], 1)
            q, k, v = rows(x_BNC, self.qkv, index_BK, value_BK).split(
                [qk.index_BK.shape[1]] * 2 + [value.index_BK.shape[1]], dim=2
            )
            y_BNO = columns(self.attend(q, k, v, attn_mask, is_causal), self.proj, value.index_BK)
        else:
            q, k, v = self.qkv(x_BNC).chunk(3, dim=2)
            q, v = q * self.qk_gate.mask(qk_BU)[:, None], v * self.value_gate.mask(value_BU)[:, None]
            y_BNO = self.proj(self.attend(q, k, v, attn_mask, is_causal))
        return self.proj_drop(y_BNO)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        """Softmax attention of all heads, (B, N, U)."""
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        dropout = self.attn_drop.p if self.training else 0.0
        y_BnNd = scaled_dot_product_attention(q, k, v, attn_mask, dropout, is_causal, scale=self.scale)
        return y_BnNd.transpose(1, 2).flatten(2)


class GatedMlp(GatedLayer):
    """Two linear layers with a gate on the neurons between. between: acts on each neuron alone. after: what follows."""

    def __init__(self, fc1: nn.Linear, between: nn.Module, fc2: nn.Linear, after: nn.Module, gate: Selector) -> None:
        super().__init__()
        self.fc1, self.between, self.fc2, self.after, self.gate = fc1, between, fc2, after, gate

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ..., C), or (C,) for one image."""
        x_BNC = x.flatten(1, -2) if x.ndim > 2 else x.reshape(-1, 1, x.shape[-1])
        gate_BU = self.gate(x_BNC, self.fc1.weight)
        if self.gathered and len(x_BNC):
            kept = self.gate.choose(gate_BU)
            y_BNK = self.between(rows(x_BNC, self.fc1, kept.index_BK))
            y_BNO = columns(y_BNK, self.fc2, kept.index_BK, kept.value_BK)
        else:
            y_BNO = self.fc2(self.between(self.fc1(x_BNC)) * self.gate.mask(gate_BU)[:, None])
        return self.after(y_BNO).reshape(*x.shape[:-1], y_BNO.shape[-1])
