"""`prunekit run eapruning`."""

from __future__ import annotations

import argparse
from typing import Any

from prunekit.course.commands.options import add_training, asked


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Its parser, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("eapruning", parents=[common], help="lesson 08: evolved widths, rebuilt weights")
    parser.add_argument("--model", help="e.g. resnet50, mobilenetv1, deit_base, resnet_mini")
    parser.add_argument("--macs-ratio", type=float, help="fraction of the MACs, or of another --cost, to remove")
    parser.add_argument("--cost", choices=("macs", "params", "latency"), help="what is made small; latency is measured")
    parser.add_argument("--choose", choices=("random", "l1"), help="which units stay")
    parser.add_argument("--heads", choices=("number", "dimension"), help="what attention loses")
    parser.add_argument("--fresh", action=argparse.BooleanOptionalAction, help="train the chosen one from scratch")
    parser.add_argument("--images", type=int, help="to rebuild weights on")
    parser.add_argument("--samples", type=int, help="outputs drawn from each of them, a layer")
    parser.add_argument("--held", type=int, help="other images, for the error of candidates")
    parser.add_argument("--step", type=int, help="of counts of channels and neurons")
    parser.add_argument("--sampling", choices=("uniform", "spread"), help="of the start: spread has all sizes")
    parser.add_argument("--population", type=int, help="candidates that the search starts with")
    parser.add_argument("--generations", type=int, help="of the search")
    parser.add_argument("--plans", type=int, help="along the front, left as files")
    parser.add_argument("--processes", type=int, default=1, help="local ones that share out the candidates")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, help="weights by timm's hub")
    add_training(parser)
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.eapruning import override, preset_of, run

    names = ("model", "macs_ratio", "cost", "choose", "heads", "fresh", "images", "plans", "pretrained")
    names += ("population", "generations", "sampling", "held", "samples", "step")
    preset, same = asked(args, names, preset_of, override)
    run(preset, root=args.root, processes=args.processes, **same)
