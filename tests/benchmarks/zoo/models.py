"""The models of the benchmark: 140 networks with fresh weights, by name.

Frozen on purpose, so that two runs compare. TIMM holds the variant with the fewest parameters of every family (module)
of timm 1.0.31, without its test_* toys; found once by building all variants on the meta device. Left out for their size
(more than 120 M parameters): deepseek_vit (412 M), gemma4_vit (167 M), timm's vgg (133 M; torchvision's is there).
TORCHVISION: the smallest of every classification and segmentation family. PAPERS: the networks of the methods taught
here, at the size of the papers, from this package and from its peers. A number is the side of the square input: the
trained size where the network is tied to it, else 64 or a little more, as the verifier's float64 is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

TIMM = """
    beit_base_patch16_224:224 halonet_h1:256 mobileone_s1:64 cait_xxs24_224:224 coat_tiny:224 convit_tiny:224
    convmixer_768_32:64 convnext_zepto_rms:64 cpubone_nano:64 crossvit_tiny_240:240 csatv2:64
    cs3darknet_focus_s:64 cspnext_tiny:64 davit_tiny:64 deit_tiny_patch16_224:224 densenet121:64
    dla46x_c:64 dpn48b:64 edgenext_xx_small:64 efficientformer_l1:224 efficientformerv2_s0:224
    mobilenetv2_035:64 efficientvim_m1:64 efficientvit_b0:64 efficientvit_m0:224
    vit_tiny_patch16_dinov3_qkvb:256 fasternet_t0:64 fastvit_t8:64 focalnet_tiny_srf:64 gcvit_xxtiny:224
    ghostnet_050:64 hardcorenas_b:64 hgnetv2_b0:64 hiera_tiny_224:224 sam2_hiera_tiny:64 hrnet_w18_small:64
    iformer_t:64 inception_next_atto:64 inception_resnet_v2:96 inception_v3:96 inception_v4:96
    lcnetv2_small:64 levit_128s:224 lowformer_b0:64 mambaout_femto:64 maxvit_pico_rw_256:256
    poolformerv2_s12:64 gmlp_ti16_224:224 mobilenetv3_small_050:64 mobilenetv5_base:64 mobilevit_xxs:64
    mvitv2_tiny:224 naflexvit_base_patch16_parfac_gap:64 nasnetalarge:64 nest_tiny:224 nextvit_small:64
    nf_regnet_b0:64 pit_ti_224:224 pnasnet5large:64 pvt_v2_b0:64 qwen3_vit_88m:64 rdnet_tiny:64
    regnetx_002:64 repghostnet_050:64 repvit_m1:64 res2next50:64 resnest14d:64 resnet10t:64
    resnetv2_18:64 rexnet_100:64 selecsls42:64 legacy_seresnet18:64 sequencer2d_s:224 shvit_s1:64
    skresnet18:64 starnet_s050:64 swiftformer_xs:224 swin_tiny_patch4_window7_224:224
    swinv2_tiny_window8_256:256 swinv2_cr_tiny_224:224 tiny_vit_5m_224:64 tnt_s_legacy_patch16_224:224
    tresnet_m:64 twins_svt_small:224 visformer_tiny:224 vit_tiny_patch16_224:224 vit_tiny_r_s16_p8_224:224
    vit_srelpos_small_patch16_224:224 samvit_base_patch16_224:224 vitamin_small_224:224 volo_d1_224:224
    ese_vovnet19b_slim_dw:64 legacy_xception:64 xception41p:64 xcit_nano_12_p8_224:224
"""

TORCHVISION = """
    alexnet:224 convnext_tiny:64 densenet121:64 efficientnet_b0:64 efficientnet_v2_s:64 googlenet:64
    inception_v3:96 maxvit_t:224 mnasnet0_5:64 mobilenet_v2:64 mobilenet_v3_small:64 regnet_x_400mf:64
    regnet_y_400mf:64 resnet18:64 resnext50_32x4d:64 shufflenet_v2_x0_5:64 squeezenet1_1:64 swin_t:224
    swin_v2_t:256 vgg11:224 vit_b_32:224 wide_resnet50_2:64 deeplabv3_mobilenet_v3_large:64 fcn_resnet50:64
    lraspp_mobilenet_v3_large:64
"""

PAPERS = """
    prunekit/deeplabv3_r50:65 prunekit/deeplabv3_r101:65 prunekit/deeplabv3plus_mobilenetv2:128
    prunekit/pspnet_r50:64 prunekit/bisenet_r18:128 prunekit/unet_r34:128 prunekit/topformer_base:128
    prunekit/topformer_small:128 prunekit/topformer_tiny:128 prunekit/segformer_b0:128 prunekit/segformer_b2:128
    prunekit/ssd300_r50:300 timm/resnet50:64 timm/mobilenetv1_100:64 timm/deit_base_patch16_224:224
    smp/deeplabv3plus:128 smp/pspnet:128 smp/segformer:128 smp/unet:128 transformers/segformer_b0:128
"""


@dataclass(frozen=True)
class Case:
    """One model. name: "library/model". family: papers, torchvision or timm. side: of its input (1, 3, side, side)."""

    name: str
    family: str
    side: int

    def build(self) -> nn.Module:
        """With fresh weights, in eval mode; no download."""
        library, _, model = self.name.partition("/")
        return BUILDERS[library](model).eval()


def cases() -> list[Case]:
    """All of them, the papers' first."""
    lists = {"papers": PAPERS, "torchvision": TORCHVISION, "timm": TIMM}
    found = []
    for family, text in lists.items():
        for entry in text.split():
            name, _, side = entry.partition(":")
            found.append(Case(name if "/" in name else f"{family}/{name}", family, int(side)))
    return found


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _torchvision(name: str) -> nn.Module:
    import torchvision

    more: dict[str, Any] = {"weights_backbone": None} if name.startswith(("deeplab", "fcn", "lraspp")) else {}
    if name in ("googlenet", "inception_v3"):
        more = {"init_weights": False}
    return torchvision.models.get_model(name, weights=None, **more)


def _prunekit(name: str) -> nn.Module:
    from prunekit.models import bisenet, deeplab, pspnet, segformer, ssd, topformer, unet

    makers: dict[str, Callable[[], nn.Module]] = {
        "deeplabv3_r50": lambda: deeplab.deeplabv3(19),
        "deeplabv3_r101": lambda: deeplab.deeplabv3(19, backbone="resnet101"),
        "deeplabv3plus_mobilenetv2": lambda: deeplab.deeplabv3plus(19, backbone="mobilenetv2_100"),
        "pspnet_r50": lambda: pspnet.pspnet(19),
        "bisenet_r18": lambda: bisenet.bisenet(19),
        "unet_r34": lambda: unet.unet(19, backbone="resnet34"),
        "ssd300_r50": lambda: ssd.ssd300_resnet50(81),
    }
    if name in makers:
        return makers[name]()
    kind, _, variant = name.partition("_")
    make = {"segformer": segformer.segformer, "topformer": topformer.topformer}[kind]
    return make(150, variant=variant)


def _smp(name: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    kind = {"deeplabv3plus": smp.DeepLabV3Plus, "pspnet": smp.PSPNet, "segformer": smp.Segformer, "unet": smp.Unet}[
        name
    ]
    return kind("mit_b0" if name == "segformer" else "resnet34", encoder_weights=None, classes=19)


def _transformers(name: str) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))  # the defaults are B0's


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "prunekit": _prunekit,
    "smp": _smp,
    "transformers": _transformers,
}
