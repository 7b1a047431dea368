"""The claims of EAPruning (Li et al., arXiv 2210.00181, 2022)."""

from __future__ import annotations

from prunekit.course.claims.claim import Claim, Need, above
from prunekit.course.claims.speed import E6

AREA = "hypervolume, %"

EAPRUNING = (
    Claim(
        "E1",
        "half of ResNet-50's MACs at 75.7 % top-1",
        "Li 2022, Tables 2 to 4: ImageNet",
        {"resnet50": "76.0", "resnet50 2019M": "75.7", "mobilenetv1 302M": "71.1", "deit-base 11.0G": "81.6"},
        unit="top-1, %",
        metric="top1",
    ),
    Claim(
        "E2",
        "NSGA-III beats random search at equal budget",
        "Li 2022, Figure 4a: ResNet-50, drawn without numbers; `spread`, a start of all sizes, is ours",
        unit=AREA,
        needs=(Need("nsga3", ">", "random"), Need("nsga3, spread", ">", "random, spread")),
        metric="hypervolume",
    ),
    Claim(
        "E3",
        "with reconstruction, L1 is no better than a random choice of channels",
        "Li 2022, Figure 4b: ResNet-50, drawn without numbers",
        unit=AREA,
        needs=(Need("random choice", "=", "l1 choice"), Need("l1 choice, cut only", ">", "random choice, cut only")),
        metric="hypervolume",
    ),
    Claim(
        "E4",
        "the number of heads is a better knob than their size",
        "Li 2022, Table 5: DeiT-Base, fine-tuned",
        {"number −30 %": "80.93", "dimension −30 %": "80.57", "number −42 %": "80.02", "dimension −42 %": "79.74"},
        unit="top-1, %",
        needs=tuple(Need(f"number {size}", ">", f"dimension {size}") for size in ("−30 %", "−42 %")),
        metric="top1",
    ),
    Claim(
        "E5",
        "training from scratch is no worse than fine-tuning",
        "Li 2022, Table 5: DeiT-Base; not judged: by more for smaller networks, and Figure 3b's ResNet-50",
        {
            "from scratch −24 %": "81.45",
            "fine-tuned −24 %": "81.28",
            "from scratch −42 %": "81.27",
            "fine-tuned −42 %": "80.02",
        },
        unit="top-1, %",
        needs=tuple(Need(f"from scratch {size}", ">=", f"fine-tuned {size}") for size in ("−24 %", "−42 %")),
        metric="top1",
    ),
    E6,
    Claim(
        "E7",
        "DeiT's last layers go first, then its first ones",
        "Li 2022, Figure 6: DeiT-Base, drawn without numbers; first a cone, then a double hump",
        unit="heads and neurons kept, %",
        needs=(
            *above("first −24 %", "last −24 %"),
            *above("middle −24 %", "last −24 %"),
            *above("early −42 %", "first −42 %", "middle −42 %"),
            *above("late −42 %", "middle −42 %", "last −42 %"),
        ),
        metric="kept",
    ),
)
