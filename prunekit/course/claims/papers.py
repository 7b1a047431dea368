"""The five papers' claims. The numbers are the papers' own; the names of methods are the ledger's."""

from __future__ import annotations

import difflib

from prunekit.course.claims.bilevel import BILEVEL
from prunekit.course.claims.claim import Claim, Need, above
from prunekit.course.claims.dynasegformer import DYNASEGFORMER
from prunekit.course.claims.eapruning import EAPRUNING
from prunekit.course.claims.mtp import MTP
from prunekit.errors import InputError

SIRFP = (
    Claim(
        "S1",
        "SIRFP beats other criteria at equal MACs",
        "Wu 2025, Table 1: DeepLabV3-R50, Cityscapes, −60 %",
        {
            "random": "78.7",
            "slimming": "79.9",
            "taylor": "80.3",
            "depgraph": "80.0",
            "fpgm": "80.2",
            "dcfp": "80.9",
            "sirfp": "81.3",
        },
        needs=above("sirfp", "random", "slimming", "taylor", "depgraph", "fpgm", "dcfp"),
    ),
    Claim(
        "S2",
        "Jensen-Shannon is the best of four metrics, the inner product the worst",
        "Wu 2025, Table 9",
        {"js": "81.3", "kl": "81.1", "dice": "81.0", "dot": "80.5"},
        needs=(
            Need("js", ">=", "kl"),
            Need("kl", ">=", "dice"),
            *(Need(each, ">", "dot") for each in ("js", "kl", "dice")),
        ),
    ),
    Claim(
        "S3",
        "finer maps measure redundancy better, up to their own size",
        "Wu 2025, Table 8",
        {"vector": "80.4", "quarter": "80.6", "half": "80.8", "full": "81.3", "twice": "81.3"},
        needs=(*above("full", "vector", "quarter", "half"), Need("full", "=", "twice")),
    ),
    Claim(
        "S4",
        "the greedy clique is as good as searching longer",
        "Wu 2025, Table 6; seconds of the paper's solvers beside its mIoU, our tabu search stands for its heuristics",
        {"ehgp": "81.3 (285 s)", "tabu": "81.3 (3731 s), 81.1 (4933 s)", "exact": "81.4 (> 10800 s)"},
        needs=(Need("ehgp", "=", "tabu"), Need("ehgp", ">", "reversed")),
    ),
    Claim("S5", "SIRFP also helps detection", "Wu 2025, Table 4: SSD-R50, COCO, −50 %", {"sirfp": "26.6"}, unit="AP"),
    Claim(
        "S6",
        "SIRFP also helps classification",
        "Wu 2025, Table 5: ResNet-50, ImageNet, 2.0 G",
        {"depgraph": "75.28", "sirfp": "77.35"},
        unit="top-1, %",
    ),
    Claim(
        "S7",
        "the real speed-up grows with the ratio",
        "Wu 2025, Table 7: TensorRT, images per second over the dense network's 36.7",
        {"60 %": "1.70", "70 %": "2.01", "80 %": "2.47"},
        unit="speed-up",
        needs=(Need("70 %", ">", "60 %"), Need("80 %", ">", "70 %")),
        metric="speedup",
    ),
    Claim(
        "S8",
        "our readings where the paper is silent: softmax maps and sums of redundancies rank best",
        "not in the paper",
        needs=(Need("softmax, sum", ">=", "softmax, mean"), *above("softmax, sum", "|map|, sum", "|map|, mean")),
    ),
)
PAPERS: dict[str, tuple[Claim, ...]] = {
    "SIRFP": SIRFP,
    "MTP": MTP,
    "Bi-level pruning parameterization": BILEVEL,
    "DynaSegFormer": DYNASEGFORMER,
    "EAPruning": EAPRUNING,
}


def known(claim: str) -> Claim:
    """The claim of this id. InputError with the nearest one."""
    every = {each.id: each for claims in PAPERS.values() for each in claims}
    if claim not in every:
        near = difflib.get_close_matches(claim, every, n=1)
        raise InputError(f"no claim {claim!r}{f'; did you mean {near[0]}?' if near else ''} Known: {', '.join(every)}.")
    return every[claim]
