"""Do our networks have the sizes that papers print? Counted here, kept in results/sizes/published.json.

    python book/sizes.py          # counts all of them, without any memory for weights, and writes the file

Parameters count every weight once. MACs are those of convolutions and matrix products; some papers add norms and
activations, which is a percent or less. A paper's own numbers stand in ROWS, nothing else is typed in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from prunekit.models import zoo
from prunekit.models.bisenet import bisenet
from prunekit.models.deeplab import conv_bn_relu, deeplabv3, deeplabv3plus
from prunekit.models.pspnet import pspnet
from prunekit.models.segformer import segformer
from prunekit.models.ssd import ssd300_resnet50
from prunekit.models.topformer import topformer
from prunekit.models.unet import unet
from prunekit.profiling import count_macs, count_params

FILE = Path(__file__).parent / "results" / "sizes" / "published.json"


@dataclass(frozen=True)
class Row:
    """One network as a paper prints it. size: (H, W) of the input. params_m, macs_g: printed, None = not printed."""

    model: str
    paper: str
    size: tuple[int, int]
    params_m: float | None
    macs_g: float | None
    build: Callable[[], nn.Module]
    built: str


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def _r101() -> nn.Module:
    return deeplabv3(21, backbone="resnet101", output_stride=16, aux=False, fuse=False)


def _r50() -> nn.Module:
    return deeplabv3(19, backbone="resnet50s", aux=False)


def _r50_other_aspp() -> nn.Module:
    """Without ASPP's 1x1 branch, and with a 3x3 convolution where ASPP has its last 1x1."""
    model = _r50()
    assert isinstance(model.aspp, nn.Module)
    del model.aspp.branches[0]  # type: ignore[union-attr]
    model.aspp.project[0] = conv_bn_relu(4 * 256, 256, 3)  # type: ignore[union-attr,index]
    return model


def _segformer(variant: str) -> Callable[[], nn.Module]:
    return lambda: segformer(150, variant=variant)


def _topformer(variant: str) -> Callable[[], nn.Module]:
    return lambda: topformer(150, variant=variant)


_STEM = "stem of three 3x3, output stride 8, no auxiliary head"
_PHONE = "150 classes; as printed if norms, activations and resizing count too"
ROWS = (
    Row("DeepLabV3 R101", "MTP", (513, 513), 58.04, 71.52, _r101, "output stride 16, no 3x3 after ASPP, 21 classes"),
    Row("DeepLabV3 R101", "MTP", (1024, 2048), 58.04, 201.88, _r101, "the same, at the size the paper names"),
    Row("DeepLabV3 R101", "MTP", (768, 1024), 58.04, 201.88, _r101, "the same, at the size that its MACs imply"),
    Row("DeepLabV3 R50", "SIRFP", (1024, 2048), 41.27, 1418.29, _r50, _STEM),
    Row("DeepLabV3 R50", "SIRFP", (1024, 2048), 41.27, 1418.29, _r50_other_aspp, "ASPP without 1x1 branch, end 3x3"),
    Row(
        "DeepLabV3+ R50", "SIRFP", (1024, 2048), None, 1608.99,
        lambda: deeplabv3plus(19, backbone="resnet50s", output_stride=8), _STEM,
    ),
    Row("PSPNet R50", "SIRFP", (1024, 2048), None, 1476.54, lambda: pspnet(19, aux=False), _STEM),
    Row("PSPNet R50", "MTP", (513, 513), 46.71, 190.43, lambda: pspnet(21, aux=False), _STEM),
    Row("BiSeNet R18", "MTP", (1024, 2048), 12.89, 104.27, lambda: bisenet(19, aux=False), "no auxiliary heads"),
    Row(
        "DeepLabV3+ MobileNetV2", "bi-level", (512, 1024), 2.26, 9.5,
        lambda: deeplabv3plus(19, backbone="mobilenetv2_100", lite=True), "lite: ASPP without 3x3, separable decoder",
    ),
    Row("TopFormer-B", "TopFormer", (512, 512), 5.1, 1.8, _topformer("base"), _PHONE),
    Row("TopFormer-S", "TopFormer", (512, 512), 3.1, 1.2, _topformer("small"), _PHONE),
    Row("TopFormer-T", "TopFormer", (512, 512), 1.4, 0.6, _topformer("tiny"), _PHONE),
    Row("SegFormer-B0", "SegFormer", (512, 512), 3.8, 8.4, _segformer("b0"), "150 classes"),
    Row("SegFormer-B1", "SegFormer", (512, 512), 13.7, 15.9, _segformer("b1"), "150 classes"),
    Row("SegFormer-B2", "SegFormer", (512, 512), 27.5, 62.4, _segformer("b2"), "150 classes"),
    Row("SegFormer-B3", "SegFormer", (512, 512), 47.3, 79.0, _segformer("b3"), "150 classes"),
    Row("SegFormer-B4", "SegFormer", (512, 512), 64.1, 95.7, _segformer("b4"), "150 classes"),
    Row("SegFormer-B5", "SegFormer", (640, 640), 84.7, 183.3, _segformer("b5"), "150 classes"),
    Row("SSD300 R50", "none", (300, 300), None, None, lambda: ssd300_resnet50(80), "80 classes, 8732 boxes"),
    Row("UNet R34", "none", (512, 512), None, None, lambda: unet(19), "19 classes"),
    Row("ResNet-50", "EAPruning", (224, 224), None, 4.11, _timm("resnet50"), "timm's"),
    Row("MobileNetV1", "EAPruning", (224, 224), None, 0.569, _timm("mobilenetv1_100"), "timm's"),
    Row("DeiT-Base", "EAPruning", (224, 224), None, 17.8, _timm("deit_base_patch16_224"), "timm's"),
)  # fmt: skip


