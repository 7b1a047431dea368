"""`prunekit run bilevel`: its arguments, and the preset they make. Not in bilevel/, whose imports are heavy."""

from __future__ import annotations

import argparse
from typing import Any

from prunekit.course.presets import read_scale


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of `prunekit run bilevel`, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("bilevel", parents=[common], help="lesson 06: masks that learn, and their rivals")
    parser.add_argument("--method", choices=("bilevel", "eagleeye", "l1"), help="what makes the plan")
    parser.add_argument("--model", help="e.g. topformer_base, deeplabv3plus_mobilenetv2, deeplabv3_mini")
    parser.add_argument("--macs-ratio", type=float, help="fraction of the MACs to remove")
    parser.add_argument("--implicit", action=argparse.BooleanOptionalAction, help="the implicit gradient")
    parser.add_argument("--beta", type=float, help="weight of the MACs term")
    parser.add_argument("--lam", type=float, help="lambda, weight of the implicit term")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of a training crop, pixels")
    parser.add_argument("--steps", type=int, help="of each training")
    parser.add_argument("--batch", type=int, help="images a step, over all processes")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.bilevel import override, preset_of, run

    scale = read_scale(args.scale)
    names = ("method", "model", "macs_ratio", "implicit", "beta", "lam", "steps", "batch")
    given = {name: getattr(args, name) for name in names}
    preset = override(preset_of(scale, args.dataset), size=tuple(args.size) if args.size else None, **given)
    same = {name: getattr(args, name) for name in ("root", "out", "seed", "precision", "workers")}
    run(preset, scale=scale, **same)
