"""Only the work of the neurons that an image keeps: rows, depth-wise kernels and columns taken before the product.

Each function takes any number of images. With one, the smaller weights are shared by all tokens and the product is a
plain one; with several, each image has weights of its own and the products are batched. No loop over neurons or images.
A gate's value is multiplied into the gathered weights: K x C numbers instead of K x N.

Legend: B = images, N = tokens, C O = channels in and out, U = neurons, K = kept neurons, h w = a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear


def rows(x_BNC: Tensor, layer: nn.Linear, index_BK: Tensor, value_BK: Tensor | None = None) -> Tensor:
    """The kept outputs of a linear layer, (B, N, K), each times its value."""
    weight_BKC = _take(layer.weight, index_BK)
    bias_BK = None if layer.bias is None else _take(layer.bias, index_BK)
    if value_BK is not None:
        weight_BKC = weight_BKC * value_BK[:, :, None]
        bias_BK = None if bias_BK is None else bias_BK * value_BK
    if len(x_BNC) == 1:
        return linear(x_BNC, weight_BKC[0], None if bias_BK is None else bias_BK[0])
    if bias_BK is None:
        return x_BNC @ weight_BKC.transpose(1, 2)
    return torch.baddbmm(bias_BK[:, None], x_BNC, weight_BKC.transpose(1, 2))


def columns(y_BNK: Tensor, layer: nn.Linear, index_BK: Tensor, value_BK: Tensor | None = None) -> Tensor:
    """What a linear layer makes of the kept inputs, each times its value: (B, N, O)."""
    if len(y_BNK) == 1:
        weight_OK = layer.weight.index_select(1, index_BK[0])
        return linear(y_BNK, weight_OK if value_BK is None else weight_OK * value_BK, layer.bias)
    weight_BKO = _take(layer.weight.t(), index_BK)
    if value_BK is not None:
        weight_BKO = weight_BKO * value_BK[:, :, None]
    if layer.bias is None:
        return y_BNK @ weight_BKO
    return torch.baddbmm(layer.bias, y_BNK, weight_BKO)


def depthwise(x_BKhw: Tensor, layer: nn.Conv2d, index_BK: Tensor) -> Tensor:
    """A depth-wise convolution of the kept channels; all images' channels are the groups of one convolution."""
    count, kept, h, w = x_BKhw.shape
    kernel_G1kk = _take(layer.weight, index_BK).flatten(0, 1)
    bias_G = None if layer.bias is None else _take(layer.bias, index_BK).flatten()
    x_1Ghw = x_BKhw.reshape(1, count * kept, h, w) if count > 1 else x_BKhw
    y_1Ghw = conv2d(x_1Ghw, kernel_G1kk, bias_G, layer.stride, layer.padding, layer.dilation, count * kept)  # type: ignore[arg-type]
    return y_1Ghw.reshape(count, kept, *y_1Ghw.shape[2:])


def _take(tensor: Tensor, index_BK: Tensor) -> Tensor:
    """The entries `index_BK` of the first axis, (B, K, ...)."""
    return tensor.index_select(0, index_BK.flatten()).unflatten(0, tuple(index_BK.shape))
