"""`prunekit run mtp`: its arguments, and the preset they make. Not in mtp/, whose imports are heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from prunekit.course.presets import read_scale
from prunekit.train.config import Precision


def add_to(experiments: Any, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of `prunekit run mtp`, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("mtp", parents=[common], help="lesson 04: one backbone for two tasks")
    parser.add_argument("--objects", type=Path, help="folder of the classification set")
    parser.add_argument("--model", help="e.g. deeplabv3_r101, bisenet_r18, pspnet_r50, deeplabv3_mini, bisenet_mini")
    parser.add_argument("--percentage", type=float, help="fraction of the channels to remove; the paper has 0.25, 0.5")
    parser.add_argument("--how", choices=("independent", "unified"), help="thresholds of backbone and decoder")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of a training crop, pixels")
    parser.add_argument("--side", type=int, help="of a picture to classify, pixels")
    parser.add_argument("--steps", type=int, help="of each training, a multiple of --rounds")
    parser.add_argument("--rounds", type=int, help="of the alternation")
    parser.add_argument("--batch", type=int, help="images a step, over all processes")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, help="ImageNet weights for the backbone")
    parser.add_argument("--precision", choices=get_args(Precision), default="no")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.mtp import override, preset_of, run

    scale = read_scale(args.scale)
    names = ("model", "percentage", "how", "side", "steps", "rounds", "batch", "pretrained")
    given = {name: getattr(args, name) for name in names}
    preset = override(preset_of(scale, args.dataset), size=tuple(args.size) if args.size else None, **given)
    same = {name: getattr(args, name) for name in ("out", "seed", "precision", "workers")}
    run(preset, scale=scale, roots=(args.root, args.objects), **same)
