"""`prunekit run bilevel`."""

from __future__ import annotations

import argparse
from typing import Any

from prunekit.course.commands.options import add_rounding, add_training, asked


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Its parser, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("bilevel", parents=[common], help="lesson 06: masks that learn, and their rivals")
    parser.add_argument("--method", choices=("bilevel", "regrow", "eagleeye", "l1"), help="what makes the plan")
    parser.add_argument("--model", help="e.g. topformer_base, deeplabv3plus_mobilenetv2, deeplabv3_mini")
    parser.add_argument("--macs-ratio", type=float, help="fraction of the MACs to remove")
    parser.add_argument("--implicit", action=argparse.BooleanOptionalAction, help="the implicit gradient")
    parser.add_argument("--beta", type=float, help="weight of the MACs term")
    parser.add_argument("--lam", type=float, help="lambda, weight of the implicit term")
    parser.add_argument(
        "--relative", action=argparse.BooleanOptionalAction, help="beta, lambda in the loss's own units"
    )
    parser.add_argument("--tau", dest="threshold", type=float, help="open is where a mask's number is above it")
    parser.add_argument("--mask-lr", dest="lr", type=float, help="learning rate of the masks")
    parser.add_argument("--inner-steps", type=int, help="weight steps to one step of the masks")
    parser.add_argument("--ramp", type=float, help="share of the search in which the target comes down")
    parser.add_argument("--candidates", type=int, help="strategies that eagleeye draws")
    parser.add_argument("--min-keep", type=int, help="channels that stay in each layer at least")
    add_rounding(parser)
    add_training(parser, precisions=("no", "bf16"))
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.bilevel import override, preset_of, run

    masks = ("implicit", "beta", "lam", "relative", "threshold", "lr", "inner_steps", "ramp")
    names = ("method", "model", "macs_ratio", "candidates", "min_keep", "round_to", *masks)
    preset, same = asked(args, names, preset_of, override)
    run(preset, root=args.root, **same)
