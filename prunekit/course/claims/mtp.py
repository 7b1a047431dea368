"""The claims of MTP (Chen et al., Multi-Task Pruning, arXiv 2007.08386, 2022)."""

from __future__ import annotations

from prunekit.course.claims.claim import Claim, Need, above

MTP = (
    Claim(
        "M1",
        "MTP beats uniform, ThiNet, slimming and FPGM; 0.75x costs nothing",
        "Chen 2022, Table 2: DeepLabV3-R101, VOC 2012; Table 3 for FPGM: BiSeNet-R18, Cityscapes",
        {
            "dense": "77.27",
            "uniform 0.75x": "75.09",
            "slimming 0.75x": "76.64",
            "fpgm 0.75x": "73.10 (MTP there 73.46)",
            "mtp 0.75x": "77.28",
            "thinet 0.5x": "74.71",
            "slimming 0.5x": "74.91",
            "fpgm 0.5x": "71.98 (MTP there 72.45)",
            "mtp 0.5x": "76.29",
        },
        needs=(
            Need("mtp 0.75x", ">=", "dense"),
            *above("mtp 0.75x", "uniform 0.75x", "slimming 0.75x", "fpgm 0.75x"),
            *above("mtp 0.5x", "thinet 0.5x", "slimming 0.5x", "fpgm 0.5x"),
        ),
    ),
    Claim(
        "M2",
        "fine-tuning the pruned backbone on classification first matters",
        "Chen 2022, Table 1: slimming 0.5x, VOC 2012",
        {"dense": "77.27", "slimming without": "70.81", "slimming with": "74.91"},
        needs=(Need("slimming with", ">", "slimming without"),),
    ),
    Claim(
        "M3",
        "two independent thresholds beat one",
        "Chen 2022, Table 4: 0.5x of the channels, VOC 2012; ours at 0.5x of the MACs",
        {
            "slimming unified": "73.77",
            "slimming independent": "74.91",
            "mtp unified": "75.33",
            "mtp independent": "76.29",
        },
        needs=(
            Need("slimming independent", ">", "slimming unified"),
            Need("mtp independent", ">", "mtp unified"),
        ),
    ),
    Claim(
        "M4",
        "fine-tuning on segmentation helps until it saturates, more of it on classification does not keep helping",
        "Chen 2022, Figure 4: MTP 0.5x, 20 epochs of ImageNet and 50 of VOC 2012 are the standard",
        {"standard": "76.29"},
        needs=(
            Need("standard", ">", "segmentation x0.5"),
            Need("segmentation x2", "=", "standard"),
            Need("standard", ">=", "classification x3"),
        ),
    ),
    Claim(
        "M5",
        "the pruned backbone is also the better classifier",
        "Chen 2022, Table 7: backbone of DeepLabV3-R101, ImageNet",
        {
            "uniform 0.75x": "75.51",
            "slimming 0.75x": "75.04",
            "mtp 0.75x": "76.03",
            "slimming 0.5x": "71.07",
            "mtp 0.5x": "73.15",
        },
        unit="top-1, %",
        needs=(*above("mtp 0.75x", "uniform 0.75x", "slimming 0.75x"), Need("mtp 0.5x", ">", "slimming 0.5x")),
        metric="top1",
    ),
    Claim(
        "M6",
        "more channels survive in the last stage",
        "Chen 2022, Figures 5 and 7, drawn without numbers; that ASPP's image pooling keeps fewer channels on "
        "Cityscapes than on VOC 2012 is not judged: ours is one data set",
        unit="channels kept",
        needs=(
            Need("last stage 0.75x", ">", "other stages 0.75x"),
            Need("last stage 0.5x", ">", "other stages 0.5x"),
        ),
        metric="kept",
    ),
)
