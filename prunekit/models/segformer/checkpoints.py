"""SegFormer weights from elsewhere, by renaming only: no value is changed, no network is touched, no peer is imported.

    transformers   folder with config.json and model.safetensors (or pytorch_model.bin), as on the hub
    original       the authors' .pth: keys and values in one matrix, which is split; segmentation or ImageNet encoder
    smp            state dict of segmentation_models_pytorch's Segformer with a mit_bN encoder

transformers computes all norms with eps 1e-5, the authors those in and after the blocks with 1e-6; each loader builds
the model as the peer that wrote the weights computes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prunekit.errors import CheckpointError
from prunekit.models.segformer.encoder import MiT, MixTransformer
from prunekit.models.segformer.network import VARIANTS, SegFormer
from prunekit.models.weights import Renaming, load_renamed, read_weights

_ENCODER_PTH: Renaming = (
    (r"^head\..*", ""),  # ImageNet classifier
    (r"^decode_head\.conv_seg\..*", ""),  # made by the authors' base class, never used
    (r"^backbone\.", "encoder."),
    (r"^(patch_embed|block|norm)(?=\d)", r"encoder.\1"),  # a file with the encoder alone
)
_STAGES_PTH: Renaming = tuple(
    rule
    for i in range(1, 5)
    for rule in (
        (rf"^encoder\.patch_embed{i}\.", f"encoder.stages.{i - 1}.embed."),
        (rf"^encoder\.block{i}\.", f"encoder.stages.{i - 1}.blocks."),
        (rf"^encoder\.norm{i}\.", f"encoder.stages.{i - 1}.norm."),
        (rf"^decode_head\.linear_c{i}\.proj\.", f"decoder.project.{i - 1}."),
        (rf"^decoder\.mlp_stage\.{4 - i}\.linear\.", f"decoder.project.{i - 1}."),  # smp: coarse to fine
    )
)
_ORIGINAL: Renaming = (
    *_ENCODER_PTH,
    *_STAGES_PTH,
    (r"\.attn\.q\.", ".attention.query."),
    (r"\.attn\.(key|value)\.", r".attention.\1."),
    (r"\.attn\.proj\.", ".attention.project."),
    (r"\.attn\.sr\.", ".attention.reduce."),
    (r"\.attn\.norm\.", ".attention.norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"^decode_head\.linear_fuse\.conv\.|^decoder\.fuse_stage\.0\.", "decoder.fuse."),
    (r"^decode_head\.linear_fuse\.bn\.|^decoder\.fuse_stage\.1\.", "decoder.norm."),
    (r"^decode_head\.linear_pred\.|^segmentation_head\.0\.", "decoder.classifier."),
)
_TRANSFORMERS: Renaming = (
    (r"^classifier\..*", ""),  # ImageNet classifier
    (r"^segformer\.encoder\.patch_embeddings\.(\d+)\.layer_norm\.", r"encoder.stages.\1.embed.norm."),
    (r"^segformer\.encoder\.patch_embeddings\.(\d+)\.", r"encoder.stages.\1.embed."),
    (r"^segformer\.encoder\.block\.(\d+)\.", r"encoder.stages.\1.blocks."),
    (r"^segformer\.encoder\.layer_norm\.(\d+)\.", r"encoder.stages.\1.norm."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.self\.sr\.", ".attention.reduce."),
    (r"\.attention\.self\.layer_norm\.", ".attention.norm."),
    (r"\.attention\.output\.dense\.", ".attention.project."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"^decode_head\.linear_c\.(\d+)\.proj\.", r"decoder.project.\1."),
    (r"^decode_head\.linear_fuse\.", "decoder.fuse."),
    (r"^decode_head\.batch_norm\.", "decoder.norm."),
    (r"^decode_head\.classifier\.", "decoder.classifier."),
)


def from_transformers(folder: str | Path, *, classes: int | None = None) -> SegFormer:
    """A SegFormer from a folder that transformers' `save_pretrained` wrote or that was downloaded from the hub.

    classes: None = as in the checkpoint; a number gives a fresh classifier on the trained rest, for another data set.
    Returned in eval mode. Raises CheckpointError when the folder is not a SegFormer for segmentation.
    """
    folder = Path(folder)
    config, state = _config(folder), _state(folder)
    head = state.get("decode_head.classifier.weight")
    if head is None:
        raise CheckpointError(f"{folder} has no 'decode_head.classifier.weight': an encoder alone? Use load_encoder.")
    try:
        sizes = MiT(
            widths=tuple(config["hidden_sizes"]),
            depths=tuple(config["depths"]),
            heads=tuple(config["num_attention_heads"]),
            reductions=tuple(config["sr_ratios"]),
            mlp_ratios=tuple(config["mlp_ratios"]),
            patches=tuple(config["patch_sizes"]),
            strides=tuple(config["strides"]),
            norm_eps=1e-5,
        )
        encoder = MixTransformer(sizes, drop_path=float(config.get("drop_path_rate", 0.1)))
        width = int(config["decoder_hidden_size"])
    except (KeyError, TypeError, IndexError, ValueError) as err:
        what = f"lacks {err}" if isinstance(err, KeyError) else f"does not describe a SegFormer ({err})"
        raise CheckpointError(f"{folder / 'config.json'} {what}; download the folder again.") from err
    model = SegFormer(encoder, classes or len(head), width=width)
    fresh = () if classes in (None, len(head)) else ("decoder.classifier.",)
    load_renamed(model, state, _TRANSFORMERS, source=folder, fresh=fresh)
    return model.eval()


def from_original(path: str | Path, *, classes: int | None = None) -> SegFormer:
    """A SegFormer from one of the authors' segmentation checkpoints (.pth); the variant is read off the shapes.

    classes: as in from_transformers. Returned in eval mode. Raises CheckpointError when the file is something else.
    """
    state = read_weights(path)
    head = state.get("decode_head.linear_pred.weight")
    if head is None:
        hint = "an encoder alone? Use load_encoder."
        if _rules(state) is _TRANSFORMERS:
            hint = "it is transformers'; use from_transformers with its folder."
        raise CheckpointError(f"{path} has no 'decode_head.linear_pred.weight': {hint}")
    sizes, width = _variant(state, path)
    model = SegFormer(MixTransformer(sizes), classes or len(head), width=width)
    fresh = () if classes in (None, len(head)) else ("decoder.classifier.",)
    load_renamed(model, _split_kv(state), _ORIGINAL, source=path, fresh=fresh)
    return model.eval()


def load_weights(model: SegFormer, state: Mapping[str, Tensor], *, source: object = "the checkpoint") -> None:
    """Fill a SegFormer in place from a state dict in any of the layouts above; CheckpointError when it does not fit."""
    load_renamed(model, _split_kv(state), _rules(state), source=source)


def load_encoder(model: SegFormer, path: str | Path) -> None:
    """Fill the encoder in place and leave the decoder fresh: where training on a new data set starts.

    path: a folder of transformers or a file; an ImageNet encoder or a whole segmentation checkpoint.
    """
    state = _state(Path(path)) if Path(path).is_dir() else read_weights(path)
    load_renamed(model, _split_kv(state), _rules(state), source=path, fresh=("decoder.",))


def _rules(state: Mapping[str, Tensor]) -> Renaming:
    return _TRANSFORMERS if any(name.startswith("segformer.") for name in state) else _ORIGINAL


def _split_kv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One matrix for keys and values, (2C, C), becomes two."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.kv." in name:
            halves = tensor.chunk(2)
            split |= {name.replace(".kv.", f".{part}."): half for part, half in zip(("key", "value"), halves)}
        else:
            split[name] = tensor
    return split


def _variant(state: Mapping[str, Tensor], path: str | Path) -> tuple[MiT, int]:
    widths = tuple(len(state.get(f"backbone.norm{i}.weight", ())) for i in range(1, 5))
    prefixes = [f"backbone.block{i}." for i in range(1, 5)]
    depths = tuple(len({n.split(".")[2] for n in state if n.startswith(prefix)}) for prefix in prefixes)
    for sizes, width in VARIANTS.values():
        if (sizes.widths, sizes.depths) == (widths, depths):
            found = state.get("decode_head.linear_c1.proj.bias")
            return sizes, width if found is None else len(found)
    raise CheckpointError(f"{path} has widths {widths} and depths {depths}: none of MiT-B0 to B5.")


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        hint = "give the folder that holds it"
        if not folder.exists():
            hint = f"is it a name of the hub? huggingface_hub.snapshot_download('{folder}') fetches it into a folder"
        raise CheckpointError(f"{folder} is no folder here; {hint}.")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise CheckpointError(f"cannot read {path} ({err}); expected a folder that save_pretrained wrote.") from err
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "segformer":
        raise CheckpointError(f"{path} describes a {kind!r} model; expected 'segformer'.")
    return config


def _state(folder: Path) -> dict[str, Tensor]:
    names = ("model.safetensors", "pytorch_model.bin")
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(names)}; download the folder again.")
    return read_weights(path)
