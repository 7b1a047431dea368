"""Arguments that the papers' experiments share, and the preset that a command line asks for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, get_args

from prunekit.course.presets import read_scale
from prunekit.train.config import Precision

KEPT = ("out", "seed", "precision", "workers")  # what `run` takes as it is


def from_zero(text: str) -> int:
    """A whole number that is not negative, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return int(text)


def add_training(
    parser: argparse.ArgumentParser,
    *,
    precisions: Sequence[str] = get_args(Precision),
    steps: str = "of each training",
) -> None:
    """Size, steps, batch, precision, workers, seed. steps: what they are of, for the help."""
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of a training crop, pixels")
    parser.add_argument("--steps", type=int, help=steps)
    parser.add_argument("--batch", type=int, help="images a step, over all processes")
    parser.add_argument("--precision", choices=precisions, default="no")
    parser.add_argument("--workers", type=from_zero, default=0, help="processes that load pictures")
    parser.add_argument("--seed", type=from_zero, default=0)


def add_rounding(parser: argparse.ArgumentParser) -> None:
    """Widths that devices like."""
    parser.add_argument("--round-to", type=int, help="kept channels are a multiple of it; 8 for most devices")


def asked(
    args: argparse.Namespace, names: Sequence[str], preset_of: Callable[..., Any], override: Callable[..., Any]
) -> tuple[Any, dict[str, Any]]:
    """The preset of the scale and --dataset, with what the command line says instead; and scale, out, seed, precision
    and workers for `run`. names: of further arguments that replace a value of the preset.
    """
    scale = read_scale(args.scale)
    given = {name: getattr(args, name) for name in (*names, "steps", "batch")}
    preset = override(preset_of(scale, args.dataset), size=tuple(args.size) if args.size else None, **given)
    return preset, {"scale": scale, **{name: getattr(args, name) for name in KEPT}}
