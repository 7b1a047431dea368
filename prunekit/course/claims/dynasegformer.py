"""The claims of DynaSegFormer (Bai et al., Dynamically Pruning SegFormer, ICASSP 2022)."""

from __future__ import annotations

from prunekit.course.claims.claim import Claim, Need

DYNASEGFORMER = (
    Claim(
        "D1",
        "gates that leave out 30 % of the neurons cost half a point, 50 % cost more",
        "Bai 2022, Table 1: SegFormer-B0, ADE20K; 8.4, 3.3 and 2.7 G, most of it saved by the decoder; B2 "
        "(46.5, 45.4 and 44.6) not run",
        {"dense": "37.4", "30 %": "36.9", "50 %": "35.0"},
        needs=(Need("30 %", ">=", "dense"), Need("30 %", ">", "50 %")),
    ),
    Claim(
        "D2",
        "gates that look at the image beat static pruning",
        "Bai 2022, Table 2: B0, ADE20K, 50 %; ours at 50 % and 75 % over one domain of scenes, at 75 % over five",
        {
            "dynamic": "32.1",
            "static": "29.2",
            "dynamic, no distillation": "30.9",
            "static, no distillation": "27.7",
        },
        needs=(
            Need("dynamic", ">", "static"),
            Need("dynamic, no distillation", ">", "static, no distillation"),
        ),
    ),
    Claim(
        "D3",
        "two-stage distillation helps, either stage alone does not",
        "Bai 2022, Table 2: B0, ADE20K, 50 %; ours at 75 %",
        {"both stages": "32.1", "stage 1": "30.6", "stage 2": "30.7", "none": "30.9"},
        needs=(
            Need("both stages", ">", "none"),
            Need("both stages", ">", "stage 1"),
            Need("both stages", ">", "stage 2"),
            Need("none", ">=", "stage 1"),
            Need("none", ">=", "stage 2"),
        ),
    ),
    Claim(
        "D4",
        "annealing the sparsity helps, with distillation and without",
        "Bai 2022, Table 2: B0, ADE20K, 50 %; ours at 75 %",
        {
            "annealed": "32.1",
            "at once": "31.4",
            "annealed, no distillation": "30.9",
            "at once, no distillation": "30.4",
        },
        needs=(
            Need("annealed", ">", "at once"),
            Need("annealed, no distillation", ">", "at once, no distillation"),
        ),
    ),
    Claim(
        "D5",
        "about half of the neurons are always on, some depend on the image, the rest is always off",
        "Bai 2022, Figure 3: key layer of the first block, 2,000 images; about 15 of 32 always on, type III not drawn",
        {"type I": "about 47", "type II": "some", "type III": "the rest, not drawn"},
        unit="% of the neurons",
        needs=tuple(Need(kind, ">", 0) for kind in ("type I", "type II", "type III")),  # that there are such neurons
        metric="share",
    ),
)
