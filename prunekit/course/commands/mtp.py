"""`prunekit run mtp`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prunekit.course.commands.options import add_rounding, add_training, asked


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Its parser, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("mtp", parents=[common], help="lesson 04: one backbone for two tasks")
    parser.add_argument("--objects", type=Path, help="folder of the classification set, where none is drawn")
    parser.add_argument("--model", help="e.g. deeplabv3_r101, bisenet_r18, pspnet_r50, deeplabv3_mini, bisenet_mini")
    parser.add_argument("--percentage", type=float, help="fraction of the channels to remove; the paper has 0.25, 0.5")
    parser.add_argument("--how", choices=("independent", "unified"), help="thresholds of backbone and decoder")
    parser.add_argument(
        "--inner",
        action=argparse.BooleanOptionalAction,
        help="prune only what is inside the backbone's residual blocks, as in the paper; --no-inner: all its channels",
    )
    parser.add_argument("--alpha", type=float, help="of the L1 terms: alpha1 and alpha2")
    parser.add_argument("--mu", type=float, help="weight of ||W1 - W3||^2 in the first round")
    parser.add_argument("--rho", type=float, help="what mu grows by after each round, above 1")
    parser.add_argument("--side", type=int, help="of a picture to classify, pixels")
    parser.add_argument("--rounds", type=int, help="of the alternation; --steps is a multiple of it")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, help="ImageNet weights for the backbone")
    add_rounding(parser)
    add_training(parser, precisions=("no", "bf16"))
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.mtp import override, preset_of, run

    own = ("model", "percentage", "how", "inner", "side", "pretrained", "round_to")
    names = (*own, "rounds", "alpha", "mu", "rho")
    preset, same = asked(args, names, preset_of, override)
    run(preset, roots=(args.root, args.objects), **same)
