"""The trained mini networks that come with the package: load("deeplabv3_mini").

    deeplabv3_mini      ResNet-10 without stem pooling, output stride 4, ASPP, auxiliary head
    deeplabv3plus_mini  MobileNetV2 at half its width, output stride 8, borders from 1/2; trained for a short time
    pspnet_mini         the first one's backbone, pyramid pooling, auxiliary head
    bisenet_mini        ResNet-10 beside a stride-4 spatial path, two auxiliary heads: the fastest to train
    segformer_mini      MiT with a stride-2 first embedding, all-MLP decoder: the best of them, thin things included
    topformer_mini      TopFormer with its two finest scales at stride 2: convolutions, then a transformer on few tokens

    resnet_mini, mobilenet_mini, deit_mini   classifiers of five kinds of things, crops of 32 x 32 pixels

A checkpoint is NAME.safetensors beside NAME.json, its card: how it was trained, how good it is, and the sha256 of the
weights, most of them stored in half precision. data_scripts/make_checkpoints.py made them and makes them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import nn

from prunekit.errors import CheckpointError, InputError
from prunekit.models.bisenet import bisenet_mini
from prunekit.models.classifiers import deit_mini, mobilenet_mini, resnet_mini
from prunekit.models.deeplab import deeplabv3_mini, deeplabv3plus_mini
from prunekit.models.pspnet import pspnet_mini
from prunekit.models.segformer import segformer_mini
from prunekit.models.topformer import topformer_mini

FOLDER = Path(__file__).parent / "checkpoints"
BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "deeplabv3_mini": deeplabv3_mini,
    "deeplabv3plus_mini": deeplabv3plus_mini,
    "pspnet_mini": pspnet_mini,
    "bisenet_mini": bisenet_mini,
    "segformer_mini": segformer_mini,
    "topformer_mini": topformer_mini,
}

CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet_mini": resnet_mini,
    "mobilenet_mini": mobilenet_mini,
    "deit_mini": deit_mini,
}


def load(name: str, *, folder: Path = FOLDER) -> nn.Module:
    """A trained mini network in eval mode, on the CPU.

    All: 12 classes of the synthetic scenes, input (B, 3, 64, 128), ImageNet-normalised, weights in float32; those of
    CLASSIFIERS: five kinds of things, input (B, 3, 32, 32).
    Raises InputError for an unknown name, CheckpointError for a file that is missing, damaged or of another network.
    """
    model, weights = build(name), folder / f"{name}.safetensors"
    expected = card(name, folder=folder)["sha256"]
    try:
        raw = weights.read_bytes()
    except OSError as err:
        raise CheckpointError(f"cannot read {weights} ({err.strerror}); install prunekit again.") from err
    if hashlib.sha256(raw).hexdigest() != expected:
        raise CheckpointError(f"{weights} has {len(raw)} bytes that are not those of its card: install prunekit again.")
    try:
        model.load_state_dict(read_tensors(raw))
    except (SafetensorError, RuntimeError) as err:
        raise CheckpointError(f"{weights} is not a {name} checkpoint: {str(err).splitlines()[0]}") from err
    return model.eval()


def card(name: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """How a checkpoint was trained and how good it is."""
    path = folder / f"{_known(name)}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise CheckpointError(f"cannot read {path} ({err}); install prunekit again.") from err


def build(name: str, *, classes: int | None = None) -> nn.Module:
    """The same network with fresh random weights. classes: 12, of a classifier 5, without."""
    make = {**BUILDERS, **CLASSIFIERS}[_known(name)]
    return make(classes or (5 if name in CLASSIFIERS else 12))


def _known(name: str) -> str:
    if name not in BUILDERS and name not in CLASSIFIERS:
        raise InputError(f"no mini network {name!r}; there are: {', '.join([*BUILDERS, *CLASSIFIERS])}.")
    return name
