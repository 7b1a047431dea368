"""The `prunekit` command: demo, lab, run, bench, data, doctor.

Every error of ours ends as one line on stderr and exit status 2; a traceback means a bug.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from prunekit.course import site
from prunekit.course.commands import bilevel, dynasegformer, eapruning, mtp, sirfp
from prunekit.course.commands.options import from_zero
from prunekit.course.presets import BENCH, SCALES, read_scale
from prunekit.errors import InputError, PrunekitError
from prunekit.plan import How

PAPERS = (sirfp, mtp, bilevel, dynasegformer, eapruning)
TRIALS = {  # a claim, or the first letter of a paper's claims -> its runs
    "S": "prunekit.course.sirfp.trials",
    "M": "prunekit.course.mtp.trials",
    "B": "prunekit.course.bilevel.trials",
    "D": "prunekit.course.dynasegformer.trials",
    "E6": "prunekit.course.deploy.trials",
    "E": "prunekit.course.eapruning.trials",
}
DEMO_FILES = ("report.txt", "before_after.png", "pruned.onnx", "plan.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    top = parser()
    args, unknown = top.parse_known_args(argv)
    if unknown and args.do is not run_lab:  # JupyterLab has options of its own: prunekit lab --no-browser
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    elif unknown:
        args.more = unknown
    try:
        return args.do(args)
    except PrunekitError as err:
        print(f"prunekit: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        more = "; the same command goes on where it was" if getattr(args, "resumes", False) else ""
        print(f"prunekit: stopped{more}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser(prog="prunekit", description="Structured pruning: course and library.")
    top.add_argument("--version", action="version", version=f"prunekit {metadata.version('prunekit')}")
    commands = top.add_subparsers(required=True, metavar="demo | lab | run | bench | data | doctor")

    demo = commands.add_parser("demo", help="run lesson 00 without a browser and keep what it makes")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the files (default: demo)")
    demo.set_defaults(do=run_demo)

    epilog = "Everything else is passed on to JupyterLab, e.g. prunekit lab --no-browser --port=8890"
    lab = commands.add_parser("lab", help="open the course in JupyterLab", epilog=epilog)
    lab.set_defaults(do=run_lab, more=[])

    run = commands.add_parser("run", help="run a lesson's experiment outside the notebook")
    papers = " | ".join(paper.__name__.rpartition(".")[2] for paper in PAPERS)
    add_experiments(run.add_subparsers(required=True, metavar=f"quickstart | bench | {papers} | claims"))

    speed = commands.add_parser("bench", help="exported networks against each other on the runtimes of devices")
    speed.add_argument("files", nargs="+", type=Path, help="what prunekit.export wrote, e.g. dense.onnx small.onnx")
    speed.add_argument("--runtimes", default="ort", help="of ort,openvino,xnnpack,eager,compile (default: ort)")
    speed.add_argument("--threads", type=int, default=1)
    speed.add_argument("--repeats", type=int, default=30, help="passes of each network (default: 30)")
    speed.add_argument("--out", type=Path, default=Path("."), help="folder for bench.csv and bench.png (default: here)")
    speed.set_defaults(do=run_speed)

    data = commands.add_parser("data", help="fetch a data set; without a name, list them")
    data.add_argument("name", nargs="?")
    data.add_argument("more", nargs=argparse.REMAINDER, help="passed on to the data set's script")
    data.set_defaults(do=run_data)

    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.set_defaults(do=run_doctor)
    return top


def common_arguments(dataset: str) -> argparse.ArgumentParser:
    """What all experiments can be told. dataset: the help of --dataset."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--scale", choices=SCALES, help="default: PRUNEKIT_SCALE, else mini")
    common.add_argument("--dataset", help=dataset)
    common.add_argument("--root", type=Path, help="folder of the data set")
    common.add_argument("--out", type=Path, default=Path("runs"), help="folder for the results (default: runs)")
    common.add_argument("--record", action="store_true", help="also count it in the checkout's ledger, book/results")
    return common