def measure(row: Row) -> dict[str, Any]:
    """One entry of the file: what the row says, and what we count on torch's meta device."""
    with torch.device("meta"):
        model = row.build()
        macs = count_macs(model, torch.empty(1, 3, *row.size))
    said = {"model": row.model, "paper": row.paper, "size": list(row.size), "built": row.built}
    return said | {
        "paper_params_m": row.params_m,
        "paper_macs_g": row.macs_g,
        "params": count_params(model),
        "macs": macs,
    }


def published(entries: Sequence[dict[str, Any]]) -> str:
    """Markdown table: the paper's number, ours, and by how much ours differs."""
    lines = ["| network | parameters, M | MACs, G | what we build |", "|" + " --- |" * 4]
    for e in entries:
        where = _by(e["size"]) if e["paper"] == "none" else f"{e['paper']}, {_by(e['size'])}"
        params = _compared(e["paper_params_m"], e["params"] / 1e6)
        macs = _compared(e["paper_macs_g"], e["macs"] / 1e9)
        lines.append(f"| {e['model']}<br>{where} | {params} | {macs} | {e['built']} |")
    return "\n".join(lines) + "\n"


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} × {size[1]}"


def _compared(paper: float | None, ours: float) -> str:
    """ "58.04 → 58.04" over "+0.0 %"; our number alone where the paper prints none."""
    mine = f"{ours:.{3 if ours < 1 else 2 if ours < 100 else 1}f}"
    return mine if paper is None else f"{paper:g} → {mine}<br>{round(100 * (ours / paper - 1), 1) + 0.0:+.1f} %"


def stored() -> str:
    """Markdown table of the trained mini networks that come with the package, from their cards."""
    lines = ["| network | parameters, M | MACs, G | file, MB | on 200 test scenes |", "|" + " --- |" * 5]
    for name in zoo.BUILDERS:
        with torch.device("meta"):
            macs = count_macs(zoo.build(name), torch.empty(1, 3, 64, 128))
        card = zoo.card(name)
        megabytes = (zoo.FOLDER / f"{name}.safetensors").stat().st_size / 1e6
        quality = f"mIoU {card['test_miou']:.3f}" if "test_miou" in card else f"AP50 {card['test_ap50']:.3f}"
        cells = (f"`{name}`", f"{card['parameters'] / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{megabytes:.1f}", quality)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def load() -> list[dict[str, Any]]:
    """The file's entries."""
    return json.loads(FILE.read_text())


def main() -> None:
    """Count every row and write the file in one step."""
    entries = [measure(row) for row in ROWS]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    part = FILE.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    part.replace(FILE)
    print(published(entries))


if __name__ == "__main__":
    main()
