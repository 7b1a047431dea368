"""Is a learner's value the right one, and if not, what is wrong with it in words? Never raises on foreign values.

The right value decides what is compared: tensors by shape, kind of number and values; numbers by value; tuples, lists
and dicts item by item, sets as sets. Floating-point values may differ by rounding, integers may not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn

VALUES = "other values are right"  # the one difference that says nothing about the mistake
RTOL, ATOL = 1e-4, 1e-6
LONGEST = 300  # letters of a value that are shown


def difference(got: Any, right: Any) -> str | None:
    """None when equal, else what is wrong with `got`, a clause that follows "your answer: "."""
    try:
        return _difference(got, right)
    except Exception as err:  # a subclass of a tensor, a meta tensor, an object that cannot be compared
        return f"it cannot be compared with {kind(right)} ({type(err).__name__})"


def _difference(got: Any, right: Any) -> str | None:
    if isinstance(right, Tensor):
        return _tensor(got, right)
    if isinstance(right, (bool, str)) or right is None:
        return None if type(got) is type(right) and got == right else _wrong_kind(got, right)
    if isinstance(right, (int, float)):
        return _number(got, right)
    if isinstance(right, dict):
        if not isinstance(got, dict):
            return _wrong_kind(got, right)
        if set(got) != set(right):
            return f"the keys are {shown(list(got))}, wanted are {shown(list(right))}"
        return _first((f"at {key!r}: ", difference(got[key], value)) for key, value in right.items())
    if isinstance(right, set):
        same = isinstance(got, (set, frozenset, tuple, list)) and set(got) == right
        return None if same else _wrong_kind(set(got) if isinstance(got, (frozenset, tuple, list)) else got, right)
    if isinstance(right, (tuple, list)):
        if not isinstance(got, (tuple, list)):
            return _wrong_kind(got, right)
        if len(got) != len(right):
            return f"it has {len(got)} items, {len(right)} are wanted"
        return _first((f"item {i + 1}: ", difference(a, b)) for i, (a, b) in enumerate(zip(got, right)))
    raise TypeError(f"no rule to compare with {type(right).__name__}")


def _first(found: Any) -> str | None:
    return next((where + text if text != VALUES else text for where, text in found if text), None)


def _tensor(got: Any, right: Tensor) -> str | None:
    if right.ndim == 0 and isinstance(got, (int, float)):
        got = torch.tensor(got)
    if not isinstance(got, Tensor):
        return _wrong_kind(got, right)
    if got.shape != right.shape:
        return f"it has the shape {tuple(got.shape)}, wanted is {tuple(right.shape)}"
    if got.is_complex() and not right.is_complex():
        return "it is complex, real numbers are wanted"
    got, right = got.detach().cpu(), right.detach().cpu()
    if got.is_floating_point() and got.isnan().any() and not right.isnan().any():
        return "there is a NaN in it: 0 / 0, or the root or logarithm of a negative number"
    exact = not right.is_floating_point()
    same = torch.equal(got.double(), right.double()) if exact else _close(got.double(), right.double())
    if not same:
        return VALUES
    families = [(t.is_floating_point(), t.dtype == torch.bool) for t in (got, right)]
    return None if families[0] == families[1] else f"the values are right, but as {got.dtype}; wanted is {right.dtype}"


def _number(got: Any, right: float) -> str | None:
    if isinstance(got, Tensor) and got.numel() == 1 and got.ndim == 0:
        got = got.item()
    if isinstance(got, bool) or not isinstance(got, Number) or isinstance(got, complex):
        return _wrong_kind(got, right)
    value = float(got)  # type: ignore[arg-type]
    if math.isnan(value) and not math.isnan(right):
        return "it is NaN: 0 / 0, or the mean of nothing"
    if isinstance(right, int):
        return None if value == right else VALUES
    return None if _close(torch.tensor(value).double(), torch.tensor(right).double()) else VALUES


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True)


def _wrong_kind(got: Any, right: Any) -> str:
    if type(got).__module__ == "torch.return_types":
        return f"it is a pair (`{type(got).__name__.split('.')[-1]}` gives `.values` and `.indices`); take one of them"
    return VALUES if type(got) is type(right) else f"it is {kind(got)}, wanted is {kind(right)}"


def kind(value: Any) -> str:
    """What something is, for a person: "a list of 3", "a tensor of shape (2, 3)", "None"."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list, set)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (bool, str, dict)):
        return f"a {type(value).__name__}"
    if isinstance(value, (int, float)):
        return "a number"
    return "None" if value is None else f"something of type {type(value).__name__}"


def shown(value: Any) -> str:
    """A value on a few lines, cut when long; large tensors by their shape."""
    if isinstance(value, Tensor) and value.numel() > 24:
        return kind(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        text = "(" + ", ".join(shown(item) for item in value) + ")"
    else:
        try:
            text = repr(value) if not isinstance(value, set) else repr(sorted(value))  # sets have no order of their own
        except Exception as err:
            text = f"{kind(value)} whose repr raises {type(err).__name__}"
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def unchanged(now: Any, before: Any) -> bool:
    """Is an argument still what it was? Exact, types and dtypes included."""
    if isinstance(before, nn.Module):
        a, b = now.state_dict(), before.state_dict()
        return a.keys() == b.keys() and all(unchanged(a[k], b[k]) for k in b)
    if isinstance(before, Tensor):
        if now.shape != before.shape or now.dtype != before.dtype:
            return False
        return torch.equal(now, before) or bool(((now == before) | (now.isnan() & before.isnan())).all())
    if isinstance(before, dict):
        return now.keys() == before.keys() and all(unchanged(now[k], before[k]) for k in before)
    if isinstance(before, (tuple, list)):
        return len(now) == len(before) and all(unchanged(a, b) for a, b in zip(now, before))
    return True  # numbers and text cannot change; other objects are not looked into


def habit(got: Sequence[Any], right: Sequence[Any]) -> str | None:
    """What wrong values have in common with the right ones: a factor, an order, rounding; None for nothing."""
    try:
        pairs = [(_numbers(a), _numbers(b)) for a, b in zip(got, right)]
    except (TypeError, ValueError, RuntimeError):
        return None
    if any(a.shape != b.shape for a, b in pairs):
        return None
    got_N, right_N = (torch.cat(part) for part in zip(*pairs))
    if not (got_N.isfinite().all() and right_N.isfinite().all()) or len(right_N) < 2:
        return None
    if torch.allclose(got_N, right_N, rtol=0, atol=0.005) and right_N.abs().max() > 0.05:
        return "close: do not round"
    if all(_close(a.sort().values, b.sort().values) for a, b in pairs):
        return "the right numbers in the wrong order"
    factor = (got_N @ right_N / (right_N @ right_N)).item() if right_N.any() else 0.0
    if abs(factor) > ATOL and _close(got_N, factor * right_N):
        if abs(factor - 100) < 0.01:
            return "right, but in percent: fractions are wanted"
        return "the sign is wrong" if abs(factor + 1) < 1e-3 else f"everywhere {factor:.3g} times the right number"
    return None


def _numbers(value: Any) -> Tensor:
    if isinstance(value, (tuple, list)):
        return torch.cat([_numbers(item) for item in value])
    return torch.as_tensor(value).detach().cpu().double().flatten()