def add_experiments(experiments: Any) -> None:
    """`prunekit run ...` and what each experiment can be told."""
    common = common_arguments("another data set than the preset's, e.g. camvid")
    quickstart = experiments.add_parser("quickstart", parents=[common], help="lesson 00: dense, L1 and random")
    quickstart.add_argument("--seed", type=from_zero, default=0)
    quickstart.set_defaults(do=run_quickstart)

    bench = experiments.add_parser("bench", parents=[common], help="lesson 03: every criterion at equal work")
    bench.add_argument(
        "--methods", type=lambda text: tuple(text.split(",")), help="e.g. l1,taylor,random; default: all"
    )
    bench.add_argument("--model", help="a mini network, e.g. segformer_mini")
    bench.add_argument("--ratios", type=float, nargs="+", help="fractions of the MACs to remove, e.g. 0.5 0.75")
    bench.add_argument("--seeds", type=int, help="how many, from 0 on")
    bench.add_argument("--steps", type=int, help="of fine-tuning")
    bench.add_argument("--how", choices=get_args(How), help="the planner (default: uniform)")
    bench.set_defaults(do=run_bench, resumes=True)

    by_name = common_arguments("name of one of the scale's presets; a wrong one is answered with those there are")
    for paper in PAPERS:
        paper.add_to(experiments, by_name).set_defaults(do=partial(run_paper, paper), resumes=True)

    claims = experiments.add_parser("claims", help="the runs behind the papers' claims, mini scale")
    numbers = "S1 S2 S3 S4 S7 S8, M1 to M6, B1 to B5, D1 to D5, E2 to E7"
    claims.add_argument("claims", nargs="+", metavar="CLAIM", help=numbers)
    claims.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    claims.add_argument("--out", type=Path, default=Path("runs"), help="folder for the results (default: runs)")
    claims.add_argument("--record", action="store_true", help="also count them in the checkout's ledger, book/results")
    claims.set_defaults(do=run_claims, resumes=True)


def run_demo(args: argparse.Namespace) -> int:
    """Execute lesson 00, leave its HTML and files in --out, print its table."""
    import nbformat

    from prunekit.course.lesson import LessonError, execute, notebook_path, to_html

    start = time.perf_counter()
    path = notebook_path("00")
    make_folder(args.out)
    for name in DEMO_FILES:  # a file that is there afterwards is from this run
        (args.out / name).unlink(missing_ok=True)
    print(f"running {path.name} at {read_scale()} scale ...", flush=True)
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.parent, out=args.out)
    (args.out / f"{path.stem}.html").write_text(to_html(notebook, path.parent, path.stem), encoding="utf-8")
    missing = [name for name in DEMO_FILES if not (args.out / name).is_file()]
    if missing:
        raise LessonError(f"{path.name} ran, but did not leave {', '.join(missing)} in PRUNEKIT_OUT.")
    print((args.out / "report.txt").read_text())
    print(f"{time.perf_counter() - start:.0f} s. In {args.out}/: {path.stem}.html, {', '.join(DEMO_FILES)}")
    return 0


def run_lab(args: argparse.Namespace) -> int:
    """JupyterLab with the checkout as its root, so that links between lessons and book work; it opens at lesson 00."""
    root = site.need_checkout("JupyterLab")
    start = "--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb"
    return subprocess.call([sys.executable, "-m", "jupyterlab", f"--notebook-dir={root}", start, *args.more])


def run_quickstart(args: argparse.Namespace) -> int:
    """The same preset as the notebook's, at any scale, with the result in the ledger."""
    from prunekit.course import quickstart

    choose_ledger(args)
    quickstart.run(scale=read_scale(args.scale), dataset=args.dataset, root=args.root, out=args.out, seed=args.seed)
    return 0


