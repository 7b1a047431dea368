"""The factor algebra against numpy: moving labels equals moving a tensor that holds them."""

import numpy as np
import pytest

from prunekit.surgery.labels import Labels
from prunekit.surgery.values import Value, axis_labels, collapse, combine, place, reshape


def full(value: Value) -> np.ndarray:
    """The one factor of a value, spread over the whole tensor."""
    (factor,) = value.factors
    return np.broadcast_to(factor, value.shape)


@pytest.mark.parametrize(
    ("old", "axis", "new"),
    [
        ((2, 6, 4, 5), 1, (2, 120)),
        ((2, 6, 1, 1), 1, (2, 6)),
        ((2, 7, 24), 2, (2, 7, 3, 2, 4)),
        ((2, 3, 4), 1, (6, 4)),
        ((2, 12, 5), 1, (2, 3, 1, 4, 5)),
        ((4, 6), 1, (2, 2, 6)),
        ((1, 8, 9), 1, (8, 3, 3)),
    ],
)
def test_reshape_carries_labels_as_numpy_would(old: tuple[int, ...], axis: int, new: tuple[int, ...]) -> None:
    labels = Labels()
    value = Value(old, (place(labels.fresh(old[axis]), axis, len(old)),))
    moved = reshape(labels, value, new, "view")
    assert (full(moved) == full(value).reshape(new)).all()
    assert labels.solve().reason == {}


def test_split_axis_keeps_all_choices_open_until_one_is_made() -> None:
    labels = Labels()
    qkv = Value((2, 7, 24), (place(labels.fresh(24), 2, 3),))
    split = reshape(labels, qkv, (2, 7, 3, 2, 4), "view")
    assert len(np.unique(labels.solve().root[split.factors[0]])) == 24
    heads = collapse(labels, split.factors[0], {2, 4}, "heads")
    assert heads.shape == (1, 1, 1, 2, 1)
    assert len(np.unique(labels.solve().root[split.factors[0]])) == 2


def test_two_factors_that_merge_into_one_axis_are_frozen() -> None:
    labels = Labels()
    value = Value((3, 4), (place(labels.fresh(3), 0, 2), place(labels.fresh(4), 1, 2)))
    assert reshape(labels, value, (12,), "flatten").factors == ()
    assert len(labels.solve().reason) == 7


def test_combine_unites_what_faces_each_other() -> None:
    labels = Labels()
    a, b = labels.fresh(5), labels.fresh(5)
    out = combine(labels, Value((2, 5, 4, 4), (place(a, 1, 4),)), Value((5, 1, 1), (place(b, 0, 3),)), "mul")
    root = labels.solve().root
    assert out.shape == (2, 5, 4, 4)
    assert (root[a] == root[b]).all()
    assert len(np.unique(root[a])) == 5


def test_combine_with_a_neutral_axis_freezes_but_with_a_broadcast_one_does_not() -> None:
    labels = Labels()
    a, b = labels.fresh(5), labels.fresh(5)
    combine(labels, Value((5,), (a,)), Value((5,)), "add an image")
    combine(labels, Value((5,), (b,)), Value((1,)), "add a number")
    solution = labels.solve()
    assert {solution.root[i] for i in a} == set(solution.reason)
    assert not {solution.root[i] for i in b} & set(solution.reason)


def test_axis_labels_of_a_neutral_axis_are_zeros() -> None:
    assert axis_labels(Labels(), Value((2, 3)), 1, "x").tolist() == [0, 0, 0]
