"""The claims of bi-level pruning (Yang et al., Pruning Parameterization with Bi-level Optimization, CVPR 2023)."""

from __future__ import annotations

from prunekit.course.claims.claim import Claim, Need, above

BILEVEL = (
    Claim(
        "B1",
        "learned masks beat their rivals at equal MACs; run here: EagleEye, regrow and L1",
        "Yang 2023, Table 1: TopFormer, ADE20K, 1.2 G; DMCP, ResRep and the hand-made network are not run here, regrow "
        "is in the manner of CHEX, l1 is the simplest rival",
        {
            "eagleeye": "34.3",
            "DMCP": "33.9",
            "ResRep": "35.0",
            "regrow": "35.2 (CHEX)",
            "hand-made": "36.1 (TopFormer-Small)",
            "bilevel": "37.5",
        },
        needs=above("bilevel", "eagleeye", "regrow", "l1"),
    ),
    Claim(
        "B2",
        "implicit gradients pay: +1.7 mIoU for 18 % more search",
        "Yang 2023, Table 3: Cityscapes, 2.4 G; GPU days beside its mIoU; ours searches for 30 steps, in CPU seconds",
        {"without": "71.9 (1.1 days)", "implicit": "73.6 (1.3 days)"},
        needs=(
            Need("implicit", ">", "without"),
            Need("implicit", "<=", "without", metric="search_cpu_seconds", times=1.18),
        ),
    ),
    Claim(
        "B3",
        "beta and lambda have an optimum",
        "Yang 2023, Tables A1 and A2: Cityscapes, around beta 0.01 and lambda 0.1; ours on MobileNetV2, around our "
        "defaults, whose units are relative",
        {
            "beta / 10": "73.1",
            "default": "73.6",
            "beta x 10": "72.8",
            "lambda / 10": "73.1",
            "lambda x 10": "70.8",
        },
        needs=above("default", "beta / 10", "beta x 10", "lambda / 10", "lambda x 10"),
    ),
    Claim(
        "B4",
        "at equal MACs it is faster too",
        "Yang 2023, Table 1: frames per second on a phone's GPU at 1.2 G, over TopFormer-Base's 36.3; ours on one CPU "
        "thread, over the dense network",
        {
            "eagleeye": "1.63",
            "DMCP": "1.76",
            "ResRep": "1.79",
            "regrow": "1.77 (CHEX)",
            "hand-made": "1.51 (TopFormer-Small)",
            "bilevel": "2.07",
        },
        unit="speed-up",
        needs=above("bilevel", "eagleeye", "regrow", "l1"),
        metric="speedup",
    ),
    Claim(
        "B5",
        "it works for convolutional networks too: less work, and no loss",
        "Yang 2023, Table 5: DeepLabV3+ with MobileNetV2, Cityscapes, 9.5, 7.6 and 4.3 G; the rivals are ours",
        {"dense": "69.0", "bilevel −20 %": "70.9", "bilevel −55 %": "70.2"},
        needs=(
            Need("bilevel −20 %", ">=", "dense"),
            Need("bilevel −55 %", ">=", "dense"),
            *above("bilevel −55 %", "eagleeye −55 %", "l1 −55 %"),
        ),
    ),
)
