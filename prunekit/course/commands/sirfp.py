"""`prunekit run sirfp`."""

from __future__ import annotations

import argparse
from typing import Any

from prunekit.course.commands.options import add_rounding, add_training, asked


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Its parser, with what all experiments share."""
    parser = experiments.add_parser("sirfp", parents=[common], help="lesson 05: redundancy by maps, progressive cuts")
    parser.description = (
        "Lesson 05's method on a data set: train while the observer looks on, then cut and fine-tune in steps. What is "
        "not given here is in prunekit/course/sirfp/preset.py. Mini scale takes minutes on two cores; stop it, and "
        "the same command goes on."
    )
    parser.add_argument("--model", help="e.g. deeplabv3, deeplabv3plus, pspnet")
    parser.add_argument("--macs-ratio", type=float, help="fraction of the MACs to remove; the paper has 0.6, 0.7, 0.8")
    parser.add_argument("--every", type=int, help="observe one step in so many")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, help="ImageNet weights for the backbone")
    add_rounding(parser)
    add_training(parser)
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset, with what the command line says instead."""
    from prunekit.course.sirfp import override, preset_of, run

    preset, same = asked(args, ("model", "macs_ratio", "every", "pretrained", "round_to"), preset_of, override)
    run(preset, root=args.root, **same)