def run_bench(args: argparse.Namespace) -> int:
    """The preset of the scale, with what the command line says instead."""
    from prunekit.course import bench

    scale = read_scale(args.scale)
    preset = BENCH[scale]
    given = {name: getattr(args, name) for name in ("methods", "model", "seeds", "how")}
    given["ratios"] = tuple(args.ratios) if args.ratios else None
    training = {"dataset": args.dataset, "tune_steps": args.steps}
    chosen = replace(
        preset,
        training=replace(preset.training, **{name: v for name, v in training.items() if v is not None}),
        **{name: v for name, v in given.items() if v is not None},
    )
    choose_ledger(args)
    bench.run(chosen, scale=scale, root=args.root, out=args.out)
    return 0


def run_paper(paper: ModuleType, args: argparse.Namespace) -> int:
    """A paper's experiment, see course/commands."""
    choose_ledger(args)
    paper.run_with(args)
    return 0


def run_claims(args: argparse.Namespace) -> int:
    """One record a run in the ledger, then the tables."""
    from prunekit.course import claims

    choose_ledger(args)
    for claim in args.claims:
        claims.known(claim)
    homes = {claim: TRIALS.get(claim) or TRIALS.get(claim[0]) for claim in args.claims}
    for home in dict.fromkeys(homes.values()):
        wanted = [claim for claim, where in homes.items() if where == home]
        if home is None or find_spec(home) is None:
            raise InputError(f"no runs for {wanted[0]!r}; its paper's experiments are not claims' runs yet.")
        import_module(home).run(wanted, seeds=args.seeds, out=args.out / "claims")
    print(claims.table(*args.claims))
    return 0


def run_speed(args: argparse.Namespace) -> int:
    """Time the files, print the table, leave bench.csv and bench.png; exit status 1 when a runtime gave no times."""
    from prunekit.latency import bench_files, plot_bench, report, write_csv, write_picture

    make_folder(args.out)  # before minutes of timing
    files = {
        path.stem if len({p.stem for p in args.files}) == len(args.files) else str(path): path for path in args.files
    }
    rows, missed = bench_files(files, args.runtimes.split(","), threads=args.threads, repeats=args.repeats)
    if rows:
        write_csv(rows, args.out / "bench.csv")
        write_picture(plot_bench(rows), args.out / "bench.png")
        print(f"{report(rows)}\nIn {args.out}/: bench.csv, bench.png")
    for gap in missed:
        print(f"prunekit: {gap.runtime}: {gap.why}", file=sys.stderr)
    return 1 if missed else 0


def make_folder(path: Path) -> None:
    """The folder for results. InputError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InputError(f"cannot make the folder {path} ({err.strerror}); choose another with --out.") from err


def choose_ledger(args: argparse.Namespace) -> None:
    """Make the folder for results. Somebody's first experiment is not a row of the book, unless --record says so."""
    make_folder(args.out)
    if not args.record:
        os.environ.setdefault("PRUNEKIT_RESULTS", str(args.out / "results"))


def run_data(args: argparse.Namespace) -> int:
    """Hand over to data_scripts/get_NAME.py; the package itself never downloads."""
    folder = site.need_checkout("fetching data") / "data_scripts"
    names = sorted(path.stem.removeprefix("get_") for path in folder.glob("get_*.py"))
    if args.name is None:
        print("\n".join(names) if names else "no data scripts here")
        return 0
    if args.name not in names:
        raise InputError(f"no data set '{args.name}'; there are: {', '.join(names)}.")
    return subprocess.call([sys.executable, str(folder / f"get_{args.name}.py"), *args.more])


def run_doctor(args: argparse.Namespace) -> int:
    """Print what was found; exit status 1 when the library cannot work here."""
    from prunekit.course.doctor import examine

    findings = examine()
    for finding in findings:
        print(finding)
    broken = sum(f.state == "broken" for f in findings)
    print("ready" if not broken else f"{broken} to repair")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
