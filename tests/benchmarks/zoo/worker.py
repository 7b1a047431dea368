"""One model and one tool in a process of its own: python -m zoo.worker MODEL TOOL, with tests/benchmarks on the path.

Prints one JSON line for each ratio. verdict: correct, wrong, unverified (verifier.py), refused (the tool said no, or
removed nothing), crash (any other exception, in pruning or in the pruned model's forward). frozen: share of the dense
model's parameters in tensors that kept their shape. edited: the class's own code did not fit, a graph came back.
find_s + prune_s: from model to pruned model. Both tools get the same dense model, example (batch 1) and ratio, and
random scores.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from zoo.models import Case, cases
from zoo.peer import torch_pruning
from zoo.verifier import dense_outputs, first_line, prepared, verify

from prunekit.errors import PrunekitError
from prunekit.profiling import count_macs, count_params

RATIOS = (0.25, 0.5, 0.75)
MEMORY_BYTES = 9 * 2**30
Cut = Callable[[float], nn.Module]


class Refused(Exception):
    """The tool declines, with a reason."""


def ours(model: nn.Module, x: Tensor) -> Cut:
    """find_groups, random scores, the same share of every group."""
    from prunekit.methods import random
    from prunekit.plan import uniform_plan
    from prunekit.surgery import find_groups, prune

    groups = find_groups(model, x)
    scores = random.score(model, groups, seed=0)
    return lambda ratio: prune(model, groups, uniform_plan(groups, scores, ratio))


TOOLS = {"ours": ours, "torch-pruning": torch_pruning}


def results(case: Case, tool: str) -> Any:
    """Yields one row, a dict, for each ratio."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, case.side, case.side)
    dense = prepared(case.build(), torch.randn(2, 3, case.side, case.side))
    again = torch.randn(2, 3, case.side, case.side)
    full = dense_outputs(dense, again)
    size = {"params": count_params(dense), "macs": count_macs(dense, x)}
    start = time.perf_counter()
    try:
        cut, failed = TOOLS[tool](copy.deepcopy(dense), x), None
    except Exception as err:  # a tool that cannot even read the model answers for all ratios
        cut, failed = None, err
    find_s = round(time.perf_counter() - start, 3)
    for ratio in RATIOS:
        row = {"model": case.name, "tool": tool, "ratio": ratio, **size, "find_s": find_s}
        try:
            if cut is None:
                raise failed  # type: ignore[misc]
            start = time.perf_counter()
            small = cut(ratio)
            row["prune_s"] = round(time.perf_counter() - start, 3)
            row |= measured(dense, small, x)
            start = time.perf_counter()
            row |= verdict(dense, small, again, full)
            row["verify_s"] = round(time.perf_counter() - start, 1)
        except (PrunekitError, Refused) as err:
            row |= {"verdict": "refused", "detail": first_line(err), "cause": cause(err)}
        except Exception as err:
            row |= {"verdict": "crash", "detail": f"{type(err).__name__}: {first_line(err)}"}
        yield row


def cause(err: BaseException) -> str:
    """What an error was raised from: prune's second attempt, on the graph, fails under the first one's message."""
    return f"{type(err.__cause__).__name__}: {first_line(err.__cause__)}" if err.__cause__ else ""


def measured(dense: nn.Module, small: nn.Module, x: Tensor) -> dict[str, Any]:
    """What is left; Refused when that is everything."""
    left = dict(small.named_parameters())
    same = [p.numel() for n, p in dense.named_parameters() if n in left and left[n].shape == p.shape]
    if len(same) == len(dict(dense.named_parameters())):
        raise Refused("nothing was removed")
    found: dict[str, Any] = {"edited": type(small) is not type(dense)}
    found["params_left"] = round(count_params(small) / count_params(dense), 4)
    found["frozen"] = round(sum(same) / count_params(dense), 4)
    with contextlib.suppress(Exception):  # a model that does not run: the verdict says so
        found["macs_left"] = round(count_macs(small, x) / count_macs(dense, x), 4)
    return found


def verdict(dense: nn.Module, small: nn.Module, x: Tensor, full: list[Tensor]) -> dict[str, Any]:
    """Of the verifier; numbers that JSON does not know become None."""
    found = verify(dense, small, x, full)
    numbers = {"error": found.error, "control": found.control}
    short = {k: float(f"{v:.2e}") if math.isfinite(v) else None for k, v in numbers.items()}
    return {"verdict": found.kind, "detail": found.detail, **short}


def work(name: str, tool: str, lines: TextIO) -> None:
    """One JSON line a ratio, as each is ready."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))  # an allocation fails, not the machine
    warnings.simplefilter("ignore")
    case = next(c for c in cases() if c.name == name)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print stays out of the way
        for row in results(case, tool):
            print(json.dumps(row), file=lines, flush=True)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.stdout)
