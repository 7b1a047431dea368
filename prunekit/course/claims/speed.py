"""EAPruning's claim of speed (Li et al., arXiv 2210.00181, 2022), which lesson 09 measures."""

from __future__ import annotations

from prunekit.course.claims.claim import Claim, Need, above

E6 = Claim(
    "E6",
    "throughput rises 1.34 to 1.40 times at 40 to 50 % fewer MACs",
    "Li 2022, Table 6: TensorRT on an A30 GPU, batch 128, pictures per second over the dense network's",
    {"ResNet50 −50 %": "1.37", "MobileNetV1 −50 %": "1.34", "DeiT-Base −40 %": "1.40"},
    unit="speed-up",
    needs=(
        *above("ResNet50 −50 %", "ResNet50"),
        *above("MobileNetV1 −50 %", "MobileNetV1"),
        *above("DeiT-Base −40 %", "DeiT-Base"),
        Need("ResNet50 −50 %", ">=", 1.37),
        Need("MobileNetV1 −50 %", ">=", 1.34),
        Need("DeiT-Base −40 %", ">=", 1.40),
    ),
    metric="speedup",
)
