"""Labels: the vectorised components equal a plain union-find, and reasons reach every label of a component."""

import numpy as np
import pytest

from prunekit.surgery.labels import Labels


def plain_union_find(count: int, pairs: np.ndarray) -> list[int]:
    parent = list(range(count))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in pairs:
        parent[find(int(a))] = find(int(b))
    return [find(i) for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_components_equal_a_plain_union_find(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = Labels()
    all_labels = labels.fresh(300)
    pairs = draw.choice(all_labels, (200, 2))
    for chunk in np.split(pairs, 10):
        labels.unite(chunk[:, 0], chunk[:, 1], "test")
    root = labels.solve().root
    expected = plain_union_find(labels.count, pairs)
    same = root[:, None] == root[None]
    wanted = np.array(expected)[:, None] == np.array(expected)[None]
    assert (same == wanted).all()
    assert same.sum() > labels.count  # some really are united


def test_a_long_chain_is_one_component() -> None:
    labels = Labels()
    line = labels.fresh(5000)
    labels.unite(line[1:], line[:-1], "chain")
    assert len(np.unique(labels.solve().root[line])) == 1


def test_facing_zero_freezes_with_the_first_reason() -> None:
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.unite(a, b, "sum")
    labels.unite(b, np.array([0, b[1], b[2]]), "image")
    labels.freeze(b[:1], "later")
    solution = labels.solve()
    assert solution.reason == {solution.root[a[0]]: "image"}


def test_an_axis_of_one_is_born_frozen() -> None:
    assert Labels().fresh(1).tolist() == [0]
