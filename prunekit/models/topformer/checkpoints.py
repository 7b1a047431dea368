"""TopFormer weights in the authors' names (mmsegmentation): the same tensors under ours, no value is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.models.topformer.network import VARIANTS, TopFormer
from prunekit.models.weights import Renaming, load_renamed, read_weights

_UNIT: Renaming = ((r"\.(c|conv)\.(?=weight$)", ".0."), (r"\.bn\.", ".1."))  # a convolution and its batch norm
_ORIGINAL: Renaming = (
    (r"^(?=tpm\.|trans\.|SIM\.)", "backbone."),
    (r"^backbone\.tpm\.stem\.", "stem."),
    (r"^backbone\.tpm\.layer1\.conv\.0\.", "pyramid.0.depthwise.0."),  # the one block that does not expand
    (r"^backbone\.tpm\.layer1\.conv\.2\.", "pyramid.0.project."),
    *((rf"^backbone\.tpm\.layer{i + 1}\.conv\.", f"pyramid.{i}.conv.") for i in range(1, 10)),
    (r"^(pyramid\.\d+)\.conv\.0\.", r"\1.expand.0."),
    (r"^(pyramid\.\d+)\.conv\.2\.", r"\1.depthwise.0."),
    (r"^(pyramid\.\d+)\.conv\.4\.", r"\1.project."),
    (r"^backbone\.trans\.transformer_blocks\.(\d+)\.", r"transformer.\1."),
    (r"\.attn\.to_q\.", ".attention.query."),
    (r"\.attn\.to_k\.", ".attention.key."),
    (r"\.attn\.to_v\.", ".attention.value."),
    (r"\.attn\.proj\.1\.", ".attention.project."),
    (r"\.mlp\.dwconv\.", ".mlp.depthwise."),
    *((rf"^backbone\.SIM\.{i}\.", f"inject.{i - 1}.") for i in range(1, 4)),
    (r"\.local_embedding\.", ".local."),
    (r"\.global_embedding\.", ".offset."),
    (r"\.global_act\.", ".gate."),
    (r"^decode_head\.linear_fuse\.", "fuse.0."),
    (r"^decode_head\.conv_seg\.", "classifier."),
    *_UNIT,
)
_BACKBONE: Renaming = ((r"^(?!backbone\.|tpm\.|trans\.).*", ""), *_ORIGINAL)  # whatever classified ImageNet goes


def from_original(path: str | Path, *, classes: int | None = None) -> TopFormer:
    """A TopFormer from one of the authors' segmentation checkpoints (.pth); the variant is read off the shapes.

    classes: None = as in the checkpoint; a number gives a fresh classifier on the trained rest, for another data set.
    Returned in eval mode. Raises CheckpointError when the file is something else.
    """
    state = read_weights(path)
    head, fuse = state.get("decode_head.conv_seg.weight"), state.get("decode_head.linear_fuse.bn.weight")
    if head is None or fuse is None:
        raise CheckpointError(f"{path} has no 'decode_head.conv_seg.weight': a backbone alone? Use load_backbone.")
    sizes = next((sizes for sizes in VARIANTS.values() if sizes.width == len(fuse)), None)
    if sizes is None:
        raise CheckpointError(f"{path} has a head of width {len(fuse)}: none of {', '.join(VARIANTS)}.")
    model = TopFormer(sizes, classes or len(head))
    fresh = () if classes in (None, len(head)) else ("classifier.",)
    load_renamed(model, state, _ORIGINAL, source=path, fresh=fresh)
    return model.eval()


def load_weights(model: TopFormer, state: Mapping[str, Tensor], *, source: object = "the checkpoint") -> None:
    """Fill a TopFormer in place from a state dict in the authors' names; CheckpointError when it does not fit."""
    load_renamed(model, state, _ORIGINAL, source=source)


def load_backbone(model: TopFormer, path: str | Path) -> None:
    """Fill pyramid and transformer in place from a file and leave injection and head fresh: where training starts.

    path: an ImageNet or a segmentation checkpoint of the authors.
    """
    load_renamed(model, read_weights(path), _BACKBONE, source=path, fresh=("inject.", "fuse.", "classifier."))
