"""`prunekit run dynasegformer`."""

from __future__ import annotations

import argparse
from pathlib import Path

from prunekit.course.commands.options import add_training, asked


def add_to(experiments: argparse._SubParsersAction, common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Its parser, with what all experiments share. --dataset is a preset's name here."""
    parser = experiments.add_parser("dynasegformer", parents=[common], help="lesson 07: gates that look at the image")
    parser.add_argument("--gate", choices=("dynamic", "static", "dense"), help="static: the comparator; dense: no gate")
    parser.add_argument("--sparsity", type=float, help="fraction of the neurons an image leaves out; paper: 0.3, 0.5")
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, help="stage 1 of the distillation")
    parser.add_argument("--soft", action=argparse.BooleanOptionalAction, help="the teacher's answers in stage 2")
    parser.add_argument("--annealing", action=argparse.BooleanOptionalAction, help="the sparsity rises step by step")
    parser.add_argument("--fuse-layer", action=argparse.BooleanOptionalAction, help="keep it in the additive decoder")
    parser.add_argument("--domains", type=int, help="worlds of scenes, 1 to 5; the teacher knows day alone")
    parser.add_argument("--model", help="segformer_mini, segformer_b0 or segformer_b2")
    parser.add_argument("--weights", type=Path, help="released SegFormer weights: a .pth file or a transformers folder")
    add_training(parser, steps="of the student, both stages together; and of the dense network, if that is trained")
    return parser


def run_with(args: argparse.Namespace) -> None:
    """The preset of the scale and name, with what the command line says instead."""
    from prunekit.course.dynasegformer import override, preset_of, run

    names = ("gate", "sparsity", "features", "soft", "annealing", "fuse_layer", "domains", "model")
    preset, same = asked(args, names, preset_of, override)
    run(preset, root=args.root, weights=args.weights, **same)
