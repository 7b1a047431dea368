"""The set-up cell's helper and the provenance footer: what machine, which versions, how long.

Every lesson starts with `course = setup("00_quickstart")` and ends with `course.footer()`.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from prunekit.course import site
from prunekit.course.presets import Scale, lesson_minutes, read_scale, words
from prunekit.errors import MissingDependencyError

PACKAGES = ("prunekit", "torch", "timm")


@dataclass(frozen=True)
class Course:
    """What a lesson knows about where it runs. `out`: the folder for the files it leaves."""

    lesson: str
    scale: Scale
    device: torch.device
    out: Path
    started: float = field(repr=False)

    def footer(self) -> None:
        """Print the provenance: scale, device, versions, commit, seconds, peak memory."""
        took = time.perf_counter() - self.started
        print(f"{self.lesson} at {self.scale} scale on {device_name(self.device)}, commit {commit()}")
        print(f"{version_line()}; {took:.0f} s, peak memory {peak_mib():.0f} MiB")


def setup(lesson: str, *, seed: int = 0, version: str | None = None) -> Course:
    """Seed everything, print where and how this lesson runs; safe to call again.

    version: the prunekit that the notebook was made with; another one is replaced, see match_version. Scale from
    PRUNEKIT_SCALE, output folder from PRUNEKIT_OUT (else a folder of your own among the temporary files).
    InputError for an unknown lesson or scale.
    """
    minutes, scale = lesson_minutes(lesson), read_scale()
    if version is not None:
        match_version(version)
    # PyTorch's own code still calls it, on the first torch.func: nothing that a reader of the lesson could mend
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
    device = pick_device()
    torch.manual_seed(seed)
    out = output_folder(lesson)
    print(f"device   {device_name(device)}")
    print(f"versions {version_line()}")
    other = "; change it with PRUNEKIT_SCALE" if minutes.small or minutes.full else ""
    print(f"scale    {scale}: about {words(minutes.at(scale))} to run this lesson{other}")
    if scale != "mini" and device.type == "cpu":
        print(f"mind     {scale} scale is meant for a GPU: expect many times that on this CPU")
    return Course(lesson, scale, device, out, time.perf_counter())


def match_version(wanted: str) -> None:
    """Install the newest prunekit when the one here is not the notebook's; a clone is left alone, with a word about it.

    Raises MissingDependencyError when pip cannot, and after a replacement: the old code is loaded until a restart.
    """
    here = metadata.version("prunekit")
    if here == wanted:
        return
    if site.checkout() is not None:
        print(f"mind     this lesson was made for prunekit {wanted}, your clone has {here}: git pull, then make lab")
        return
    pip = [sys.executable, "-m", "pip", "install", "-q", f"prunekit[onnx,quiz] @ git+{site.repository()}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise MissingDependencyError(
            f"this lesson was made for prunekit {wanted}, here is {here}, and pip could not get another: {why[0]}. "
            f"On Kaggle, switch the internet on in the notebook's settings."
        )
    now = metadata.version("prunekit")
    if now != here:
        raise MissingDependencyError(
            f"prunekit {now} has taken the place of {here}: restart the kernel (on Colab: Runtime, Restart session) "
            f"and run this cell again."
        )
    print(f"mind     this lesson was made for prunekit {wanted}, the newest is {here}: open the newest lesson")


def pick_device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU: certificates count in float64, which Apple's GPUs do not have."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """ "cpu, 2 threads" or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Version of each package that a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def version_line() -> str:
    """ "prunekit 0.1.0, torch 2.15.0, ..." """
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def commit() -> str:
    """Short commit of the checkout, with "+" when files differ from it; "none" outside a checkout."""
    root = site.checkout()
    if root is None:
        return "none"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or a folder without history
        return "none"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def output_folder(lesson: str) -> Path:
    """PRUNEKIT_OUT, else the same temporary folder each time for this user and lesson. Made if missing."""
    given = os.environ.get("PRUNEKIT_OUT")
    if given:
        out = Path(given)
    else:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may run under a number that has no name
            user = "user"
        out = Path(tempfile.gettempdir()) / f"prunekit-{user}" / lesson
    out.mkdir(parents=True, exist_ok=True)
    return out


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB; 0 where the system does not tell (Windows)."""
    from prunekit.profiling import resident_peak

    return (resident_peak() or 0) / 2**20
